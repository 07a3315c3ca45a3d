"""Write the packets of flows twice that are captured twice.

It comes after play, and changes nothing of a conversation: what is written again is what was
captured once more, by a router or a switch later on its way.

Shape letters: N flows, P packets, Q packets written.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.header_bytes import IPV4_CKSUM, IPV4_PROTO, IPV4_TTL, IPV6_HL
from netdiff_ray.labels.duplicates import FlowDuplicates, bounds_ns
from netdiff_ray.repair.batch import Batch
from netdiff_ray.repair.rules.profile_sampling import uniform
from netdiff_ray.repair.serialise import ETHERNET_BYTES, Packets
from netdiff_ray.repair.splitmix import FOR_DUPLICATE


class _Copies(NamedTuple):
    """How each flow's packets are captured again; each (N,)."""

    times: np.ndarray
    """int64: 1 or 2."""
    hops: np.ndarray
    """int64."""
    bounds_ns: np.ndarray
    """(N, 2) int64: least and most time until then."""
    seed: np.ndarray
    """uint64."""
    version: np.ndarray
    """uint8."""


def write_duplicates(batch: Batch, packets: Packets) -> tuple[Packets, np.ndarray]:
    """Return the packets of a batch, those of flows that are captured twice followed by themselves.

    The second is as much later as the flow's plan says, but before the flow's next packet, and its
    lifetime is less by the hops between.

    Returns:
        Q packets, and (N + 1,) int64 first of them of each flow.
    """
    starts = batch.flows.starts
    times, hops, octaves = batch.plans.captured.T
    if (times == 1).all():
        return packets, starts
    bounds = [bounds_ns(FlowDuplicates(0, octave)) for octave in octaves.tolist()]
    copies = _Copies(times, hops, np.array(bounds), batch.flows.seed, batch.flows.version)
    of_packet = np.repeat(times, np.diff(starts))
    sizes = np.repeat(np.diff(packets.starts), of_packet)
    written = Packets(
        data=np.empty(int(sizes.sum()), np.uint8),
        starts=np.append(0, np.cumsum(sizes)),
        wirelen=np.repeat(packets.wirelen, of_packet),
        ts_ns=np.repeat(packets.ts_ns, of_packet),
    )
    _write(packets.data, packets.starts, starts, copies, written.data, written.ts_ns)
    return written, np.append(0, np.cumsum(np.diff(starts) * times))


@numba.njit(cache=True)
def _write(data, packet_starts, starts, copies, into, ts_ns):
    """Fill `into`, uint8, and move the times of second packets in `ts_ns`, (Q,) int64."""
    q, at = 0, np.int64(0)
    for f in range(len(starts) - 1):
        first = q
        for i in range(starts[f], starts[f + 1]):
            size = packet_starts[i + 1] - packet_starts[i]
            for again in range(copies.times[f]):
                for k in range(size):
                    into[at + k] = data[packet_starts[i] + k]
                if again:
                    _age(into[at + ETHERNET_BYTES : at + size], copies.version[f], copies.hops[f])
                    least, most = copies.bounds_ns[f]
                    u = uniform(copies.seed[f], FOR_DUPLICATE, i - starts[f])
                    later_ns = least + np.int64(u * (most - least + 1))
                    if i + 1 < starts[f + 1]:
                        later_ns = min(later_ns, ts_ns[q + 1] - ts_ns[q])
                    ts_ns[q] += later_ns
                if q > first:
                    ts_ns[q] = max(ts_ns[q], ts_ns[q - 1] + 1)
                at += size
                q += 1


@numba.njit(cache=True)
def _age(packet, version, hops):
    """Take `hops` from the lifetime of a packet, uint8 from its IP header on, to 1 at least; IPv4's
    checksum follows (RFC 1624 section 3, equation 3)."""
    place = IPV4_TTL if version == 4 else IPV6_HL
    lifetime = np.int64(packet[place])
    aged = min(max(lifetime - hops, 1), 255)
    packet[place] = aged
    if version != 4:
        return
    protocol = np.int64(packet[IPV4_PROTO])
    total = 0xFFFF - (np.int64(packet[IPV4_CKSUM]) << 8 | np.int64(packet[IPV4_CKSUM + 1]))
    total += 0xFFFF - (lifetime << 8 | protocol) + (aged << 8 | protocol)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    total = 0xFFFF - total
    packet[IPV4_CKSUM] = total >> 8
    packet[IPV4_CKSUM + 1] = total & 255
