"""Fetch over HTTP/3 with aioquic: quic_client.py CA DATAGRAM_BYTES TOGETHER PAUSE_S VISIT...

A visit is `https://name/path,path,...`: one connection that fetches these paths.
"""

import asyncio
import sys
from urllib.parse import urlsplit

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import QuicEvent


class Fetcher(QuicConnectionProtocol):
    """One client connection with its open requests."""

    def __init__(self, quic: QuicConnection, stream_handler: object = None):
        super().__init__(quic, stream_handler)
        self.http = H3Connection(self._quic)
        self.open: dict[int, asyncio.Future] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        """Mark the requests whose answer is complete."""
        for happened in self.http.handle_event(event):
            if isinstance(happened, DataReceived | HeadersReceived) and happened.stream_ended:
                waiter = self.open.pop(happened.stream_id, None)
                if waiter is not None and not waiter.done():
                    waiter.set_result(None)

    async def fetch(self, name: str, path: str) -> None:
        """Request a path and wait for its answer."""
        stream = self._quic.get_next_available_stream_id()
        waiter = asyncio.get_running_loop().create_future()
        self.open[stream] = waiter
        self.http.send_headers(
            stream,
            [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", name.encode()),
                (b":path", b"/" + path.encode()),
                (b"user-agent", b"aioquic"),
            ],
            end_stream=True,
        )
        self.transmit()
        await asyncio.wait_for(waiter, 12)


async def visit(ca: str, datagram_bytes: int, together: bool, pause_s: float, url: str) -> None:
    """Open one connection, fetch its paths, one by one or together, close it."""
    parts = urlsplit(url)
    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN,
        is_client=True,
        max_datagram_size=datagram_bytes,
        server_name=parts.hostname,
        cafile=ca,
    )
    async with connect(
        parts.hostname, 443, configuration=configuration, create_protocol=Fetcher
    ) as client:
        paths = parts.path.lstrip("/").split(",")
        if together:
            await asyncio.gather(*(client.fetch(parts.hostname, path) for path in paths))
            return
        for path in paths:
            await client.fetch(parts.hostname, path)
            await asyncio.sleep(pause_s)


async def main() -> None:
    """Make all visits, one after another."""
    ca, datagram_bytes, together, pause_s, *urls = sys.argv[1:]
    for url in urls:
        await visit(ca, int(datagram_bytes), together == "True", float(pause_s), url)


if __name__ == "__main__":
    asyncio.run(main())
