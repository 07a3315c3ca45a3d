"""Captures to an encoded dataset: a Ray task a part, large captures in byte ranges.

captures -> parts of small ones ------------------------------> encode_part
         -> byte ranges of large ones -> read_range -> shuffle -> encode_bucket
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import ray
import ray.data

from netdiff_ray.config import EncodeConfig
from netdiff_ray.config.content import run_identity
from netdiff_ray.distributed import metrics
from netdiff_ray.distributed.cluster import connected, require_cpus, results_apart
from netdiff_ray.distributed.columns import record_of
from netdiff_ray.encoding.collection import Capture, host_key, list_captures
from netdiff_ray.encoding.encode import (
    EncodeSettings,
    PartResult,
    encode_part,
    encoded_part_name,
    plan_parts,
)
from netdiff_ray.encoding.label_files import flow_labels_of, label_file_digests
from netdiff_ray.encoding.split import (
    RangeRows,
    encode_bucket,
    is_splittable,
    read_range,
    split_ranges,
)
from netdiff_ray.flow_labels.labelling import FlowLabels
from netdiff_ray.storage.inputs import input_digest, parts_to_write
from netdiff_ray.storage.manifest import ENCODED_DATASET, Dataset, commit, reason_kind
from netdiff_ray.storage.store import Store, open_store, public_uri

Progress = Callable[[int, int, dict[str, int]], None]
"""Called with parts done, parts in all, and the sums so far."""

_MAX_BLOCKS = 10_000
_MAX_PARTITIONS = 1_000


@dataclass(frozen=True)
class _Plan:
    """Which captures make which parts: `parts` first, then the buckets of each of `split`."""

    parts: list[tuple[Capture, ...]]
    split: list[tuple[Capture, list[tuple[int, int]]]]

    @property
    def num_parts(self) -> int:
        return len(self.parts) + sum(len(ranges) for _, ranges in self.split)

    def buckets(self) -> Iterator[tuple[int, Capture, list[tuple[int, int]]]]:
        """Yield (first part number, capture, ranges) of each split capture, which has as many
        buckets as ranges."""
        number = len(self.parts)
        for capture, ranges in self.split:
            yield number, capture, ranges
            number += len(ranges)

    def input_digests(
        self, quarantine: list[dict], host_key: bytes, labels: list[list]
    ) -> Iterator[str]:
        """Yield the digest of what each part is made of.

        Args:
            quarantine: of the first part.
            host_key: see `EncodeSettings`.
            labels: of `label_file_digests`.
        """
        key = [host_key.hex(), *labels] if labels else host_key.hex()
        for number, captures in enumerate(self.parts):
            yield input_digest(key, quarantine if number == 0 else [], *map(_row, captures))
        for capture, ranges in self.split:
            for bucket in range(len(ranges)):
                yield input_digest(key, _row(capture), ranges, bucket)


def _plan(source: Store, captures: list[Capture], config: EncodeConfig) -> _Plan:
    part_bytes = config.part_megabytes << 20
    large = [c for c in captures if c.num_bytes > config.split_megabytes << 20]
    large = [c for c in large if is_splittable(source, c)]
    small = [c for c in captures if c not in large]
    return _Plan(
        # A part without captures keeps what the quarantine says of captures without a label.
        plan_parts(small, part_bytes) or [()],
        [(c, split_ranges(c.num_bytes, part_bytes)) for c in large],
    )


def encode(
    config: EncodeConfig,
    progress: Progress = lambda *_: None,
    notice: Callable[[str], None] = lambda _: None,
) -> Dataset:
    """Encode what is missing of `config.source` at `config.target`, and commit it.

    Args:
        config: of the job.
        progress: is called with each part.
        notice: is called with what was found out of the labels of flows.

    Raises:
        DataError: no captures, or label files that are of no use for them.
        ConfigError: the target holds another run, or the clock of the labels is ambiguous.
        ClusterError: no CPUs.
    """
    source, captures, quarantine = list_captures(config.source, config.labels_csv)
    target = open_store(config.target)
    plan = _plan(source, captures, config)
    identity = run_identity("encode", config)
    key = host_key(source, captures)
    label_files = label_file_digests(config.labels)
    inputs = {
        encoded_part_name(number): digest
        for number, digest in enumerate(plan.input_digests(quarantine, key, label_files))
    }
    missing = set(parts_to_write(target, identity, inputs))
    if missing:
        settings = EncodeSettings(
            layout=config.layout,
            height=config.height,
            idle_timeout_s=config.idle_timeout_s,
            decapsulate=config.decapsulate,
            host_key=key,
        )
        job = _Job(source, target, settings, identity, quarantine)
        flow_labels = None
        if config.labels:
            flow_labels, choice = flow_labels_of(
                config.labels, config.label_settings, source, captures, settings
            )
            notice(
                f"clock of the labels: {choice.clock}; {choice.num_matched:,} of "
                f"{choice.num_known:,} flows of known endpoints begin with a row"
            )
        sums: dict[str, int] = {}
        done = plan.num_parts - len(missing)
        progress(done, plan.num_parts, sums)
        run_progress = metrics.RunProgress(target.uri, "encode", done=done, planned=plan.num_parts)
        with connected(config.address), results_apart(), run_progress:
            require_cpus(1)
            if flow_labels is not None:
                job = replace(job, flow_labels=ray.put(flow_labels))
            for part in job.run(plan, missing):
                sums = {unit: sums.get(unit, 0) + n for unit, n in part.sums().items()}
                done += 1
                run_progress.set(done)
                progress(done, plan.num_parts, sums)
    collection = {
        "source": public_uri(config.source),
        "captures": len(captures) + len(quarantine),
    }
    return commit(target, ENCODED_DATASET, identity, list(inputs), {"collection": collection})


@dataclass(frozen=True, kw_only=True)
class _PartTask:
    """Columns of a part to encode."""

    number: int
    captures: list[dict]
    """The fields of each Capture."""


@dataclass(frozen=True, kw_only=True)
class _RangeTask:
    """Columns of a byte range to read."""

    number: int
    """Of the part of the capture's first bucket."""
    capture: dict
    """The fields of its Capture."""
    begin: int
    end: int
    range_number: int
    buckets: list[int]
    """Missing ones."""
    num_buckets: int


