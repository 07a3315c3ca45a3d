"""Read lengths and windows that repeat from all packets that repeat them.

Packets of a side that are drawn as long as the one before form a run of one length, each bit of
which most of them decide; so do those with the window of the one before.

Shape letters: N flows, P packets, M packets of a run.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_HEADER_BYTES,
    IPV4_TL,
    IPV6_LEN,
    TCP_HEADER_BYTES,
    TCP_WSIZE,
    UDP_LEN,
    get16,
    put16,
)
from netdiff_ray.repair.batch import MAX_ROWS, Batch

_BITS = 16
_LENGTH, _UDP_LENGTH, _WINDOW = range(3)


def read_repeats(batch: Batch) -> None:
    """Settle the drawn lengths and windows of runs in the batch's rows."""
    _read_repeats(batch.flows, batch.packets)


@numba.njit(cache=True)
def _read_repeats(flows, packets):
    members = np.empty(MAX_ROWS, np.int64)
    for f in range(len(flows.seed)):
        version, protocol = flows.version[f], flows.protocol[f]
        for side in range(2):
            _read_runs(flows, f, side, packets, members, _LENGTH, version)
            if protocol == IPPROTO_UDP:
                _read_runs(flows, f, side, packets, members, _UDP_LENGTH, version)
            elif protocol == IPPROTO_TCP:
                _read_runs(flows, f, side, packets, members, _WINDOW, version)


@numba.njit(cache=True)
def _read_runs(flows, f, side, packets, members, what, version):
    """Settle one of _LENGTH, _UDP_LENGTH and _WINDOW in the runs of a side of flow `f`."""
    count = 0
    for i in range(flows.starts[f], flows.starts[f + 1]):
        if packets.direction[i] != side:
            continue
        state = packets.state[i]
        repeats = state.same_window if what == _WINDOW else state.same_length
        if not repeats:
            _settle_run(members[:count], packets, what, version)
            count = 0
        members[count] = i
        count += 1
    _settle_run(members[:count], packets, what, version)


@numba.njit(cache=True)
def _settle_run(members, packets, what, version):
    """Give the packets of a run, (M,) int64, the value that most bits of theirs have; of a tie the
    first packet's bit counts."""
    if len(members) < 2:
        return
    votes = np.zeros(_BITS, np.int64)
    for i in members:
        value = _value(packets, i, what, version)
        for b in range(_BITS):
            votes[b] += value >> b & 1
    first = _value(packets, members[0], what, version)
    settled = np.int64(0)
    for b in range(_BITS):
        ones = 2 * votes[b]
        bit = ones > len(members) or (ones == len(members) and first >> b & 1)
        settled |= np.int64(bit) << b
    network, transport = packets.rows["network"], packets.rows["transport"]
    for i in members:
        if _value(packets, i, what, version) == settled:
            continue
        if what == _WINDOW:
            put16(transport, i, TCP_WSIZE, settled)
        elif what == _UDP_LENGTH:
            put16(transport, i, UDP_LEN, settled)
        else:
            length = settled + _header_bytes(packets, i, version)
            put16(network, i, IPV4_TL if version == 4 else IPV6_LEN, min(length, 0xFFFF))


@numba.njit(cache=True)
def _value(packets, i, what, version):
    """Return what packet `i` was drawn with, below 2**16."""
    if what == _WINDOW:
        return get16(packets.rows["transport"], i, TCP_WSIZE)
    if what == _UDP_LENGTH:
        return get16(packets.rows["transport"], i, UDP_LEN)
    length = get16(packets.rows["network"], i, IPV4_TL if version == 4 else IPV6_LEN)
    return max(length - _header_bytes(packets, i, version), 0)


@numba.njit(cache=True)
def _header_bytes(packets, i, version):
    """Return how many bytes of headers the drawn length of a TCP packet counts; 0 of others, whose
    headers are all alike."""
    if packets.rows["protocol"][i] != IPPROTO_TCP:
        return np.int64(0)
    header_bytes = TCP_HEADER_BYTES + np.int64(packets.option_bytes[i])
    return header_bytes + (IPV4_HEADER_BYTES if version == 4 else 0)
