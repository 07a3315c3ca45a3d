"""The verbs that run on Ray: each carries its configuration out, shows how far it is, prints the
result and returns the exit code.
"""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from netdiff_ray.cli.arguments import parsed
from netdiff_ray.cli.results import EXIT_OK, EXIT_PARTIAL, in_tunnels
from netdiff_ray.config import (
    AugmentConfig,
    EncodeConfig,
    EvaluateConfig,
    GenerateConfig,
    PipelineConfig,
    SceneConfig,
    ServeConfig,
    SubmitConfig,
    TrainConfig,
)
from netdiff_ray.errors import ConfigError
from netdiff_ray.progress import ProgressLine

if TYPE_CHECKING:
    from netdiff_ray.evaluate.report import Report
    from netdiff_ray.storage.manifest import Dataset


@contextmanager
def _progress(verb: str, unit: str, *, as_json: bool) -> Iterator[ProgressLine]:
    """Yield a progress whose line ends with the block."""
    progress = ProgressLine(verb, unit, as_json=as_json)
    try:
        yield progress
    finally:
        progress.end()


def _note(line: str) -> None:
    """Print what was chosen for a run."""
    print(f"netdiff: {line}", file=sys.stderr)


def encode_verb(config: EncodeConfig) -> int:
    return _exit_code(_show_encode(config), config.max_quarantined_share)


def _show_encode(config: EncodeConfig) -> "Dataset":
    """Encode, show the progress and print the result."""
    from netdiff_ray.distributed.encode import encode
    from netdiff_ray.encoding.encode import DUPLICATE_UNIT, TUNNEL_UNIT, UNLABELLED_UNIT

    with _progress("encoded", "parts", as_json=config.json) as progress:

        def report(done: int, parts: int, sums: dict[str, int]) -> None:
            more = f"{sums['flows']:,} flows, {sums['packets']:,} packets" if sums else ""
            progress(done, parts, more, sums)

        dataset = encode(config, report, lambda text: print(text, file=sys.stderr))
    counts = dataset.manifest["counts"]
    tunnels = {
        unit.removeprefix(TUNNEL_UNIT): count
        for unit, count in counts.items()
        if unit.startswith(TUNNEL_UNIT)
    }
    left_out = [
        f"{count:,} {unit}"
        for unit, count in counts.items()
        if unit == DUPLICATE_UNIT or unit.startswith(UNLABELLED_UNIT)
    ]
    if config.json:
        print(json.dumps({"target": _public(config.target), **counts}))
    else:
        print(
            f"{_public(config.target)}: {counts['captures']:,} captures, "
            f"{counts['flows']:,} flows, {counts['windows']:,} windows, "
            f"{counts['packets']:,} packets of "
            f"{len(counts['labels'])} labels; {counts['quarantined']:,} captures in "
            f"_quarantine.jsonl{in_tunnels(tunnels)}" + "".join(f"; {text}" for text in left_out)
        )
    return dataset


def _losses(trained: dict) -> str:
    """Return the losses at the end of a training, and why it stopped, as text."""
    text = f"loss {trained['loss']:.4f}"
    if "heldout_loss" in trained:
        text += f", held out {trained['heldout_loss']:.4f} after step {trained['best_step']:,}"
    return f"{text}; stopped by: {trained['stopped']}"


def train_verb(config: TrainConfig) -> int:
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

        adapter = train(config, report, _note)
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


def generate_verb(config: GenerateConfig) -> int:
    return _exit_code(_show_generate(config), config.max_quarantined_share)


def _flows_report(progress: ProgressLine) -> Callable[[int, int, dict[str, int | str]], None]:
    """Return what shows how many flows are drawn."""

    def report(done: int, flows: int, details: dict[str, int | str]) -> None:
        more = f"{details['packets']:,} packets" if details["flows_repaired"] else ""
        if details["waits_for"]:
            more = f"waits: {details['waits_for']}"
        progress(done, flows, more, details)

    return report


def _show_generate(config: GenerateConfig) -> "Dataset":
    """Generate, show the progress and print the result."""
    from netdiff_ray.distributed.generate import generate

    with _progress("generated", "flows", as_json=config.json) as progress:
        dataset = generate(config, _flows_report(progress), _note)
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