@dataclass(frozen=True, kw_only=True)
class _BucketRows(RangeRows, Capture):
    """Columns of the packets of a bucket in a range, and their capture."""

    number: int
    """Of the bucket's part."""


@dataclass(frozen=True, kw_only=True)
class _EncodedPart:
    """Columns of a part that was written, see `PartResult.sums`."""

    number: int
    met: bool = True
    """Whether the ranges of the capture met; if not, nothing was written."""
    captures: int = 0
    windows: int = 0
    flows: int = 0
    packets: int = 0
    quarantined: int = 0
    bytes: int = 0

    def sums(self) -> dict[str, int]:
        """Return the sums by unit."""
        return {unit: n for unit, n in asdict(self).items() if unit not in ("number", "met")}


@dataclass(frozen=True)
class _Job:
    """The settings of every task."""

    source: Store
    target: Store
    settings: EncodeSettings
    config: dict
    quarantine: list[dict]
    """Of captures without a label or a readable name; the first part keeps it."""
    flow_labels: ray.ObjectRef | None = None
    """To FlowLabels, None where captures name the labels."""

    def run(self, plan: _Plan, missing: set[int]) -> Iterator[_EncodedPart]:
        """Yield each missing part when it is written."""
        parts = [
            _PartTask(number=number, captures=[_row(c) for c in captures])
            for number, captures in enumerate(plan.parts)
            if number in missing
        ]
        if parts:
            encoded = _dataset(parts).map(self.encode_part)
            # Tasks wait at the nodes: the driver hands the next one out only when it has
            # accounted for the last, and workers would be idle for half of the time.
            encoded.context.op_resource_reservation_enabled = False
            for row in encoded.iter_rows():
                yield record_of(_EncodedPart, row)
        split = list(plan.buckets())
        unmet: list[int] = []
        for part in self.run_split(split, missing):
            if part.met:
                yield part
            else:
                unmet.append(part.number)
        # Where ranges did not meet, the capture is read as one.
        whole = [
            (number, capture, [(0, capture.num_bytes)] * len(ranges))
            for number, capture, ranges in split
        ]
        for part in self.run_split(whole, set(unmet)):
            assert part.met
            yield part

    def run_split(
        self, split: list[tuple[int, Capture, list[tuple[int, int]]]], missing: set[int]
    ) -> Iterator[_EncodedPart]:
        """Yield each missing part of split captures; equal ranges are read once."""
        ranges = [
            _RangeTask(
                number=number,
                capture=_row(capture),
                begin=begin,
                end=end,
                range_number=k,
                buckets=[b for b in range(len(byte_ranges)) if number + b in missing],
                num_buckets=len(byte_ranges),
            )
            for number, capture, byte_ranges in split
            for k, (begin, end) in enumerate(dict.fromkeys(byte_ranges))
        ]
        ranges = [r for r in ranges if r.buckets]
        if ranges:
            num_groups = sum(len(r.buckets) for r in ranges if r.range_number == 0)
            grouped = (
                _dataset(ranges)
                .flat_map(self.read_range)
                .groupby("number", num_partitions=min(num_groups, _MAX_PARTITIONS))
            )
            encoded = grouped.map_groups(self.encode_bucket, batch_format="pyarrow")
            for row in encoded.iter_rows():
                yield record_of(_EncodedPart, row)

    def encode_part(self, row: dict) -> dict:
        """Write the part of a row of _PartTask; return a row of _EncodedPart."""
        task = record_of(_PartTask, row)
        captures = [Capture(**c) for c in task.captures]
        quarantine = self.quarantine if task.number == 0 else []
        begin = time.monotonic()
        result = encode_part(
            self.source, captures, self.target, task.number, self.settings, self.config,
            quarantine, self.labels(),
        )  # fmt: skip
        self.record(task.number, result, time.monotonic() - begin)
        return asdict(_EncodedPart(number=task.number, **result.sums))

    def read_range(self, row: dict) -> list[dict]:
        """Read the range of a row of _RangeTask; return rows of _BucketRows."""
        task = record_of(_RangeTask, row)
        buckets = read_range(
            self.source, Capture(**task.capture), (task.begin, task.end), task.range_number,
            task.buckets, task.num_buckets, decapsulate=self.settings.decapsulate,
        )  # fmt: skip
        return [
            {**asdict(bucket), **task.capture, "number": task.number + bucket.bucket}
            for bucket in buckets
        ]

    def encode_bucket(self, group: pa.Table) -> dict[str, list]:
        """Write the part of a table of _BucketRows; return a row of _EncodedPart, as lists."""
        rows = [record_of(_BucketRows, row) for row in group.to_pylist()]
        number = rows[0].number
        capture = record_of(Capture, vars(rows[0]))
        ranges = [record_of(RangeRows, vars(row)) for row in rows]
        begin = time.monotonic()
        result = encode_bucket(
            ranges, capture, self.target, number, self.settings, self.config, self.labels()
        )
        if result is None:
            part = _EncodedPart(number=number, met=False)
        else:
            self.record(number, result, time.monotonic() - begin)
            part = _EncodedPart(number=number, **result.sums)
        return {column: [value] for column, value in asdict(part).items()}

    def labels(self) -> FlowLabels | None:
        """Return the labels of flows, if there are any."""
        return None if self.flow_labels is None else ray.get(self.flow_labels)

    def record(self, number: int, result: PartResult, seconds: float) -> None:
        """Record a part that was written in the metrics and the log."""
        run = self.target.uri
        metrics.observe_stage(run, "encode", seconds)
        for label, counts in result.counts.items():
            metrics.count_flows(
                run, "encode", label, flows=counts["flows"], packets=counts["packets"]
            )
        metrics.count_quarantined(run, "encode", map(reason_kind, result.quarantine))
        metrics.observe_shard(run, "encode", result.num_bytes)
        metrics.log_event("part encoded", run=run, shard=number)


_row_keys = tuple(Capture.__dataclass_fields__)


def _row(capture: Capture) -> dict:
    return {key: getattr(capture, key) for key in _row_keys}


def _dataset(tasks: list) -> ray.data.Dataset:
    """Return a dataset of few, small records, a block each."""
    rows = [asdict(task) for task in tasks]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
    # Else Ray puts an error of its own around it, whose cause is lost between processes.
    dataset.context.raise_original_map_exception = True
    return dataset
