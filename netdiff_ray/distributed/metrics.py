"""What the jobs and the endpoint tell of themselves: every metric, and the lines of the log.

Ray exports a metric `netdiff_x` on each node as `ray_netdiff_x`, a counter with `_total` behind
it, a histogram as `_bucket`, `_sum` and `_count`; series appear some ten seconds late; a gauge goes
20 s after it was last set, so that its readers take `last_over_time` (https://docs.ray.io/en/latest/ray-observability/user-guides/add-app-metrics.html).
An observation costs a few microseconds. Values of tags are few: labels, names of stages, kinds of
reasons; what is particular to a shard or a flow goes into the log.
"""

import functools
import logging
import re
import string
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import quote

from netdiff_ray.serving.outcome import Outcome

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
_REQUEST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_DISTANCES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0)
_BYTES = tuple(float(1 << power) for power in range(12, 36, 2))

_SECONDS_BETWEEN_REPORTS = 5.0
"""Ray keeps a gauge for two of its own reports, 20 s, after it was set."""
ENDPOINT = "endpoint"
"""The run of what is drawn and repaired for requests."""


@dataclass(frozen=True)
class Metric:
    """What a metric is called and what it counts."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    meaning: str
    tags: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()
    """Upper ends of a histogram's buckets."""


FLOWS = Metric("counter", "netdiff_flows", "Flows that left a stage.", ("run", "stage", "label"))
PACKETS = Metric(
    "counter", "netdiff_packets", "Packets that left a stage.", ("run", "stage", "label")
)
STAGE_SECONDS = Metric(
    "histogram", "netdiff_stage_seconds", "Time of a task in a stage.", ("run", "stage"), _SECONDS
)
DENOISER_BUSY = Metric(
    "counter", "netdiff_denoiser_busy_seconds",
    "Time that a denoiser drew; its rate is the share of the time that it was busy.",
    ("run",),
)  # fmt: skip
BATCH_FILL = Metric(
    "histogram", "netdiff_batch_fill", "Share of a batch that holds windows to draw.",
    ("run",), _SHARES,
)  # fmt: skip
REPAIR_DISTANCE = Metric(
    "histogram", "netdiff_repair_distance",
    "Share of the cells the model answers for that repair corrected, flow by flow.",
    ("run", "label"), _DISTANCES,
)  # fmt: skip
QUARANTINED = Metric(
    "counter", "netdiff_quarantined", "Captures or flows in quarantine.",
    ("run", "stage", "reason"),
)  # fmt: skip
SHARD_BYTES = Metric(
    "histogram", "netdiff_shard_bytes", "Bytes of a shard or part that was written.",
    ("run", "stage"), _BYTES,
)  # fmt: skip
RUN_PLANNED = Metric(
    "gauge", "netdiff_run_planned", "Flows (parts, when encoding) a run has to make.",
    ("run", "job"),
)  # fmt: skip
RUN_DONE = Metric(
    "gauge", "netdiff_run_done", "Of these, those that are made, by earlier starts too.",
    ("run", "job"),
)  # fmt: skip
DATASET_TIME = Metric(
    "gauge", "netdiff_dataset_time_seconds",
    "When a run committed its dataset of drawn flows, in seconds since 1970.", ("run",),
)  # fmt: skip
QUEUE_LENGTH = Metric(
    "gauge", "netdiff_queue_length", "What waits in a queue of a process.", ("queue",)
)
REQUESTS = Metric(
    "counter", "netdiff_requests", "Requests that were answered.", ("route", "outcome")
)
REQUEST_SECONDS = Metric(
    "histogram", "netdiff_request_seconds", "Time from a request to the end of its answer.",
    ("route",), _REQUEST_SECONDS,
)  # fmt: skip
STREAMS_OPEN = Metric("gauge", "netdiff_streams_open", "Answers a process is streaming.")

METRICS = (
    FLOWS, PACKETS, STAGE_SECONDS, DENOISER_BUSY, BATCH_FILL, REPAIR_DISTANCE, QUARANTINED,
    SHARD_BYTES, RUN_PLANNED, RUN_DONE, DATASET_TIME, QUEUE_LENGTH, REQUESTS, REQUEST_SECONDS,
    STREAMS_OPEN,
)  # fmt: skip


@functools.cache
def _made(metric: Metric):
    """Return the metric as Ray has it, made when it is first used."""
    from ray.util import metrics

    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, metric.meaning, list(metric.boundaries), metric.tags)
    kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return kind(metric.name, metric.meaning, metric.tags)


def _count(metric: Metric, number: float, tags: Mapping[str, str]) -> None:
    if number > 0:  # Ray's counters refuse 0
        _made(metric).inc(number, _in_ascii(tags))


