"""Cut packets into flows, and judge the rules that apply to whole flows.

A flow is the packets of a bidirectional 5-tuple; 60 s of silence end it, and so does a SYN that
opens another connection. ICMP has no ports: its flow is the pair of hosts. Packets are judged as
they come: a flow holds counts and the state of its endpoints, not its packets.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from netdiff_ray.compliance.parse import Packet
from netdiff_ray.compliance.protocol_numbers import DYNAMIC_PORT, ECHO_REPLIES
from netdiff_ray.compliance.tcp import TcpState

IDLE_NS = 60 * 10**9
BACKWARDS_NS = 10**9
PADDED_PACKETS = 1024

Key = tuple[str, tuple[bytes, int], tuple[bytes, int]]


def flow_key(packet: Packet) -> Key:
    """Return the bidirectional 5-tuple of a packet."""
    ports = (packet.sport, packet.dport) if packet.kind in ("TCP", "UDP") else (0, 0)
    a, b = (packet.source, ports[0]), (packet.target, ports[1])
    return (packet.kind, a, b) if a <= b else (packet.kind, b, a)


@dataclass(slots=True)
class Sender:
    """What a sender repeats or counts from packet to packet."""

    ttl: int
    identification: int | None
    atomic: bool
    packets: int = 1
    ttls: frozenset[int] = frozenset()
    ttl_changes: int = 0
    repeats_identification: bool = False

    def add(self, packet: Packet) -> None:
        """Compare a packet with the sender's packet before it."""
        if packet.ttl != self.ttl:
            self.ttls |= {packet.ttl, self.ttl}
            self.ttl_changes += 1
        if (
            packet.identification is not None
            and packet.identification == self.identification
            and not (packet.atomic or self.atomic)
        ):
            self.repeats_identification = True
        self.ttl, self.packets = packet.ttl, self.packets + 1
        self.identification, self.atomic = packet.identification, packet.atomic

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield the broken rules, with details."""
        if self.ttls:
            often = len(self.ttls) > 3 and self.ttl_changes * 2 > self.packets - 1
            yield (
                "ip_ttl_constant" if often else "ip_ttl_change",
                f"{len(self.ttls)} values, {self.ttl_changes} changes in {self.packets} packets",
            )
        if self.repeats_identification:
            yield "ipv4_id_repeated", "in neighbouring packets"


@dataclass(slots=True)
class Echoes:
    """The latest sequence number of each echo identifier, and who sends requests."""

    latest: dict[tuple[bytes, int, int], int] = field(default_factory=dict)
    requesters: set[tuple[bytes, int]] = field(default_factory=set)

    def judge(self, packet: Packet) -> None:
        """Record in a packet whether it is an unpaired echo or does not count up."""
        kind, sequence, identifier = packet.flags, packet.seq, packet.ack
        if kind in ECHO_REPLIES:
            counter = (packet.source, ECHO_REPLIES[kind], identifier)
            before = self.latest.get(counter)
            if before is not None and (sequence - before) % 65536 > 256:
                packet.fault("icmp_echo_sequence", f"{sequence} after {before}")
            self.latest[counter] = sequence
            self.requesters.add(counter[:2])
        elif (packet.target, kind) in self.requesters:
            requested = self.latest.get((packet.target, kind, identifier))
            # The request of an earlier number may have been sent before the capture began.
            if requested is None or (requested - sequence) % 65536 >= 32768:
                packet.fault("icmp_echo_pair", f"identifier {identifier}, sequence {sequence}")


@dataclass(slots=True)
class Run:
    """Packets of a 5-tuple without a silence: a flow's, and those of flows that its SYNs open."""

    packets: int = 0
    tail_broken: int = 0
    """Of the last half of PADDED_PACKETS, those that break a rule of severity error."""

    def is_padded(self) -> bool:
        """Return whether a flow was drawn at full length, and its rows after the end as noise."""
        return self.packets == PADDED_PACKETS and self.tail_broken >= PADDED_PACKETS // 4


