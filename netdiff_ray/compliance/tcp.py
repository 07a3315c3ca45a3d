"""The state of a TCP connection, as an observer can infer it from the packets of a flow.

An observer misses packets, sees some twice and some out of order, and may begin in
mid-connection. So a rule here is broken only by a contradiction within the flow: bytes that
are acknowledged and then sent for the first time, a new segment that acknowledges less than
the one before it. (What a capture loses and then sees sent again looks like the first: about
one packet in 20,000 where a tenth of the packets is lost.) All numbers are compared modulo
2^32 (RFC 9293, 3.4).
"""

import struct
from dataclasses import dataclass

from netdiff_ray.compliance.parse import Packet
from netdiff_ray.compliance.protocol_numbers import (
    ACK,
    FIN,
    MAX_WINDOW_SCALE,
    RST,
    SACK,
    SACK_PERMITTED,
    SYN,
    TIMESTAMPS,
    WINDOW_SCALE,
)
from netdiff_ray.compliance.transport import HALF, fast_open

MAX_WINDOW = 1 << 30
"""The widest possible window: 65,535 scaled by 2^14 (RFC 7323, 2.3)."""
UNSCALED_WINDOW = 0xFFFF
"""The widest window without a scale."""
REORDER_NS = 5_000_000
"""Two packets this close in time may have been captured in the wrong order."""
KEEPALIVE_NS = 500_000_000
"""A keep-alive probe follows at least so long a silence (RFC 9293, 3.8.4)."""
MAX_PENDING = 256
"""Most packets of an endpoint that wait for evidence of what its peer sent."""
MAX_UNACKNOWLEDGED = 64
"""Most segments of an endpoint whose places and times are kept until they are acknowledged."""
SHORT_ACKS = 4
"""So many acknowledgements, all short of the last segment, are no coincidence."""


@dataclass(slots=True)
class EndpointState:
    """The state of an endpoint, as observed so far; None is unknown.

    An endpoint is `settled` once it began where it had been acknowledged to: what it sends
    past its `next` is then new. In mid-connection it may be a retransmission.
    """

    isn: int | None = None
    first: int | None = None
    """Sequence number of the first segment seen of it."""
    sent_syn: bool = False
    next: int | None = None
    last_ack: int | None = None
    edge: int | None = None
    fin_end: int | None = None
    fin: tuple[int, int | None] | None = None
    """Acknowledgement number and time of the FIN."""
    reset: bool = False
    syn_options: dict[int, bytes] | None = None
    last_ns: int | None = None
    stamp: int | None = None
    latest: tuple[int, int] | None = None
    sent_data: bool = False
    top_ack: int | None = None
    settled: bool = False
    stray_end: int | None = None
    early: Packet | None = None
    unsent: tuple[tuple[Packet, int], ...] = ()
    """Packets of the peer that acknowledge what this endpoint has not been seen to send."""
    unstamped: tuple[tuple[Packet, int], ...] = ()
    """Packets of the peer that echo a timestamp not yet seen."""
    short_acks: frozenset[int] = frozenset()
    reached: bool = False
    holes: bool = False
    offered: int | None = None
    """The right edge of the window that it offered last."""
    unacknowledged: tuple[tuple[int, int, int | None], ...] = ()
    """Begin, end and time of its segments with data that are not acknowledged yet."""
    syn_ns: int | None = None
    half_ns: int | None = None
    """Time from the capture to this endpoint and back, by the handshake."""


def after(a: int, b: int) -> int:
    """Return how far the sequence number `a` lies after `b`, from -2^31 to 2^31 - 1."""
    return (a - b + HALF) % (1 << 32) - HALF


