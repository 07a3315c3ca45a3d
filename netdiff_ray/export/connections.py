"""What Zeek says of connections: states, histories, bytes and times, from their packets.

States and letters are those of Zeek's documentation (base/protocols/conn/main.zeek) and of its TCP
analyzer (src/analyzer/protocol/tcp). Content gaps and bad checksums, which synthetic flows do not
have, are not looked for.

Shape letters: N connections, P packets, H letters of a history.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.flow_state import payload_bytes
from netdiff_ray.header_bytes import (
    ACK,
    FIN,
    ICMP_HEADER_BYTES,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_HL,
    IPV4_TL,
    IPV6_HEADER_BYTES,
    IPV6_LEN,
    RST,
    SYN,
    TCP_ACKN,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    TCP_SEQ,
    TCP_WSIZE,
    UDP_HEADER_BYTES,
    UDP_LEN,
    get16,
    get32,
)

INACTIVE, SYN_SENT, SYN_ACK_SENT, PARTIAL, ESTABLISHED, CLOSED, RESET = range(7)
"""States of a side of a TCP connection, by what it has sent: nothing; a SYN; as originator a SYN
with ACK; something without a SYN; a SYN that the other side answered; a FIN; a RST."""
MOST_LETTERS = 64
"""Letters of a history that are kept."""
_ORIG, _RESP = 0, 1
_HALF_32 = 1 << 31
_TOO_FAR = 1 << 20
"""How far a SYN or RST may lie from its side's numbers to be believed (Zeek's
TOO_LARGE_SEQ_DELTA)."""
_ACKED_ONCE, _DATA_ONCE, _ODD_ONCE, _MIXED_ONCE = 1, 2, 4, 8

CONNECTION = np.dtype(
    [
        ("state", "u1", (2,)),
        ("before", "u1", (2,)),
        ("payload_bytes", "i8", (2,)),
        ("packets", "i8", (2,)),
        ("ip_bytes", "i8", (2,)),
        ("last_ns", "i8"),
        ("num_letters", "i8"),
        ("letters", "u1", (MOST_LETTERS,)),
    ]
)
"""A connection, by side, the originator first. `state` and the state `before` it are of TCP;
`payload_bytes` are of TCP those of the sequence numbers; `ip_bytes` those of IP packets; `last_ns`
is the time of the last packet that Zeek's duration counts; `letters` are the history's."""

_SIDE = np.dtype(
    [
        ("start", "i8"),
        ("last", "i8"),
        ("acked", "i8"),
        ("last_syn", "i8"),
        ("last_fin", "i8"),
        ("last_rst", "i8"),
        ("num_again", "i8"),
        ("num_closed", "i8"),
        ("once", "u1"),
        ("is_closed", "?"),
        ("has_fin", "?"),
    ]
)
"""A side of a TCP connection: its first sequence number; the last sent and the last acknowledged,
counted from there; the numbers of its latest SYN, FIN and RST, -1 without; how many segments came
again and how many windows were zero; letters that are noted once; whether it has ended, and sent a
FIN."""


class _Columns(NamedTuple):
    """Columns of P rows, and what is known of them besides."""

    network: np.ndarray
    transport: np.ndarray
    transport_len: np.ndarray
    version: np.ndarray
    protocol: np.ndarray
    ts_ns: np.ndarray
    direction: np.ndarray


def follow_connections(rows: np.ndarray, direction: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the (N,) CONNECTION of whole flows.

    Args:
        rows: (P,) HEADER_ROW, flow after flow, each in time order.
        direction: (P,) uint8, 0 from the client and 1 to it.
        first: (N + 1,) int64 first packet of each flow, the last element P.
    """
    names = ("network", "transport", "transport_len", "version", "protocol", "ts_ns")
    columns = _Columns(*(rows[name] for name in names), direction)
    connections = np.zeros(len(first) - 1, CONNECTION)
    _follow(columns, np.asarray(first, np.int64), connections, np.zeros(2, _SIDE))
    return connections


@numba.njit(cache=True)
def _follow(columns, first, connections, sides):
    for n in range(len(first) - 1):
        connection = connections[n]
        for s in range(2):
            side = sides[s]
            side.start = side.last = side.acked = 0
            side.last_syn = side.last_fin = side.last_rst = -1
            side.num_again = side.num_closed = 0
            side.once = 0
            side.is_closed = side.has_fin = False
        for i in range(first[n], first[n + 1]):
            _follow_packet(columns, i, connection, sides)
        if columns.protocol[first[n]] == IPPROTO_TCP:
            for s in range(2):
                connection.payload_bytes[s] = _stream_bytes(connection, sides[s], s)


