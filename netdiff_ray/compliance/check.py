"""Check the compliance of a capture by the rules, and compare with tshark.

The definition is the table in `rules`; it is executed by code that shares nothing with what
made or repaired the packets. A packet is valid if it breaks no rule of severity
error; a flow is valid if it breaks none and all its packets are valid.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from netdiff_ray.compliance.flows import Key, flow_key, flows_of, judge_flow
from netdiff_ray.compliance.parse import Packet, judge_record
from netdiff_ray.compliance.protocol_numbers import LINKTYPES_RAW, RST, SYN
from netdiff_ray.compliance.read import Record, read_records
from netdiff_ray.compliance.result import EXAMPLES, Agreement, CheckResult, RuleResult
from netdiff_ray.compliance.rules import ERROR, RULES, Rule
from netdiff_ray.compliance.tshark import Tshark, run_tshark, tshark_installed
from netdiff_ray.errors import CaptureError

BAD_CHECKSUM = "Bad checksum"
ERRORS = frozenset(rule.name for rule in RULES if rule.severity == ERROR)
LONG_FLOW = 8
STRAY_FLOWS = 8
"""So many TCP connections of a segment, none opening or refusing, break `flow_ports`."""


@dataclass
class _Counts:
    """Counts while a capture is read."""

    records: int = 0
    packets: int = 0
    flows: int = 0
    valid_flows: int = 0
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    unjudged: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    invalid: dict[int, str] = field(default_factory=dict)
    offloaded: set[int] = field(default_factory=set)
    not_ip: set[int] = field(default_factory=set)
    links: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    connections: Counter[Key] = field(default_factory=Counter)
    strays: dict[Key, tuple[int, bool]] = field(default_factory=dict)

    def fault(self, rule: str, where: str, detail: str) -> None:
        """Count a broken rule, and add an example unless it has EXAMPLES already."""
        self.broken[rule] += 1
        examples = self.examples.setdefault(rule, [])
        if len(examples) < EXAMPLES:
            examples.append(f"{where}: {detail}" if detail else where)


def check_capture(
    path: Path | str, *, name: str | None = None, with_tshark: bool = True
) -> CheckResult:
    """Check a capture; a fault that ends the reading is in the result's `faults`.

    Args:
        path: of the capture: pcap or pcapng, may be compressed.
        name: what the result and its faults call it; the path if not given.
        with_tshark: run tshark too, if it is installed.
    """
    counts, faults = _Counts(), []
    name = name or str(path)
    packets = _packets(read_records(path, name), counts, faults)
    for flow in flows_of(packets):
        _finish_flow(flow, counts)
    _finish_capture(counts)
    tshark, agreement, tshark_faults = None, None, ()
    can_reread = Path(path).is_file()  # and not a pipe
    if with_tshark and counts.records and can_reread and tshark_installed():
        try:
            tshark = run_tshark(path, name)
        except CaptureError as error:
            tshark_faults = (str(error),)
        else:
            agreement = _agreement(counts, tshark)
    return CheckResult(
        name=name,
        records=counts.records,
        packets=counts.packets,
        valid_packets=counts.packets - len(counts.invalid),
        flows=counts.flows,
        valid_flows=counts.valid_flows,
        rules=tuple(_result(rule, counts) for rule in RULES),
        faults=tuple(dict.fromkeys(faults)),
        tshark=tshark,
        tshark_faults=tshark_faults,
        agreement=agreement,
    )


def _packets(records: Iterable[Record], counts: _Counts, faults: list[str]) -> Iterator[Packet]:
    """Yield the packets of a capture that belong to flows, and count the others."""
    previous_ns = None
    try:
        for record in records:
            counts.records += 1
            counts.links[record.link_type] += 1
            packet = judge_record(record)
            ts_ns = record.ts_ns
            if packet is None:
                counts.not_ip.add(record.number)
            else:
                if previous_ns is not None and ts_ns < previous_ns:
                    packet.fault("time_order", f"{(previous_ns - ts_ns) / 1e9:.6f} s")
                if packet.whole:
                    yield packet
                else:
                    _finish_packet(packet, counts, "")
            previous_ns = ts_ns
    except CaptureError as error:
        faults.append(str(error))


def _finish_packet(packet: Packet, counts: _Counts, flow_kind: str) -> bool:
    """Count a packet that is fully judged, and return whether it is valid."""
    counts.packets += 1
    counts.kinds["packet", "any"] += 1
    if packet.version:
        counts.kinds["packet", f"IPv{packet.version}"] += 1
    if packet.kind:
        counts.kinds["packet", packet.kind] += 1
    if flow_kind:
        counts.kinds["packet", flow_kind] += 1
    for rule, state in packet.unjudged:
        counts.unjudged[rule, state] += 1
        if state == "offloaded":
            counts.offloaded.add(packet.number)
    for rule, detail in _once(packet.faults).items():
        counts.fault(rule, f"record {packet.number:,}", detail)
    bad = [rule for rule, _ in packet.faults if rule in ERRORS]
    if bad:
        counts.invalid[packet.number] = "; ".join(dict.fromkeys(bad))
    return not bad


def _once(faults: list[tuple[str, str]]) -> dict[str, str]:
    """Return rule -> detail of the first fault by each rule: a rule is judged once."""
    return dict(reversed(faults))


def _finish_flow(flow: list[Packet], counts: _Counts) -> None:
    """Judge a flow that has ended, and count it and its packets."""
    faults = judge_flow(flow, ERRORS)
    kind = flow[0].kind
    flow_kind = {"TCP": "TCP in a flow", "ICMP": "ICMP in a flow", "ICMPv6": "ICMP in a flow"}
    valid = all([_finish_packet(packet, counts, flow_kind.get(kind, "")) for packet in flow])
    counts.flows += 1
    for over in ("any", kind, f"IPv{flow[0].version}"):
        counts.kinds["flow", over] += 1
    for rule, detail in _once(faults).items():
        counts.fault(rule, f"flow of record {flow[0].number:,}", detail)
        valid = valid and rule not in ERRORS
    counts.valid_flows += valid
    if len(flow) > LONG_FLOW:
        counts.lengths[len(flow)] += 1
    if kind == "TCP":
        key = flow_key(flow[0])
        counts.connections[key] += 1
        if len(flow) == 1 and not flow[0].flags & (SYN | RST):
            counts.strays[key] = (flow[0].number, valid)


def _finish_capture(counts: _Counts) -> None:
    """Judge the rules that apply to all flows together."""
    strays: dict[tuple, list[tuple[int, bool]]] = {}
    for key, stray in counts.strays.items():
        if counts.connections[key] == 1:
            _, (a, _), (b, _) = key
            strays.setdefault((a, b), []).append(stray)
    for pair in strays.values():
        if len(pair) >= STRAY_FLOWS:
            for number, valid in pair:
                counts.fault("flow_ports", f"flow of record {number:,}", "one segment on its ports")
                counts.valid_flows -= valid
    counts.kinds["capture", "any"] = 1
    if any(link in LINKTYPES_RAW for link in counts.links):
        counts.fault("link_type_raw", "capture", "IP without a link layer")
    if len(counts.lengths) == 1 and max(counts.lengths.values()) >= 3:
        ((length, count),) = counts.lengths.items()
        counts.fault("flow_length_constant", "capture", f"{count} flows of {length:,} packets")


def _result(rule: Rule, counts: _Counts) -> RuleResult:
    unjudged = {state: n for (name, state), n in counts.unjudged.items() if name == rule.name}
    return RuleResult(
        rule=rule,
        judged=counts.kinds[rule.scope, rule.over] - sum(unjudged.values()),
        broken=counts.broken[rule.name],
        unjudged=unjudged,
        examples=tuple(counts.examples.get(rule.name, ())),
    )


def _agreement(counts: _Counts, tshark: Tshark) -> Agreement:
    """Compare the checker with tshark packet by packet, over the packets that both judge."""
    disagreements: Counter[str] = Counter()
    examples: dict[str, str] = {}
    ignored = counts.offloaded - counts.invalid.keys()
    theirs = {
        number: messages
        for number, messages in tshark.invalid.items()
        if number not in counts.not_ip
        and not (
            number in ignored and all(message.startswith(BAD_CHECKSUM) for message in messages)
        )
    }
    both = counts.invalid.keys() & theirs.keys()
    objections = [(f"checker only: {w}", n) for n, w in counts.invalid.items() if n not in both]
    objections += [
        (f"tshark only: {re.sub(r'0x[0-9a-f]+', '#', '; '.join(messages))}", number)
        for number, messages in theirs.items()
        if number not in both
    ]
    for what, number in objections:
        disagreements[what] += 1
        examples.setdefault(what, f"record {number:,}")
    return Agreement(
        packets=counts.packets,
        both_valid=counts.packets - len(both) - len(objections),
        both_invalid=len(both),
        offloaded=len(ignored),
        disagreements=dict(disagreements.most_common()),
        examples=examples,
    )
