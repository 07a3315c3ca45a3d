"""Captures to an encoded dataset, a Ray task a part."""

from collections.abc import Callable

import ray.data

from netdiff_ray.config import EncodeConfig
from netdiff_ray.dataset.captures import Capture, list_captures
from netdiff_ray.dataset.encode import (
    EncodeSettings,
    encode_part,
    encoded_part_name,
    plan_parts,
)
from netdiff_ray.dataset.manifest import ENCODED_DATASET, Dataset, commit, missing_parts
from netdiff_ray.dataset.places import Place, open_place
from netdiff_ray.distributed.cluster import connected, require_cpus

Progress = Callable[[int, int, dict[str, int]], None]
"""Called with parts done, parts in all, and the sums so far."""

_MAX_BLOCKS = 10_000


class _EncodePart:
    """The part that a plan's row names, encoded and written; its sums are the result."""

    def __init__(
        self, source: Place, target: Place, settings: EncodeSettings, config: dict,
        without_label: list[dict],
    ):  # fmt: skip
        self.source, self.target = source, target
        self.settings, self.config = settings, config
        self.without_label = without_label

    def __call__(self, row: dict) -> dict:
        captures = [Capture(*c) for c in zip(row["name"], row["label"], row["size"], strict=True)]
        return encode_part(
            self.source, captures, self.target, row["number"], self.settings, self.config,
            self.without_label if row["number"] == 0 else (),
        )  # fmt: skip


def encode(config: EncodeConfig, progress: Progress = lambda *_: None) -> Dataset:
    """Encode what is missing of `config.source` at `config.target`, and commit it.

    Raises:
        UsageError: no captures, an unreadable or already used place, no CPUs.
    """
    source, captures, without_label = list_captures(config.source, config.labels)
    target = open_place(config.target)
    parts = plan_parts(captures, config.part_megabytes << 20) or [()]
    names = [encoded_part_name(number) for number in range(len(parts))]
    resolved = {
        "job": "encode",
        "source": config.source,
        "captures": len(captures),
        "labels": config.labels,
        "layout": config.layout,
        "height": config.height,
        "idle_timeout_s": config.idle_timeout_s,
        "part_megabytes": config.part_megabytes,
    }
    missing = missing_parts(target, resolved, names)
    plan = [
        {
            "number": number,
            "name": [c.name for c in parts[number]],
            "label": [c.label for c in parts[number]],
            "size": [c.num_bytes for c in parts[number]],
        }
        for number in missing
    ]
    if plan:
        settings = EncodeSettings(
            layout=config.layout, height=config.height, idle_timeout_s=config.idle_timeout_s
        )
        with connected(config.address):
            require_cpus(1)
            task = _EncodePart(source, target, settings, resolved, without_label)
            rows = ray.data.from_items(plan, override_num_blocks=min(len(plan), _MAX_BLOCKS)).map(
                task.__call__
            )
            sums: dict[str, int] = {}
            for done, row in enumerate(rows.iter_rows(), 1):
                sums = {unit: sums.get(unit, 0) + number for unit, number in row.items()}
                progress(len(parts) - len(missing) + done, len(parts), sums)
    return commit(target, ENCODED_DATASET, resolved, names)