def scene_verb(config: SceneConfig) -> int:
    """Make a scene, show the progress and print the result."""
    from netdiff_ray.scene_job import scene

    with _progress("generated", "flows", as_json=config.json) as progress:
        result = scene(config, _flows_report(progress), _note)
    written, target = result.written, _public(config.target)
    captures = [name for name in written.files if name.endswith(".pcap")]
    if config.json:
        counts = {"flows": written.num_flows, "packets": written.num_packets}
        counts |= {"hosts": written.num_hosts, "captures": len(captures)}
        print(json.dumps({"target": target, **counts}))
    else:
        quarantined = result.flows.manifest["counts"]["quarantined"]
        print(
            f"{target}: {written.num_flows:,} flows, {written.num_packets:,} packets of "
            f"{written.num_hosts:,} hosts in {len(captures):,} captures; labels.csv, hosts.csv, "
            f"incidents.csv; {quarantined:,} flows in flows/quarantine.jsonl"
        )
    return _exit_code(result.flows, config.max_quarantined_share)


def _exit_code(dataset: "Dataset", max_quarantined_share: float) -> int:
    return EXIT_PARTIAL if dataset.quarantined_share > max_quarantined_share else EXIT_OK


def serve_verb(config: ServeConfig) -> int:
    from netdiff_ray.distributed.serve.run import serve_until_stopped

    if not config.adapters:
        raise ConfigError("name at least one adapter, or a folder of adapters")
    serve_until_stopped(config, lambda line: print(line, flush=True))
    return EXIT_OK


def evaluate_verb(config: EvaluateConfig) -> int:
    return _report_code(_show_evaluate(config))


def _show_evaluate(config: EvaluateConfig) -> "Report":
    """Evaluate, show the progress and print the result."""
    from netdiff_ray.distributed.evaluate import evaluate
    from netdiff_ray.evaluate.report import headline_table

    current: dict[str, ProgressLine] = {}

    def show(what: str, done: int, count: int) -> None:
        if what not in current:
            end()
            current[what] = ProgressLine(what, "tasks", as_json=config.json)
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


def pipeline_verb(config: PipelineConfig) -> int:
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
    captures = sorted(name for name in generated.files if name.endswith((".pcap", ".pcapng")))
    if "://" not in dataset and captures:
        steps.append(f"tshark -r {shlex.quote(f'{dataset}/{captures[0]}')}    (or Wireshark)")
    return "\n".join(
        ["", "Made:", *(f"  {folder:{width}}  {words}" for folder, words in folders),
         "Next:", *(f"  {step}" for step in steps)]
    )  # fmt: skip


def augment_verb(config: AugmentConfig) -> int:
    from netdiff_ray.augmentation.run import augment
    from netdiff_ray.pipeline import PipelineJobs

    jobs = PipelineJobs(train=_show_train, generate=_show_generate, evaluate=_show_evaluate)
    with _progress("written", "parts", as_json=config.json) as progress:
        result = augment(config, progress, _note, jobs)
    counts = result.augmented.manifest["counts"]
    where = _public(config.folder("augmented"))
    if config.json:
        print(json.dumps({"target": where, **counts}))
    else:
        labels = counts["labels"].items()
        of_each = ", ".join(f"{label} {n['flows']:,} ({n['synthetic']:,})" for label, n in labels)
        print(
            f"{where}: {counts['flows']:,} flows, {counts['synthetic']:,} of them drawn (column "
            f"synthetic), {counts['windows']:,} windows; by label, drawn in brackets: {of_each}"
        )
        if result.report is not None:
            print(_gain(result.report))
    code = _exit_code(result.generated, config.max_quarantined_share)
    return max(code, EXIT_OK if result.report is None else _report_code(result.report))


def _gain(report: "Report") -> str:
    """Return what a report says of training with drawn flows besides real ones, as text."""
    augmentation = report.sections["augmentation"]
    if not augmentation["available"]:
        return f"whether the drawn flows help a classifier is not known: {augmentation['reason']}"
    gain, error, recalls = augmentation["headline"].values()
    helps = (
        "help" if gain - error > 0 else "harm" if gain + error < 0 else "make no sure difference"
    )
    return (
        f"added to the real flows the drawn ones {helps}: balanced accuracy {gain:+.3f} "
        f"(\u00b1 {error:.3f}) in the worst view, share recognised of the labels that were drawn "
        f"{recalls:+.3f}; the report has the curve"
    )


def submit_verb(config: SubmitConfig) -> int:
    from netdiff_ray.distributed.submit import submit

    if config.verb[0] not in _SUBMITTED:
        raise ConfigError(f"submit {config.verb[0]}: one of {', '.join(_SUBMITTED)}")
    parsed(list(config.verb))
    return submit(config)


_SUBMITTED = (
    "encode", "train", "generate", "scene", "evaluate", "augment", "pipeline", "verify", "info",
)  # fmt: skip
