"""The compliance part of a report: the captures of a side checked, and what is said of it."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.fs as pafs

from netdiff_ray.compliance.check import (
    Agreement,
    Compliance,
    RuleResult,
    check_capture,
    summed,
)
from netdiff_ray.compliance.tshark import Tshark
from netdiff_ray.evaluate.report_section import not_available, part, table
from netdiff_ray.evaluate.sources import Unit
from netdiff_ray.packets.container import COMPRESSIONS
from netdiff_ray.storage.store import Store

HEADLINE = ("valid_packets", "valid_flows", "tshark_errors")
TSHARK_CAPTURES = 200
"""Most captures that tshark is asked about: it takes a quarter of a second to start for each."""
_FAULTS_SHOWN = 10


def asked_of_tshark(captures: Sequence[Unit]) -> frozenset[str]:
    """Names of the captures that tshark judges too: all, or TSHARK_CAPTURES evenly spaced."""
    count = len(captures)
    kept = min(count, TSHARK_CAPTURES)
    return frozenset(captures[k * count // kept].name for k in range(kept))


def check_units(place: Store, captures: Sequence[Unit], asked: frozenset[str]) -> Compliance:
    """What captures of a place keep and break, summed; they are called as they are there.

    Args:
        asked: names of those that tshark shall judge too, where it is installed.
    """
    return summed((_check(place, unit.name, unit.name in asked) for unit in captures), name="")


def _check(place: Store, name: str, with_tshark: bool) -> Compliance:
    """One capture; where the checker cannot read it as it lies, a copy for as long."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "capture")
        try:
            file = place.filesystem.open_input_file(place.path(name))
        except FileNotFoundError:
            return check_capture(copy, name=name)  # which says so
        with file:
            first = file.read(6)
            file.seek(0)
            opener = next(
                (opener for magic, (kind, opener) in COMPRESSIONS.items()
                 if kind != "gzip" and first.startswith(magic)),
                None,
            )  # fmt: skip
            if opener is None and isinstance(place.filesystem, pafs.LocalFileSystem):
                return check_capture(place.path(name), name=name, with_tshark=with_tshark)
            with open(copy, "wb") as target:
                shutil.copyfileobj(opener(file) if opener else file, target)
        return check_capture(copy, name=name, with_tshark=with_tshark)


def compliance_part(total: Compliance, unasked: int = 0) -> dict:
    """The part from what was found in all captures of the synthetic side.

    Args:
        unasked: number of captures that tshark was not to judge.
    """
    if not total.packets:
        reason = "; ".join(["no IP packet in the captures", *total.faults[:_FAULTS_SHOWN]])
        return not_available(reason, HEADLINE)
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
    notes = [f"not read to its end: {fault}" for fault in total.faults[:_FAULTS_SHOWN]]
    if len(total.faults) > _FAULTS_SHOWN:
        notes.append(f"and {len(total.faults) - _FAULTS_SHOWN:,} faults more")
    if total.tshark and total.agreement:
        tables += _beside(total.tshark, total.agreement)
        if unasked:
            notes.append(
                f"tshark was asked about {TSHARK_CAPTURES:,} captures, evenly spaced among "
                f"{unasked + TSHARK_CAPTURES:,}; the checker judged all"
            )
    else:
        notes.append(
            "tshark is not installed where the captures were checked; its counts are missing"
        )
    facts = total.as_dict()
    return part(
        total.headline(),
        notes=notes,
        tables=tables,
        rules=facts["rules"],
        tshark=facts["tshark"],
        agreement=facts["agreement"],
    )


def _counts(result: RuleResult) -> list:
    return [result.rule.name, result.rule.severity, result.judged, result.broken, result.passed]


def _beside(tshark: Tshark, agreement: Agreement) -> list[dict]:
    """What tshark says of the same captures, and where the two differ."""
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
              agreement.share, agreement.set_aside]],
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
