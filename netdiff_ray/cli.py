"""`netdiff`: one verb per job over the dataclasses of `config`."""

import functools
import io
import json
import operator
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import tyro

import netdiff_ray
from netdiff_ray.config import (
    CheckConfig,
    ConvertConfig,
    EncodeConfig,
    EvaluateConfig,
    GenerateConfig,
    InfoConfig,
    InspectConfig,
    PipelineConfig,
    RepairConfig,
    ServeConfig,
    SubmitConfig,
    TrainConfig,
    VerifyConfig,
)
from netdiff_ray.errors import ConfigError, NetdiffError
from netdiff_ray.progress import Progress

if TYPE_CHECKING:
    from netdiff_ray.evaluate.report import Report
    from netdiff_ray.storage.manifest import Dataset

VERBS = {
    "pipeline": PipelineConfig,
    "encode": EncodeConfig,
    "train": TrainConfig,
    "generate": GenerateConfig,
    "evaluate": EvaluateConfig,
    "submit": SubmitConfig,
    "serve": ServeConfig,
    "info": InfoConfig,
    "verify": VerifyConfig,
    "check": CheckConfig,
    "inspect": InspectConfig,
    "convert": ConvertConfig,
    "repair": RepairConfig,
}

EXIT_OK, EXIT_PARTIAL, EXIT_ERROR = 0, 1, 2
"""Done; done in part, with the reason on standard error; nothing done."""
EXIT_STOPPED, EXIT_TERMINATED = 130, 143
"""Stopped by Ctrl-C; by SIGTERM, which Kubernetes, spot machines and `ray job stop` send."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    with _sigterm_as_ctrl_c() as terminated:
        code = _run(sys.argv[1:] if arguments is None else arguments)
    return EXIT_TERMINATED if terminated and code == EXIT_STOPPED else code


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[list[int]]:
    """Handle SIGTERM as Ctrl-C is in a block; yield a list that gets the signal.

    Who sends SIGTERM kills the process soon after: a second one does not disturb the clean-up.
    """
    terminated: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield terminated
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if terminated:
            return
        terminated.append(number)
        on_ctrl_c = signal.getsignal(signal.SIGINT)
        if not callable(on_ctrl_c):  # ignored, as in what shells start in the background
            raise KeyboardInterrupt
        on_ctrl_c(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(arguments: list[str]) -> int:
    """Run the command line; KeyboardInterrupt ends it with EXIT_STOPPED."""
    if arguments == ["--version"]:
        print(f"netdiff {netdiff_ray.__version__}")
        return EXIT_OK
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be of any bytes
        sys.stdout.reconfigure(errors="backslashreplace")
    config = None
    try:
        config = parsed(arguments)
        return _JOBS[type(config)](config)
    except NetdiffError as error:
        print(f"netdiff: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        how = "; run the same command again to go on" * isinstance(config, _RESUMING)
        print(f"\nnetdiff: stopped{how}", file=sys.stderr)
        return EXIT_STOPPED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_PARTIAL
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"netdiff: {where}{error.strerror or error}", file=sys.stderr)
        return EXIT_ERROR


def parsed(arguments: list[str]) -> object:
    """Return the configuration that a command line means."""
    verb, *rest = arguments or [""]
    if verb in VERBS:
        rest = _submit_flags_first(rest) if verb == "submit" else rest
        return tyro.cli(VERBS[verb], prog=f"netdiff {verb}", args=rest)
    first_lines = {
        name: tyro.conf.subcommand(name, description=(config.__doc__ or "").split("\n\n")[0])
        for name, config in VERBS.items()
    }
    verbs = [Annotated[config, first_lines[name]] for name, config in VERBS.items()]
    every = functools.reduce(operator.or_, verbs)
    return tyro.cli(every, prog="netdiff", args=arguments, description=netdiff_ray.__doc__)


def _submit_flags_first(arguments: list[str]) -> list[str]:
    """Return the flags of `submit`, wherever they stand, then `--`, then the verb and its
    flags."""
    flags, others = [], []
    rest = iter(arguments)
    for word in rest:
        name, equals, _ = word.partition("=")
        if name in ("--address", "--working-dir"):
            flags += [word] if equals else [word, *[next(rest, "")]]
        elif word in ("-h", "--help") and not others:
            flags.append(word)
        else:
            others.append(word)
    return [*flags, "--", *others] if others else flags


@contextmanager
def _progress(verb: str, unit: str, *, as_json: bool) -> Iterator[Progress]:
    """Yield a progress whose line ends with the block."""
    progress = Progress(verb, unit, as_json=as_json)
    try:
        yield progress
    finally:
        progress.end()


def _convert(config: ConvertConfig) -> int:
    from netdiff_ray.local.convert import convert

    done = convert(config)
    first = done.written[0]
    many = f" to {done.written[-1].name} ({len(done.written):,} files)" * (len(done.written) > 1)
    skipped = f", {done.num_skipped:,} records skipped" * (done.num_skipped > 0)
    columns = "".join(f", {n:,} {name} columns left out" for name, n in done.left_out.items())
    print(
        f"{first}{many}: {done.num_packets:,} packets{skipped}{columns}{_in_tunnels(done.tunnels)}"
    )
    if done.fault:
        print(f"netdiff: read in part: {done.fault}", file=sys.stderr)
        return EXIT_PARTIAL
    return EXIT_OK


def _in_tunnels(counts: Mapping[str, int]) -> str:
    """Return the records by the kind of tunnel followed in them, as the end of a result."""
    kinds = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"; tunnels followed: {kinds}" if kinds else ""


def _inspect(config: InspectConfig) -> int:
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


def _info(config: InfoConfig) -> int:
    from netdiff_ray.local.info import info, info_text

    content = info(config.path)
    print(json.dumps(content) if config.json else info_text(content))
    return EXIT_OK


def _repair(config: RepairConfig) -> int:
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


def _verify(config: VerifyConfig) -> int:
    from netdiff_ray.storage.store import open_store
    from netdiff_ray.storage.verify import verify

    result = verify(open_store(config.dataset))
    for problem in result.problems:
        print(f"netdiff: {problem}", file=sys.stderr)
    for name in result.unlisted:
        print(f"netdiff: {name} is not in the manifest and does not count", file=sys.stderr)
    state = "whole" if not result.problems else f"{len(result.problems):,} problems"
    print(
        f"{_public(config.dataset)}: {state}; {result.num_files:,} files, "
        f"{result.num_flows:,} flows, {result.num_packets:,} packets"
    )
    return EXIT_PARTIAL if result.problems else EXIT_OK


def _encode(config: EncodeConfig) -> int:
    return _exit_code(_show_encode(config), config.max_quarantined_share)


def _show_encode(config: EncodeConfig) -> "Dataset":
    """Encode, show the progress and print the result."""
    from netdiff_ray.distributed.encode import encode
    from netdiff_ray.encoding.encode import TUNNEL_UNIT

    with _progress("encoded", "parts", as_json=config.json) as progress:

        def report(done: int, parts: int, sums: dict[str, int]) -> None:
            more = f"{sums['flows']:,} flows, {sums['packets']:,} packets" if sums else ""
            progress(done, parts, more, sums)

        dataset = encode(config, report)
    counts = dataset.manifest["counts"]
    tunnels = {
        unit.removeprefix(TUNNEL_UNIT): count
        for unit, count in counts.items()
        if unit.startswith(TUNNEL_UNIT)
    }
    if config.json:
        print(json.dumps({"target": _public(config.target), **counts}))
    else:
        print(
            f"{_public(config.target)}: {counts['captures']:,} captures, "
            f"{counts['flows']:,} flows, {counts['windows']:,} windows, "
            f"{counts['packets']:,} packets of "
            f"{len(counts['labels'])} labels; {counts['quarantined']:,} captures in "
            f"_quarantine.jsonl{_in_tunnels(tunnels)}"
        )
    return dataset


def _losses(trained: dict) -> str:
    """Return the losses at the end of a training, and why it stopped, as text."""
    text = f"loss {trained['loss']:.4f}"
    if "heldout_loss" in trained:
        text += f", held out {trained['heldout_loss']:.4f} after step {trained['best_step']:,}"
    return f"{text}; stopped by: {trained['stopped']}"


def _train(config: TrainConfig) -> int:
    _show_train(config)
    return EXIT_OK


def _show_train(config: TrainConfig) -> dict:
    """Train, show the progress, print the result and return the adapter's metadata."""
    from netdiff_ray.distributed.train import train

    reported = []
    with _progress("trained", "steps", as_json=config.json) as progress:

        def report(values: dict) -> None:
            reported.append(values["step"])
            more = f"loss {values['loss']:.4f}" if "loss" in values else ""
            if "heldout_loss" in values:
                more += f", held out {values['heldout_loss']:.4f}"
            if "windows_per_s" in values:
                more += f", {values['windows_per_s']:,.1f} windows/s"
            if "bit_error" in values:
                more = f"bit error of drawn rasters {values['bit_error']:.4f}"
            progress(values["step"], values["last_step"], more, values)

        adapter = train(config, report)
    trained, labels = adapter["trained"], adapter["labels"]
    if config.json:
        print(json.dumps({"target": _public(config.target), **trained, "labels": sorted(labels)}))
    else:
        services = [s for label in labels.values() for s in label["services"].values()]
        windows = sum(service["num_windows"] for service in services)
        print(
            f"{_public(config.target)}: adapter of {adapter['base']} for {len(labels)} labels, "
            f"{trained['steps']:,} steps on {windows:,} windows, {_losses(trained)}"
            + "; it was finished already"
            * (not reported)
        )
    return adapter


