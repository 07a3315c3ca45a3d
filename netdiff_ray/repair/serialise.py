"""Write rows and payloads as Ethernet frames, checksums last.

Shape letters: N flows, P packets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.dialogue import Named
from netdiff_ray.flow_state import AGAIN
from netdiff_ray.header_bytes import (
    DPORT,
    ICMP_CKSUM,
    ICMP_ECHO_REPLY,
    ICMP_ROH,
    ICMP_TIMESTAMP,
    ICMP_TYPE,
    ICMPV6_ECHO,
    ICMPV6_ECHO_REPLY,
    ICMPV6_LISTENER_DONE,
    ICMPV6_LISTENER_QUERY,
    ICMPV6_LISTENER_REPORT_2,
    ICMPV6_NEIGHBOUR_SOLICITATION,
    IPPROTO_ICMP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_ADDRESS_BYTES,
    IPV4_CKSUM,
    IPV4_DST,
    IPV4_HEADER_BYTES,
    IPV4_PROTO,
    IPV4_SRC,
    IPV4_TL,
    IPV4_TTL,
    IPV4_VER,
    IPV4_VER_HL,
    IPV6_ADDRESS_BYTES,
    IPV6_DST,
    IPV6_HEADER_BYTES,
    IPV6_HL,
    IPV6_LEN,
    IPV6_NH,
    IPV6_NO_NEXT_HEADER,
    IPV6_SRC,
    IPV6_VER,
    IPV6_VER_TC,
    SPORT,
    TCP_CKSUM,
    UDP_CKSUM,
    UDP_LEN,
    get32,
    put16,
)
from netdiff_ray.labels.stack import UNKNOWN
from netdiff_ray.repair.batch import KEEP_ALIVE, Batch
from netdiff_ray.repair.context import PAYLOAD_MODES, RepairContext
from netdiff_ray.repair.fillers import FILLERS, PortFillers, filler_of
from netdiff_ray.repair.messages import Dialogues, dialogues, find_messages
from netdiff_ray.repair.payload import DIALOGUE, NONE, ZEROS, fill
from netdiff_ray.repair.rules.icmp import is_echo

ETHERNET_BYTES = 14
_SLACK_BYTES = 64
"""Bytes after the last packet, into which the payload of an ICMP error that is drawn too short for
what it holds may run; after another packet it runs into the next, which is written later."""


@dataclass(frozen=True, kw_only=True)
class Packets:
    """Ethernet frames, as a capture holds them."""

    data: np.ndarray
    """(bytes,) uint8: captured bytes, packet after packet."""
    starts: np.ndarray
    """(P + 1,) int64: first byte of each packet in `data`, and the end of the last."""
    wirelen: np.ndarray
    """(P,) int64: bytes on the wire, Ethernet header included."""
    ts_ns: np.ndarray
    """(P,) int64: nanoseconds since 1970-01-01 UTC."""

    def __len__(self) -> int:
        return len(self.wirelen)

    def packet(self, i: int) -> bytes:
        """Return the captured bytes of packet `i`."""
        return self.data[self.starts[i] : self.starts[i + 1]].tobytes()


@dataclass
class Buffers:
    """Memory for packets that one repair after another reuses; each overwrites the packets that
    the one before returned."""

    data: np.ndarray | None = None

    def room(self, num_bytes: int) -> np.ndarray:
        """Return at least `num_bytes` of uint8."""
        if self.data is None or len(self.data) < num_bytes:
            self.data = np.empty(num_bytes + num_bytes // 4, np.uint8)
        return self.data


def serialise(
    batch: Batch,
    context: RepairContext,
    buffers: Buffers | None = None,
    named: Sequence[Named | None] | None = None,
) -> Packets:
    """Return the packets of repaired flows; write their checksums into the batch's rows too, and
    which flows have dialogues.

    Args:
        batch: after every rule.
        buffers: memory to reuse.
        named: see `dialogues`.
    """
    rows = batch.packets.rows
    starts = np.empty(len(rows) + 1, np.int64)
    wirelen = rows["wirelen"].astype(np.int64) + ETHERNET_BYTES
    captured = wirelen
    if context.payload == "none":
        captured = wirelen - batch.packets.payload_bytes
    starts[0] = 0
    np.cumsum(captured, out=starts[1:])
    total = int(starts[-1])
    data = (buffers or Buffers()).room(total + _SLACK_BYTES)
    if len(batch):
        mode = PAYLOAD_MODES.index(context.payload)
        messages = find_messages(batch)
        for part in dialogues(batch, messages, named) if mode == DIALOGUE else (_silence(batch),):
            _serialise(
                batch.flows, batch.packets, starts, _Filling(mode, FILLERS, batch.plans.kind),
                messages, part, data,
            )  # fmt: skip
    return Packets(data=data[:total], starts=starts, wirelen=wirelen, ts_ns=rows["ts_ns"].copy())


def _silence(batch: Batch) -> Dialogues:
    """Return that none of a batch's flows says anything."""
    return Dialogues(0, len(batch), np.empty(0, np.uint8), np.full(len(batch), -1, np.int64))