class TcpState:
    """The connection of a flow: its two endpoints, the first sender's first.

    Args:
        client: (address, port) of the first sender.
    """

    __slots__ = ("client", "endpoints", "faults")

    def __init__(self, client: tuple[bytes, int]):
        self.client = client
        self.endpoints = (EndpointState(), EndpointState())
        self.faults: list[tuple[str, str]] = []

    def judge(self, packet: Packet) -> None:
        """Judge the next segment of the flow."""
        mine, peer = self._sides(packet)
        if _opens_anew(packet, mine, peer):
            packet.fault("tcp_new_connection")
            self.faults = self.end()
            self.endpoints = (EndpointState(), EndpointState())
            mine, peer = self._sides(packet)
        _segment(packet, mine, peer)

    def is_over(self, packet: Packet) -> bool:
        """Return whether a segment is a SYN that opens another flow.

        It does not where it repeats its sender's SYN, and not where the connection has not ended
        and the number lies in what its sender has sent or in the window after it. A first SYN of
        the other side (simultaneous open) belongs to an open connection.
        """
        if packet.flags & (SYN | ACK) != SYN:
            return False
        mine, peer = self._sides(packet)
        has_ended = (
            mine.reset or peer.reset
            or (_fin_acknowledged(mine, peer) and _fin_acknowledged(peer, mine))
        )  # fmt: skip
        if mine.first is None:
            return has_ended
        if packet.seq == mine.isn:
            return False
        if has_ended:
            return True
        first = mine.isn if mine.isn is not None else mine.first - UNSCALED_WINDOW
        sent = 0 if mine.next is None else (mine.next - first) % (1 << 32)
        return (packet.seq - first) % (1 << 32) > sent + UNSCALED_WINDOW

    def _sides(self, packet: Packet) -> tuple[EndpointState, EndpointState]:
        """Return the states of a segment's sender and of its peer."""
        me = int((packet.source, packet.sport) != self.client)
        return self.endpoints[me], self.endpoints[1 - me]

    def end(self) -> list[tuple[str, str]]:
        """Return the broken rules of the connections, the first fault by each."""
        return (self.faults + _flow_faults(self.endpoints))[:1]


def _fin_acknowledged(mine: EndpointState, peer: EndpointState) -> bool:
    """Return whether an endpoint's FIN was seen, and acknowledged by its peer."""
    seen = mine.fin_end is not None and peer.top_ack is not None
    return seen and after(peer.top_ack, mine.fin_end) >= 0


def _opens_anew(packet: Packet, mine: EndpointState, peer: EndpointState) -> bool:
    """Return whether a SYN that opens no other flow opens another connection than the current."""
    if not packet.flags & SYN or packet.flags & (ACK | RST):
        return False
    expected = mine.isn if mine.isn is not None else mine.next
    if expected is not None:
        return expected != packet.seq
    # A first SYN after packets of the peer: captured late if they answer it.
    answered = peer.top_ack is not None and 0 < after(peer.top_ack, packet.seq) <= 0xFFFF
    return peer.next is not None and not answered


def _crossed(first: Packet, second: Packet) -> bool:
    """Return whether two packets may have been captured in another order than sent.

    Equal times are no evidence: a capture without times is no excuse.
    """
    elapsed_ns = _elapsed_ns(first.ts_ns, second.ts_ns)
    return elapsed_ns != 0 and elapsed_ns <= REORDER_NS


def _elapsed_ns(first_ns: int | None, second_ns: int | None) -> int:
    """Return the time between two packets, 0 if one has none."""
    return 0 if first_ns is None or second_ns is None else second_ns - first_ns


def _flow_faults(endpoints: tuple[EndpointState, EndpointState]) -> list[tuple[str, str]]:
    """Return the broken flow rules of a connection at its end."""
    for endpoint in endpoints:
        for packet, value in endpoint.unsent:
            packet.fault("tcp_ack_unseen", f"{value}")
    return [
        ("tcp_ack_short", f"{len(endpoint.short_acks)} acknowledgements, none of the last segment")
        for endpoint in endpoints
        if len(endpoint.short_acks) >= SHORT_ACKS and not endpoint.reached
    ]


