"""Conversion among captures, .nprint text and .png rasters, in every direction."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np

from netdiff_ray.config import ConvertConfig
from netdiff_ray.errors import (
    ConfigError,
    DataError,
    NetdiffError,
    NprintError,
    StorageError,
)
from netdiff_ray.flows import assemble_flows
from netdiff_ray.nprint.codec import decode, encode, encode_windows
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, LAYOUTS, Layout
from netdiff_ray.nprint.text import NprintWriter, read_nprint
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.frames import header_frames
from netdiff_ray.packets.headers import header_rows
from netdiff_ray.packets.linktypes import ETHERNET, RAW
from netdiff_ray.packets.table import PacketTable, Reason
from netdiff_ray.packets.tunnels import counts_by_tunnel
from netdiff_ray.packets.writer import CaptureWriter
from netdiff_ray.raster import read_png, write_png
from netdiff_ray.storage.store import write_error

CAPTURE_FORMS = {".pcap": "pcap", ".pcapng": "pcapng"}
_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, kw_only=True)
class Converted:
    """The outcome of a conversion."""

    written: list[Path]
    """The files written."""
    num_packets: int
    """Packets (records, rows) in them."""
    num_skipped: int
    """Records that gave no packet."""
    fault: NetdiffError | None
    """Why the input was not read to its end, if it was not."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Columns of a .nprint file that no layout has, by what their names begin with."""
    tunnels: dict[str, int] = field(default_factory=dict)
    """Records in which each kind of tunnel was followed."""


def convert(config: ConvertConfig) -> Converted:
    """Convert `config.source` to `config.target`.

    Raises:
        ConfigError: an unknown suffix, or an output that cannot hold the input.
        StorageError: the target's folder does not exist.
        DataError: the input cannot be read at all.
    """
    source = config.source.suffix.lower()
    target = config.target.suffix.lower()
    if target not in {*CAPTURE_FORMS, ".nprint", ".png"}:
        raise ConfigError(
            f"{config.target}: the suffix {target!r} is not known; write .pcap, .pcapng, "
            ".nprint or .png"
        )
    if not config.target.parent.is_dir():
        raise StorageError(f"{config.target.parent}: no such folder")
    if source in (".nprint", ".png"):
        return _from_nprint(config, target)
    reader = CaptureReader(config.source, strict=config.strict, decapsulate=config.decapsulate)
    if target in CAPTURE_FORMS:
        return _copy_capture(config, reader)
    name = config.layout or ("nprint" if target == ".nprint" else DEFAULT_LAYOUT)
    layout = LAYOUTS[name]
    records = _FirstRecords(reader, config.count)
    chunks = (header_rows(table) for table in records)
    if target == ".png" or layout.needs_flow:
        matrices = _windows(config, layout, chunks, reader.fingerprint)
    else:
        matrices = ((encode(rows, layout), rows) for rows in chunks)
    try:
        if target == ".png":
            written, count = _write_images(config.source, config.target, matrices, layout)
        else:
            written, count = _write_text(config.source, config.target, matrices, layout)
    except DataError as error:
        raise reader.fault or error from None
    return Converted(
        written=written, num_packets=count, num_skipped=records.num_read - count,
        fault=reader.fault, tunnels=records.tunnels,
    )  # fmt: skip


@contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `target` when complete; an error leaves `target` as it was.

    Raises:
        StorageError: it cannot be written.
    """
    partial = target.with_name(target.name + ".partial")
    with _write_errors_of(target):
        try:
            with open(partial, "wb") as file:
                yield file
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def _write_errors_of(target: Path) -> Iterator[None]:
    """Raise StorageError, which names `target`, for the OSError of a block that writes it."""
    try:
        yield
    except OSError as error:
        raise write_error(str(target), error) from None


class _FirstRecords:
    """The first `most` records of a capture, all if None, as tables; counts them, and the tunnels
    that were followed in them."""

    def __init__(self, reader: CaptureReader, most: int | None):
        self.reader = reader
        self.most = most
        self.num_read = 0
        self.tunnels: Counter[str] = Counter()

    def __iter__(self) -> Iterator[PacketTable]:
        for table in self.reader:
            left = len(table) if self.most is None else min(len(table), self.most - self.num_read)
            self.num_read += left
            first = table.first(left)
            self.tunnels.update(counts_by_tunnel(first.tunnels))
            yield first
            if self.num_read == self.most:
                return


def _windows(
    config: ConvertConfig, layout: Layout, chunks: Iterable[np.ndarray], fingerprint: bytes
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (nprint, rows) of each window."""
    batches = assemble_flows(
        chunks, fingerprint, idle_timeout_s=config.idle_timeout_s, height=config.height
    )
    for windows in batches:
        nprint = encode_windows(windows, layout)
        for begin, end in pairwise(windows.first):
            yield nprint[begin:end], windows.rows[begin:end]


def _write_images(
    source: Path, target: Path, matrices: Iterable[tuple[np.ndarray, np.ndarray]], layout: Layout
) -> tuple[list[Path], int]:
    """Write an image for each matrix: `target` itself for a single one, else numbered files beside
    it."""

    def numbered(k: int) -> Path:
        return target.with_name(f"{target.stem}-{k:06d}{target.suffix}")

    count = 0
    with (
        _write_errors_of(target),
        TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder,
    ):
        drawn: list[Path] = []
        for nprint, _ in matrices:
            drawn.append(Path(folder) / f"{len(drawn)}.png")
            write_png(drawn[-1], nprint, layout)
            count += len(nprint)
        if not drawn:
            raise DataError(f"{source}: no packet gave a row, so nothing is written to {target}")
        single = len(drawn) == 1
        written = [target] if single else [numbered(k + 1) for k in range(len(drawn))]
        for path, final in zip(drawn, written, strict=True):
            path.replace(final)
    return written, count


