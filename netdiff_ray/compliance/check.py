"""How much of a capture is protocol-compliant: our own checker, and tshark beside it.

The definition is the table in `compliance_rules`; it is executed by code that shares nothing
with what made or repaired the packets. A packet is valid if it breaks no rule of severity
error; a flow is valid if it breaks none and all its packets are valid.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from netdiff_ray.compliance.flows import Key, flow_key, flows_of, judge_flow
from netdiff_ray.compliance.parse import Packet, judge_record
from netdiff_ray.compliance.read import Record, read_records
from netdiff_ray.compliance.rules import ERROR, RULES, Rule
from netdiff_ray.compliance.transport import RST, SYN
from netdiff_ray.compliance.tshark import Tshark, tshark_installed, tshark_of
from netdiff_ray.errors import CaptureError

EXAMPLES = 3
BAD_CHECKSUM = "Bad checksum"
ERRORS = frozenset(rule.name for rule in RULES if rule.severity == ERROR)
RAW_LINK_TYPES = (12, 14, 101, 228, 229)
LONG_FLOW = 8
STRAY_FLOWS = 8
"""So many one-segment TCP connections between two hosts, none opening or refusing one."""


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """How often a rule was judged and broken, and why it could not be judged elsewhere."""

    rule: Rule
    judged: int
    broken: int
    unjudged: dict[str, int]
    examples: tuple[str, ...]

    @property
    def passed(self) -> float | None:
        """The share that keeps the rule, None where nothing could break it."""
        return 1 - self.broken / self.judged if self.judged else None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How often tshark and the checker say the same of a packet, and where they do not.

    Where the capturing host left a checksum to its network card, the checker does not judge it
    and tshark calls it bad: that one objection is `set_aside`, the rest of the packet compared.
    `disagreements` counts by who objects to what.
    """

    packets: int
    both_valid: int
    both_invalid: int
    set_aside: int
    disagreements: dict[str, int]
    examples: dict[str, str]

    @property
    def share(self) -> float | None:
        """Agreement over the packets compared."""
        return (self.both_valid + self.both_invalid) / self.packets if self.packets else None


@dataclass(frozen=True, kw_only=True)
class Compliance:
    """What the checker found in one capture or, summed, in several."""

    name: str
    records: int
    packets: int
    valid_packets: int
    flows: int
    valid_flows: int
    rules: tuple[RuleResult, ...]
    faults: tuple[str, ...]
    tshark: Tshark | None
    agreement: Agreement | None

    def headline(self) -> dict[str, float | None]:
        """The shares of valid packets and flows, and tshark's errors where it was asked."""
        return {
            "valid_packets": self.valid_packets / self.packets if self.packets else None,
            "valid_flows": self.valid_flows / self.flows if self.flows else None,
            "tshark_errors": self.tshark.errors if self.tshark else None,
        }

    def invalid_share(self) -> float:
        """The larger of the shares of invalid packets and invalid flows."""
        return max(
            1 - valid / count if count else 0.0
            for valid, count in (
                (self.valid_packets, self.packets),
                (self.valid_flows, self.flows),
            )
        )

    def as_dict(self) -> dict:
        """All of it as plain JSON values."""
        agreement = self.agreement
        return {
            "name": self.name,
            "headline": self.headline(),
            "records": self.records,
            "packets": self.packets,
            "valid_packets": self.valid_packets,
            "flows": self.flows,
            "valid_flows": self.valid_flows,
            "rules": {
                result.rule.name: {
                    "severity": result.rule.severity,
                    "scope": result.rule.scope,
                    "source": result.rule.source,
                    "says": result.rule.says,
                    "judged": result.judged,
                    "broken": result.broken,
                    "passed": result.passed,
                    "unjudged": result.unjudged,
                    "examples": list(result.examples),
                }
                for result in self.rules
            },
            "faults": list(self.faults),
            "tshark": self.tshark.as_dict() if self.tshark else None,
            "agreement": agreement
            and {
                "share": agreement.share,
                "packets": agreement.packets,
                "both_valid": agreement.both_valid,
                "both_invalid": agreement.both_invalid,
                "set_aside": agreement.set_aside,
                "disagreements": agreement.disagreements,
                "examples": agreement.examples,
            },
        }