@numba.njit(cache=True)
def _follow_packet(columns, i, connection, sides):
    """Add packet `i` to its connection."""
    s = np.int64(columns.direction[i])
    ip_bytes = _ip_bytes(columns, i)
    connection.packets[s] += 1
    connection.ip_bytes[s] += ip_bytes
    if columns.protocol[i] == IPPROTO_TCP:
        if columns.transport_len[i] >= TCP_HEADER_BYTES:
            _follow_segment(columns, i, s, connection, sides)
        return
    connection.last_ns = columns.ts_ns[i]
    if columns.protocol[i] == IPPROTO_UDP:
        if columns.transport_len[i] >= UDP_HEADER_BYTES:
            size = get16(columns.transport, i, UDP_LEN) - UDP_HEADER_BYTES
            connection.payload_bytes[s] += max(size, 0)
        connection.state[s] = ESTABLISHED
        _note_once(connection, sides[s], s, _DATA_ONCE, ord("D"))
    else:
        header_bytes = IPV6_HEADER_BYTES
        if columns.version[i] == 4:
            header_bytes = np.int64(columns.network[i, IPV4_HL] & 15) * 4
        connection.payload_bytes[s] += max(ip_bytes - header_bytes - ICMP_HEADER_BYTES, 0)


@numba.njit(cache=True)
def _ip_bytes(columns, i):
    """Return the bytes of an IP packet, as its header says."""
    if columns.version[i] == 4:
        return get16(columns.network, i, IPV4_TL)
    return get16(columns.network, i, IPV6_LEN) + IPV6_HEADER_BYTES


@numba.njit(cache=True)
def _follow_segment(columns, i, s, connection, sides):
    """Add the TCP segment of row `i` to its connection."""
    transport = columns.transport
    flags = transport[i, TCP_FLAGS]
    size = payload_bytes(columns.network, transport, columns.version[i], i)
    seq = get32(transport, i, TCP_SEQ)
    _begin_numbers(sides[s], connection.state[s], seq, flags)
    at = _counted(sides[s].start, sides[s].last, seq)
    _note_flags(connection, sides[s], s, flags, at, size)
    is_closing = connection.state[1 - s] == CLOSED or connection.state[s] == RESET
    if get16(transport, i, TCP_WSIZE) == 0 and not flags & RST and not is_closing:
        sides[s].num_closed += 1
        _note_tenfold(connection, s, sides[s].num_closed, ord("W"))
    if not sides[_ORIG].is_closed or not sides[_RESP].is_closed:
        connection.last_ns = columns.ts_ns[i]
    if flags & FIN:
        sides[s].has_fin = True
    if flags & ACK:
        _acknowledge(sides[1 - s], connection.state[1 - s], get32(transport, i, TCP_ACKN), flags)
    _advance(connection, sides[s], s, at, size, flags)
    if _next_state(connection, s, flags, size):
        sides[s].is_closed = True


@numba.njit(cache=True)
def _counted(start, near, number):
    """Return a sequence number counted from `start`, given a count that it is near to."""
    return near + (number - start - near + _HALF_32) % (1 << 32) - _HALF_32


@numba.njit(cache=True)
def _begin_numbers(side, state, seq, flags):
    """Begin to count a side's numbers with its first segment, or with another SYN; without a SYN
    as if it had come before."""
    if state == INACTIVE and not flags & SYN:
        side.start, side.last, side.acked = seq - 1, 1, 0
    elif flags & SYN and state < CLOSED and (state == INACTIVE or seq != side.start):
        side.start, side.last, side.acked = seq, 1, 0


@numba.njit(cache=True)
def _acknowledge(peer, state, ack, flags):
    """Note an acknowledgement of what the other side has sent."""
    if state == INACTIVE:
        peer.start, peer.last, peer.acked = ack - 1, 0, 0
    elif not flags & RST:
        peer.acked = max(peer.acked, _counted(peer.start, peer.acked, ack))


@numba.njit(cache=True)
def _advance(connection, side, s, at, size, flags):
    """Note how far a side has sent, and segments that came again."""
    end = at + (flags & SYN != 0) + (flags & FIN != 0)
    if not flags & RST:
        end += size
    ahead = end - side.last
    if flags & (SYN | RST) and abs(ahead) > _TOO_FAR:
        return
    if connection.state[s] == RESET:
        return
    if ahead > 0:
        side.last = end
    elif size > 0:
        side.num_again += 1
        _note_tenfold(connection, s, side.num_again, ord("T"))


