"""Flow sources to a report: Ray tasks read, check, train and measure; summaries alone travel.

sources -> groups of units -> summarise -> merge -> utility_split -> models --+
                                             |---> fidelity, ... -------------+-> report
synthetic captures -> check --------------------------------------------------+
real and synthetic captures -> count conversations, scene, recognise -> merge +
plans of the dataset's flows -> random bits -> repair -> summarise, count ----+
"""

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby

import ray
from ray import ObjectRef
from ray.exceptions import RayTaskError

import netdiff_ray
from netdiff_ray.compliance.result import summed
from netdiff_ray.config import EvaluateConfig
from netdiff_ray.config.content import run_identity
from netdiff_ray.distributed.cluster import connected, require_cpus
from netdiff_ray.encoding.encode import plan_parts
from netdiff_ray.errors import ConfigError, DataError, NetdiffError
from netdiff_ray.evaluate import evaluation, utility
from netdiff_ray.evaluate.augmentation import augmentation_section
from netdiff_ray.evaluate.baseline import HEADLINE as BASELINE
from netdiff_ray.evaluate.baseline import (
    Baseline,
    baseline_part,
    baseline_section,
    is_generated,
    plan_baseline,
)
from netdiff_ray.evaluate.comparison import compare, read_other
from netdiff_ray.evaluate.compliance import (
    HEADLINE,
    captures_for_tshark,
    check_captures,
    compliance_section,
)
from netdiff_ray.evaluate.conversation import (
    conversation_section,
    count_conversations,
    merge_counts,
)
from netdiff_ray.evaluate.dpi import (
    dpi_section,
    inspected_captures,
    merge_recognised,
    recognise,
)
from netdiff_ray.evaluate.report import Report, read_report
from netdiff_ray.evaluate.report_section import not_available
from netdiff_ray.evaluate.scene import scene_section
from netdiff_ray.evaluate.scene_flows import merge_scenes, read_scene
from netdiff_ray.evaluate.sources import (
    ENCODED,
    Source,
    drawn_with,
    kept_drawings,
    open_source,
    source_blocks,
    why_no_packets,
)
from netdiff_ray.evaluate.summary import Sides, merge, summarise
from netdiff_ray.storage.store import open_store, public_uri

Progress = Callable[[str, int, int], None]
"""Called with what is being done (read and checked, measured), tasks done, and tasks in all."""

_FIRST = "read and checked"
_COMPARED = ("real", "synthetic")
_READ_BYTES = 16 << 20
_CHECKED_BYTES = 4 << 20


def evaluate(config: EvaluateConfig, progress: Progress = lambda *_: None) -> Report:
    """Return the report on `config.synthetic`, and write it into `config.out`.

    The report does not depend on how the work was distributed. An existing report of the
    same sources, as they are now, is read (without its pictures) instead.

    Raises:
        NetdiffError: a source cannot be read, nothing can be compared, or no CPUs.
    """
    sources = _sources(config)
    inputs = {name: {"source": s.uri, "sha256": s.digest()} for name, s in sources.items()}
    other = read_other(config.against) if config.against is not None else None
    if other is not None:
        inputs["against"] = {"source": config.against, "sha256": hashlib.sha256(other).hexdigest()}
    baseline = None
    if is_generated(sources["synthetic"]):
        baseline = plan_baseline(sources["synthetic"], config.adapter)
        inputs["baseline"] = baseline if isinstance(baseline, str) else "made"
    made_of = {"netdiff_ray": netdiff_ray.__version__, **run_identity("evaluate", config, inputs)}
    existing = read_report(config.out, made_of)
    if existing is not None:
        return existing
    open_store(config.out).require_writable()
    with connected(config.address):
        require_cpus(1)
        try:
            report = _evaluate(sources, baseline, config, progress)
            if other is not None:
                against = compare(report.sections, json.loads(other), public_uri(config.against))
                report = replace(report, against=against)
        except RayTaskError as error:
            if isinstance(error.cause, NetdiffError):
                raise error.cause from None
            raise
    reasons = {section["reason"] for section in report.sections.values()}
    if not any(section["available"] for section in report.sections.values()):
        raise DataError(f"nothing can be compared: {'; '.join(sorted(reasons))}")
    report.write(config.out, made_of)
    return report


def _sources(config: EvaluateConfig) -> dict[str, Source]:
    named = {
        "real": config.real,
        "synthetic": config.synthetic,
        "train": config.train,
        "drawn": config.drawn,
    }
    labels = {"train": config.train_labels_csv}
    sources = {
        name: open_source(uri, labels.get(name)) for name, uri in named.items() if uri is not None
    }
    kept = kept_drawings(sources["synthetic"]) if "drawn" not in sources else None
    if kept is not None:
        sources["drawn"] = kept
    if "drawn" in sources and sources["drawn"].kind != ENCODED:
        raise ConfigError(
            f"drawn {config.drawn}: a {sources['drawn'].kind}; what a model drew, before repair, "
            "is an encoded dataset"
        )
    return sources