def _write_text(
    source: Path, target: Path, matrices: Iterable[tuple[np.ndarray, np.ndarray]], layout: Layout
) -> tuple[list[Path], int]:
    count = 0
    with whole_file(target) as file:
        writer = NprintWriter(file, layout)
        for nprint, rows in matrices:
            writer.write(nprint, rows)
            count += len(nprint)
        if not count:
            raise DataError(f"{source}: no packet gave a row, so nothing is written to {target}")
    return [target], count


def _copy_capture(config: ConvertConfig, reader: CaptureReader) -> Converted:
    """Copy a capture into another container, with nanosecond times."""
    records = _FirstRecords(reader, config.count)
    form = CAPTURE_FORMS[config.target.suffix.lower()]
    count = 0
    with whole_file(config.target) as file:
        writer = CaptureWriter(file, form)
        for table in records:
            whole = table.reason != Reason.BAD_INTERFACE
            inside = np.zeros(len(table), np.int64)
            if config.decapsulate:
                whole &= table.network >= 0
                inside = np.where(whole, table.network, 0)
            # Runs of one link type, so that the order of packets is kept.
            link_type = RAW if config.decapsulate else table.link_type.astype(np.int64)
            kinds = np.where(whole, link_type, -1)
            cuts = np.flatnonzero(np.diff(kinds, prepend=-2, append=-2))
            for begin, end in pairwise(cuts):
                if kinds[begin] < 0:
                    continue
                try:
                    writer.write(
                        table.data, (table.start + inside)[begin:end],
                        (table.caplen - inside)[begin:end], (table.wirelen - inside)[begin:end],
                        table.ts_ns[begin:end], int(kinds[begin]),
                    )  # fmt: skip
                except ValueError as error:
                    raise ConfigError(f"{reader.name}: {error}") from None
                count += end - begin
        writer.finish()
    return Converted(
        written=[config.target], num_packets=int(count), num_skipped=int(records.num_read - count),
        fault=reader.fault, tunnels=records.tunnels,
    )  # fmt: skip


def _from_nprint(config: ConvertConfig, target: str) -> Converted:
    if config.source.suffix.lower() == ".png":
        nprint, _, layout = read_png(config.source)
        blocks: Iterable[np.ndarray] = [nprint]
        left_out: dict[str, int] = {}
    else:
        layout, blocks, left_out = read_nprint(config.source)
    wanted = LAYOUTS[config.layout] if config.layout else layout
    missing = [name for name in wanted.fields if name not in layout.offsets]
    if missing:
        raise NprintError(
            f"{config.source} is of layout {layout.name}, which lacks {', '.join(missing)}; "
            f"it cannot become {wanted.name}"
        )
    blocks = _first_rows(blocks, config.count)
    if target in CAPTURE_FORMS:
        return replace(_write_frames(config.target, blocks, layout), left_out=left_out)
    matrices = _relaid(blocks, layout, wanted)
    if target == ".png":
        written, count = _write_images(
            config.source, config.target, _cut_rows(matrices, config.height), wanted
        )
    else:
        written, count = _write_text(config.source, config.target, matrices, wanted)
    return Converted(
        written=written, num_packets=count, num_skipped=0, fault=None, left_out=left_out
    )


def _first_rows(blocks: Iterable[np.ndarray], most: int | None) -> Iterator[np.ndarray]:
    left = most
    for block in blocks:
        yield block[:left]
        if left is not None:
            left -= len(block[:left])
            if left == 0:
                return


def _relaid(
    blocks: Iterable[np.ndarray], layout: Layout, wanted: Layout
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (nprint in layout `wanted`, header rows), cell by cell: a drawing stays as drawn."""
    columns = layout.indices(wanted.fields)
    for block in blocks:
        for at in range(0, len(block), _ROWS_AT_A_TIME):
            part = block[at : at + _ROWS_AT_A_TIME]
            rows, _, _ = decode(part, layout)
            yield (part if wanted is layout else part[:, columns]), rows


def _cut_rows(
    matrices: Iterable[tuple[np.ndarray, np.ndarray]], height: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield matrices of at most `height` rows, blocks joined across their borders."""
    rest = None
    for pair in matrices:
        nprint, rows = pair if rest is None else map(np.concatenate, zip(rest, pair, strict=True))
        whole = len(nprint) // height * height
        for at in range(0, whole, height):
            yield nprint[at : at + height], rows[at : at + height]
        rest = (nprint[whole:], rows[whole:]) if whole < len(nprint) else None
    if rest is not None:
        yield rest


def _write_frames(target: Path, blocks: Iterable[np.ndarray], layout: Layout) -> Converted:
    """Write header-only frames; times are those of the layout, else a microsecond apart."""
    count = skipped = 0
    last_ns = 0
    with whole_file(target) as file:
        writer = CaptureWriter(file, CAPTURE_FORMS[target.suffix.lower()])
        for block in blocks:
            rows, _, _ = decode(block, layout)
            step_ns = rows["ts_ns"] if layout.needs_flow else 1000 * np.arange(1, len(rows) + 1)
            ts_ns = last_ns + step_ns
            last_ns = int(ts_ns[-1]) if len(ts_ns) else last_ns
            some = rows["version"] != 0
            data, start, caplen, wirelen = header_frames(rows)
            writer.write(data, start[some], caplen[some], wirelen[some], ts_ns[some], ETHERNET)
            count += int(some.sum())
            skipped += int((~some).sum())
        writer.finish()
    return Converted(written=[target], num_packets=count, num_skipped=skipped, fault=None)