def _segment(packet: Packet, mine: EndpointState, peer: EndpointState) -> None:
    """Judge a segment and update the states of both endpoints."""
    flags, length = packet.flags, packet.payload_bytes
    end = (packet.seq + length + bool(flags & SYN) + bool(flags & FIN)) % (1 << 32)
    if mine.first is None:
        mine.first = packet.seq
    if flags & RST:
        mine.reset = True
        return
    if flags & SYN:
        _syn(packet, mine, peer)
    elif length and mine.reset:
        packet.fault("tcp_data_after_rst", f"{length} bytes")
    silence_ns = _elapsed_ns(mine.last_ns, packet.ts_ns)
    probe = (
        silence_ns >= KEEPALIVE_NS
        and length <= 1
        and mine.next is not None
        and after(packet.seq, mine.next) == -1
    )
    in_place = probe or _sequence(packet, end, mine, peer)
    new = mine.next is None or after(end, mine.next) > 0
    if not probe and not flags & SYN:
        _closing(packet, end, mine)
    _time_handshake(packet, mine, peer)
    if flags & ACK:
        _note_conduct(packet, mine, peer)
        _acknowledgement(packet, new and bool(length), mine, peer)
    if TIMESTAMPS in packet.options:
        _stamps(packet, new and bool(length), mine, peer)
    elif not flags & SYN and _agreed(TIMESTAMPS, mine, peer):
        packet.fault("tcp_timestamp_absent")
    if length and peer.next is None and not (mine.syn_options and fast_open(mine.syn_options)):
        mine.early = mine.early or packet
    if not probe:
        if new and in_place:
            mine.next = end
            if length:
                kept = mine.unacknowledged[1 - MAX_UNACKNOWLEDGED :]
                mine.unacknowledged = (*kept, (packet.seq, end, packet.ts_ns))
        mine.latest = None if flags & SYN else (packet.seq, end)
        mine.sent_data = mine.sent_data or length > 0
    mine.last_ns = packet.ts_ns


def _time_handshake(packet: Packet, mine: EndpointState, peer: EndpointState) -> None:
    """Take from the handshake how long an answer of each endpoint needs to this capture."""
    answers = packet.flags & ACK and peer.syn_ns is not None and mine.half_ns is None
    if answers and bool(packet.flags & SYN) != mine.sent_syn:
        mine.half_ns = _elapsed_ns(peer.syn_ns, packet.ts_ns)
    if packet.flags & SYN:
        mine.syn_ns = packet.ts_ns


def _note_conduct(packet: Packet, mine: EndpointState, peer: EndpointState) -> None:
    """Note what an acknowledgement is free to do, but what stacks do not."""
    unscaled = mine.syn_options is None or peer.syn_options is None
    is_old = mine.last_ack is not None and after(packet.ack, mine.last_ack) < 0
    if packet.flags & SYN or unscaled or is_old or mine.holes or peer.holes:
        return
    scale = _scale(packet, mine, peer)
    edge = (packet.ack + (packet.window << scale)) % (1 << 32)
    # A window is rounded down to what its scale can say (RFC 7323, 2.3).
    if mine.offered is not None and after(edge, mine.offered) <= -(1 << scale):
        packet.fault("tcp_window_back", f"{-after(edge, mine.offered):,} bytes")
    mine.offered = edge
    ends = [end for _, end, _ in peer.unacknowledged]
    if packet.ack not in ends and any(
        after(packet.ack, begin) > 0 and after(packet.ack, end) < 0
        for begin, end, _ in peer.unacknowledged
    ):
        packet.fault("tcp_ack_inside", f"{packet.ack}")
    elif packet.ack in ends and (mine.half_ns or 0) > REORDER_NS:
        elapsed_ns = _elapsed_ns(peer.unacknowledged[ends.index(packet.ack)][2], packet.ts_ns)
        if 0 <= 2 * elapsed_ns < mine.half_ns:
            packet.fault(
                "tcp_answer_early",
                f"{elapsed_ns / 1e6:.3f} ms, of {mine.half_ns / 1e6:.3f} ms in the handshake",
            )
    peer.unacknowledged = tuple(
        segment for segment in peer.unacknowledged if after(segment[1], packet.ack) > 0
    )


def _syn(packet: Packet, mine: EndpointState, peer: EndpointState) -> None:
    """Judge a SYN or SYN-ACK, and open its sender's half of the connection."""
    if not packet.flags & ACK:
        mine.sent_syn = True
        # A repeated SYN may leave options out; the answer may be to the first.
        mine.isn, mine.syn_options = packet.seq, {**(mine.syn_options or {}), **packet.options}
        return
    if mine.sent_syn and peer.isn is None:
        packet.fault("tcp_handshake_side", "after a SYN of its own, without one of the other side")
        return
    if mine.isn is None and mine.next is not None:
        packet.fault("tcp_syn_late", f"{packet.seq}")
        return
    if mine.isn is not None and packet.seq != mine.isn:
        # A server that keeps no state answers a repeated SYN with another number (RFC 4987).
        if mine.sent_data or mine.fin_end is not None:
            packet.fault("tcp_syn_late", f"{packet.seq} after {mine.isn}")
            return
        packet.fault("tcp_new_connection")
        mine.next = None
    if peer.isn is not None and peer.syn_options is not None:
        missing = [
            k
            for k in (WINDOW_SCALE, TIMESTAMPS)
            if k in packet.options and k not in peer.syn_options
        ]
        if missing:
            packet.fault("tcp_scale_agreed", f"kind {missing[0]}")
    if peer.early is not None and mine.next is None:
        if not _crossed(peer.early, packet):
            peer.early.fault("tcp_data_early", f"{peer.early.payload_bytes} bytes")
        peer.early = None
    mine.isn, mine.syn_options = packet.seq, packet.options