def _generate(config: GenerateConfig) -> int:
    return _exit_code(_show_generate(config), config.max_quarantined_share)


def _show_generate(config: GenerateConfig) -> "Dataset":
    """Generate, show the progress and print the result."""
    from netdiff_ray.distributed.generate import generate

    with _progress("generated", "flows", as_json=config.json) as progress:

        def report(done: int, flows: int, details: dict[str, int | str]) -> None:
            more = f"{details['packets']:,} packets" if details["flows_repaired"] else ""
            if details["waits_for"]:
                more = f"waits: {details['waits_for']}"
            progress(done, flows, more, details)

        dataset = generate(config, report)
    counts = dataset.manifest["counts"]
    if config.json:
        print(json.dumps({"target": _public(config.target), **counts}))
    else:
        print(
            f"{_public(config.target)}: {counts['flows']:,} flows, "
            f"{counts['packets']:,} packets of {len(counts['labels'])} labels, "
            f"repair distance {counts['repair_distance']:.4f}; "
            f"{counts['quarantined']:,} flows in quarantine.jsonl"
        )
    return dataset


def _exit_code(dataset: "Dataset", max_quarantined_share: float) -> int:
    return EXIT_PARTIAL if dataset.quarantined_share > max_quarantined_share else EXIT_OK


