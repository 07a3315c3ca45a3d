"""A chat room over WebSocket: chat_server.py LIBRARY CERTIFICATE KEY.

Every message goes to all who are in the room; a newcomer gets the last few.
"""

import asyncio
import ssl
import sys
from collections import deque

import websockets
from aiohttp import WSMsgType, web

ROOM: set = set()
LAST: deque[str] = deque(maxlen=5)


async def tell(text: str) -> None:
    """Send a text to everybody in the room."""
    LAST.append(text)
    for member in list(ROOM):
        try:
            await (member.send_str(text) if hasattr(member, "send_str") else member.send(text))
        except (ConnectionError, websockets.ConnectionClosed):
            ROOM.discard(member)


async def with_websockets(member) -> None:
    """Serve a member for the length of its stay, with the websockets library."""
    try:
        for text in list(LAST):
            await member.send(text)
        ROOM.add(member)
        async for text in member:
            await tell(text)
    except websockets.ConnectionClosed:
        return
    finally:
        ROOM.discard(member)


async def with_aiohttp(request: web.Request) -> web.WebSocketResponse:
    """Serve a member for the length of its stay, with aiohttp."""
    member = web.WebSocketResponse(heartbeat=5)
    await member.prepare(request)
    for text in list(LAST):
        await member.send_str(text)
    ROOM.add(member)
    try:
        async for message in member:
            if message.type == WSMsgType.TEXT:
                await tell(message.data)
    finally:
        ROOM.discard(member)
    return member


async def main() -> None:
    """Serve plain on 8080 and with TLS on 8443 for ever."""
    library, certificate, key = sys.argv[1:]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    hosts = ["0.0.0.0", "::"]
    if library == "websockets":
        await websockets.serve(with_websockets, hosts, 8080, ping_interval=4)
        await websockets.serve(with_websockets, hosts, 8443, ssl=context, ping_interval=4)
    else:
        app = web.Application()
        app.router.add_get("/{path:.*}", with_aiohttp)
        runner = web.AppRunner(app)
        await runner.setup()
        for host in hosts:
            await web.TCPSite(runner, host, 8080).start()
            await web.TCPSite(runner, host, 8443, ssl_context=context).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
