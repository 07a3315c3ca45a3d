"""Repair of drawn .nprint and .png files, also NetDiffusion's, into packets."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from netdiff_ray.config import RepairConfig
from netdiff_ray.config.content import run_identity
from netdiff_ray.errors import ConfigError, DataError, NetdiffError, NprintError
from netdiff_ray.generation.flow_repair import RepairedGroup
from netdiff_ray.generation.shard_builder import build_shard
from netdiff_ray.local.convert import CAPTURE_FORMS, whole_file
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, Layout, layout_named
from netdiff_ray.nprint.text import read_nprint
from netdiff_ray.packets.linktypes import ETHERNET
from netdiff_ray.packets.writer import CaptureWriter
from netdiff_ray.raster import read_png
from netdiff_ray.repair import RepairContext, repair
from netdiff_ray.repair.batch import MAX_ROWS
from netdiff_ray.storage.inputs import input_digest, parts_to_write
from netdiff_ray.storage.manifest import PCAP_DATASET, QUARANTINES, commit
from netdiff_ray.storage.shards import Scratch, Shard, index_name, write_shard
from netdiff_ray.storage.store import open_store

DRAWN_SUFFIXES = (".nprint", ".png")


@dataclass(frozen=True, kw_only=True)
class RepairedFiles:
    """The outcome of a repair of files."""

    num_flows: int
    num_packets: int
    distance: float
    """Mean repair distance of the flows: corrected over answerable bits."""
    quarantine: list[dict]
    """A record for each file that gave no flow, with its `reason`."""
    num_skipped_shards: int
    """Shards that an earlier run wrote."""
    left_out: dict[str, int]
    """Files, of those that were read, with columns that no layout has, by what the names of
    these begin with (`eth`, `payload`)."""

    @property
    def quarantined_share(self) -> float:
        """Share of the files that gave no flow."""
        return len(self.quarantine) / max(1, self.num_flows + len(self.quarantine))


def repair_files(config: RepairConfig) -> RepairedFiles:
    """Repair every drawn file of `config.source` into a capture or a dataset.

    A file is a flow; a flow depends on its file, its name and the seed alone.

    Raises:
        ConfigError: the source is no drawn file, or another configuration made the target.
        DataError: no drawn files.
    """
    files = _drawn_files(config.source)
    if config.target.suffix.lower() in CAPTURE_FORMS:
        return _to_capture(config, files)
    by_label: dict[str, list[Path]] = {}
    for path in files:
        by_label.setdefault(config.label or path.parent.resolve().name, []).append(path)
    plan = [
        (label, paths[at : at + config.flows_per_shard])
        for label, paths in sorted(by_label.items())
        for at in range(0, len(paths), config.flows_per_shard)
    ]
    store = open_store(config.target)
    identity = run_identity("repair", config)
    inputs = {
        index_name(number): _input_of(config, label, paths)
        for number, (label, paths) in enumerate(plan)
    }
    missing = parts_to_write(store, identity, inputs)
    scratch = Scratch()
    left_out: Counter[str] = Counter()
    for number in missing:
        label, paths = plan[number]
        shard = _shard(config, number, label, paths, number * config.flows_per_shard, left_out)
        write_shard(store, shard, identity, pcap_per_flow=config.pcap_per_flow, scratch=scratch)
    counts = commit(store, PCAP_DATASET, identity, list(inputs)).manifest["counts"]
    return RepairedFiles(
        num_flows=counts["flows"],
        num_packets=counts["packets"],
        distance=counts["repair_distance"],
        quarantine=[json.loads(line) for line in store.get(QUARANTINES[PCAP_DATASET]).splitlines()],
        num_skipped_shards=len(plan) - len(missing),
        left_out=left_out,
    )


def _to_capture(config: RepairConfig, files: list[Path]) -> RepairedFiles:
    """Write all flows into one capture."""
    left_out: Counter[str] = Counter()
    shard = _shard(config, 0, config.label or "drawn", files, 0, left_out)
    with whole_file(config.target) as file:
        writer = CaptureWriter(file, CAPTURE_FORMS[config.target.suffix.lower()])
        chosen = shard.order
        writer.write(
            shard.data, shard.start[chosen], shard.caplen[chosen], shard.wirelen[chosen],
            shard.ts_ns[chosen], ETHERNET,
        )  # fmt: skip
        writer.finish()
    distances = shard.flows["repair_distance"].to_numpy()
    return RepairedFiles(
        num_flows=len(distances),
        num_packets=len(shard.ts_ns),
        distance=float(distances.mean()) if len(distances) else 0.0,
        quarantine=shard.quarantine,
        num_skipped_shards=0,
        left_out=left_out,
    )


def _drawn_files(source: Path) -> list[Path]:
    if source.is_dir():
        files = sorted(p for p in source.rglob("*") if p.suffix.lower() in DRAWN_SUFFIXES)
        if not files:
            raise DataError(f"{source}: no .nprint or .png files in it")
        return files
    if source.suffix.lower() not in DRAWN_SUFFIXES:
        raise ConfigError(f"{source}: a drawn file ends in .nprint or .png")
    if not source.exists():
        raise DataError(f"{source}: no such file")
    return [source]


def _input_of(config: RepairConfig, label: str, paths: list[Path]) -> str:
    """Return the digest of what a shard is made of: names, sizes and times of its files."""
    stats = [(_name(config, path), path.stat()) for path in paths]
    return input_digest(label, *([name, s.st_size, s.st_mtime_ns] for name, s in stats))


def _name(config: RepairConfig, path: Path) -> str:
    return path.relative_to(config.source).as_posix() if config.source.is_dir() else path.name


def _shard(
    config: RepairConfig, number: int, label: str, paths: list[Path], first_number: int,
    left_out: Counter[str],
) -> Shard:  # fmt: skip
    """Return the shard of some files; those that cannot be read are in its quarantine.

    Args:
        left_out: files with columns that no layout has; counts these too.
    """
    matrices, quarantine = [], []
    layout: Layout | None = None
    for k, path in enumerate(paths):
        name = _name(config, path)
        try:
            file_layout, nprint, kinds_left_out = _read(path)
            if layout is not None and file_layout is not layout:
                raise NprintError(
                    f"{path} is of layout {file_layout.name}, others of its shard of {layout.name}"
                )
            layout = file_layout
            matrices.append((k, name, nprint))
            left_out.update(kinds_left_out)
        except NetdiffError as error:
            quarantine.append(
                {"label": label, "shard": number, "flow_id": name, "reason": str(error)}
            )
    names = [name for _, name, _ in matrices]
    seeds = [_seed(config.seed, label, name) for name in names]
    repaired = repair(
        [nprint for _, _, nprint in matrices],
        layout or layout_named(DEFAULT_LAYOUT),
        RepairContext(label=label, payload=config.payload, server_ports=config.server_ports),
        np.array(seeds, np.uint64),
        np.array([first_number + k for k, _, _ in matrices], np.uint64),
    )
    group = RepairedGroup(tuple(range(len(names))), "", repaired)
    shard = build_shard(
        [group], number=number, label=label, flow_ids=[f"{seed:016x}" for seed in seeds],
        order=config.order, flows_per_second=config.flows_per_second, seed=config.seed + number,
    )  # fmt: skip
    for record, (position, _) in zip(shard.quarantine, repaired.rejected, strict=True):
        record["flow_id"] = names[position]
    shard.quarantine.extend(quarantine)
    return shard


def _read(path: Path) -> tuple[Layout, np.ndarray, list[str]]:
    """Return layout, rows and kinds of columns left out of a drawn file; of rows at most one more
    than fits (to be refused)."""
    if path.suffix.lower() == ".png":
        nprint, _, layout = read_png(path)
        return layout, nprint, []
    layout, blocks, left_out = read_nprint(path)
    return layout, _first_rows(blocks, layout, MAX_ROWS + 1), list(left_out)


def _first_rows(blocks: Iterator[np.ndarray], layout: Layout, most: int) -> np.ndarray:
    parts = [np.empty((0, layout.width), np.int8)]
    count = 0
    for block in blocks:
        parts.append(block[: most - count])
        count += len(parts[-1])
        if count == most:
            break
    return np.concatenate(parts)


def _seed(run_seed: int, label: str, name: str) -> int:
    """Return the seed of every draw for a flow."""
    digest = hashlib.blake2b(f"{run_seed}\0{label}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