def _sequence(packet: Packet, end: int, mine: EndpointState, peer: EndpointState) -> bool:
    """Judge the place of a segment and earlier acknowledgements of it; return if in place."""
    syn = packet.flags & SYN
    if mine.isn is not None and not syn and after(packet.seq, mine.isn) <= 0:
        packet.fault("tcp_syn_number", f"{after(packet.seq, mine.isn)} from the SYN's own")
    base = mine.next if mine.next is not None else peer.last_ack
    if base is None or syn:
        return True
    ahead = after(end, base)
    limit = MAX_WINDOW
    if mine.edge is not None and not (mine.holes or peer.holes):
        # A probe of a closed window is one byte past it (RFC 9293, 3.8.6.1), and so may a FIN be.
        limit = max(0, min(after(mine.edge, base), MAX_WINDOW)) + 1
    if ahead > limit or ahead < -MAX_WINDOW:
        packet.fault("tcp_seq_window", f"{ahead:,} from what is due, at most {limit:,}")
        if packet.seq == mine.stray_end:
            mine.next, mine.edge = end, None
        mine.stray_end = end
        return False
    if mine.next is None:
        return True
    begins = after(packet.seq, mine.next)
    if begins > 0:
        packet.fault("tcp_seq_gap", f"{begins:,} bytes")
        mine.holes = True
    elif ahead <= 0 and end != packet.seq:
        packet.fault("tcp_retransmission")
    if ahead > 0:
        for acknowledging, value in mine.unsent:
            before_sent = mine.settled and after(value, packet.seq) > 0
            crossed = _crossed(acknowledging, packet)
            rule = "tcp_ack_unsent" if before_sent and not crossed else "tcp_ack_unseen"
            acknowledging.fault(rule, f"{value}, {after(value, mine.next):,} past what was sent")
        mine.unsent = ()
    if mine.isn is not None or (peer.top_ack is not None and after(packet.seq, peer.top_ack) >= 0):
        mine.settled = True
    return True


def _closing(packet: Packet, end: int, mine: EndpointState) -> None:
    """Judge what an endpoint sends after its FIN."""
    if mine.fin_end is None:
        if packet.flags & FIN:
            mine.fin_end, mine.fin = end, (packet.ack, packet.ts_ns)
        return
    past = after(end, mine.fin_end)
    if packet.flags & FIN or packet.payload_bytes:
        if past > -bool(not packet.flags & FIN):
            packet.fault("tcp_data_after_fin", f"ends {past:,} bytes past the FIN")
    elif past == -1:
        # Sent before the FIN and captured after it, unless it acknowledges more.
        fin_ack, fin_ns = mine.fin
        newer = after(packet.ack, fin_ack) > 0
        if newer or _elapsed_ns(fin_ns, packet.ts_ns) > REORDER_NS:
            packet.fault("tcp_fin_number")


def _acknowledgement(packet: Packet, new: bool, mine: EndpointState, peer: EndpointState) -> None:
    """Judge the acknowledgement number, the SACK blocks and the window of a segment."""
    ack = packet.ack
    if peer.isn is not None:
        counted = after(ack, peer.isn)
        if counted <= 0 or (packet.flags & SYN and peer.next is not None
                            and after(ack, peer.next) > 0):  # fmt: skip
            packet.fault("tcp_handshake_ack", f"{counted} from the SYN's number")
            return
    if mine.last_ack is not None and new and after(ack, mine.last_ack) < 0:
        packet.fault("tcp_ack_backwards", f"{-after(ack, mine.last_ack):,} less")
    if not _sent(packet, ack, mine, peer):
        return
    if SACK in packet.options:
        if peer.syn_options is not None and SACK_PERMITTED not in peer.syn_options:
            packet.fault("tcp_sack_agreed")
        edges = struct.unpack(f">{len(packet.options[SACK]) // 4}I", packet.options[SACK])
        highest = max(edges[1::2], key=lambda edge: after(edge, ack))
        if not _sent(packet, highest, mine, peer):
            return
    _note_short_acknowledgement(packet, mine, peer)
    seen = peer.next is None or after(ack, peer.next) <= 0
    if seen and (mine.last_ack is None or after(ack, mine.last_ack) > 0):
        mine.last_ack = ack
    edge = (ack + (packet.window << _scale(packet, mine, peer))) % (1 << 32)
    if peer.edge is None or after(edge, peer.edge) > 0:
        peer.edge = edge


