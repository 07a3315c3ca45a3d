"""Check the compliance of a capture by the rules, and compare with tshark.

The definition is the table in `rules`; it is executed by code that shares nothing with what
made or repaired the packets. A packet is valid if it breaks no rule of severity
error; a flow is valid if it breaks none and all its packets are valid.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from netdiff_ray.compliance.flows import Flow, Key, OpenFlows
from netdiff_ray.compliance.parse import Packet, judge_record
from netdiff_ray.compliance.protocol_numbers import LINKTYPES_RAW, RST, SYN
from netdiff_ray.compliance.read import Record, read_records
from netdiff_ray.compliance.result import EXAMPLES, Agreement, CheckResult, RuleResult
from netdiff_ray.compliance.rules import ERROR, RULES, ComplianceRule
from netdiff_ray.compliance.tshark import Tshark, run_tshark, tshark_installed
from netdiff_ray.errors import CaptureError

BAD_CHECKSUM = "Bad checksum"
ERRORS = frozenset(rule.name for rule in RULES if rule.severity == ERROR)
LONG_FLOW = 8
STRAY_FLOWS = 8
"""So many TCP connections of a segment, none opening or refusing, break `flow_ports`."""
FLOW_KINDS = {"TCP": "TCP in a flow", "ICMP": "ICMP in a flow", "ICMPv6": "ICMP in a flow"}
FLOW_TIME_RULES = ("time_zero", "time_constant")
VALID, NOT_IP = "", "not IP"

Pair = tuple[bytes, bytes]
Stray = tuple[int, bool]
"""Record number of a TCP connection of a lone segment, and whether it is valid."""


class _Verdicts:
    """What is wrong with each record, in a few bytes a record."""

    def __init__(self):
        self._words = [VALID, NOT_IP]
        self._codes = {word: code for code, word in enumerate(self._words)}
        self._code_of = array("I", [0])
        self._offloaded = bytearray(1)

    def append(self, offloaded: bool = False, words: str = VALID) -> None:
        """Add the verdict on the next record."""
        self._code_of.append(self._code(words))
        self._offloaded.append(offloaded)

    def add_rule(self, number: int, rule: str) -> None:
        """Add a broken rule to the verdict on a record."""
        words = self._words[self._code_of[number]]
        self._code_of[number] = self._code(f"{words}; {rule}" if words else rule)

    def _code(self, words: str) -> int:
        if words not in self._codes:
            self._codes[words] = len(self._words)
            self._words.append(words)
        return self._codes[words]

    def __getitem__(self, number: int) -> str:
        """Return the rules that the record breaks, VALID or NOT_IP."""
        return self._words[self._code_of[number]]

    def invalid(self) -> Iterator[tuple[int, str]]:
        """Yield (number, rules) of the records that break rules."""
        for number, code in enumerate(self._code_of):
            if self._words[code] not in (VALID, NOT_IP):
                yield number, self._words[code]

    def is_offloaded(self, number: int) -> bool:
        """Return whether a record is valid but for checksums left to a network card."""
        return bool(self._offloaded[number]) and self[number] == VALID

    def num_offloaded(self) -> int:
        """Return the number of records that `is_offloaded`."""
        return sum(map(self.is_offloaded, range(len(self._offloaded))))


@dataclass
class _Counts:
    """Counts while a capture is read."""

    records: int = 0
    packets: int = 0
    valid_packets: int = 0
    flows: int = 0
    valid_flows: int = 0
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    unjudged: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    verdicts: _Verdicts = field(default_factory=_Verdicts)
    links: Counter[int] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    connections: set[int] = field(default_factory=set)
    """Hashes of the 5-tuples of ended TCP flows."""
    strays: dict[Pair, dict[int, Stray]] = field(default_factory=dict)
    """Stray segments by the pair of hosts and the hash of the 5-tuple."""

    def fault(self, rule: str, where: str, detail: str) -> None:
        """Count a broken rule, and add an example unless it has EXAMPLES already."""
        self.broken[rule] += 1
        examples = self.examples.setdefault(rule, [])
        if len(examples) < EXAMPLES:
            examples.append(f"{where}: {detail}" if detail else where)

    def packet(self, packet: Packet, flow_kind: str) -> None:
        """Count a packet, with the faults that it has so far."""
        self.packets += 1
        self.valid_packets += 1
        kinds = ("any", packet.version and f"IPv{packet.version}", packet.kind, flow_kind)
        for kind in filter(None, kinds):
            self.kinds["packet", kind] += 1
        for rule, state in packet.unjudged:
            self.unjudged[rule, state] += 1
        self.verdicts.append(any(state == "offloaded" for _, state in packet.unjudged))
        faults, packet.faults = packet.faults, []
        packet.counted = True
        for rule, detail in faults:
            packet.faults.append((rule, detail))
            self.late_fault(packet.flow, packet, rule, detail)

    def late_fault(self, flow: Flow | None, packet: Packet, rule: str, detail: str) -> None:
        """Count the newest fault of a packet that is counted already."""
        self.fault(rule, f"record {packet.number:,}", detail)
        if rule not in ERRORS:
            return
        if self.verdicts[packet.number] == VALID:
            self.valid_packets -= 1
            if flow is not None:
                flow.note_broken(packet)
        self.verdicts.add_rule(packet.number, rule)

    def flow(self, key: Key, flow: Flow) -> None:
        """Count a flow that has ended."""
        faults = dict(reversed(flow.end()))
        self.flows += 1
        for over in ("any", flow.kind, f"IPv{flow.version}"):
            self.kinds["flow", over] += 1
        if not flow.num_timed:
            self.unjudged.update((rule, "untimed") for rule in FLOW_TIME_RULES)
        for rule, detail in faults.items():
            self.fault(rule, f"flow of record {flow.number:,}", detail)
        valid = flow.valid and ERRORS.isdisjoint(faults)
        self.valid_flows += valid
        if flow.packets > LONG_FLOW:
            self.lengths[flow.packets] += 1
        if flow.kind == "TCP":
            self._connection(key, flow, valid)

    def _connection(self, key: Key, flow: Flow, valid: bool) -> None:
        """Remember a TCP flow of a lone segment, unless its 5-tuple has other flows."""
        _, (a, _), (b, _) = key
        tuple_hash = hash(key)
        if tuple_hash in self.connections:
            self.strays.get((a, b), {}).pop(tuple_hash, None)
        elif flow.packets == 1 and not flow.first_flags & (SYN | RST):
            self.strays.setdefault((a, b), {})[tuple_hash] = (flow.number, valid)
        self.connections.add(tuple_hash)

    def capture(self) -> None:
        """Judge the rules that apply to all flows together."""
        for strays in self.strays.values():
            if len(strays) >= STRAY_FLOWS:
                for number, valid in strays.values():
                    where = f"flow of record {number:,}"
                    self.fault("flow_ports", where, "one segment on its ports")
                    self.valid_flows -= valid
        self.kinds["capture", "any"] = 1
        if any(link in LINKTYPES_RAW for link in self.links):
            self.fault("link_type_raw", "capture", "IP without a link layer")
        if len(self.lengths) == 1 and max(self.lengths.values()) >= 3:
            ((length, count),) = self.lengths.items()
            self.fault("flow_length_constant", "capture", f"{count} flows of {length:,} packets")


def check_capture(
    path: Path | str, *, name: str | None = None, with_tshark: bool = True
) -> CheckResult:
    """Check a capture; a fault that ends the reading is in the result's `faults`.

    Args:
        path: of the capture: pcap or pcapng, may be compressed.
        name: what the result and its faults call it; the path if not given.
        with_tshark: run tshark too, if it is installed.
    """
    name = name or str(path)
    counts, faults = _Counts(), ()
    try:
        _judge(read_records(path, name), counts)
    except CaptureError as error:
        faults = (str(error),)
    counts.capture()
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
        valid_packets=counts.valid_packets,
        flows=counts.flows,
        valid_flows=counts.valid_flows,
        rules=tuple(_result(rule, counts) for rule in RULES),
        faults=faults,
        tshark=tshark,
        tshark_faults=tshark_faults,
        agreement=agreement,
    )


def _judge(records: Iterable[Record], counts: _Counts) -> None:
    """Judge the packets of a capture and its flows, as they come."""
    previous_ns = None
    flows = OpenFlows(counts.late_fault)
    try:
        for record in records:
            counts.records += 1
            counts.links[record.link_type] += 1
            packet = judge_record(record)
            if packet is None:
                counts.verdicts.append(words=NOT_IP)
            else:
                _judge_packet(packet, previous_ns, flows, counts)
            previous_ns = previous_ns if record.ts_ns is None else record.ts_ns
    finally:
        for key, flow in flows.rest():
            counts.flow(key, flow)


def _judge_packet(
    packet: Packet, previous_ns: int | None, flows: OpenFlows, counts: _Counts
) -> None:
    if None not in (previous_ns, packet.ts_ns) and packet.ts_ns < previous_ns:
        packet.fault("time_order", f"{(previous_ns - packet.ts_ns) / 1e9:.6f} s")
    if not packet.whole:
        counts.packet(packet, "")
        return
    for key, flow in flows.ended_by(packet):
        counts.flow(key, flow)
    flows.of(packet).add(packet)
    counts.packet(packet, FLOW_KINDS.get(packet.kind, ""))


def _result(rule: ComplianceRule, counts: _Counts) -> RuleResult:
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
    verdicts = counts.verdicts
    both_invalid = 0

    def disagree(what: str, number: int) -> None:
        disagreements[what] += 1
        examples.setdefault(what, f"record {number:,}")

    for number, rules in verdicts.invalid():
        if number in tshark.invalid:
            both_invalid += 1
        else:
            disagree(f"checker only: {rules}", number)
    for number, messages in tshark.invalid.items():
        only_checksums = all(message.startswith(BAD_CHECKSUM) for message in messages)
        ignored = only_checksums and verdicts.is_offloaded(number)
        if verdicts[number] == VALID and not ignored:
            disagree(f"tshark only: {'; '.join(messages)}", number)
    return Agreement(
        packets=counts.packets,
        both_valid=counts.packets - both_invalid - disagreements.total(),
        both_invalid=both_invalid,
        offloaded=verdicts.num_offloaded(),
        disagreements=dict(disagreements.most_common()),
        examples=examples,
    )