@numba.njit(cache=True)
def word_sum(data, begin, end):
    """Return the 16-bit one's complement sum of the big-endian words in data[begin:end], a last
    odd byte padded; summed in the machine's byte order and swapped (RFC 1071 section 2)."""
    total = np.int64(0)
    for word in data[begin : end - (end - begin) % 2].view(np.uint16):
        total += word
    if (end - begin) % 2:
        total += data[end - 1]
    total = folded(total)
    return (total & 255) << 8 | total >> 8


@numba.njit(cache=True)
def folded(total):
    """Return a sum of 16-bit words in one's complement: carries added at the low end."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@numba.njit(cache=True)
def checksum(total):
    """Return the Internet checksum (RFC 1071) of a sum of words."""
    return folded(total) ^ 0xFFFF


@numba.njit(cache=True)
def _put(data, at, value):
    data[at] = (value >> 8) & 255
    data[at + 1] = value & 255


class _Frame(NamedTuple):
    """Positions of a packet's parts in the data."""

    begin: int
    network: int
    transport: int
    payload: int
    end: int


class _Filling(NamedTuple):
    """What decides payloads, for the kernels."""

    mode: int
    """See `payload`."""
    fillers: PortFillers
    """Of flows without dialogues."""
    planned_kind: np.ndarray
    """(N,) int64: of Plans."""


@numba.njit(cache=True)
def _serialise(flows, packets, starts, filling, messages, part, data):
    """Write the packets of the flows of `part`, Dialogues."""
    mode = filling.mode
    rows, payload_bytes = packets.rows, packets.payload_bytes
    transport_len = rows["transport_len"]
    for f in range(part.begin, part.end):
        first, seed = flows.starts[f], flows.seed[f]
        version, protocol, port = flows.version[f], flows.protocol[f], flows.server_port[f]
        is_known = filling.planned_kind[f] != UNKNOWN
        filler = filler_of(filling.fillers, protocol, port, flows.kind[f], is_known)
        flows.has_dialogue[f] = part.start[f] >= 0
        ip_bytes = IPV4_HEADER_BYTES if version == 4 else IPV6_HEADER_BYTES
        for i in range(first, flows.starts[f + 1]):
            ip = starts[i] + ETHERNET_BYTES
            header_bytes = ip_bytes + np.int64(transport_len[i])
            frame = _Frame(starts[i], ip, ip + ip_bytes, ip + header_bytes, starts[i + 1])
            size = payload_bytes[i]
            _put_headers(data, frame, rows, i, version)
            if mode != NONE:
                if flows.has_dialogue[f]:
                    begin = part.start[f]
                    if packets.direction[i]:
                        begin += messages.side_bytes[f, 0]
                    _copy(part.content, begin, messages.at[i], data, frame.payload, size)
                elif packets.stuck[i] == KEEP_ALIVE:
                    data[frame.payload : frame.payload + size] = 0
                elif packets.state[i].sequence == AGAIN and protocol == IPPROTO_TCP:
                    _copy_again(packets, messages.at, starts, first, i, data, frame.payload)
                elif protocol in (IPPROTO_TCP, IPPROTO_UDP):
                    fill(data, frame.payload, size, mode, filler, seed, i - first)
                else:
                    _fill_message(data, frame.payload, size, mode, first, rows, i)
            length = frame.payload - frame.transport + size
            _put_checksums(data, frame, rows, i, length)


