"""A member of a chat room: chat_client.py LIBRARY CA SEED STAYS URL."""

import asyncio
import random
import ssl
import sys

import aiohttp
import websockets

WORDS = (
    "yes",
    "no",
    "maybe",
    "see",
    "you",
    "later",
    "on",
    "the",
    "way",
    "did",
    "anybody",
    "read",
    "this",
    "look",
    "fine",
    "by",
    "me",
    "thanks",
    "good",
    "morning",
    "what",
    "time",
    "shall",
    "we",
    "start",
    "running",
    "late",
    "one",
    "moment",
    "please",
    "done",
)


def sentence(rng: random.Random) -> str:
    """Return what a person may say: mostly short, sometimes long."""
    return " ".join(rng.choices(WORDS, k=int(min(220, rng.lognormvariate(1.6, 1.0)) + 1)))


async def talk(say, rng: random.Random) -> None:
    """Say a few things, with a person's pauses."""
    for _ in range(rng.randint(1, 8)):
        await asyncio.sleep(rng.expovariate(1.6))
        await say(sentence(rng))
    await asyncio.sleep(rng.uniform(0.1, 1.5))


async def stay(library: str, url: str, context: ssl.SSLContext | None, rng: random.Random) -> None:
    """Enter the room, talk and listen, leave."""
    if library == "websockets":
        compression = rng.choice(("deflate", None))
        async with websockets.connect(
            url, ssl=context, compression=compression, ping_interval=rng.choice((2, 20))
        ) as room:
            listening = asyncio.create_task(drain(room))
            await talk(room.send, rng)
            listening.cancel()
        return
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, ssl=context or True) as room,
    ):
        listening = asyncio.create_task(drain(room))
        await talk(room.send_str, rng)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def drain(room) -> None:
    """Read what the others say."""
    async for _ in room:
        continue


async def main() -> None:
    """Stay in the room that many times."""
    library, ca, seed, stays, url = sys.argv[1:]
    context = ssl.create_default_context(cafile=ca) if url.startswith("wss") else None
    rng = random.Random(seed)
    for _ in range(int(stays)):
        await stay(library, url, context, rng)


if __name__ == "__main__":
    asyncio.run(main())