def _serve(config: ServeConfig) -> int:
    from netdiff_ray.distributed.serve.run import serve_until_stopped

    if not config.adapters:
        raise ConfigError("name at least one adapter, or a folder of adapters")
    serve_until_stopped(config, lambda line: print(line, flush=True))
    return EXIT_OK


def _check(config: CheckConfig) -> int:
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


def _evaluate(config: EvaluateConfig) -> int:
    return _report_code(_show_evaluate(config))


def _show_evaluate(config: EvaluateConfig) -> "Report":
    """Evaluate, show the progress and print the result."""
    from netdiff_ray.distributed.evaluate import evaluate
    from netdiff_ray.evaluate.report import headline_table

    current: dict[str, Progress] = {}

    def show(what: str, done: int, count: int) -> None:
        if what not in current:
            end()
            current[what] = Progress(what, "tasks", as_json=config.json)
        current[what](done, count)

    def end() -> None:
        for progress in current.values():
            progress.end()

    try:
        report = evaluate(config, show)
    finally:
        end()
    sections = report.sections
    if config.json:
        headlines = {name: section["headline"] for name, section in sections.items()}
        print(json.dumps({"out": _public(config.out), **headlines}))
    else:
        print(headline_table(sections))
        print(report.verdict["words"])
        print(f"{_public(config.out)}: report.html, report.json")
    for name, section in sections.items():
        if not section["available"]:
            print(f"netdiff: {name}: not available: {section['reason']}", file=sys.stderr)
    return report


