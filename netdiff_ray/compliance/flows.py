"""Cut packets into flows, and judge the rules that apply to whole flows.

A flow is the packets of a bidirectional 5-tuple; 60 s of silence end it. ICMP has no ports:
its flow is the pair of hosts.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from netdiff_ray.compliance.parse import Packet
from netdiff_ray.compliance.protocol_numbers import DYNAMIC_PORT, ECHO_REPLIES
from netdiff_ray.compliance.tcp import judge_tcp_flow

IDLE_NS = 60 * 10**9
BACKWARDS_NS = 10**9
PADDED_PACKETS = 1024

Key = tuple[str, tuple[bytes, int], tuple[bytes, int]]


def flow_key(packet: Packet) -> Key:
    """Return the bidirectional 5-tuple of a packet."""
    ports = (packet.sport, packet.dport) if packet.kind in ("TCP", "UDP") else (0, 0)
    a, b = (packet.source, ports[0]), (packet.target, ports[1])
    return (packet.kind, a, b) if a <= b else (packet.kind, b, a)


def flows_of(packets: Iterable[Packet]) -> Iterator[list[Packet]]:
    """Yield the flows of packets, each when silence or the end of the capture ends it."""
    open_flows: dict[Key, list[Packet]] = {}
    swept_ns = 0
    for packet in packets:
        if abs(packet.ts_ns - swept_ns) > IDLE_NS:
            swept_ns = packet.ts_ns
            ended = [k for k, f in open_flows.items() if swept_ns - f[-1].ts_ns > IDLE_NS]
            for key in ended:
                yield open_flows.pop(key)
        key = flow_key(packet)
        flow = open_flows.get(key)
        if flow is None:
            open_flows[key] = [packet]
        elif packet.ts_ns - flow[-1].ts_ns > IDLE_NS:
            open_flows[key] = [packet]
            yield flow
        else:
            flow.append(packet)
    yield from open_flows.values()


def judge_flow(flow: list[Packet], errors: frozenset[str]) -> list[tuple[str, str]]:
    """Return the broken rules of a whole flow, and record those of its packets in them.

    Args:
        flow: its packets in order of capture.
        errors: names of the rules that make a packet invalid.
    """
    faults = []
    kind = flow[0].kind
    if kind == "TCP":
        faults += judge_tcp_flow(flow)
    elif kind in ("ICMP", "ICMPv6"):
        _judge_echoes(flow)
    if kind in ("TCP", "UDP") and min(flow[0].sport, flow[0].dport) >= DYNAMIC_PORT:
        faults.append(("port_dynamic", f"{flow[0].sport} and {flow[0].dport}"))
    latest_ns = flow[0].ts_ns
    for packet in flow:
        if packet.ts_ns < latest_ns - BACKWARDS_NS:
            packet.fault("time_backwards", f"{(latest_ns - packet.ts_ns) / 1e9:.3f} s")
        latest_ns = max(latest_ns, packet.ts_ns)
    times = {packet.ts_ns for packet in flow}
    if len(flow) > 1 and times == {0}:
        faults.append(("time_zero", f"{len(flow)} packets"))
    elif len(flow) >= 8 and len(times) == 1:
        faults.append(("time_constant", f"{len(flow)} packets"))
    ends = dict.fromkeys((packet.source, packet.sport) for packet in flow)
    for end in ends if kind in ("TCP", "UDP") else ():
        faults += _judge_sender([p for p in flow if (p.source, p.sport) == end])
    if len(flow) == PADDED_PACKETS:
        tail = flow[PADDED_PACKETS // 2 :]
        broken = sum(any(rule in errors for rule, _ in packet.faults) for packet in tail)
        if broken >= len(tail) // 2:
            faults.append(("flow_padded", f"{broken} of the last {len(tail)} packets are broken"))
    return faults


def _judge_sender(packets: list[Packet]) -> list[tuple[str, str]]:
    """Return the broken rules on values that a sender repeats or counts up."""
    faults = []
    pairs = list(pairwise(packets))
    ttls = {packet.ttl for packet in packets}
    if len(ttls) > 1:
        changes = sum(a.ttl != b.ttl for a, b in pairs)
        often = len(ttls) > 3 and changes * 2 > len(pairs)
        name = "ip_ttl_constant" if often else "ip_ttl_change"
        faults.append((name, f"{len(ttls)} values, {changes} changes in {len(packets)} packets"))
    if any(
        a.identification == b.identification is not None and not (a.atomic or b.atomic)
        for a, b in pairs
    ):
        faults.append(("ipv4_id_repeated", "in neighbouring packets"))
    return faults


def _judge_echoes(flow: list[Packet]) -> None:
    """Record in the packets of an ICMP flow which echoes are unpaired or do not count up."""
    latest: dict[tuple[bytes, int, int], int] = {}
    requesters = set()
    for packet in flow:
        kind, sequence, identifier = packet.flags, packet.seq, packet.ack
        if kind in ECHO_REPLIES:
            counter = (packet.source, ECHO_REPLIES[kind], identifier)
            if counter in latest and (sequence - latest[counter]) % 65536 > 256:
                packet.fault("icmp_echo_sequence", f"{sequence} after {latest[counter]}")
            latest[counter] = sequence
            requesters.add(counter[:2])
        elif (packet.target, kind) in requesters:
            requested = latest.get((packet.target, kind, identifier))
            # The request of an earlier number may have been sent before the capture began.
            if requested is None or (requested - sequence) % 65536 >= 32768:
                packet.fault("icmp_echo_pair", f"identifier {identifier}, sequence {sequence}")
