"""Cutting off clients that take for ever to send a request.

uvicorn, which Ray Serve's proxies run, waits for a request's head for as long as its client
likes, and any byte sets its keep-alive timeout back: clients that send a byte now and then hold as
many connections as they open (Slowloris, CVE-2007-6750). No ASGI application sees them, since it
is called when the head is whole. So each proxy calls `install`, by Serve's own hook (see
`CALLBACK`), before it makes its server.
"""

import asyncio

import uvicorn.config
from uvicorn.protocols.http.auto import AutoHTTPProtocol

CALLBACK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}.install"}
"""Environment variable of the nodes with which Serve's proxies call `install`."""

_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class HeadDeadline:
    """Mixin of uvicorn's HTTP protocols that closes connections whose client is overdue.

    The deadline runs while the server waits for its client: from the beginning of a connection
    until the first head is whole, from the first byte of a further head until that is whole, and,
    where a request was answered before its body had come, from then on. It does not run while an
    application answers, which reads the body within a time of its choice, nor between requests,
    where uvicorn's keep-alive timeout does.
    """

    head_seconds = 10.0
    _deadline: asyncio.TimerHandle | None = None
    _has_partial_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin with a connection."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        before = self.cycle
        was_idle = before is None or before.response_complete
        super().data_received(data)
        self._has_partial_head = was_idle and self.cycle is before
        self._watch()

    def on_response_complete(self) -> None:
        """Go on after an answer."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, error: Exception | None) -> None:
        """End with the connection."""
        super().connection_lost(error)
        self._stop()

    def _watch(self) -> None:
        """Let the deadline run if the client is to send something, from when it first was."""
        if not self._waits_for_client():
            self._stop()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.head_seconds, self._cut_off)

    def _waits_for_client(self) -> bool:
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return False  # the latter after an upgrade, as to a WebSocket
        if self.cycle is None:
            return True
        return self.cycle.response_complete and (self.cycle.more_body or self._has_partial_head)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut_off(self) -> None:
        if self.transport.is_closing():
            return
        if self._has_partial_head and not (self.cycle and self.cycle.more_body):
            self.transport.write(_TIMED_OUT)
        self.transport.close()


class HeadDeadlineProtocol(HeadDeadline, AutoHTTPProtocol):
    """The HTTP protocol that uvicorn chooses, with a deadline for heads of requests."""


def install() -> list:
    """Let every uvicorn server that this process makes from now on cut off slow clients.

    Returns:
        The middlewares that Serve is to add to its proxy: none.
    """
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{HeadDeadlineProtocol.__name__}"
    return []
