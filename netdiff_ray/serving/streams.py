"""Answers that grow while flows are being made, and a report of each."""

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol, TypeVar

from fastapi.responses import StreamingResponse

from netdiff_ray.serving.problems import Problem, unavailable

_REMEMBERED = 1000
_RETRY_AFTER_S = 5
FlowT = TypeVar("FlowT")


@dataclass
class StreamReport:
    """The state of a streamed answer."""

    id: str
    flows: int
    """Requested."""
    state: str = "running"
    """`running`, `complete`, `failed` or `gone` (the client went away)."""
    done: int = 0
    """Flows made or quarantined."""
    quarantined: list[dict] = field(default_factory=list)
    """Flows that could not be made, with the reason."""
    reason: str = ""
    """Why it failed."""
    seconds: float = 0.0


class FlowBody(Protocol[FlowT]):
    """The content of an answer, flow by flow."""

    async def make(self, label: str, index: int) -> FlowT:
        """Make a flow; several are made at a time."""

    def add(self, label: str, flow: FlowT, report: StreamReport) -> bytes:
        """Return the bytes that a flow adds to the answer; called in the answer's order."""

    def end(self) -> bytes:
        """Return the end of the answer."""


class Streams:
    """Counts the answers under way, at most `most`, and keeps the reports of the latest."""

    def __init__(self, most: int):
        self._most = most
        self._reports: OrderedDict[str, StreamReport] = OrderedDict()
        self.open = 0

    def check_room(self) -> None:
        """Raise Problem 429 if as many answers are under way as there may be."""
        if self.open >= self._most:
            raise Problem(
                429, f"{self._most} captures are being made, as many as there may be; try again",
                {"Retry-After": str(_RETRY_AFTER_S)},
            )  # fmt: skip

    def report(self, id: str) -> dict | None:
        """Return the report of an answer, None if there is none."""
        report = self._reports.get(id)
        return asdict(report) if report else None

    def new(self, num_flows: int) -> StreamReport:
        """Open an answer, which `close` ends, and return its report.

        Raises:
            Problem: 429, see `check_room`.
        """
        self.check_room()
        self.open += 1
        report = StreamReport(secrets.token_hex(16), num_flows)
        self._reports[report.id] = report
        while len(self._reports) > _REMEMBERED:
            self._reports.popitem(last=False)
        return report

    def close(self) -> None:
        """End an answer, which makes room for another."""
        self.open -= 1


class FlowStream:
    """The bytes of an answer, flow after flow, several being made ahead.

    Args:
        flows: (label, index within the label) in the order of the answer.
        body: makes the flows and their bytes.
        ahead: flows being made at a time.
        seconds: until all has to be done.
        streams: counts the answer.
    """

    def __init__(
        self,
        flows: Sequence[tuple[str, int]],
        body: FlowBody,
        *,
        ahead: int,
        seconds: float,
        streams: Streams,
    ):
        self._flows = flows
        self._body = body
        self._ahead = ahead
        self._seconds = seconds
        self._streams = streams
        self._head = b""
        self.report = streams.new(len(flows))
        self._parts = self._run()

    async def begin(self) -> None:
        """Wait for the first bytes; raise what went wrong before them."""
        self._head = await anext(self._parts)

    async def aclose(self) -> None:
        """Cancel what is under way."""
        await self._parts.aclose()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._head
        async for part in self._parts:
            yield part

    async def _run(self) -> AsyncIterator[bytes]:
        began = time.monotonic()
        report = self.report
        left = iter(self._flows)
        making: deque[tuple[str, asyncio.Task]] = deque()

        def fill() -> None:
            while len(making) < self._ahead and (flow := next(left, None)):
                making.append((flow[0], asyncio.create_task(self._body.make(*flow))))

        state = "gone"
        try:
            fill()
            while making:
                label, task = making.popleft()
                try:
                    async with asyncio.timeout(self._seconds - (time.monotonic() - began)):
                        made = await task
                except TimeoutError:
                    raise unavailable(
                        f"not done within {self._seconds:g} s; ask for less"
                    ) from None
                finally:
                    task.cancel()
                report.done += 1
                fill()
                if part := self._body.add(label, made, report):
                    yield part
            if rest := self._body.end():
                yield rest
            state = "complete"
        except Exception as error:
            state = "failed"
            report.reason = str(error) or type(error).__name__
            raise
        finally:
            report.state = state
            report.seconds = round(time.monotonic() - began, 3)
            self._streams.close()
            for _, task in making:
                task.cancel()
            await asyncio.gather(*(task for _, task in making), return_exceptions=True)


class FlowResponse(StreamingResponse):
    """An HTTP answer that cancels its stream's work when it ends, however it ends."""

    def __init__(self, stream: FlowStream, media_type: str, name: str):
        headers = {
            "Netdiff-Stream": stream.report.id,
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "no-store",
        }
        super().__init__(stream, media_type=media_type, headers=headers)
        self._stream = stream

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stream.aclose()