def _observe(metric: Metric, values: Iterable[float], tags: Mapping[str, str]) -> None:
    histogram, tags = _made(metric), _in_ascii(tags)
    for value in values:
        histogram.observe(value, tags)


def _set(metric: Metric, value: float, tags: Mapping[str, str]) -> None:
    _made(metric).set(value, _in_ascii(tags))


def _in_ascii(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags as Ray takes them; other characters become %XX of their UTF-8 bytes."""
    return {name: quote(value, safe=string.printable) for name, value in tags.items()}


def observe_stage(run: str, stage: str, seconds: float) -> None:
    """Observe how long a task of a stage took.

    Args:
        run: here and below, the URI that the run writes to; ENDPOINT for requests.
    """
    _observe(STAGE_SECONDS, [seconds], {"run": _without_secrets(run), "stage": stage})


def count_flows(run: str, stage: str, label: str, *, flows: int, packets: int) -> None:
    """Count what left a stage."""
    tags = {"run": _without_secrets(run), "stage": stage, "label": label}
    _count(FLOWS, flows, tags)
    _count(PACKETS, packets, tags)


def observe_drawing(run: str, seconds: float, fills: Iterable[float]) -> None:
    """Observe the time that a denoiser drew, and how full its batches were, 0 to 1."""
    tags = {"run": _without_secrets(run)}
    _count(DENOISER_BUSY, seconds, tags)
    _observe(BATCH_FILL, fills, tags)


def observe_repair(run: str, label: str, distances: Iterable[float]) -> None:
    """Observe the repair distance of each of some flows."""
    _observe(REPAIR_DISTANCE, distances, {"run": _without_secrets(run), "label": label})


def count_quarantined(run: str, stage: str, kinds: Iterable[str]) -> None:
    """Count what was quarantined, by the kind of its reason (see `reason_kind`)."""
    for kind in kinds:
        _count(QUARANTINED, 1, {"run": _without_secrets(run), "stage": stage, "reason": kind})


def observe_shard(run: str, stage: str, num_bytes: int) -> None:
    """Observe the size of a shard that was written."""
    _observe(SHARD_BYTES, [num_bytes], {"run": _without_secrets(run), "stage": stage})


class RunProgress:
    """How far a run is, said again and again until it ends, well or not.

    Used as a context by the driver of a run, once it is connected. The metrics of a driver that
    is gone go too: a run that was not done by then has failed, whatever the reason.

    Args:
        run: the URI that it writes to.
        job: its name, as `generate`.
        done: flows, or parts, that are made already.
        planned: those in all.
    """

    def __init__(self, run: str, job: str, *, done: int, planned: int):
        self._tags = {"run": _without_secrets(run), "job": job}
        self._done, self._planned = done, planned
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def set(self, done: int) -> None:
        """Say how many are made."""
        self._done = done
        self._say()

    def __enter__(self) -> Self:
        self._say()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_REPORTS):
            self._say()

    def _say(self) -> None:
        _set(RUN_PLANNED, self._planned, self._tags)
        _set(RUN_DONE, self._done, self._tags)


def set_dataset_time(run: str) -> None:
    """Say that the dataset of a run has just been committed; by its driver, while connected."""
    _set(DATASET_TIME, time.time(), {"run": _without_secrets(run)})


def set_queue_length(queue: str, length: int) -> None:
    """Say how much waits in a queue of this process."""
    _set(QUEUE_LENGTH, length, {"queue": queue})


def observe_request(route: str, outcome: Outcome, seconds: float) -> None:
    """Observe the end of a request.

    Args:
        route: the path's template, as `/v1/jobs/{id}`, never the path itself.
    """
    _count(REQUESTS, 1, {"route": route, "outcome": outcome})
    _observe(REQUEST_SECONDS, [seconds], {"route": route})


def set_streams_open(number: int) -> None:
    """Say how many answers this process is streaming."""
    _set(STREAMS_OPEN, number, {})


def _without_secrets(uri: str) -> str:
    """Return a URI without user, password and query, which can hold keys of an object store."""
    return re.sub(r"://[^/]*@", "://", uri).split("?")[0]


_log = logging.getLogger("netdiff_ray")


def log_event(
    message: str,
    *,
    run: str,
    shard: int | None = None,
    flow_id: str | None = None,
    level: int = logging.INFO,
) -> None:
    """Log a line with what it is about.

    Where `RAY_LOGGING_CONFIG_ENCODING=JSON` stands in the driver's environment (the image sets
    it), Ray's own formatter makes each line of the job an object with `run`, `shard` and
    `flow_id` beside the ids of its node, worker and task. Elsewhere warnings and errors appear
    as plain text, in the worker's log file.
    """
    about = {"run": _without_secrets(run), "shard": shard, "flow_id": flow_id}
    _log.log(level, message, extra={k: v for k, v in about.items() if v is not None}, stacklevel=2)
