"""Dynamic batching: who is worked on with whom, in what order, and who is left out."""

import asyncio
import threading

import pytest

from netdiff_ray.serving.batcher import Batcher


def batches_of(asks, size):
    """Return the batches of concurrent asks (kind, item, owner), and the results."""
    batches = []

    def work(kind, items):
        batches.append((kind, list(items)))
        return [item * 10 for item in items]

    async def ask():
        batcher = Batcher(work, size)
        return await asyncio.gather(*(batcher(*one) for one in asks))

    return batches, asyncio.run(ask())


def test_items_of_one_kind_share_batches_and_each_caller_gets_its_own_result():
    asks = [("a", 1, "x"), ("b", 2, "x"), ("a", 3, "x"), ("a", 4, "x")]
    batches, results = batches_of(asks, 2)
    assert batches == [("a", [1, 3]), ("b", [2]), ("a", [4])]
    assert results == [10, 20, 30, 40]


def test_owners_take_turns():
    asks = [("a", k, "many") for k in range(6)] + [("a", 100, "one"), ("a", 101, "one")]
    batches, _ = batches_of(asks, 2)
    assert [items for _, items in batches] == [[0, 100], [1, 101], [2, 3], [4, 5]]


def test_an_error_reaches_the_callers_of_its_batch_only():
    def work(kind, items):
        if kind == "bad":
            raise ValueError("bad")
        return items

    async def ask():
        batcher = Batcher(work, 2)
        asks = [batcher("good", 1, "x"), batcher("bad", 2, "x"), batcher("good", 3, "x")]
        return await asyncio.gather(*asks, return_exceptions=True)

    one, two, three = asyncio.run(ask())
    assert (one, three) == (1, 3)
    assert isinstance(two, ValueError)


def test_what_a_cancelled_caller_asked_for_is_not_worked_on():
    gate = threading.Event()
    worked = []

    def work(_kind, items):
        gate.wait(5)
        worked.extend(items)
        return items

    async def ask():
        batcher = Batcher(work, 1)
        first = asyncio.create_task(batcher("a", 1, "x"))
        gone = asyncio.create_task(batcher("a", 2, "x"))
        last = asyncio.create_task(batcher("a", 3, "x"))
        await asyncio.sleep(0.1)
        gone.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await first == 1
        assert await last == 3
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert len(batcher) == 0

    asyncio.run(ask())
    assert worked == [1, 3]
