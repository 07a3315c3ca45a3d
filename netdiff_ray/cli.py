"""`netdiff`: one verb per job over the dataclasses of `config`."""

import json
import sys
import time
from typing import Annotated

import tyro

import netdiff_ray
from netdiff_ray.config import (
    CheckConfig,
    ConvertConfig,
    EncodeConfig,
    InspectConfig,
    RepairConfig,
    VerifyConfig,
)
from netdiff_ray.errors import NetdiffError

Verb = Annotated[
    Annotated[ConvertConfig, tyro.conf.subcommand("convert")]
    | Annotated[InspectConfig, tyro.conf.subcommand("inspect")]
    | Annotated[EncodeConfig, tyro.conf.subcommand("encode")]
    | Annotated[RepairConfig, tyro.conf.subcommand("repair")]
    | Annotated[VerifyConfig, tyro.conf.subcommand("verify")]
    | Annotated[CheckConfig, tyro.conf.subcommand("check")],
    tyro.conf.ConsolidateSubcommandArgs,
]

EXIT_OK, EXIT_PARTIAL, EXIT_ERROR = 0, 1, 2
"""Done; done in part, with the reason on standard error; nothing done."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"netdiff {netdiff_ray.__version__}")
        return EXIT_OK
    try:
        config = tyro.cli(Verb, prog="netdiff", args=arguments, description=netdiff_ray.__doc__)
        return _JOBS[type(config)](config)
    except NetdiffError as error:
        print(f"netdiff: {error}", file=sys.stderr)
        return EXIT_ERROR
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_PARTIAL
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"netdiff: {where}{error.strerror}", file=sys.stderr)
        return EXIT_ERROR


def _convert(config: ConvertConfig) -> int:
    from netdiff_ray.convert import convert

    done = convert(config)
    first = done.written[0]
    many = f" to {done.written[-1].name} ({len(done.written):,} files)" * (len(done.written) > 1)
    skipped = f", {done.num_skipped:,} records skipped" * (done.num_skipped > 0)
    print(f"{first}{many}: {done.num_packets:,} packets{skipped}")
    if done.fault:
        print(f"netdiff: read in part: {done.fault}", file=sys.stderr)
        return EXIT_PARTIAL
    return EXIT_OK


def _inspect(config: InspectConfig) -> int:
    from netdiff_ray.inspect import Inspection, captures_in, inspect_capture, tables

    total = Inspection("total")
    inspections = []
    for path in captures_in(config.captures):
        inspections.append(inspect_capture(path, config.idle_timeout_s))
        total.add(inspections[-1])
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


def _repair(config: RepairConfig) -> int:
    from netdiff_ray.repair_files import repair_files

    done = repair_files(config)
    print(
        f"{config.target}: {done.num_flows:,} flows, {done.num_packets:,} packets, repair "
        f"distance {done.distance:.4f}"
        + f", {done.num_skipped_shards:,} shards were there already"
        * (done.num_skipped_shards > 0)
    )
    for record in done.quarantine:
        print(f"netdiff: set aside {record['flow_id']}: {record['reason']}", file=sys.stderr)
    return EXIT_PARTIAL if done.quarantined_share > config.allow else EXIT_OK


def _verify(config: VerifyConfig) -> int:
    from netdiff_ray.dataset import open_place, verify

    result = verify(open_place(config.dataset))
    for problem in result.problems:
        print(f"netdiff: {problem}", file=sys.stderr)
    for name in result.unlisted:
        print(f"netdiff: {name} is not in the manifest and does not count", file=sys.stderr)
    state = "whole" if not result.problems else f"{len(result.problems):,} problems"
    print(
        f"{config.dataset}: {state}; {result.num_files:,} files, {result.num_flows:,} flows, "
        f"{result.num_packets:,} packets"
    )
    return EXIT_PARTIAL if result.problems else EXIT_OK


def _encode(config: EncodeConfig) -> int:
    from netdiff_ray.distributed.encode import encode

    begin = time.monotonic()

    def progress(done: int, parts: int, sums: dict[str, int]) -> None:
        elapsed = time.monotonic() - begin
        print(
            f"encoded {done:,} of {parts:,} parts, {sums['flows']:,} flows, "
            f"{sums['packets'] / elapsed:,.0f} packets/s",
            file=sys.stderr,
        )

    manifest = encode(config, progress).manifest
    counts = manifest["counts"]
    if config.json:
        print(json.dumps({"target": config.target, **counts}))
    else:
        print(
            f"{config.target}: {counts['captures']:,} captures, {counts['flows']:,} flows, "
            f"{counts['windows']:,} windows, {counts['packets']:,} packets of "
            f"{len(counts['labels'])} labels; {counts['quarantined']:,} captures in "
            "quarantine.jsonl"
        )
    num_captures = counts["captures"] + counts["quarantined"]
    return EXIT_PARTIAL if counts["quarantined"] > config.allow * num_captures else EXIT_OK


def _check(config: CheckConfig) -> int:
    from netdiff_ray.evaluate.compliance import check_capture, summed
    from netdiff_ray.evaluate.compliance_text import compliance_table

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
    return EXIT_OK if total.invalid_share() <= config.allow else EXIT_PARTIAL


_JOBS = {
    CheckConfig: _check,
    ConvertConfig: _convert,
    EncodeConfig: _encode,
    InspectConfig: _inspect,
    RepairConfig: _repair,
    VerifyConfig: _verify,
}

if __name__ == "__main__":
    sys.exit(main())