@numba.njit(cache=True)
def _stream_bytes(connection, side, s):
    """Return the bytes of payload that a side's numbers tell of, SYN and FIN not counted."""
    was_opening = connection.before[s] == SYN_SENT and connection.state[s] == RESET
    if was_opening and connection.state[1 - s] == INACTIVE and side.acked > 0:
        return 0
    size = max(side.last, side.acked)
    size -= size > 0
    return size - (size > 0 and side.has_fin)


@numba.njit(cache=True)
def _note(connection, s, letter):
    """Add a letter to the history, in lower case for the responder."""
    if connection.num_letters < MOST_LETTERS:
        connection.letters[connection.num_letters] = letter + (32 if s == _RESP else 0)
        connection.num_letters += 1


@numba.njit(cache=True)
def _note_once(connection, side, s, kind, letter):
    """Add a letter to the history unless its side has it."""
    if not side.once & kind:
        side.once |= kind
        _note(connection, s, letter)


@numba.njit(cache=True)
def _note_tenfold(connection, s, count, letter):
    """Add a letter to the history for the first of a kind, the tenth, the hundredth, ..."""
    while count % 10 == 0:
        count //= 10
    if count == 1:
        _note(connection, s, letter)


@numba.njit(cache=True)
def _note_flags(connection, side, s, flags, at, size):
    """Add what a segment is to the history."""
    kinds = (flags & SYN != 0) + (flags & FIN != 0) + (flags & RST != 0)
    if kinds > 1:
        if flags & FIN and flags & RST:
            _note_once(connection, side, s, _ODD_ONCE, ord("I"))
        else:
            _note_once(connection, side, s, _MIXED_ONCE, ord("Q"))
    elif flags & SYN:
        if side.last_syn != at:
            _note(connection, s, ord("H") if flags & ACK else ord("S"))
        side.last_syn = at
    elif flags & FIN:
        if side.last_fin != at + size:
            _note(connection, s, ord("F"))
        side.last_fin = at + size
    elif flags & RST:
        if side.last_rst != at:
            _note(connection, s, ord("R"))
        side.last_rst = at
    elif size > 0:
        _note_once(connection, side, s, _DATA_ONCE, ord("D"))
    elif flags & ACK:
        _note_once(connection, side, s, _ACKED_ONCE, ord("A"))


@numba.njit(cache=True)
def _enter(connection, s, state):
    """Bring a side into a state."""
    if connection.state[s] != state:
        connection.before[s] = connection.state[s]
        connection.state[s] = state


@numba.njit(cache=True)
def _next_state(connection, s, flags, size):
    """Bring a side into its next state; return whether it has ended with this segment."""
    state, peer = connection.state[s], connection.state[1 - s]
    if state == INACTIVE:
        return _first_state(connection, s, flags, size)
    if state == RESET:
        return False
    if state == CLOSED:
        if flags & RST and peer != CLOSED:
            _enter(connection, s, RESET)
            return True
        return False
    if flags & SYN and not flags & ACK and state == PARTIAL and peer == INACTIVE:
        _enter(connection, s, SYN_SENT)
    if flags & RST:
        _enter(connection, s, RESET)
    elif flags & FIN:
        _enter(connection, s, CLOSED)
        if state >= PARTIAL and peer == RESET and connection.before[1 - s] == CLOSED:
            _enter(connection, 1 - s, CLOSED)  # a RST after the FIN: both have ended in order
    return flags & (FIN | RST) != 0


@numba.njit(cache=True)
def _first_state(connection, s, flags, size):
    """Bring a side into the state of its first segment; return whether it has ended with it."""
    peer = connection.state[1 - s]
    if flags & SYN:
        if s == _ORIG:
            _enter(connection, s, SYN_ACK_SENT if flags & ACK else SYN_SENT)
        else:
            if peer == SYN_SENT:
                _enter(connection, _ORIG, ESTABLISHED)
            _enter(connection, s, ESTABLISHED)
    if flags & RST:
        _enter(connection, s, RESET)
    elif flags & FIN:
        _enter(connection, s, CLOSED)
    if connection.state[s] == INACTIVE:
        if flags & ACK and peer == ESTABLISHED:
            _enter(connection, s, ESTABLISHED)
        elif not (s == _RESP and size == 0 and peer == SYN_SENT):
            _enter(connection, s, PARTIAL)
    return flags & (FIN | RST) != 0
