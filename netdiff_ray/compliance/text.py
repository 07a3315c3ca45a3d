"""The result of a check as a text table for a terminal."""

from netdiff_ray.compliance.result import CheckResult, RuleResult
from netdiff_ray.compliance.rules import ERROR


def compliance_table(total: CheckResult) -> str:
    """Return each rule with its counts, then the shares that are valid, then tshark's counts.

    Rules that nothing could break are left out, and notes that nothing breaks.
    """
    rows = [("rule", "severity", "judged", "broken", "kept", "not judged", "source")]
    shown = [r for r in total.rules if r.judged + sum(r.unjudged.values())]
    rows += [_row(r) for r in shown if r.broken or r.rule.severity == ERROR]
    lines = [_line(row, [max(map(len, column)) for column in zip(*rows, strict=True)])
             for row in rows]  # fmt: skip
    broken = [r for r in shown if r.broken]
    if broken:
        lines.append("")
        lines += [f"{r.rule.name}: {r.rule.says}; so not {r.examples[0]}" for r in broken]
    lines.append("")
    for what, valid, count in (
        ("packets", total.valid_packets, total.packets),
        ("flows", total.valid_flows, total.flows),
    ):
        lines.append(f"valid {what}: {valid:,} of {count:,} ({_share(valid, count)})")
    return "\n".join(lines + _tshark_lines(total))


def _row(result: RuleResult) -> tuple[str, ...]:
    rule = result.rule
    unjudged = ", ".join(f"{n:,} {state}" for state, n in sorted(result.unjudged.items()))
    kept = _share(result.judged - result.broken, result.judged)
    counts = (f"{result.judged:,}", f"{result.broken:,}")
    return (rule.name, rule.severity, *counts, kept, unjudged, rule.source)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = zip(row, widths, range(len(row)), strict=True)
    return "  ".join(c.rjust(w) if k in (2, 3, 4) else c.ljust(w) for c, w, k in cells).rstrip()


def _share(count: int, whole: int) -> str:
    """Return a percentage that is 100 % only of all."""
    if not whole:
        return "-"
    percent = 100 * count / whole
    return f"{percent:.2f} %" if count == whole or percent < 99.995 else f"{percent:.4f} %"


def _tshark_lines(total: CheckResult) -> list[str]:
    tshark, agreement = total.tshark, total.agreement
    unread = [f"tshark did not read all: {fault}" for fault in total.tshark_faults]
    if tshark is None or agreement is None:
        return unread or ["tshark: not asked, or not installed"]
    analysis = ", ".join(f"{n:,} {name}" for name, n in sorted(tshark.analysis.items())) or "none"
    agreed = agreement.both_valid + agreement.both_invalid
    lines = [
        *unread,
        f"tshark {tshark.version}: {tshark.errors:,} errors, {tshark.warnings:,} warnings, "
        f"{tshark.bad_checksums:,} bad checksums, {tshark.malformed:,} malformed",
        f"tshark's sequence analysis: {analysis}",
        f"the two agree on {agreed:,} of {agreement.packets:,} packets "
        f"({_share(agreed, agreement.packets)}), {agreement.offloaded:,} offloaded checksums "
        "set aside",
    ]
    return lines + [
        f"  {count:,} {what} ({agreement.examples[what]})"
        for what, count in agreement.disagreements.items()
    ]