def _evaluate(
    sources: dict[str, Source],
    baseline: Baseline | str | None,
    config: EvaluateConfig,
    progress: Progress,
) -> Report:
    seeds = config.seeds
    summaries, sections, random_conversation = _read(sources, baseline, progress)
    sides = Sides(**summaries)
    splits = {"synthetic": _split.remote(*sides)}
    splits |= {
        name: _split_of_source.remote(splits["synthetic"], summaries[name])
        for name in ("drawn", "random")
        if isinstance(baseline, Baseline) and name in summaries
    }
    # The longest first, so that none runs alone at the end.
    tasks = deque((name, partial(_measure.remote, name, *sides)) for name in evaluation.HEADLINES)
    if config.augments:
        tasks.append(("augmentation", partial(_augmentation.remote, seeds, *sides)))
    for name, split in splits.items():
        order = utility.tasks(seeds) if name == "synthetic" else utility.source_tasks(seeds)
        for (_, model, _), group in groupby(order, lambda t: (t.view, t.model, t.share)):
            add = tasks.append if model == "forest" else tasks.appendleft
            add((name, partial(_train.remote, split, list(group))))
    trained, count = {name: [] for name in splits}, len(tasks)
    progress("measured", 0, count)
    for number, (what, (ref,)) in enumerate(_completed(tasks), 1):
        if what in trained:
            trained[what] += ray.get(ref)
        else:
            sections[what] = ray.get(ref)
        progress("measured", number, count)
    order = utility.tasks(seeds)
    for results in trained.values():
        results.sort(key=lambda result: order.index(result[0]))
    sections["utility"] = ray.get(_utility.remote(splits["synthetic"], trained.pop("synthetic")))
    if isinstance(baseline, str):
        sections["baseline"] = not_available(baseline, BASELINE)
    elif baseline is not None:
        refs = [splits[name] for name in trained]
        arguments = sections, trained, random_conversation, refs
        sections["baseline"] = ray.get(_baseline_section.remote(*arguments, *sides))
    uris = {name: source.uri for name, source in sources.items()}
    made = drawn_with(sources["synthetic"])
    return ray.get(_report.remote(sections, uris, {"seeds": seeds}, made, *sides))


def _read(
    sources: dict[str, Source], baseline: Baseline | str | None, progress: Progress
) -> tuple[dict[str, ObjectRef], dict[str, dict], dict | None]:
    """Return the summary of each source and of the baseline, the sections that are made from
    captures, and how the baseline's conversations compare."""
    tasks: deque = deque()
    for name, source in sources.items():
        for units in plan_parts(source.units, _READ_BYTES) or [()]:
            tasks.append((name, partial(_summarise.remote, source, units, evaluation.SALTS[name])))
    tasks.extend(_capture_tasks(sources))
    summaries: dict[str, list[ObjectRef]] = {name: [] for name in sources}
    if isinstance(baseline, Baseline):
        summaries["random"] = []
        ref, salt = ray.put(baseline), evaluation.SALTS["random"]
        tasks.extend(
            ("random", partial(_baseline_part.remote, ref, plan, salt)) for plan in baseline.shards
        )
    count, num_done = len(tasks), 0
    progress(_FIRST, 0, count)
    parts: dict[str, list] = defaultdict(list)
    for what, refs in _completed(tasks):
        if what not in summaries:
            parts[what].append(ray.get(refs[0]))
            num_done += 1
            progress(_FIRST, num_done, count)
            continue
        *counted, summary, is_merged = refs
        parts[f"count {what}"] += ray.get(counted)
        if not ray.get(is_merged):
            num_done += 1
            progress(_FIRST, num_done, count)
        summaries[what].append(summary)
        if len(summaries[what]) == 2:
            tasks.appendleft((what, partial(_merge.remote, *summaries[what])))
            summaries[what] = []
    real, synthetic = _merged(sources, parts, "count", merge_counts)
    sections = {
        "compliance": _compliance(sources["synthetic"], parts["check"]),
        "conversation": conversation_section(real, synthetic),
        "scene": scene_section(*_merged(sources, parts, "scene", merge_scenes)),
        "dpi": dpi_section(*_merged(sources, parts, "recognise", merge_recognised)),
    }
    random_conversation = None
    if "random" in summaries:
        random_conversation = conversation_section(real, merge_counts(parts["count random"]))
    return (
        {name: summary for name, (summary,) in summaries.items()}, sections, random_conversation
    )  # fmt: skip


