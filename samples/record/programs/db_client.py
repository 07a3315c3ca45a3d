"""An application that asks PostgreSQL: db_client.py DRIVER HOST SEED TLS."""

import asyncio
import random
import ssl
import sys
import time

import asyncpg
import pg8000.dbapi
import psycopg


def with_dbapi(connection, rng: random.Random) -> None:
    """Read and write by parameters, with pauses, over a DB-API connection."""
    cursor = connection.cursor()
    for _ in range(rng.randint(1, 6)):
        low = rng.randint(1, 1900)
        cursor.execute(
            "select id, name, note from item where id between %s and %s",
            (low, low + rng.choice((0, 0, 5, 60))),
        )
        cursor.fetchall()
        time.sleep(rng.expovariate(3))
        if rng.random() < 0.4:
            cursor.execute("insert into event (what) values (%s)", ("e" * rng.randint(1, 200),))
            connection.commit()
    connection.close()


async def with_asyncpg(host: str, rng: random.Random, tls: ssl.SSLContext | bool) -> None:
    """Do the same over asyncpg, which prepares its statements."""
    connection = await asyncpg.connect(
        host=host, user="app", password="secret", database="postgres", ssl=tls, timeout=10
    )
    for _ in range(rng.randint(1, 6)):
        low = rng.randint(1, 1900)
        await connection.fetch(
            "select id, name, note from item where id between $1 and $2",
            low,
            low + rng.choice((0, 0, 5, 60)),
        )
        await asyncio.sleep(rng.expovariate(3))
    await connection.close()


def main() -> None:
    """Query through the driver named DRIVER."""
    driver, host, seed, tls = sys.argv[1:]
    rng = random.Random(seed)
    context = ssl._create_unverified_context() if tls == "True" else None
    if driver == "psycopg":
        with_dbapi(psycopg.connect(host=host, user="app", dbname="postgres"), rng)
    elif driver == "pg8000":
        with_dbapi(
            pg8000.dbapi.connect(
                "app",
                host=host,
                password="secret",
                database="postgres",
                ssl_context=context,
                timeout=10,
            ),
            rng,
        )
    else:
        asyncio.run(with_asyncpg(host, rng, context or False))


if __name__ == "__main__":
    main()
