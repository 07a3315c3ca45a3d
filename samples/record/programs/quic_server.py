"""Serve the files of a folder over HTTP/3: quic_server.py CERTIFICATE KEY FOLDER."""

import asyncio
import sys
from pathlib import Path

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent


class FileServer(QuicConnectionProtocol):
    """One connection: each request is answered with a file of `folder`."""

    folder: Path
    http: H3Connection | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        """Feed the event to HTTP/3 and answer the requests that come out."""
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self._quic)
        if self.http is None:
            return
        for happened in self.http.handle_event(event):
            if isinstance(happened, HeadersReceived):
                self.answer(happened)

    def answer(self, request: HeadersReceived) -> None:
        """Send the file that the request's path names, or 404."""
        path = dict(request.headers).get(b":path", b"/").decode().lstrip("/")
        file = self.folder / path
        exists = file.is_file() and file.resolve().is_relative_to(self.folder.resolve())
        self.http.send_headers(
            request.stream_id, [(b":status", b"200" if exists else b"404"), (b"server", b"aioquic")]
        )
        self.http.send_data(request.stream_id, file.read_bytes() if exists else b"", True)
        self.transmit()


async def main() -> None:
    """Serve on UDP port 443 of all addresses for ever."""
    certificate, key, folder = sys.argv[1:]
    FileServer.folder = Path(folder)
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, is_client=False)
    configuration.load_cert_chain(certificate, key)
    await serve("::", 443, configuration=configuration, create_protocol=FileServer)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
