"""How far denoisers are: what the first of them waits for, and flows as they are drawn."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from netdiff_ray.distributed.shortage import shortage

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_MESSAGES = 1.0


class DrawingProgress(NamedTuple):
    """What denoisers have done."""

    flows: dict[int, int]
    """Flows drawn so far of each shard."""
    waits_for: str
    """What keeps the first denoiser from beginning, see `shortage`; empty if nothing does."""


@ray.remote(num_cpus=0)
class _DrawnFlows:
    """What denoisers have done.

    Args:
        cpus: of each.
        gpus: of each.
    """

    def __init__(self, cpus: float, gpus: float):
        self._needs = cpus, gpus
        self._begun = False
        self._flows: dict[int, int] = {}

    def begin(self) -> None:
        self._begun = True

    def put(self, shard: int, flows: int) -> None:
        self._flows[shard] = flows

    def get(self) -> DrawingProgress:
        return DrawingProgress(self._flows, "" if self._begun else shortage(*self._needs))


class DrawnFlowsSender:
    """Sends that a denoiser begins, and its progress, seldom enough to cost nothing.

    Args:
        drawn_flows: an actor of `following`.
    """

    def __init__(self, drawn_flows: ActorHandle):
        self._actor = drawn_flows
        self._sent_at = float("-inf")
        self._actor.begin.remote()

    def send(self, shard: int, flows: int) -> None:
        """Send how many flows of a shard are drawn, unless the last message has just gone."""
        now = time.monotonic()
        if now - self._sent_at >= _SECONDS_BETWEEN_MESSAGES:
            self._sent_at = now
            self._actor.put.remote(shard, flows)


@contextmanager
def following(
    report: Callable[[DrawingProgress], None], *, cpus: float, gpus: float
) -> Iterator[ActorHandle]:
    """Yield an actor that denoisers tell their progress; in a block, `report` is called from
    another thread with what they have done, now and then.

    Args:
        cpus: of each denoiser.
        gpus: of each denoiser.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = _DrawnFlows.options(scheduling_strategy=here).remote(cpus, gpus)
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