def _capture_tasks(sources: dict[str, Source]) -> Iterator[tuple[str, Callable]]:
    """Yield (what, function that starts it) of the tasks that read captures for a section."""
    synthetic = sources["synthetic"]
    for_tshark = captures_for_tshark(synthetic.captures)
    for units in plan_parts(synthetic.captures, _CHECKED_BYTES):
        names = for_tshark & {unit.name for unit in units}
        yield "check", partial(_check.remote, synthetic.store, units, names)
    for name in _COMPARED:
        source = sources[name]
        for units in plan_parts(source.captures, _READ_BYTES):
            yield f"count {name}", partial(_count.remote, source, units, evaluation.SALTS[name])
            yield f"scene {name}", partial(_scene.remote, source, units)
        for units in plan_parts(inspected_captures(source), _CHECKED_BYTES):
            yield f"recognise {name}", partial(_recognise.remote, source, units)


def _compliance(synthetic: Source, checked: list) -> dict:
    """Return the section from the (first capture, result) of each check."""
    if not checked:
        reason = f"the synthetic source ({synthetic.kind}) holds no captures to check"
        return not_available(reason, HEADLINE)
    num_unjudged = len(synthetic.captures) - len(captures_for_tshark(synthetic.captures))
    in_order = [result for _, result in sorted(checked, key=lambda named: named[0])]
    return compliance_section(summed(in_order), num_unjudged)


def _merged(
    sources: dict[str, Source], parts: dict[str, list], what: str, merge_parts: Callable
) -> list:
    """Return what tasks read from the captures of both sources, or why a source has none."""
    return [
        why_no_packets(name, sources[name]) or merge_parts(parts[f"{what} {name}"])
        for name in _COMPARED
    ]


def _completed(tasks: deque) -> Iterator[tuple[str, list[ObjectRef]]]:
    """Yield (what, its results) of each task as it ends.

    `tasks`, of (what, function that starts it), may grow meanwhile. No more run at a time
    than the cluster has CPUs, so that results, which are merged as they come, do not pile up.
    """
    most = max(1, int(ray.cluster_resources()["CPU"]))
    under_way: dict[ObjectRef, tuple[str, list[ObjectRef]]] = {}
    while tasks or under_way:
        while tasks and len(under_way) < most:
            what, start = tasks.popleft()
            refs = start()
            refs = refs if isinstance(refs, list) else [refs]
            under_way[refs[-1]] = what, refs
        (done,), _ = ray.wait(list(under_way), num_returns=1, fetch_local=False)
        yield under_way.pop(done)


@ray.remote(num_returns=2)
def _summarise(source: Source, units, salt: int):
    return summarise(source_blocks(source, units), salt=salt), False


@ray.remote(num_returns=2)
def _merge(first, second):
    return merge(first, second), True


@ray.remote
def _check(store, captures, with_tshark):
    return captures[0].name, check_captures(store, captures, with_tshark)


@ray.remote
def _count(source, captures, salt):
    return count_conversations(source, captures, salt=salt)


@ray.remote
def _scene(source, captures):
    return read_scene(source, captures)


@ray.remote
def _recognise(source, captures):
    return recognise(source, captures)


@ray.remote
def _split(*sides):
    return evaluation.utility_split(Sides(*sides))


@ray.remote(num_returns=3)
def _baseline_part(baseline, plan, salt):
    summary, counted = baseline_part(baseline, plan, salt=salt)
    return counted, summary, False


@ray.remote
def _split_of_source(split, source):
    return evaluation.split_of_source(split, source)


@ray.remote
def _baseline_section(sections, trained, random_conversation, splits, *sides):
    reasons = dict(zip(trained, ray.get(splits), strict=True))
    trained = {
        name: reasons[name] if isinstance(reasons[name], str) else results
        for name, results in trained.items()
    }
    return baseline_section(Sides(*sides), sections, trained, random_conversation)


@ray.remote
def _train(split, chosen):
    return [] if isinstance(split, str) else utility.run_tasks(split, chosen)


@ray.remote
def _utility(split, results):
    return utility.utility_section(split, results)


@ray.remote
def _measure(name, *sides):
    return evaluation.measure(name, Sides(*sides))


@ray.remote
def _augmentation(seeds, *sides):
    given = Sides(*sides)
    return augmentation_section(given.real, given.synthetic, given.train, seeds)


@ray.remote
def _report(sections, uris, settings, made, *sides):
    return evaluation.report(Sides(*sides), sections, uris, settings, made)