@dataclass
class _Tally:
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
    set_aside: set[int] = field(default_factory=set)
    others: set[int] = field(default_factory=set)
    links: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    connections: Counter[Key] = field(default_factory=Counter)
    strays: dict[Key, tuple[int, bool]] = field(default_factory=dict)

    def fault(self, rule: str, where: str, detail: str) -> None:
        """Count a broken rule and keep it as an example while there are few."""
        self.broken[rule] += 1
        examples = self.examples.setdefault(rule, [])
        if len(examples) < EXAMPLES:
            examples.append(f"{where}: {detail}" if detail else where)


def check_capture(
    path: Path | str, *, name: str | None = None, with_tshark: bool = True
) -> Compliance:
    """What one capture keeps and breaks; a fault that ends the reading is said in it.

    Args:
        path: of the capture: pcap or pcapng, gzip too.
        name: what the result and its faults call it; the path if not given.
        with_tshark: ask tshark too, where it is installed.
    """
    tally, faults = _Tally(), []
    name = name or str(path)
    packets = _packets(read_records(path, name), tally, faults)
    for flow in flows_of(packets):
        _finish_flow(flow, tally)
    _finish_capture(tally)
    tshark = agreement = None
    if with_tshark and tally.records and tshark_installed():
        try:
            tshark = tshark_of(path, name)
        except CaptureError as error:
            faults.append(str(error))
        else:
            agreement = _agreement(tally, tshark)
    return Compliance(
        name=name,
        records=tally.records,
        packets=tally.packets,
        valid_packets=tally.packets - len(tally.invalid),
        flows=tally.flows,
        valid_flows=tally.valid_flows,
        rules=tuple(_result(rule, tally) for rule in RULES),
        faults=tuple(dict.fromkeys(faults)),
        tshark=tshark,
        agreement=agreement,
    )


def _packets(records: Iterable[Record], tally: _Tally, faults: list[str]) -> Iterator[Packet]:
    """The packets of a capture that belong to flows; the others are counted on the way."""
    previous_ns = None
    try:
        for record in records:
            tally.records += 1
            tally.links[record.link_type] += 1
            packet = judge_record(record)
            ts_ns = record.ts_ns
            if packet is None:
                tally.others.add(record.number)
            else:
                if previous_ns is not None and ts_ns < previous_ns:
                    packet.fault("time_order", f"{(previous_ns - ts_ns) / 1e9:.6f} s")
                if packet.whole:
                    yield packet
                else:
                    _finish_packet(packet, tally, "")
            previous_ns = ts_ns
    except CaptureError as error:
        faults.append(str(error))


def _finish_packet(packet: Packet, tally: _Tally, flow_kind: str) -> bool:
    """Count a packet that is fully judged, and say whether it is valid."""
    tally.packets += 1
    tally.kinds["packet", "any"] += 1
    if packet.version:
        tally.kinds["packet", f"IPv{packet.version}"] += 1
    if packet.kind:
        tally.kinds["packet", packet.kind] += 1
    if flow_kind:
        tally.kinds["packet", flow_kind] += 1
    for rule, state in packet.unjudged:
        tally.unjudged[rule, state] += 1
        if state == "offloaded":
            tally.set_aside.add(packet.number)
    for rule, detail in packet.faults:
        tally.fault(rule, f"record {packet.number:,}", detail)
    bad = [rule for rule, _ in packet.faults if rule in ERRORS]
    if bad:
        tally.invalid[packet.number] = "; ".join(dict.fromkeys(bad))
    return not bad


def _finish_flow(flow: list[Packet], tally: _Tally) -> None:
    """Judge a flow that has ended, and count it and its packets."""
    faults = judge_flow(flow, ERRORS)
    kind = flow[0].kind
    flow_kind = {"TCP": "TCP in a flow", "ICMP": "ICMP in a flow", "ICMPv6": "ICMP in a flow"}
    valid = all([_finish_packet(packet, tally, flow_kind.get(kind, "")) for packet in flow])
    tally.flows += 1
    for over in ("any", kind, f"IPv{flow[0].version}"):
        tally.kinds["flow", over] += 1
    for rule, detail in faults:
        tally.fault(rule, f"flow of record {flow[0].number:,}", detail)
        valid = valid and rule not in ERRORS
    tally.valid_flows += valid
    if len(flow) > LONG_FLOW:
        tally.lengths[len(flow)] += 1
    if kind == "TCP":
        key = flow_key(flow[0])
        tally.connections[key] += 1
        if len(flow) == 1 and not flow[0].flags & (SYN | RST):
            tally.strays[key] = (flow[0].number, valid)


