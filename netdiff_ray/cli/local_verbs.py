"""The verbs that run in this process: each carries its configuration out, prints the result and
returns the exit code.
"""

import json
import sys

from netdiff_ray.cli.results import EXIT_ERROR, EXIT_OK, EXIT_PARTIAL, in_tunnels
from netdiff_ray.config import (
    CheckBaseConfig,
    CheckConfig,
    ConvertConfig,
    InfoConfig,
    InspectConfig,
    LabelsConfig,
    RepairConfig,
    VerifyConfig,
)


def convert_verb(config: ConvertConfig) -> int:
    from netdiff_ray.local.convert import convert

    done = convert(config)
    first = done.written[0]
    many = f" to {done.written[-1].name} ({len(done.written):,} files)" * (len(done.written) > 1)
    skipped = f", {done.num_skipped:,} records skipped" * (done.num_skipped > 0)
    columns = "".join(f", {n:,} {name} columns left out" for name, n in done.left_out.items())
    print(
        f"{first}{many}: {done.num_packets:,} packets{skipped}{columns}{in_tunnels(done.tunnels)}"
    )
    if done.fault:
        print(f"netdiff: read in part: {done.fault}", file=sys.stderr)
        return EXIT_PARTIAL
    return EXIT_OK


def inspect_verb(config: InspectConfig) -> int:
    from netdiff_ray.local.inspect import Inspection, captures_in, inspect_capture, tables

    total = Inspection("total")
    captures, left_out = captures_in(config.captures)
    inspections = [
        inspect_capture(path, config.idle_timeout_s, decapsulate=config.decapsulate)
        for path in captures
    ]
    inspections += left_out
    for inspection in inspections:
        total.add(inspection)
    if config.json:
        print(
            json.dumps({"captures": [i.as_dict() for i in inspections], "total": total.as_dict()})
        )
    else:
        print(tables(inspections, total))
    for fault in total.faults:
        print(f"netdiff: {fault}", file=sys.stderr)
    unreadable = sum(not i.form for i in inspections)
    if unreadable == len(inspections):
        return EXIT_ERROR
    return EXIT_PARTIAL if total.faults else EXIT_OK


def labels_verb(config: LabelsConfig) -> int:
    from netdiff_ray.local.labels import labels, labels_text

    report = labels(config)
    print(json.dumps(report.as_dict()) if config.json else labels_text(report))
    for fault in [*report.faults, *filter(None, [report.doubt])]:
        print(f"netdiff: {fault}", file=sys.stderr)
    return EXIT_PARTIAL if report.doubt or report.faults or not report.num_labelled else EXIT_OK


def info_verb(config: InfoConfig) -> int:
    from netdiff_ray.local.info import info, info_text

    content = info(config.path)
    print(json.dumps(content) if config.json else info_text(content))
    return EXIT_OK


def repair_verb(config: RepairConfig) -> int:
    from netdiff_ray.local.repair_files import repair_files

    done = repair_files(config)
    print(
        f"{config.target}: {done.num_flows:,} flows, {done.num_packets:,} packets, repair "
        f"distance {done.distance:.4f}"
        + f", {done.num_skipped_shards:,} shards were there already" * (done.num_skipped_shards > 0)
        + "".join(f", {name} columns of {n:,} files left out" for name, n in done.left_out.items())
    )
    for record in done.quarantine:
        print(f"netdiff: quarantined {record['flow_id']}: {record['reason']}", file=sys.stderr)
    return EXIT_PARTIAL if done.quarantined_share > config.max_quarantined_share else EXIT_OK


def verify_verb(config: VerifyConfig) -> int:
    from netdiff_ray.storage.store import open_store, public_uri
    from netdiff_ray.storage.verify import verify

    result = verify(open_store(config.dataset))
    for problem in result.problems:
        print(f"netdiff: {problem}", file=sys.stderr)
    for name in result.unlisted:
        print(f"netdiff: {name} is not in the manifest and does not count", file=sys.stderr)
    state = "whole" if not result.problems else f"{len(result.problems):,} problems"
    print(
        f"{public_uri(config.dataset)}: {state}; {result.num_files:,} files, "
        f"{result.num_flows:,} flows, {result.num_packets:,} packets"
    )
    return EXIT_PARTIAL if result.problems else EXIT_OK


def check_verb(config: CheckConfig) -> int:
    from netdiff_ray.compliance.check import check_capture
    from netdiff_ray.compliance.result import summed
    from netdiff_ray.compliance.text import compliance_table

    parts = [check_capture(path) for path in config.captures]
    total = summed(parts)
    if config.json:
        print(json.dumps({"captures": [p.as_dict() for p in parts], "total": total.as_dict()}))
    else:
        print(compliance_table(total))
    for fault in total.faults:
        print(f"netdiff: {fault}", file=sys.stderr)
    for part in parts:
        if not part.packets and not part.faults:
            print(f"netdiff: {part.name}: no IP packet to judge", file=sys.stderr)
    if total.faults or not all(part.packets for part in parts):
        return EXIT_ERROR
    return EXIT_OK if total.invalid_share() <= config.max_invalid_share else EXIT_PARTIAL


def check_base_verb(config: CheckBaseConfig) -> int:
    from netdiff_ray.local.check_base import base_table, check_base
    from netdiff_ray.storage.store import public_uri

    def report(step: int, loss: float) -> None:
        print(f"tuned {step:,} of {config.tune_decoder:,} steps, loss {loss:.4f}", file=sys.stderr)

    check = check_base(config, report)
    if config.json:
        heights = {"heights": [r._asdict() for r in check.heights]}
        if check.before is not None:
            heights["before"] = [r._asdict() for r in check.before]
        print(json.dumps({"base": config.base, **heights}))
    elif check.before is None:
        print(base_table(check.heights))
    else:
        print(f"with the base's decoder\n{base_table(check.before)}")
        print(f"with the tuned decoder, now in {public_uri(config.adapter)}")
        print(base_table(check.heights))
    kept = all(r.wrong_share <= config.max_wrong_share and not r.lost for r in check.heights)
    return EXIT_OK if kept else EXIT_PARTIAL