@numba.njit(cache=True)
def _copy(content, begin, offset, data, at, size):
    """Write bytes from `offset` of a side's, which begin at content[begin], at data[at]; zeros for
    those before the first."""
    unknown = min(max(-offset, 0), size)
    for k in range(unknown):
        data[at + k] = 0
    source = begin + offset
    for k in range(unknown, size):
        data[at + k] = content[source + k]


@numba.njit(cache=True)
def _copy_again(packets, offsets, starts, first, i, data, at):
    """Write the payload of packet `i` at data[at]: bytes that its side has sent before, by their
    offsets; of those that are sent more than once, the latest."""
    copied = np.int64(0)
    while copied < packets.payload_bytes[i]:
        offset = offsets[i] + copied
        j = i - 1
        while j >= first:
            within = offset - offsets[j]
            holds = 0 <= within < packets.payload_bytes[j]
            if holds and packets.direction[j] == packets.direction[i]:
                break
            j -= 1
        if j < first:
            data[at + copied : at + packets.payload_bytes[i]] = 0
            return
        count = min(packets.payload_bytes[i] - copied, packets.payload_bytes[j] - within)
        source = starts[j + 1] - packets.payload_bytes[j] + within
        for k in range(count):
            data[at + copied + k] = data[source + k]
        copied += count


@numba.njit(cache=True)
def _put_headers(data, frame, rows, i, version):
    """Write the Ethernet, IP and transport headers of packet `i`."""
    network, transport = rows["network"], rows["transport"]
    _ethernet(data, frame.begin, network, i, version)
    for k in range(frame.transport - frame.network):
        data[frame.network + k] = network[i, k]
    for k in range(frame.payload - frame.transport):
        data[frame.transport + k] = transport[i, k]


@numba.njit(cache=True)
def _put_checksums(data, frame, rows, i, length):
    """Write the checksums of packet `i`, into its row too; `length` is from the transport header
    to the end on the wire."""
    network, transport = rows["network"], rows["transport"]
    version, protocol = rows["version"][i], rows["protocol"][i]
    ip = frame.network
    total = np.int64(0)
    if protocol != IPPROTO_ICMP:  # the pseudo-header
        total = length + np.int64(protocol)
        if version == 4:
            source, num_bytes = ip + IPV4_SRC, 2 * IPV4_ADDRESS_BYTES
        else:
            source, num_bytes = ip + IPV6_SRC, 2 * IPV6_ADDRESS_BYTES
        total += word_sum(data, source, source + num_bytes)
    at = ICMP_CKSUM
    if protocol == IPPROTO_TCP:
        at = TCP_CKSUM
    elif protocol == IPPROTO_UDP:
        at = UDP_CKSUM
    _put(data, frame.transport + at, 0)
    value = checksum(total + word_sum(data, frame.transport, frame.end))
    if value == 0 and protocol == IPPROTO_UDP:
        value = 0xFFFF
    _put(data, frame.transport + at, value)
    put16(transport, i, at, value)
    if version == 4:
        _put(data, ip + IPV4_CKSUM, 0)
        value = checksum(word_sum(data, ip, ip + IPV4_HEADER_BYTES))
        _put(data, ip + IPV4_CKSUM, value)
        put16(network, i, IPV4_CKSUM, value)


@numba.njit(cache=True)
def _ethernet(data, at, network, i, version):
    """Write the Ethernet header: locally administered MACs made of the addresses' low bits."""
    if version == 4:
        source, target = IPV4_SRC, IPV4_DST
        _put(data, at + 12, 0x0800)
    else:
        source, target = IPV6_SRC + 12, IPV6_DST + 12
        _put(data, at + 12, 0x86DD)
    data[at], data[at + 1] = 2, 0
    data[at + 6], data[at + 7] = 2, 0
    for k in range(4):
        data[at + 2 + k] = network[i, target + k]
        data[at + 8 + k] = network[i, source + k]


_PING_STAMP_BYTES = 16
"""Bytes of the time that Linux's ping begins its data with, in seconds and microseconds."""
_WINDOWS_BYTES = 32
"""Bytes of data of Windows' ping, which are letters."""
_MOST_ECHOES = 256
"""Packets among which the request of a reply is looked for."""


