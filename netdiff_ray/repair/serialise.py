"""Packets: rows and payload as bytes on an Ethernet, checksums last.

Shape letters: N flows, P packets.
"""

from dataclasses import dataclass

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    ICMP_CKSUM,
    ICMP_TYPE,
    IPV4_CKSUM,
    IPV4_DST,
    IPV4_SRC,
    IPV6_DST,
    IPV6_SRC,
    TCP_CKSUM,
    UDP_CKSUM,
    put16,
)
from netdiff_ray.repair.batch import KEEP_ALIVE, Batch
from netdiff_ray.repair.context import PAYLOAD_MODES, RepairContext
from netdiff_ray.repair.frames import TCP_KIND, UDP_KIND
from netdiff_ray.repair.payload import NONE, STREAM_STATE, ZEROS, fill, fill_random
from netdiff_ray.repair.rules.icmp import is_echo
from netdiff_ray.repair.splitmix import FOR_PAYLOAD, draw

ETHERNET_BYTES = 14


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
        """The captured bytes of packet `i`."""
        return self.data[self.starts[i] : self.starts[i + 1]].tobytes()


@dataclass
class Buffers:
    """Memory that one repair after another writes packets into; what an earlier one
    returned is then overwritten."""

    data: np.ndarray | None = None

    def room(self, num_bytes: int) -> np.ndarray:
        """At least `num_bytes` of uint8."""
        if self.data is None or len(self.data) < num_bytes:
            self.data = np.empty(num_bytes + num_bytes // 4, np.uint8)
        return self.data


def serialise(batch: Batch, context: RepairContext, buffers: Buffers | None = None) -> Packets:
    """The packets of repaired flows; their checksums are written into `batch.rows` too.

    Args:
        batch: after every rule.
        buffers: to write into, to save an allocation.
    """
    rows = batch.rows
    starts = np.empty(len(rows) + 1, np.int64)
    wirelen = rows["wirelen"].astype(np.int64) + ETHERNET_BYTES
    captured = wirelen
    if context.payload == "none":
        captured = wirelen - batch.payload_bytes
    starts[0] = 0
    np.cumsum(captured, out=starts[1:])
    total = int(starts[-1])
    data = (buffers or Buffers()).room(total)[:total]
    if len(batch):
        _serialise(
            batch.flow_starts, batch.seed, batch.version, batch.protocol, batch.server_port,
            batch.direction, batch.payload_bytes, batch.stuck, rows["network"], rows["transport"],
            rows["transport_len"], starts, PAYLOAD_MODES.index(context.payload), TCP_KIND,
            UDP_KIND, data,
        )  # fmt: skip
    return Packets(data=data, starts=starts, wirelen=wirelen, ts_ns=rows["ts_ns"].copy())


@numba.njit(cache=True)
def word_sum(data, begin, end):
    """The 16-bit one's complement sum of the big-endian words in data[begin:end], a last odd
    byte padded. It does not depend on the byte order but for its own (RFC 1071 section 2)."""
    total = np.int64(0)
    for word in data[begin : end - (end - begin) % 2].view(np.uint16):
        total += word
    if (end - begin) % 2:
        total += data[end - 1]
    total = folded(total)
    return (total & 255) << 8 | total >> 8


@numba.njit(cache=True)
def folded(total):
    """A sum of 16-bit words in one's complement: carries added at the low end."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@numba.njit(cache=True)
def checksum(total):
    """The Internet checksum (RFC 1071) of a sum of words."""
    return folded(total) ^ 0xFFFF


@numba.njit(cache=True)
def _put(data, at, value):
    data[at] = (value >> 8) & 255
    data[at + 1] = value & 255


@numba.njit(cache=True)
def _serialise(
    flow_starts, seed, version, protocol, server_port, direction, payload_bytes, stuck, network,
    transport, transport_len, starts, mode, tcp_kind, udp_kind, data,
):  # fmt: skip
    counts = np.empty(2, np.int64)
    state = np.empty((2, STREAM_STATE), np.int64)
    for f in range(len(seed)):
        counts[:] = 0
        state[:] = 0
        ip_bytes = 20 if version[f] == 4 else 40
        port = server_port[f]
        kind = tcp_kind[port] if protocol[f] == 6 else udp_kind[port]
        for i in range(flow_starts[f], flow_starts[f + 1]):
            side = np.int64(direction[i])
            at = starts[i]
            _ethernet(data, at, network, i, version[f])
            ip = at + ETHERNET_BYTES
            for k in range(ip_bytes):
                data[ip + k] = network[i, k]
            header = ip + ip_bytes
            length = np.int64(transport_len[i])
            for k in range(length):
                data[header + k] = transport[i, k]
            body = header + length
            size = payload_bytes[i]
            if mode != NONE:
                if stuck[i] == KEEP_ALIVE:
                    data[body : body + size] = 0
                elif protocol[f] in (6, 17):
                    fill(data, body, size, mode, kind, seed[f], i - flow_starts[f], side,
                         counts, state)  # fmt: skip
                else:
                    _fill_message(data, body, size, mode, version[f], transport[i, ICMP_TYPE],
                                  seed[f], network, i)  # fmt: skip
            total = length + size
            if protocol[f] != 1:
                total += np.int64(protocol[f])
                if version[f] == 4:
                    total += word_sum(data, ip + IPV4_SRC, ip + IPV4_SRC + 8)
                else:
                    total += word_sum(data, ip + IPV6_SRC, ip + IPV6_SRC + 32)
            else:
                total = 0
            where = ICMP_CKSUM
            if protocol[f] == 6:
                where = TCP_CKSUM
            elif protocol[f] == 17:
                where = UDP_CKSUM
            _put(data, header + where, 0)
            total += word_sum(data, header, body if mode == NONE else body + size)
            value = checksum(total)
            if value == 0 and protocol[f] == 17:
                value = 0xFFFF
            _put(data, header + where, value)
            put16(transport, i, where, value)
            if version[f] == 4:
                _put(data, ip + IPV4_CKSUM, 0)
                value = checksum(word_sum(data, ip, ip + 20))
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


@numba.njit(cache=True)
def _fill_message(data, at, length, mode, version, kind, seed, network, i):
    """Write what follows the first 8 bytes of an ICMP message.

    An error holds the IP header of a datagram that the other side sent and the first bytes of
    that datagram; a timestamp message its three times; neighbour discovery a target.
    """
    for k in range(at, at + length):
        data[k] = 0
    if is_echo(version, kind):
        if mode != ZEROS:
            if version == 4 and kind >= 13:
                return
            # A reply holds what the request held, wherever it stands in the flow.
            fill_random(data, at, length, draw(seed, FOR_PAYLOAD, 0))
        return
    if version == 4:
        data[at] = 0x45
        _put(data, at + 2, length)
        data[at + 8] = 64
        data[at + 9] = 17
        for k in range(4):
            data[at + 12 + k] = network[i, IPV4_DST + k]
            data[at + 16 + k] = network[i, IPV4_SRC + k]
        _put(data, at + 10, checksum(word_sum(data, at, at + 20)))
        _put(data, at + 20, 49_152)
        _put(data, at + 22, 33_434)
        _put(data, at + 24, length - 20)
    elif kind < 128:
        data[at] = 0x60
        _put(data, at + 4, length - 40)
        data[at + 6] = 59
        data[at + 7] = 64
        for k in range(16):
            data[at + 8 + k] = network[i, IPV6_DST + k]
            data[at + 24 + k] = network[i, IPV6_SRC + k]
    elif 130 <= kind <= 132:
        data[at], data[at + 1], data[at + 15] = 0xFF, 0x02, 0x16
    elif kind == 143:
        for j in range(at, at + length, 20):
            data[j], data[j + 4], data[j + 5], data[j + 19] = 4, 0xFF, 0x02, 0x16
    elif kind >= 135:
        for k in range(16):
            data[at + k] = network[i, IPV6_DST + k]
        for j in range(at + 16, at + length, 8):
            data[j], data[j + 1] = (1 if kind == 135 else 2), 1
            data[j + 2] = 2
    else:
        for j in range(at, at + length, 8):
            data[j], data[j + 1] = 1, 1
            data[j + 2] = 2