class Flow:
    """A flow that is being judged, packet by packet.

    Args:
        packet: its first packet, which `add` is yet to be called with.
        run: the one that it goes on with.
        count_late: called with (flow, packet, rule, detail) of each fault that a later packet
            shows in a packet that was counted before.
    """

    __slots__ = (
        "count_late", "echoes", "first_flags", "kind", "last_ns", "latest_ns", "num_timed",
        "number", "packets", "ports", "run", "senders", "tcp", "valid", "varied", "version",
    )  # fmt: skip

    def __init__(self, packet: Packet, run: Run, count_late: Callable):
        self.number, self.kind, self.version = packet.number, packet.kind, packet.version
        self.ports, self.first_flags = (packet.sport, packet.dport), packet.flags
        self.count_late, self.run = count_late, run
        self.packets = self.num_timed = 0
        self.valid, self.varied = True, False
        self.last_ns: int | None = None
        self.latest_ns: int | None = None
        self.senders: dict[tuple[bytes, int], Sender] = {}
        is_tcp, is_udp = packet.kind == "TCP", packet.kind == "UDP"
        self.tcp = TcpState((packet.source, packet.sport)) if is_tcp else None
        self.echoes = None if is_tcp or is_udp else Echoes()

    def is_silent(self, ts_ns: int | None) -> bool:
        """Return whether the flow has been silent too long for a packet at this time."""
        return None not in (ts_ns, self.last_ns) and ts_ns - self.last_ns > IDLE_NS

    def is_over(self, packet: Packet) -> bool:
        """Return whether a packet of the flow's 5-tuple belongs to another flow."""
        return self.is_silent(packet.ts_ns) or (self.tcp is not None and self.tcp.is_over(packet))

    def add(self, packet: Packet) -> None:
        """Judge the next packet; what is wrong is recorded in it."""
        self.packets += 1
        self.run.packets += 1
        packet.flow, packet.position = self, self.run.packets
        if self.tcp is not None:
            self.tcp.judge(packet)
        elif self.echoes is not None:
            self.echoes.judge(packet)
        if packet.ts_ns is not None:
            self._judge_time(packet, packet.ts_ns)
        if self.echoes is None:
            end = (packet.source, packet.sport)
            if end in self.senders:
                self.senders[end].add(packet)
            else:
                self.senders[end] = Sender(packet.ttl, packet.identification, packet.atomic)

    def _judge_time(self, packet: Packet, ts_ns: int) -> None:
        if self.latest_ns is not None and ts_ns < self.latest_ns - BACKWARDS_NS:
            packet.fault("time_backwards", f"{(self.latest_ns - ts_ns) / 1e9:.3f} s")
        self.varied = self.varied or (self.num_timed > 0 and ts_ns != self.latest_ns)
        self.num_timed += 1
        self.last_ns = ts_ns
        self.latest_ns = ts_ns if self.latest_ns is None else max(self.latest_ns, ts_ns)

    def note_broken(self, packet: Packet) -> None:
        """Take note that a packet of the flow breaks a rule of severity error."""
        self.valid = False
        self.run.tail_broken += PADDED_PACKETS // 2 < packet.position <= PADDED_PACKETS

    def end(self) -> list[tuple[str, str]]:
        """Return the broken rules of the whole flow, with details, once it has ended."""
        faults = []
        if self.tcp is not None:
            faults += self.tcp.end()
            self.tcp = None  # whose packets refer to the flow
        if self.echoes is None and min(self.ports) >= DYNAMIC_PORT:
            faults.append(("port_dynamic", "{} and {}".format(*self.ports)))
        if self.num_timed > 1 and not self.varied:
            if self.latest_ns == 0:
                faults.append(("time_zero", f"{self.num_timed} packets"))
            elif self.num_timed >= 8:
                faults.append(("time_constant", f"{self.num_timed} packets"))
        for sender in self.senders.values():
            faults += sender.faults()
        if self.run.is_padded():
            half, broken = PADDED_PACKETS // 2, self.run.tail_broken
            faults.append(("flow_padded", f"{broken} of the last {half} packets are broken"))
        return faults


class OpenFlows:
    """The flows of a capture that have not ended, by their 5-tuple.

    Args:
        count_late: as of `Flow`.
    """

    def __init__(self, count_late: Callable):
        self._flows: dict[Key, Flow] = {}
        self._runs: dict[Key, Run] = {}
        """Those that the next packet of a 5-tuple goes on with."""
        self._count_late = count_late
        self._swept_ns = 0

    def ended_by(self, packet: Packet) -> Iterator[tuple[Key, Flow]]:
        """Yield the flows that have been silent too long at the time of a packet, or that its SYN
        ends."""
        ts_ns = packet.ts_ns
        if ts_ns is not None and abs(ts_ns - self._swept_ns) > IDLE_NS:
            self._swept_ns = ts_ns
            for key in [key for key, flow in self._flows.items() if flow.is_silent(ts_ns)]:
                yield key, self._flows.pop(key)
        key = flow_key(packet)
        if key in self._flows and self._flows[key].is_over(packet):
            flow = self._flows.pop(key)
            if not flow.is_silent(ts_ns):
                self._runs[key] = flow.run
            yield key, flow

    def of(self, packet: Packet) -> Flow:
        """Return the flow of a packet, a new one if none is open."""
        key = flow_key(packet)
        flow = self._flows.get(key)
        if flow is None:
            run = self._runs.pop(key, None) or Run()
            flow = self._flows[key] = Flow(packet, run, self._count_late)
        return flow

    def rest(self) -> Iterator[tuple[Key, Flow]]:
        """Yield the flows that the end of the capture ends."""
        while self._flows:
            key = next(iter(self._flows))
            yield key, self._flows.pop(key)
