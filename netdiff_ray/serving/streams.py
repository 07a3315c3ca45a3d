"""Answers that grow while flows are being made, and what is known of each."""

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field

from fastapi.responses import StreamingResponse

from netdiff_ray.serving.problems import Problem, unavailable

_REMEMBERED = 1000
_RETRY_AFTER_S = 5


@dataclass
class Account:
    """What has become of a request for flows."""

    id: str
    flows: int
    """Asked for."""
    state: str = "running"
    """`running`, `complete`, `failed` or `gone` (the client went away)."""
    done: int = 0
    """Flows made or set aside."""
    set_aside: list[dict] = field(default_factory=list)
    """Flows that could not be made, with the reason."""
    reason: str = ""
    """Why it failed."""
    seconds: float = 0.0


class Streams:
    """The answers under way, at most `most` of them, and the accounts of the latest."""

    def __init__(self, most: int):
        self._most = most
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self.open = 0

    def check_room(self) -> None:
        """Raise Problem 429 if there are as many answers under way as there may be."""
        if self.open >= self._most:
            raise Problem(
                429, f"{self._most} captures are being made, as many as there may be; try again",
                {"Retry-After": str(_RETRY_AFTER_S)},
            )  # fmt: skip

    def account(self, id: str) -> dict | None:
        """What is known of an answer, None if nothing is."""
        found = self._accounts.get(id)
        return asdict(found) if found else None

    def new(self, num_flows: int) -> Account:
        """The account of one more answer, which `close` ends.

        Raises:
            Problem: 429, see `check_room`.
        """
        self.check_room()
        self.open += 1
        account = Account(secrets.token_hex(16), num_flows)
        self._accounts[account.id] = account
        while len(self._accounts) > _REMEMBERED:
            self._accounts.popitem(last=False)
        return account

    def close(self) -> None:
        """Nothing; makes room for another answer."""
        self.open -= 1


class FlowStream:
    """The bytes of an answer, flow after flow, several being made ahead.

    Args:
        flows: what `make` takes, in the order of the answer.
        make: makes one flow.
        add: what a made flow adds to the answer.
        end: the end of the answer.
        ahead: flows being made at a time.
        seconds: until all has to be done.
        streams: where the answer counts.
    """

    def __init__(
        self,
        flows: Sequence[tuple[str, int]],
        make: Callable[[str, int], Awaitable[object]],
        add: Callable[[str, object, Account], bytes],
        end: Callable[[], bytes],
        *,
        ahead: int,
        seconds: float,
        streams: Streams,
    ):
        self._flows = flows
        self._make = make
        self._add = add
        self._end = end
        self._ahead = ahead
        self._seconds = seconds
        self._streams = streams
        self._head = b""
        self.account = streams.new(len(flows))
        self._parts = self._run()

    async def begin(self) -> None:
        """Nothing; the first bytes are there, or what was wrong is raised."""
        self._head = await anext(self._parts)

    async def aclose(self) -> None:
        """Nothing; what is under way is given up."""
        await self._parts.aclose()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._head
        async for part in self._parts:
            yield part

    async def _run(self) -> AsyncIterator[bytes]:
        began = time.monotonic()
        account = self.account
        left = iter(self._flows)
        making: deque[tuple[str, asyncio.Task]] = deque()

        def fill() -> None:
            while len(making) < self._ahead and (flow := next(left, None)):
                making.append((flow[0], asyncio.create_task(self._make(*flow))))

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
                account.done += 1
                fill()
                if part := self._add(label, made, account):
                    yield part
            if rest := self._end():
                yield rest
            state = "complete"
        except Exception as error:
            state = "failed"
            account.reason = str(error) or type(error).__name__
            raise
        finally:
            account.state = state
            account.seconds = round(time.monotonic() - began, 3)
            self._streams.close()
            for _, task in making:
                task.cancel()
            await asyncio.gather(*(task for _, task in making), return_exceptions=True)


class FlowResponse(StreamingResponse):
    """An answer whose work ends with it, however it ends."""

    def __init__(self, stream: FlowStream, media_type: str, name: str):
        headers = {
            "Netdiff-Stream": stream.account.id,
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
