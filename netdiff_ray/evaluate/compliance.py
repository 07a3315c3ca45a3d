"""The compliance section of a report: the captures of a source, checked."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.fs as pafs

from netdiff_ray.compliance.check import check_capture
from netdiff_ray.compliance.result import Agreement, CheckResult, RuleResult, summed
from netdiff_ray.compliance.tshark import Tshark
from netdiff_ray.evaluate.report_section import not_available, section, table
from netdiff_ray.evaluate.sources import Unit, evenly_spaced
from netdiff_ray.storage.store import Store

HEADLINE = ("valid_packets", "valid_flows", "tshark_errors")
TSHARK_CAPTURES = 200
"""Most captures that tshark judges: it takes a quarter of a second to start for each."""
_FAULTS_SHOWN = 10


def captures_for_tshark(captures: Sequence[Unit]) -> frozenset[str]:
    """Return names of the captures that tshark judges too: all, or TSHARK_CAPTURES of them."""
    return evenly_spaced(captures, TSHARK_CAPTURES)


def check_captures(
    store: Store, captures: Sequence[Unit], with_tshark: frozenset[str]
) -> CheckResult:
    """Check captures of a store and sum the results, under the captures' names in it.

    Args:
        with_tshark: names of those that tshark shall judge too, where it is installed.
    """
    return summed((_check(store, unit.name, unit.name in with_tshark) for unit in captures),
                  name="")  # fmt: skip


def _check(store: Store, name: str, with_tshark: bool) -> CheckResult:
    """Check a capture, by way of a copy if the store is not a local folder."""
    if isinstance(store.filesystem, pafs.LocalFileSystem):
        return check_capture(store.path(name), name=name, with_tshark=with_tshark)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "capture")
        try:
            with (
                store.filesystem.open_input_file(store.path(name)) as file,
                open(copy, "wb") as target,
            ):
                shutil.copyfileobj(file, target)
        except FileNotFoundError:
            pass  # the check reports that it cannot be opened
        return check_capture(copy, name=name, with_tshark=with_tshark)


def compliance_section(total: CheckResult, num_unjudged: int = 0) -> dict:
    """Return the section from the checks of all captures of the synthetic source.

    Args:
        num_unjudged: number of captures that tshark was not to judge.
    """
    if not total.packets:
        reason = "; ".join(["no IP packet in the captures", *total.faults[:_FAULTS_SHOWN]])
        return not_available(reason, HEADLINE)
    tables = _rule_tables(total)
    notes = [f"not read to its end: {fault}" for fault in total.faults[:_FAULTS_SHOWN]]
    if len(total.faults) > _FAULTS_SHOWN:
        notes.append(f"and {len(total.faults) - _FAULTS_SHOWN:,} faults more")
    notes += [f"not read by tshark: {fault}" for fault in total.tshark_faults[:_FAULTS_SHOWN]]
    if total.tshark and total.agreement:
        tables += _tshark_tables(total.tshark, total.agreement)
        if num_unjudged:
            notes.append(
                f"tshark was asked about {TSHARK_CAPTURES:,} captures, evenly spaced among "
                f"{num_unjudged + TSHARK_CAPTURES:,}; the checker judged all"
            )
    elif not total.tshark_faults:
        notes.append(
            "tshark is not installed where the captures were checked; its counts are missing"
        )
    values = total.as_dict()
    return section(
        total.headline(),
        notes=notes,
        tables=tables,
        rules=values["rules"],
        tshark=values["tshark"],
        agreement=values["agreement"],
    )


def _rule_tables(total: CheckResult) -> list[dict]:
    """Return the tables of what is valid, of the broken rules, and of every rule."""
    judged = [r for r in total.rules if r.judged + sum(r.unjudged.values())]
    tables = [
        table(
            "Valid packets and flows",
            ["what", "judged", "valid", "share"],
            [
                ["packets", total.packets, total.valid_packets,
                 total.valid_packets / total.packets],
                ["flows", total.flows, total.valid_flows,
                 total.valid_flows / total.flows if total.flows else None],
            ],
            "By this project's own checker, which shares no code with what made the packets. A "
            "packet is valid if it breaks no rule of severity error; a flow if it breaks none and "
            "all its packets are valid.",
        )
    ]  # fmt: skip
    broken = sorted((r for r in judged if r.broken), key=lambda r: -r.broken / r.judged)
    if broken:
        tables.append(
            table(
                "Rules that were broken",
                ["rule", "severity", "judged", "broken", "share that keeps it", "it says",
                 "not so"],
                [[*_counts(r), r.rule.says, r.examples[0] if r.examples else None]
                 for r in broken],
                "Notes are of what is legal but unusual.",
            )
        )  # fmt: skip
    tables.append(
        table(
            "Every rule",
            ["rule", "severity", "judged", "broken", "share that keeps it", "not judged", "source"],
            [[*_counts(r), sum(r.unjudged.values()), r.rule.source] for r in judged],
            "Not judged: where the capture does not hold what the rule is about (bytes cut off, "
            "checksums left to the network card). Rules that nothing could break are left out.",
        )
    )
    return tables


def _counts(result: RuleResult) -> list:
    return [result.rule.name, result.rule.severity, result.judged, result.broken, result.passed]


def _tshark_tables(tshark: Tshark, agreement: Agreement) -> list[dict]:
    """Return the tables of tshark's counts, and of where it and the checker differ."""
    counts = [
        ["expert items: errors", tshark.errors],
        ["expert items: warnings", tshark.warnings],
        ["of them bad checksums", tshark.bad_checksums],
        ["of them malformed", tshark.malformed],
        *(["sequence analysis: " + name.replace("_", " "), count]
          for name, count in sorted(tshark.analysis.items())),
    ]  # fmt: skip
    tables = [
        table(
            f"What tshark {tshark.version} says of the same captures", ["what", "count"], counts,
            "Of the link, network and transport headers. The sequence analysis speaks of what a "
            "network lost, not of invalid packets.",
        ),
        table(
            "The checker and tshark",
            ["packets", "both say valid", "both say invalid", "agreement",
             "offloaded checksums set aside"],
            [[f"{agreement.packets:,}", agreement.both_valid, agreement.both_invalid,
              agreement.share, agreement.offloaded]],
        ),
    ]  # fmt: skip
    if agreement.disagreements:
        tables.append(
            table(
                "Where the two differ",
                ["who objects to what", "packets", "first"],
                [[what, count, agreement.examples[what]]
                 for what, count in agreement.disagreements.items()],
            )
        )  # fmt: skip
    return tables
