"""Flows in the common view, block by block, from windows and from encoded tables.

Shape letters: N flows, P packets, C columns of the view, S statistics.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from netdiff_ray.encoding.windows import layout_of_table, unpack
from netdiff_ray.errors import NprintError
from netdiff_ray.evaluate.duplicates import with_duplicates
from netdiff_ray.evaluate.flow_arrays import (
    LEAST_SEQUENCE,
    SEQUENCE_PACKETS,
    FlowArrays,
    joined_arrays,
    ranges,
    rank_in_flow,
    starts,
)
from netdiff_ray.evaluate.flow_statistics import STATISTICS, flow_statistics
from netdiff_ray.evaluate.flow_view import (
    MAX_PACKETS,
    VIEW,
    WIDE,
    is_wide,
    packet_sizes,
    wide_cells,
)
from netdiff_ray.flows import Windows
from netdiff_ray.header_bytes import (
    IPV4_ADDRESS_BYTES,
    IPV4_DST,
    IPV4_SRC,
    IPV6_ADDRESS_BYTES,
    IPV6_DST,
    IPV6_SRC,
)
from netdiff_ray.nprint import VACANT, encode
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT

_BLOCK_PACKETS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class FlowBlock(FlowArrays):
    """Some flows of one source, at most MAX_PACKETS of each, and what is known of it beside."""

    addresses: frozenset[bytes] = frozenset()
    """IP addresses of its packets, 4 or 16 bytes each."""
    has_addresses: bool = False
    """Whether the source holds addresses at all."""
    num_repaired: int = 0
    """Flows whose source records what repair changed."""
    corrected: Counter = field(default_factory=Counter)
    """Bits that repair corrected in them, by field."""
    answerable: int = 0
    """Bits of them that the model answers for."""
    repair_distance: float = 0.0
    """Sum over them of the share of answerable bits corrected."""
    dialogues: Counter = field(default_factory=Counter)
    """Of them, by label, what they were to speak and whether they do."""
    notes: tuple[str, ...] = ()
    """What a reader of the report should know of the source, in words."""

    @staticmethod
    def empty() -> "FlowBlock":
        """Return a block of no flows."""
        return FlowBlock(
            label=np.empty(0, np.str_), key=np.empty(0, np.uint64),
            content=np.empty(0, np.uint64), first=np.zeros(1, np.int64),
            bits=np.empty((0, VIEW.width), np.int8), statistics=np.empty((0, len(STATISTICS))),
            sequence=np.empty(0, np.uint64), capture=np.empty(0, np.uint64),
            server_port=np.empty(0, np.int64), hosts=np.empty((0, 2), np.uint64),
        )  # fmt: skip


def text_hashes(texts: Sequence[str | bytes]) -> np.ndarray:
    """Return (N,) uint64 hashes of flow ids, captures' names or addresses."""
    encoded = (text.encode() if isinstance(text, str) else text for text in texts)
    digests = [hashlib.blake2b(data, digest_size=8).digest() for data in encoded]
    return np.frombuffer(b"".join(digests), "<u8").copy()


def make_block(
    label: Sequence[str],
    flow_ids: Sequence[str],
    nprint: np.ndarray,
    first: np.ndarray,
    direction: np.ndarray,
    interarrival_ns: np.ndarray,
    *,
    captures: Sequence[str] | None = None,
    hosts: np.ndarray | None = None,
) -> FlowBlock:
    """Return the block of N flows from their nprints.

    Args:
        label: N labels.
        flow_ids: N ids.
        nprint: (P, B) int8 of layout WIDE, flow after flow, every packet.
        first: (N + 1,) int64 first packet of each flow.
        direction: (P,) uint8, 0 from the client, 1 to it.
        interarrival_ns: (P,) int64 since the flow's packet before.
        captures: N names of the captures that the flows are from; one capture unless given.
        hosts: (N, 2) uint64 hashes of the addresses of client and server; unknown unless given.
    """
    bits = nprint[:, WIDE.indices(VIEW.fields)]
    is_stored = rank_in_flow(first) < MAX_PACKETS
    stored_first = starts(np.minimum(np.diff(first), MAX_PACKETS))
    stored_bits = bits[is_stored]
    return FlowBlock(
        label=np.asarray(label, np.str_),
        key=text_hashes(flow_ids),
        content=content_hashes(stored_first, stored_bits),
        first=stored_first,
        bits=stored_bits,
        statistics=flow_statistics(bits, first, direction, interarrival_ns),
        sequence=_sequences(packet_sizes(stored_bits), direction[is_stored], stored_first),
        capture=text_hashes(captures or [""] * len(label)),
        server_port=_server_ports(nprint[first[:-1]], direction[first[:-1]]),
        hosts=np.zeros((len(label), 2), np.uint64) if hosts is None else hosts,
    )