def _note_short_acknowledgement(packet: Packet, mine: EndpointState, peer: EndpointState) -> None:
    """Remember an acknowledgement that ends before the peer's latest segment, or that one reaches
    into it."""
    if peer.latest is None or peer.latest[0] == peer.latest[1]:
        return
    start, _ = peer.latest
    # In mid-connection the answer to one segment may always cross the next.
    telling = peer.isn is not None or packet.ts_ns == peer.last_ns is not None
    if packet.ack == start and telling:
        if not mine.reached and len(mine.short_acks) < MAX_PENDING:
            mine.short_acks |= {packet.ack}
    elif after(packet.ack, start) > 0:
        mine.reached, mine.short_acks = True, frozenset()


def _sent(packet: Packet, value: int, mine: EndpointState, peer: EndpointState) -> bool:
    """Return whether the peer can have sent all bytes before `value`; record the fault if not."""
    if peer.next is not None:
        ahead = after(value, peer.next)
        bounded = peer.edge is not None and not (mine.holes or peer.holes)
        past_window = bounded and after(value, peer.edge) > 1
        if ahead < -MAX_WINDOW or (ahead > 0 and (past_window or ahead > MAX_WINDOW)):
            packet.fault("tcp_ack_unsent", f"{value}, {ahead:,} from what was sent")
            return False
        if ahead > 0:
            if len(peer.unsent) == MAX_PENDING:  # no evidence so far: benefit of the doubt
                oldest, acknowledged = peer.unsent[0]
                oldest.fault("tcp_ack_unseen", f"{acknowledged}")
            peer.unsent = (*peer.unsent[1 - MAX_PENDING :], (packet, value))
            peer.holes = True
    if mine.top_ack is None or after(value, mine.top_ack) > 0:
        mine.top_ack = value
    return True


def _scale(packet: Packet, mine: EndpointState, peer: EndpointState) -> int:
    """Return the shift of a segment's window: the maximum, 14, if the SYNs were not seen."""
    if packet.flags & SYN:
        return 0
    if mine.syn_options is None or peer.syn_options is None:
        return MAX_WINDOW_SCALE
    return (
        min(mine.syn_options[WINDOW_SCALE][0], MAX_WINDOW_SCALE)
        if _agreed(WINDOW_SCALE, mine, peer)
        else 0
    )


def _agreed(kind: int, mine: EndpointState, peer: EndpointState) -> bool:
    """Return whether the SYNs of both endpoints were seen and carry an option."""
    return kind in (mine.syn_options or ()) and kind in (peer.syn_options or ())


def _stamps(packet: Packet, new: bool, mine: EndpointState, peer: EndpointState) -> None:
    """Judge the timestamp of a segment and the one it echoes (RFC 7323)."""
    value, echo = struct.unpack(">II", packet.options[TIMESTAMPS])
    if mine.stamp is not None:
        for echoing, echoed in mine.unstamped:
            if after(value, echoed) < 0 and not _crossed(echoing, packet):
                echoing.fault("tcp_timestamp_echo", f"{echoed}, then {value} is sent")
        mine.unstamped = ()
        if new and after(value, mine.stamp) < 0:
            packet.fault("tcp_timestamp_order", f"{-after(value, mine.stamp):,} less")
    if mine.stamp is None or after(value, mine.stamp) > 0:
        mine.stamp = value
    if echo and packet.flags & ACK and peer.stamp is not None and after(echo, peer.stamp) > 0:
        peer.unstamped = (*peer.unstamped[1 - MAX_PENDING :], (packet, echo))
