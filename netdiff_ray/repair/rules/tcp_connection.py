"""Rules of the TCP connection: how it opens and closes, and its flags.

Shape letters: N flows, P packets.
"""

import numba
import numpy as np

from netdiff_ray.flow_state import AGAIN
from netdiff_ray.header_bytes import (
    ACK,
    CWR,
    ECE,
    FIN,
    IPPROTO_TCP,
    IPV4_TOS,
    IPV6_VER,
    PSH,
    RST,
    SYN,
    TCP_DOFF,
    TCP_FLAGS,
    TCP_URP,
    URG,
    get16,
    put16,
)
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.repair.batch import UNANSWERED, Batch
from netdiff_ray.repair.context import RepairContext
from netdiff_ray.repair.rules.tcp_segments import FILLS


def tcp_open(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle SYN, ACK and RST bits by the state of the connection (RFC 9293 sections 3.5, 3.10).

    SYN stands on the first packet of a flow that opens and on its answer, or the answer
    refuses with RST if nothing follows; where only the client sends, on all segments if most were
    drawn with it. Every other segment has ACK, which a RST may lack.
    After a side's RST only RSTs come from it. Reserved bits are 0 (RFC 9293, RFC 8311).
    """
    _tcp_open(batch.flows, batch.packets)


@numba.njit(cache=True)
def _tcp_open(flows, packets):
    transport = packets.rows["transport"]
    goes_on = np.empty(2, np.bool_)
    for f in range(len(flows.seed)):
        if flows.protocol[f] != IPPROTO_TCP:
            continue
        begin, end, opens = flows.starts[f], flows.starts[f + 1], flows.opens[f]
        goes_on[:] = False
        for i in range(end - 1, begin - 1, -1):
            side = packets.direction[i]
            flags = np.int64(transport[i, TCP_FLAGS])
            transport[i, TCP_DOFF] &= 0xF0
            if flows.half[f] == UNANSWERED or ((opens or flows.half[f]) and i == begin):
                flags = (flags | SYN) & ~(ACK | RST)
            elif opens and i == begin + 1:
                if end == begin + 2 and refuses(flags):
                    flags |= ACK
                else:
                    flags = (flags | SYN | ACK) & ~RST
            elif flags & RST and not goes_on[side]:
                flags &= ~SYN
            else:
                flags = (flags | ACK) & ~(SYN | RST)
            goes_on[side] |= not flags & RST
            transport[i, TCP_FLAGS] = flags


@numba.njit(cache=True)
def refuses(flags):
    """Return whether the second packet of a flow that opens was drawn as a reset; it is, if it is
    the last."""
    return flags & RST != 0 and flags & SYN == 0


def tcp_close(batch: Batch, context: RepairContext, layout: Layout) -> None:
    """Settle FIN, PSH, URG, ECE and CWR.

    Each side has at most one FIN, with or after its last data, unless it is sent again, and neither
    FIN nor PSH with SYN or RST (RFC 9293 section 3.6); URG and its pointer come together and inside
    the data (section 3.8.5); ECE and CWR only where ECN is in use (RFC 3168 section 6.1).

    ECN is in use if the SYN has both bits and its answer ECE, or, in a flow captured after its
    handshake, if most data packets are ECN-capable.
    """
    _tcp_close(batch.flows, batch.packets)


@numba.njit(cache=True)
def _tcp_close(flows, packets):
    transport, payload_bytes = packets.rows["transport"], packets.payload_bytes
    last_data = np.empty(2, np.int64)
    finished = np.empty(2, np.bool_)
    for f in range(len(flows.seed)):
        if flows.protocol[f] != IPPROTO_TCP:
            continue
        begin, end = flows.starts[f], flows.starts[f + 1]
        last_data[:] = -1
        finished[:] = False
        for i in range(begin, end):
            if payload_bytes[i] and packets.state[i].sequence not in (AGAIN, FILLS):
                last_data[packets.direction[i]] = i
        if flows.opens[f]:
            uses_ecn = _negotiate_ecn(begin, end, transport)
        else:
            for i in range(begin, end):
                if transport[i, TCP_FLAGS] & SYN:
                    _negotiate_ecn(i, i + 1, transport)
            uses_ecn = _shows_ecn(begin, end, flows.version[f], packets)
        for i in range(begin, end):
            side = packets.direction[i]
            flags = np.int64(transport[i, TCP_FLAGS])
            if flags & (SYN | RST):
                flags &= ~(FIN | PSH)
            if flags & FIN:
                sequence = packets.state[i].sequence
                if sequence == AGAIN and finished[side]:
                    pass
                elif finished[side] or i < last_data[side] or sequence in (AGAIN, FILLS):
                    flags &= ~FIN
                else:
                    finished[side] = True
            if flags & RST or (not flags & SYN and not uses_ecn):
                flags &= ~(ECE | CWR)
            pointer = get16(transport, i, TCP_URP)
            if flags & URG and pointer and payload_bytes[i]:
                pointer = min(pointer, payload_bytes[i])
            else:
                flags &= ~URG
                pointer = 0
            put16(transport, i, TCP_URP, pointer)
            transport[i, TCP_FLAGS] = flags


@numba.njit(cache=True)
def _negotiate_ecn(begin, end, transport):
    """Settle ECE and CWR of a handshake; return whether they agree on ECN."""
    offered = np.int64(transport[begin, TCP_FLAGS]) & (ECE | CWR)
    if offered != (ECE | CWR):
        transport[begin, TCP_FLAGS] &= 255 - (ECE | CWR)
    uses_ecn = False
    if end > begin + 1 and transport[begin + 1, TCP_FLAGS] & SYN:
        if offered == (ECE | CWR):
            uses_ecn = transport[begin + 1, TCP_FLAGS] & ECE != 0
        else:
            transport[begin + 1, TCP_FLAGS] &= 255 - ECE
        transport[begin + 1, TCP_FLAGS] &= 255 - CWR
    return uses_ecn


@numba.njit(cache=True)
def _shows_ecn(begin, end, version, packets):
    """Return whether most data packets are ECN-capable."""
    network = packets.rows["network"]
    data, capable = 0, 0
    for i in range(begin, end):
        if packets.payload_bytes[i]:
            data += 1
            capable += _ecn(version, network, i) != 0
    return 2 * capable > data


@numba.njit(cache=True)
def _ecn(version, network, i):
    """Return the ECN codepoint of a packet."""
    if version == 4:
        return network[i, IPV4_TOS] & 3
    return (network[i, IPV6_VER + 1] >> 4) & 3