def _sequences(size: np.ndarray, direction: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return (N,) uint64 hashes of sizes and directions, as in `FlowBlock.sequence`.

    Args:
        size: (P,) bytes of each packet.
        direction: (P,) uint8.
        first: (N + 1,) int64.
    """
    signed = np.where(direction == 0, size, -size).astype(np.int32)
    hashed = text_hashes(
        [signed[a:b][:SEQUENCE_PACKETS].tobytes() for a, b in pairwise(first.tolist())]
    )
    return np.where(np.diff(first) >= LEAST_SEQUENCE, hashed, 0)


def _server_ports(nprint: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return the (N,) int64 ports of servers, -1 without ports.

    Args:
        nprint: (N, B) int8 of layout WIDE, the first packet of each flow.
        direction: (N,) uint8 of the same packets.
    """
    port = np.full(len(nprint), -1, np.int64)
    for source, target in (("udp_sport", "udp_dport"), ("tcp_sprt", "tcp_dprt")):
        weights = 1 << np.arange(15, -1, -1)
        from_port, to_port = ((nprint[:, WIDE.columns(n)] == 1) @ weights for n in (source, target))
        has = nprint[:, WIDE.offsets[source]] != VACANT
        port = np.where(has, np.where(direction == 0, to_port, from_port), port)
    return port


def _hosts(rows: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return (N, 2) uint64 hashes of the addresses of client and server.

    Args:
        rows: (N,) HEADER_ROW, the first packet of each flow.
        direction: (N,) uint8 of the same packets.
    """
    addresses = []
    for row in rows:
        is_6 = row["version"] == 6
        size = IPV6_ADDRESS_BYTES if is_6 else IPV4_ADDRESS_BYTES
        offsets = (IPV6_SRC, IPV6_DST) if is_6 else (IPV4_SRC, IPV4_DST)
        addresses += [row["network"][at : at + size].tobytes() for at in offsets]
    hashed = text_hashes(addresses).reshape(-1, 2)
    return np.where((direction == 0)[:, None], hashed, hashed[:, ::-1])


def complete_flows(batches: Iterable[Windows]) -> Iterator[list[Windows]]:
    """Yield lists of the windows of a capture, in order, such that no flow is in two of them.

    Windows wait for the end of their flow, so that memory grows with the flows that are open.
    """
    waiting: list[Windows] = []
    for batch in batches:
        ended = {i for i, last in zip(batch.flow_id, batch.is_last, strict=True) if last}
        ready, rest = [], []
        for windows in (*waiting, batch):
            is_ready = np.array([i in ended for i in windows.flow_id], np.bool_)
            if is_ready.any():
                ready.append(_chosen_windows(windows, np.flatnonzero(is_ready)))
            if not is_ready.all():
                rest.append(_chosen_windows(windows, np.flatnonzero(~is_ready)))
        waiting = rest
        if ready:
            yield ready
    assert not waiting, "the last batch ends every flow"


def _chosen_windows(windows: Windows, chosen: np.ndarray) -> Windows:
    if len(chosen) == len(windows):
        return windows
    counts = np.diff(windows.first)[chosen]
    packets = ranges(windows.first[:-1][chosen], counts)
    return Windows(
        rows=windows.rows[packets],
        direction=windows.direction[packets],
        interarrival_ns=windows.interarrival_ns[packets],
        state=windows.state[packets],
        first=starts(counts),
        flow_id=[windows.flow_id[k] for k in chosen],
        window=windows.window[chosen],
        is_last=windows.is_last[chosen],
        flow_start_ns=windows.flow_start_ns[chosen],
    )


def blocks_of_windows(
    batches: Sequence[Windows], label: str, capture: str = ""
) -> Iterator[FlowBlock]:
    """Yield blocks of flows of one capture; a flow's windows may lie in several batches.

    Args:
        batches: windows, whole flows of them, in the order in which they were given out.
        label: of all flows.
        capture: name of the capture.
    """
    for packets in packets_of_flows(batches):
        nprint = encode(
            packets.rows, WIDE, direction=packets.direction,
            interarrival_ns=packets.interarrival_ns,
        )  # fmt: skip
        opening = packets.first[:-1]
        yield make_block(
            [label] * len(packets.flow_id), packets.flow_id, nprint, packets.first,
            packets.direction, packets.interarrival_ns,
            captures=[capture] * len(packets.flow_id),
            hosts=_hosts(packets.rows[opening], packets.direction[opening]),
        )  # fmt: skip


class FlowPackets(NamedTuple):
    """Packets of N whole flows, one flow after another."""

    rows: np.ndarray
    """(P,) HEADER_ROW, or what the windows hold."""
    direction: np.ndarray
    """(P,) uint8: 0 from the client, 1 to it."""
    interarrival_ns: np.ndarray
    """(P,) int64 since the flow's packet before."""
    first: np.ndarray
    """(N + 1,) int64 first packet of each flow."""
    flow_id: list[str]


def packets_of_flows(batches: Sequence[Windows]) -> Iterator[FlowPackets]:
    """Yield the packets of flows, about _BLOCK_PACKETS at a time.

    Args:
        batches: as `blocks_of_windows` takes them.
    """
    if not batches:
        return
    rows = np.concatenate([b.rows for b in batches])
    direction = np.concatenate([b.direction for b in batches])
    interarrival_ns = np.concatenate([b.interarrival_ns for b in batches])
    flow_ids = [i for b in batches for i in b.flow_id]
    window = np.concatenate([b.window for b in batches])
    counts = np.concatenate([np.diff(b.first) for b in batches])
    begins = np.cumsum(counts) - counts
    chunks, _ = _chunks_of_flows(flow_ids, window, counts)
    for windows, first, ids in chunks:
        chosen = ranges(begins[windows], counts[windows])
        yield FlowPackets(rows[chosen], direction[chosen], interarrival_ns[chosen], first, ids)


def blocks_of_table(table: pa.Table) -> Iterator[FlowBlock]:
    """Yield blocks of an encoded dataset's rows, which hold all windows of their flows.

    Raises:
        NprintError: the table is no encoded dataset, or its layout lacks fields of the view.
    """
    layout = layout_of_table(table.schema)
    missing = [n for n in VIEW.fields if n not in layout.offsets and not n.startswith("flow_")]
    if missing:
        raise NprintError(
            f"layout {layout.name} lacks {', '.join(missing)}, which the measures compare; encode "
            f"with layout {DEFAULT_LAYOUT}"
        )
    window = table["window"].to_numpy()
    counts = table["num_packets"].to_numpy().astype(np.int64)
    chunks, lost = _chunks_of_flows(table["flow_id"].to_pylist(), window, counts)
    notes = [f"{lost:,} flows without their first window left out"] if lost else []
    if not is_wide(layout):
        notes.append(f"encoded in {layout.name}; compared by way of header bytes")
    for windows, first, ids in chunks:
        chunk = table.take(windows)
        packed = chunk["nprint"].to_pylist()
        nprint = np.concatenate([unpack(p, layout) for p in packed])
        direction = chunk["direction"].combine_chunks().flatten().to_numpy().astype(np.uint8)
        interarrival_ns = chunk["interarrival_ns"].combine_chunks().flatten().to_numpy()
        for what, length in (("rows", len(nprint)), ("directions", len(direction)),
                             ("times", len(interarrival_ns))):  # fmt: skip
            if length != first[-1]:
                raise NprintError(
                    f"{first[-1]:,} packets have {length:,} {what}; an encoded dataset has as "
                    "many of each as packets"
                )
        opens = np.flatnonzero(chunk["window"].to_numpy() == 0)
        labels, captures = (chunk[name].to_numpy()[opens] for name in ("label", "capture"))
        cells, direction, interarrival_ns, place = with_duplicates(
            chunk, wide_cells(nprint, layout, direction, interarrival_ns), direction,
            interarrival_ns,
        )  # fmt: skip
        block = make_block(
            labels, ids, cells, place[first], direction, interarrival_ns,
            captures=captures.tolist(),
        )  # fmt: skip
        yield replace(block, notes=tuple(notes))


def _chunks_of_flows(
    flow_ids: list[str], window: np.ndarray, counts: np.ndarray
) -> tuple[list[tuple[np.ndarray, np.ndarray, list[str]]], int]:
    """Return the flows of windows in any order, in chunks of about _BLOCK_PACKETS.

    Returns:
        for each chunk its windows, flow after flow and in order, the (N + 1,) first packets
        of its flows, and their ids; and the number of flows left out because window 0 is
        missing.
    """
    numbers: dict[str, int] = {}
    of_flow = np.array([numbers.setdefault(i, len(numbers)) for i in flow_ids], np.int64)
    has_begin = np.zeros(len(numbers), np.bool_)
    has_begin[of_flow[(window == 0) & (counts > 0)]] = True
    order = np.lexsort((window, of_flow))
    order = order[has_begin[of_flow[order]]]
    ids = list(numbers)
    before = np.cumsum(counts[order]) - counts[order]
    opens = window[order] == 0
    chunk = (np.maximum.accumulate(np.where(opens, before, 0)) // _BLOCK_PACKETS).astype(np.int64)
    chunks = []
    for windows in np.split(order, np.flatnonzero(np.diff(chunk)) + 1):
        if len(windows):
            begins = np.flatnonzero(window[windows] == 0)
            packets = np.cumsum(counts[windows])
            first = np.append((packets - counts[windows])[begins], packets[-1])
            chunks.append((windows, first, [ids[k] for k in of_flow[windows[begins]]]))
    return chunks, int(len(numbers) - has_begin.sum())


def joined_blocks(blocks: Iterable[FlowBlock]) -> Iterator[FlowBlock]:
    """Yield the same flows in fewer blocks, joining small ones."""
    waiting: list[FlowBlock] = []
    for block in blocks:
        waiting.append(block)
        if sum(len(b.bits) for b in waiting) >= _BLOCK_PACKETS // 2:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(blocks: list[FlowBlock]) -> FlowBlock:
    if len(blocks) == 1:
        return blocks[0]
    return FlowBlock(
        **joined_arrays(blocks),
        addresses=frozenset().union(*(b.addresses for b in blocks)),
        has_addresses=any(b.has_addresses for b in blocks),
        num_repaired=sum(b.num_repaired for b in blocks),
        corrected=sum((b.corrected for b in blocks), Counter()),
        answerable=sum(b.answerable for b in blocks),
        repair_distance=sum(b.repair_distance for b in blocks),
        dialogues=sum((b.dialogues for b in blocks), Counter()),
        notes=tuple(dict.fromkeys(note for b in blocks for note in b.notes)),
    )


def content_hashes(first: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Return (N,) uint64 hashes of the flows' bits, equal for copies in the view."""
    data = np.ascontiguousarray(bits)
    digests = [
        hashlib.blake2b(data[begin:end].tobytes(), digest_size=8).digest()
        for begin, end in pairwise(first.tolist())
    ]
    return np.frombuffer(b"".join(digests), "<u8").copy()
