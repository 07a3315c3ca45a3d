"""Flows of the shards that are being drawn, told to the driver as they are drawn."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_MESSAGES = 1.0


@ray.remote(num_cpus=0)
class _DrawnFlows:
    """How many flows are drawn of each shard."""

    def __init__(self):
        self._flows: dict[int, int] = {}

    def put(self, shard: int, flows: int) -> None:
        self._flows[shard] = flows

    def get(self) -> dict[int, int]:
        return self._flows


class DrawnFlowsSender:
    """Sends a denoiser's progress, seldom enough to cost nothing.

    Args:
        drawn_flows: an actor of `following`.
    """

    def __init__(self, drawn_flows: ActorHandle):
        self._actor = drawn_flows
        self._sent_at = float("-inf")

    def send(self, shard: int, flows: int) -> None:
        """Send how many flows of a shard are drawn, unless the last message has just gone."""
        now = time.monotonic()
        if now - self._sent_at >= _SECONDS_BETWEEN_MESSAGES:
            self._sent_at = now
            self._actor.put.remote(shard, flows)


@contextmanager
def following(report: Callable[[dict[int, int]], None]) -> Iterator[ActorHandle]:
    """Yield an actor that denoisers tell their progress; in a block, `report` is called from
    another thread with the flows drawn so far of each shard, now and then."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = _DrawnFlows.options(scheduling_strategy=here).remote()
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            try:
                drawn = ray.get(actor.get.remote(), timeout=10 * _SECONDS_BETWEEN_LOOKS)
            except ray.exceptions.GetTimeoutError:
                continue
            except ray.exceptions.RayError:
                return
            report(drawn)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        ended.set()
        thread.join(timeout=5)
        ray.kill(actor)