def _finish_capture(tally: _Tally) -> None:
    """Judge what only all flows together show."""
    strays: dict[tuple, list[tuple[int, bool]]] = {}
    for key, stray in tally.strays.items():
        if tally.connections[key] == 1:
            _, (a, _), (b, _) = key
            strays.setdefault((a, b), []).append(stray)
    for found in strays.values():
        if len(found) >= STRAY_FLOWS:
            for number, valid in found:
                tally.fault("flow_ports", f"flow of record {number:,}", "one segment on its ports")
                tally.valid_flows -= valid
    tally.kinds["capture", "any"] = 1
    if any(link in RAW_LINK_TYPES for link in tally.links):
        tally.fault("link_type_raw", "capture", "IP without a link layer")
    if len(tally.lengths) == 1 and max(tally.lengths.values()) >= 3:
        ((length, count),) = tally.lengths.items()
        tally.fault("flow_length_constant", "capture", f"{count} flows of {length:,} packets")


def _result(rule: Rule, tally: _Tally) -> RuleResult:
    unjudged = {state: n for (name, state), n in tally.unjudged.items() if name == rule.name}
    return RuleResult(
        rule=rule,
        judged=tally.kinds[rule.scope, rule.over] - sum(unjudged.values()),
        broken=tally.broken[rule.name],
        unjudged=unjudged,
        examples=tuple(tally.examples.get(rule.name, ())),
    )


def _agreement(tally: _Tally, tshark: Tshark) -> Agreement:
    """Compare the two packet by packet, over the packets that both judge."""
    disagreements: Counter[str] = Counter()
    examples: dict[str, str] = {}
    aside = tally.set_aside - tally.invalid.keys()
    theirs = {
        number: messages
        for number, messages in tshark.invalid.items()
        if number not in tally.others
        and not (number in aside and all(message.startswith(BAD_CHECKSUM) for message in messages))
    }
    both = tally.invalid.keys() & theirs.keys()
    sides = [(f"checker only: {w}", n) for n, w in tally.invalid.items() if n not in both]
    sides += [
        (f"tshark only: {re.sub(r'0x[0-9a-f]+', '#', '; '.join(messages))}", number)
        for number, messages in theirs.items()
        if number not in both
    ]
    for what, number in sides:
        disagreements[what] += 1
        examples.setdefault(what, f"record {number:,}")
    return Agreement(
        packets=tally.packets,
        both_valid=tally.packets - len(both) - len(sides),
        both_invalid=len(both),
        set_aside=len(aside),
        disagreements=dict(disagreements.most_common()),
        examples=examples,
    )


def summed(parts: Iterable[Compliance], name: str = "total") -> Compliance:
    """The counts of several captures as one.

    Args:
        parts: of captures, or sums of them, which have no name.
        name: of the sum.
    """
    parts = list(parts)
    asked = [part.tshark for part in parts if part.tshark]
    tshark = Tshark() if asked else None
    for one in asked:
        tshark.add(one)
    return Compliance(
        name=name,
        records=sum(p.records for p in parts),
        packets=sum(p.packets for p in parts),
        valid_packets=sum(p.valid_packets for p in parts),
        flows=sum(p.flows for p in parts),
        valid_flows=sum(p.valid_flows for p in parts),
        rules=tuple(
            RuleResult(
                rule=results[0].rule,
                judged=sum(r.judged for r in results),
                broken=sum(r.broken for r in results),
                unjudged=dict(sum((Counter(r.unjudged) for r in results), Counter())),
                examples=tuple(
                    _within(part.name, example)
                    for part, result in zip(parts, results, strict=True)
                    for example in result.examples
                )[:EXAMPLES],
            )
            for results in zip(*(p.rules for p in parts), strict=True)
        ),
        faults=tuple(fault for p in parts for fault in p.faults),
        tshark=tshark,
        agreement=_summed_agreement(parts),
    )


def _within(name: str, where: str) -> str:
    return f"{name}, {where}" if name else where


def _summed_agreement(parts: list[Compliance]) -> Agreement | None:
    known = [(part.name, part.agreement) for part in parts if part.agreement]
    if not known:
        return None
    counts = sum((Counter(a.disagreements) for _, a in known), Counter())
    examples: dict[str, str] = {}
    for name, agreement in known:
        for what, where in agreement.examples.items():
            examples.setdefault(what, _within(name, where))
    return Agreement(
        packets=sum(a.packets for _, a in known),
        both_valid=sum(a.both_valid for _, a in known),
        both_invalid=sum(a.both_invalid for _, a in known),
        set_aside=sum(a.set_aside for _, a in known),
        disagreements=dict(counts.most_common()),
        examples=examples,
    )
