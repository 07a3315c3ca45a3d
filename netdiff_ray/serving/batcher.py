"""Dynamic batching: items of many callers, worked on in batches of the same kind."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

Work = Callable[[Hashable, list], Sequence]
"""Called in a thread with a kind and at most `size` items of it; returns a result for each."""


@dataclass
class _Waiting:
    tag: int
    item: object
    future: asyncio.Future


class Batcher:
    """Gathers items of a kind while the previous batch is worked on.

    Batches run one at a time. Owners take turns, item by item, so that an owner of few items does
    not wait for all of another's (start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996).
    Items of cancelled callers are left out.

    Args:
        work: see Work.
        size: most items of a batch.
        wait_s: how long a batch that is not full waits for more, when nothing else runs.
    """

    def __init__(self, work: Work, size: int, wait_s: float = 0.01):
        self._work = work
        self._size = size
        self._wait_s = wait_s
        self._queues: dict[Hashable, list[_Waiting]] = {}
        self._tags: dict[Hashable, int] = {}
        self._now = 0
        self._thread = ThreadPoolExecutor(1)
        self._running: asyncio.Task | None = None

    def __len__(self) -> int:
        """Return the number of items that wait."""
        return sum(len(queue) for queue in self._queues.values())

    async def __call__(self, kind: Hashable, item: object, owner: Hashable):
        """Return the result of an item; raise what its batch raised."""
        tag = max(self._now, self._tags.get(owner, 0)) + 1
        self._tags[owner] = tag
        waiting = _Waiting(tag, item, asyncio.get_running_loop().create_future())
        self._queues.setdefault(kind, []).append(waiting)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await waiting.future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._wait_s)
        while batch := self._next():
            kind, chosen = batch
            try:
                items = [waiting.item for waiting in chosen]
                results = await loop.run_in_executor(self._thread, self._work, kind, items)
            except Exception as error:
                for waiting in chosen:
                    if not waiting.future.done():
                        waiting.future.set_exception(error)
            else:
                for waiting, result in zip(chosen, results, strict=True):
                    if not waiting.future.done():
                        waiting.future.set_result(result)

    def _next(self) -> tuple[Hashable, list[_Waiting]] | None:
        """Take the next batch out of its queue; return None if nothing waits."""
        for kind, queue in list(self._queues.items()):
            alive = sorted((w for w in queue if not w.future.done()), key=lambda w: w.tag)
            if alive:
                self._queues[kind] = alive
            else:
                del self._queues[kind]
        if not self._queues:
            self._tags.clear()
            return None
        kind = min(self._queues, key=lambda k: self._queues[k][0].tag)
        chosen, self._queues[kind] = (
            self._queues[kind][: self._size],
            self._queues[kind][self._size :],
        )
        self._now = chosen[0].tag
        self._tags = {owner: tag for owner, tag in self._tags.items() if tag > self._now}
        return kind, chosen
