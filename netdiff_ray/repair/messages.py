"""The messages of repaired flows: who sent which bytes, and where payloads lie in them.

Shape letters: N flows, P packets, M messages, S packets with new bytes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.dialogue import KINDS, Exchange, Named, write_messages
from netdiff_ray.header_bytes import (
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_ADDRESS_BYTES,
    IPV4_SRC,
    IPV6_ADDRESS_BYTES,
    IPV6_SRC,
    SYN,
    TCP_FLAGS,
    TCP_SEQ,
    get32,
)
from netdiff_ray.repair.batch import KEEP_ALIVE, Batch
from netdiff_ray.repair.splitmix import FOR_PAYLOAD, draw

_CHUNK_BYTES = 8 << 20
"""Bytes of messages that are held at a time, unless a flow has more."""
_MASK_32, _HALF_32 = 0xFFFFFFFF, 1 << 31


class Messages(NamedTuple):
    """The messages of flows.

    Over TCP a message is what one side sends before the other sends new bytes; of UDP, a datagram.
    """

    first: np.ndarray
    """(N + 1,) int64: first message of each flow, and M."""
    side: np.ndarray
    """(M,) uint8: 0 of the client, 1 of the server."""
    num_bytes: np.ndarray
    """(M,) int64."""
    ts_ns: np.ndarray
    """(M,) int64: of the packet with the first of its bytes."""
    first_segment: np.ndarray
    """(N + 1,) int64: first segment of each flow, and S."""
    segment_bytes: np.ndarray
    """(S,) int64: new bytes of each packet that has some, message after message."""
    side_bytes: np.ndarray
    """(N, 2) int64: bytes of all messages of a side."""
    at: np.ndarray
    """(P,) int64: where in its side's bytes a packet's payload begins; negative for what the
    flow does not hold."""


class Dialogues(NamedTuple):
    """What consecutive flows say."""

    begin: int
    """First flow."""
    end: int
    """The flow after the last."""
    content: np.ndarray
    """uint8: of each written flow all bytes of the client, then all of the server."""
    start: np.ndarray
    """(N,) int64: first byte of each flow's in `content`; -1 for a flow that is not among them, or
    that no dialogue fits."""


def find_messages(batch: Batch) -> Messages:
    """Return the messages of a batch, whose rules have all been applied."""
    num_flows, num_packets = len(batch), len(batch.packets.rows)
    messages = Messages(
        first=np.zeros(num_flows + 1, np.int64),
        side=np.empty(num_packets, np.uint8),
        num_bytes=np.empty(num_packets, np.int64),
        ts_ns=np.empty(num_packets, np.int64),
        first_segment=np.zeros(num_flows + 1, np.int64),
        segment_bytes=np.empty(num_packets, np.int64),
        side_bytes=np.zeros((num_flows, 2), np.int64),
        at=np.zeros(num_packets, np.int64),
    )
    if num_flows:
        _find_messages(batch.flows, batch.packets, messages)
    count = messages.first[-1]
    return messages._replace(
        side=messages.side[:count], num_bytes=messages.num_bytes[:count],
        ts_ns=messages.ts_ns[:count],
        segment_bytes=messages.segment_bytes[: messages.first_segment[-1]],
    )  # fmt: skip


@numba.njit(cache=True)
def _find_messages(flows, packets, messages):
    """Fill `messages`."""
    transport = packets.rows["transport"]
    zero = np.zeros(2, np.int64)
    known = np.zeros(2, np.bool_)
    count = num_segments = 0
    for f in range(len(flows.seed)):
        known[:] = False
        sent = messages.side_bytes[f]
        last = -1
        is_tcp = flows.protocol[f] == IPPROTO_TCP
        if is_tcp or flows.protocol[f] == IPPROTO_UDP:
            for i in range(flows.starts[f], flows.starts[f + 1]):
                side = np.int64(packets.direction[i])
                size = packets.payload_bytes[i]
                at = sent[side]
                if is_tcp:
                    number = get32(transport, i, TCP_SEQ)
                    precedes = (transport[i, TCP_FLAGS] & SYN) != 0
                    precedes |= packets.stuck[i] == KEEP_ALIVE
                    if not known[side] and (size or precedes):
                        known[side] = True
                        zero[side] = number + precedes
                    at = (number - zero[side]) & _MASK_32
                    if at >= _HALF_32:
                        at -= 1 << 32
                messages.at[i] = at
                new = at + size - sent[side]
                if size == 0 or new <= 0:
                    continue
                if side != last or not is_tcp:
                    messages.side[count] = side
                    messages.num_bytes[count] = 0
                    messages.ts_ns[count] = packets.rows["ts_ns"][i]
                    count += 1
                    last = side
                messages.num_bytes[count - 1] += new
                messages.segment_bytes[num_segments] = new
                num_segments += 1
                sent[side] += new
        messages.first[f + 1] = count
        messages.first_segment[f + 1] = num_segments


def dialogues(
    batch: Batch, messages: Messages, named: Sequence[Named | None] | None = None
) -> Iterator[Dialogues]:
    """Yield what the flows of a batch say, some flows at a time.

    Args:
        named: the host that each flow names that was handed to repair, where that is planned.
    """
    hosts = [named[k] if named else None for k in batch.position.tolist()]
    first, sides, num_bytes, ts_ns, first_segment, segments = (
        column.tolist() for column in messages[:6]
    )
    flow_bytes = messages.side_bytes.sum(axis=1).tolist()
    columns = zip(
        batch.flows.kind.tolist(), _seeds(batch.flows.seed).tolist(), *_addresses(batch),
        batch.flows.client_port.tolist(), batch.flows.server_port.tolist(),
        (batch.flows.protocol == IPPROTO_TCP).tolist(), strict=True,
    )  # fmt: skip
    begin, start, parts, size = 0, np.full(len(batch), -1, np.int64), [], 0
    for f, (kind, seed, *ends) in enumerate(columns):
        if size and size + flow_bytes[f] > _CHUNK_BYTES:
            yield Dialogues(begin, f, _joined(parts), start)
            begin, parts, size = f, [], 0
        span = slice(first[f], first[f + 1])
        if not kind or span.start == span.stop:
            continue
        exchange = Exchange(
            tuple(sides[span]), tuple(num_bytes[span]), tuple(ts_ns[span]), seed, *ends,
            segments=tuple(segments[first_segment[f] : first_segment[f + 1]]), named=hosts[f],
        )  # fmt: skip
        written = write_messages(KINDS[kind].name, exchange)
        if written is None or [len(message) for message in written] != num_bytes[span]:
            continue
        for side in (0, 1):
            parts += [m for m, s in zip(written, exchange.sides, strict=True) if s == side]
        start[f] = size
        size += flow_bytes[f]
    yield Dialogues(begin, len(batch), _joined(parts), start)


def _joined(parts: list[bytes]) -> np.ndarray:
    """Return a uint8 array of the parts, one after another."""
    return np.frombuffer(b"".join(parts), np.uint8)


@numba.njit(cache=True)
def _seeds(seeds):
    """Return the (N,) uint64 seeds of the dialogues of flows."""
    drawn = np.empty(len(seeds), np.uint64)
    for f in range(len(seeds)):
        drawn[f] = draw(seeds[f], FOR_PAYLOAD, -1)
    return drawn


def _addresses(batch: Batch) -> tuple[list[bytes], list[bytes]]:
    """Return the addresses of the N clients and of the N servers."""
    rows = batch.packets.rows[batch.flows.starts[:-1]]
    from_server = batch.packets.direction[batch.flows.starts[:-1]].tolist()
    network = rows["network"].tobytes()
    width = rows["network"].shape[1]
    ends: tuple[list[bytes], list[bytes]] = ([], [])
    for f, (version, swapped) in enumerate(zip(rows["version"].tolist(), from_server, strict=True)):
        at, size = (
            (IPV4_SRC, IPV4_ADDRESS_BYTES) if version == 4 else (IPV6_SRC, IPV6_ADDRESS_BYTES)
        )
        at += f * width
        source, target = network[at : at + size], network[at + size : at + 2 * size]
        ends[swapped].append(source)
        ends[1 - swapped].append(target)
    return ends