@numba.njit(cache=True)
def _request_ns(rows, first, i):
    """Return when the echo request was sent that packet `i` is or answers."""
    transport = rows["transport"]
    kind = transport[i, ICMP_TYPE]
    if kind in (ICMP_ECHO_REPLY, ICMPV6_ECHO_REPLY):
        for j in range(i - 1, max(first, i - _MOST_ECHOES) - 1, -1):
            asks = transport[j, ICMP_TYPE] != kind
            if asks and get32(transport, j, ICMP_ROH) == get32(transport, i, ICMP_ROH):
                return rows["ts_ns"][j]
    return rows["ts_ns"][i]


@numba.njit(cache=True)
def _fill_echo(data, at, length, ts_ns):
    """Write the data of an echo request or reply as ping does."""
    if length == _WINDOWS_BYTES:
        for k in range(length):
            data[at + k] = ord("a") + k % 23
        return
    for k in range(length):
        data[at + k] = k & 255
    if length >= _PING_STAMP_BYTES:
        seconds, microseconds = ts_ns // 1_000_000_000, ts_ns // 1_000 % 1_000_000
        for k in range(8):
            data[at + k] = seconds >> (8 * k) & 255
            data[at + 8 + k] = microseconds >> (8 * k) & 255


@numba.njit(cache=True)
def _fill_message(data, at, length, mode, first, rows, i):
    """Write what follows the first 8 bytes of an ICMP message.

    An echo holds what ping writes; an error the IP header and the first bytes of a datagram that
    the other side sent; a timestamp message three times; neighbour discovery a target.

    Args:
        first: the flow's first packet.
    """
    network, version = rows["network"], rows["version"][i]
    kind = rows["transport"][i, ICMP_TYPE]
    for k in range(at, at + length):
        data[k] = 0
    if is_echo(version, kind):
        if mode != ZEROS:
            if version == 4 and kind >= ICMP_TIMESTAMP:
                return
            _fill_echo(data, at, length, _request_ns(rows, first, i))
        return
    if version == 4:
        data[at + IPV4_VER] = IPV4_VER_HL
        _put(data, at + IPV4_TL, length)
        data[at + IPV4_TTL] = 64
        data[at + IPV4_PROTO] = IPPROTO_UDP
        for k in range(IPV4_ADDRESS_BYTES):
            data[at + IPV4_SRC + k] = network[i, IPV4_DST + k]
            data[at + IPV4_DST + k] = network[i, IPV4_SRC + k]
        datagram = at + IPV4_HEADER_BYTES
        _put(data, at + IPV4_CKSUM, checksum(word_sum(data, at, datagram)))
        _put(data, datagram + SPORT, 49_152)
        _put(data, datagram + DPORT, 33_434)
        _put(data, datagram + UDP_LEN, length - IPV4_HEADER_BYTES)
    elif kind < ICMPV6_ECHO:
        data[at + IPV6_VER] = IPV6_VER_TC
        _put(data, at + IPV6_LEN, length - IPV6_HEADER_BYTES)
        data[at + IPV6_NH] = IPV6_NO_NEXT_HEADER
        data[at + IPV6_HL] = 64
        for k in range(IPV6_ADDRESS_BYTES):
            data[at + IPV6_SRC + k] = network[i, IPV6_DST + k]
            data[at + IPV6_DST + k] = network[i, IPV6_SRC + k]
    elif ICMPV6_LISTENER_QUERY <= kind <= ICMPV6_LISTENER_DONE:
        data[at], data[at + 1], data[at + 15] = 0xFF, 0x02, 0x16
    elif kind == ICMPV6_LISTENER_REPORT_2:
        for j in range(at, at + length, 20):
            data[j], data[j + 4], data[j + 5], data[j + 19] = 4, 0xFF, 0x02, 0x16
    elif kind >= ICMPV6_NEIGHBOUR_SOLICITATION:
        for k in range(16):
            data[at + k] = network[i, IPV6_DST + k]
        for j in range(at + 16, at + length, 8):
            data[j], data[j + 1] = (1 if kind == ICMPV6_NEIGHBOUR_SOLICITATION else 2), 1
            data[j + 2] = 2
    else:
        for j in range(at, at + length, 8):
            data[j], data[j + 1] = 1, 1
            data[j + 2] = 2
