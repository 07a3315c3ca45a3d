"""PostgreSQL, queried by psql, pgbench, psycopg, asyncpg and pg8000."""

import random
import shutil
import subprocess
from pathlib import Path

from act import ActContext, Run, python
from scenario import Server
from testbed import Testbed

DEBIAN = {
    "psql": "postgresql-client",
    "initdb": "postgresql",
    "postgres": "postgresql",
    "pgbench": "postgresql",
    "setpriv": "util-linux",
}
PYPI = {"psycopg": "psycopg[binary]", "asyncpg": "asyncpg", "pg8000": "pg8000"}
FILTER = "tcp port 5432"
SNAP_BYTES = 100
PORTS = (5432,)
FLOWS_PER_ACT = 1.25
AT_ONCE = 10
PAUSE_S = 0.6
AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
TABLES = """
create table item (id int primary key, name text, price numeric, note text);
insert into item select n, 'item ' || n, n * 1.25, repeat('note ', n % 40)
  from generate_series(1, 2000) n;
create table event (id serial, at timestamptz default now(), what text);
"""
QUERIES = (
    "select 1",
    "select now()",
    "select * from item where id = 17",
    "select count(*) from item",
    "select name, price from item order by price limit 12",
    "select * from item where id between 100 and 140",
    "select version()",
    "insert into event (what) values ('seen')",
    "select avg(price) from item where id > 900",
    "select relname, reltuples from pg_class order by 1 limit 30",
    "\\d item",
    "\\dt",
    "begin; update item set price = price + 1 where id = 5; commit",
    "\\l",
)


def prepare(shared: Path, rng: random.Random) -> None:
    """Make a database cluster with two tables and pgbench's; every host gets a copy."""
    cluster = shared / "cluster"
    cluster.mkdir()
    shutil.chown(cluster, "postgres", "postgres")

    def run(*argv: str, text: str = "") -> None:
        subprocess.run(
            [*AS_POSTGRES, *argv], check=True, capture_output=True, input=text.encode(), cwd=cluster
        )

    run("initdb", "-D", str(cluster), "-U", "app", "-A", "trust", "-N")
    (cluster / "pg_hba.conf").write_text(
        "local all all trust\nhost all all 0.0.0.0/0 scram-sha-256\nhost all all ::/0 trust\n"
    )
    run("pg_ctl", "-D", str(cluster), "-w", "-o", f"-h '' -k {cluster} -F", "-l", "log", "start")
    run(
        "psql",
        "-h",
        str(cluster),
        "-U",
        "app",
        "-d",
        "postgres",
        text="alter user app password 'secret';" + TABLES,
    )
    run("pgbench", "-h", str(cluster), "-U", "app", "-i", "-q", "--unlogged-tables", "postgres")
    run("pg_ctl", "-D", str(cluster), "-w", "-m", "fast", "stop")


def serve(testbed: Testbed, server: Server, work: Path, shared: Path, tls: Path) -> None:
    """Start a postgres over a copy of the cluster, TLS offered."""
    cluster = work / "cluster"
    subprocess.run(["cp", "-a", str(shared / "cluster"), str(cluster)], check=True)
    for suffix in ("pem", "key"):
        copy = cluster / f"server.{suffix}"
        copy.write_bytes((tls / f"s{server.index}.{suffix}").read_bytes())
        shutil.chown(copy, "postgres", "postgres")
        copy.chmod(0o600)
    settings = {
        "listen_addresses": "*",
        "unix_socket_directories": str(cluster),
        "ssl": "on",
        "ssl_cert_file": "server.pem",
        "ssl_key_file": "server.key",
        "fsync": "off",
        "max_connections": "60",
        "shared_buffers": "16MB",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    testbed.start(
        server, [*AS_POSTGRES, "postgres", "-D", str(cluster), *options], log=work / "log.txt"
    )


def act(context: ActContext) -> list[Run]:
    """Return the process of a program that makes some queries."""
    rng = context.rng
    tls = rng.choice(("disable", "prefer", "prefer", "require"))
    env = {
        "PGPASSWORD": "secret",
        "PGSSLMODE": tls,
        "PGCONNECT_TIMEOUT": "8",
        "PGGSSENCMODE": "disable",
        "PGOPTIONS": rng.choice(("", "-c work_mem=8MB")),
    }
    if rng.random() < 0.5:
        env["PGAPPNAME"] = "x" * rng.randint(1, 50)
    target = ["-h", context.name, "-U", "app"]
    kind = rng.random()
    if kind < 0.5:
        queries = rng.choices(QUERIES, k=rng.choice((1, 2, 3, 6)))
        commands = [part for query in queries for part in ("-c", query)]
        return [Run(argv=["psql", "-X", *target, "-d", "postgres", *commands], env=env)]
    if kind < 0.7:
        return [
            Run(
                argv=[
                    "pgbench",
                    "-n",
                    *target,
                    "-t",
                    str(rng.randint(1, 3)),
                    "-M",
                    rng.choice(("simple", "extended", "prepared")),
                    *rng.choice((["-S"], ["-N"], [])),
                    "postgres",
                ],
                env=env,
            )
        ]
    return [
        Run(
            argv=python(
                "db_client.py",
                rng.choice(("psycopg", "asyncpg", "pg8000")),
                context.name,
                rng.random(),
                tls != "disable",
            ),
            env=env,
        )
    ]
