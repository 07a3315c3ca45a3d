"""The result of a check, of a capture or summed over captures."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from netdiff_ray.compliance.rules import ComplianceRule
from netdiff_ray.compliance.tshark import Tshark

EXAMPLES = 3
"""Examples that a result gives of each broken rule."""


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """Counts of a rule: judged, broken, and by reason not judged."""

    rule: ComplianceRule
    judged: int
    broken: int
    unjudged: dict[str, int]
    examples: tuple[str, ...]

    @property
    def passed(self) -> float | None:
        """The share that complies with the rule, None if nothing could break it."""
        return 1 - self.broken / self.judged if self.judged else None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Counts of packets on which tshark and the checker agree and disagree.

    If the capturing host left a checksum to its network card, the checker does not judge it
    and tshark calls it bad: that objection is ignored, the rest of the packet compared, and
    the packet counted in `offloaded`. `disagreements` counts by who objects to what.
    """

    packets: int
    both_valid: int
    both_invalid: int
    offloaded: int
    disagreements: dict[str, int]
    examples: dict[str, str]

    @property
    def share(self) -> float | None:
        """The share of the packets compared on which both agree."""
        return (self.both_valid + self.both_invalid) / self.packets if self.packets else None


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """The result of the checker on a capture or, summed, on several."""

    name: str
    records: int
    packets: int
    valid_packets: int
    flows: int
    valid_flows: int
    rules: tuple[RuleResult, ...]
    faults: tuple[str, ...]
    tshark: Tshark | None
    tshark_faults: tuple[str, ...]
    """Why tshark did not read a capture to its end; no fault of the capture."""
    agreement: Agreement | None

    def headline(self) -> dict[str, float | None]:
        """Return the shares of valid packets and flows, and tshark's errors if it was run."""
        return {
            "valid_packets": self.valid_packets / self.packets if self.packets else None,
            "valid_flows": self.valid_flows / self.flows if self.flows else None,
            "tshark_errors": self.tshark.errors if self.tshark else None,
        }

    def invalid_share(self) -> float:
        """Return the larger of the shares of invalid packets and invalid flows."""
        return max(
            1 - valid / count if count else 0.0
            for valid, count in (
                (self.valid_packets, self.packets),
                (self.valid_flows, self.flows),
            )
        )

    def as_dict(self) -> dict:
        """Return the result as plain JSON values."""
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
            "tshark_faults": list(self.tshark_faults),
            "tshark": self.tshark.as_dict() if self.tshark else None,
            "agreement": agreement
            and {
                "share": agreement.share,
                "packets": agreement.packets,
                "both_valid": agreement.both_valid,
                "both_invalid": agreement.both_invalid,
                "set_aside": agreement.offloaded,
                "disagreements": agreement.disagreements,
                "examples": agreement.examples,
            },
        }


def summed(results: Iterable[CheckResult], name: str = "total") -> CheckResult:
    """Return the sum of several results.

    Args:
        results: of captures, or sums of them, which have no name.
        name: of the sum.
    """
    results = list(results)
    tshark = None
    for result in results:
        if result.tshark:
            tshark = tshark or Tshark()
            tshark.add(result.tshark)
    return CheckResult(
        name=name,
        records=sum(r.records for r in results),
        packets=sum(r.packets for r in results),
        valid_packets=sum(r.valid_packets for r in results),
        flows=sum(r.flows for r in results),
        valid_flows=sum(r.valid_flows for r in results),
        rules=tuple(
            RuleResult(
                rule=counts[0].rule,
                judged=sum(c.judged for c in counts),
                broken=sum(c.broken for c in counts),
                unjudged=dict(sum((Counter(c.unjudged) for c in counts), Counter())),
                examples=tuple(
                    _within(result.name, example)
                    for result, count in zip(results, counts, strict=True)
                    for example in count.examples
                )[:EXAMPLES],
            )
            for counts in zip(*(r.rules for r in results), strict=True)
        ),
        faults=tuple(fault for r in results for fault in r.faults),
        tshark=tshark,
        tshark_faults=tuple(fault for r in results for fault in r.tshark_faults),
        agreement=_summed_agreement(results),
    )


def _within(name: str, where: str) -> str:
    return f"{name}, {where}" if name else where


def _summed_agreement(results: list[CheckResult]) -> Agreement | None:
    agreements = [(result.name, result.agreement) for result in results if result.agreement]
    if not agreements:
        return None
    counts = sum((Counter(a.disagreements) for _, a in agreements), Counter())
    examples: dict[str, str] = {}
    for name, agreement in agreements:
        for what, where in agreement.examples.items():
            examples.setdefault(what, _within(name, where))
    return Agreement(
        packets=sum(a.packets for _, a in agreements),
        both_valid=sum(a.both_valid for _, a in agreements),
        both_invalid=sum(a.both_invalid for _, a in agreements),
        offloaded=sum(a.offloaded for _, a in agreements),
        disagreements=dict(counts.most_common()),
        examples=examples,
    )