def _report_code(report: "Report") -> int:
    whole = all(section["available"] for section in report.sections.values())
    return EXIT_OK if whole else EXIT_PARTIAL


def _public(uri: str) -> str:
    """Return a path or URI as it may be printed."""
    from netdiff_ray.storage.store import public_uri

    return public_uri(uri)


def _pipeline(config: PipelineConfig) -> int:
    from netdiff_ray.pipeline import PipelineJobs, estimate, run_pipeline

    shown = {"encode": _show_encode, "train": _show_train, "generate": _show_generate}
    if config.heldout is not None:
        shown["evaluate"] = _show_evaluate
    announced = {
        name: _announced(f"-- {number} of {len(shown)}: {name}", job)
        for number, (name, job) in enumerate(shown.items(), 1)
    }
    print(f"-- {estimate(config)}", file=sys.stderr)
    result = run_pipeline(config, PipelineJobs(**announced))
    if result.stopped_after:
        folder = {"encode": "encoded", "generate": "dataset"}[result.stopped_after]
        print(
            f"netdiff: stopped after {result.stopped_after}: more was quarantined than "
            f"--max-quarantined-share {config.max_quarantined_share:g} (see the quarantine in "
            f"{_public(config.folder(folder))}); to go on with the rest, run the same command "
            "again with a larger --max-quarantined-share",
            file=sys.stderr,
        )
        return EXIT_PARTIAL
    if not config.json:
        print(_results_of(config, result.generated))
    return EXIT_OK if result.report is None else _report_code(result.report)


def _announced(line: str, job: Callable) -> Callable:
    """Return a job that prints a line to standard error before it begins."""

    def announced(config: object) -> object:
        print(line, file=sys.stderr)
        return job(config)

    return announced


def _results_of(config: PipelineConfig, generated: "Dataset") -> str:
    """Return what a pipeline has made, and what to open next, as text."""
    rows = [
        ("encoded", "the captures as nPrint windows, in Parquet"),
        ("adapter", "what the model has learnt; netdiff generate draws more with it"),
        ("dataset", "the drawn flows: label=<label>/part-*.pcap, an index, a manifest"),
    ]
    if config.heldout is not None:
        rows.append(("report", "how good they are: open report.html in a browser"))
    folders = [(_public(config.folder(name)), words) for name, words in rows]
    width = max(len(folder) for folder, _ in folders)
    dataset = _public(config.folder("dataset"))
    steps = ["netdiff verify " + dataset, "netdiff info " + dataset]
    captures = sorted(name for name in generated.files if name.endswith(".pcap"))
    if "://" not in dataset and captures:
        steps.append(f"tshark -r {shlex.quote(f'{dataset}/{captures[0]}')}    (or Wireshark)")
    return "\n".join(
        ["", "Made:", *(f"  {folder:{width}}  {words}" for folder, words in folders),
         "Next:", *(f"  {step}" for step in steps)]
    )  # fmt: skip


def _submit(config: SubmitConfig) -> int:
    from netdiff_ray.distributed.submit import submit

    if config.verb[0] not in _SUBMITTED:
        raise ConfigError(f"submit {config.verb[0]}: one of {', '.join(_SUBMITTED)}")
    parsed(list(config.verb))
    return submit(config)


_SUBMITTED = ("encode", "train", "generate", "evaluate", "pipeline", "verify", "info")
_RESUMING = EncodeConfig | TrainConfig | GenerateConfig | PipelineConfig | RepairConfig
_JOBS = {
    CheckConfig: _check,
    ConvertConfig: _convert,
    EncodeConfig: _encode,
    EvaluateConfig: _evaluate,
    GenerateConfig: _generate,
    InfoConfig: _info,
    InspectConfig: _inspect,
    PipelineConfig: _pipeline,
    RepairConfig: _repair,
    ServeConfig: _serve,
    SubmitConfig: _submit,
    TrainConfig: _train,
    VerifyConfig: _verify,
}

if __name__ == "__main__":
    sys.exit(main())
