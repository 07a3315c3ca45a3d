"""All sections of an evaluation, each a function of the summaries of the flow sources."""

import platform
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import TypeVar

import netdiff_ray
from netdiff_ray.evaluate import pictures, utility
from netdiff_ray.evaluate.baseline import HEADLINE as BASELINE
from netdiff_ray.evaluate.baseline import (
    Baseline,
    baseline_part,
    baseline_section,
    is_generated,
    plan_baseline,
)
from netdiff_ray.evaluate.compliance import HEADLINE as COMPLIANCE
from netdiff_ray.evaluate.conversation import (
    ConversationCounts,
    conversation_section,
    count_conversations,
    merge_counts,
)
from netdiff_ray.evaluate.coverage import HEADLINE as COVERAGE
from netdiff_ray.evaluate.coverage import coverage
from netdiff_ray.evaluate.discrimination import HEADLINE as DISCRIMINATION
from netdiff_ray.evaluate.discrimination import discrimination
from netdiff_ray.evaluate.dpi import Recognised, dpi_section, recognise
from netdiff_ray.evaluate.fidelity import HEADLINE as FIDELITY
from netdiff_ray.evaluate.fidelity import fidelity
from netdiff_ray.evaluate.flow_blocks import FlowBlock
from netdiff_ray.evaluate.privacy import HEADLINE as PRIVACY
from netdiff_ray.evaluate.privacy import privacy
from netdiff_ray.evaluate.report import SECTIONS, Report
from netdiff_ray.evaluate.report_section import not_available
from netdiff_ray.evaluate.scene import scene_section
from netdiff_ray.evaluate.scene_flows import SceneFlows, read_scene
from netdiff_ray.evaluate.sources import (
    Source,
    drawn_with,
    kept_drawings,
    source_blocks,
    why_no_packets,
)
from netdiff_ray.evaluate.summary import Sides, Summary, merge, summarise

SALTS = {"real": 0, "synthetic": 1, "train": 2, "drawn": 3, "random": 4}
"""The salt with which each source is summed up."""
HEADLINES = {
    "fidelity": FIDELITY, "discrimination": DISCRIMINATION, "coverage": COVERAGE,
    "privacy": PRIVACY,
}  # fmt: skip
"""The sections that `measure` computes, and their headlines."""
DEFAULT_SEEDS = 3
Read = TypeVar("Read")

Flows = Source | Summary | Iterable[FlowBlock]
"""A source of flows, its blocks, or what they sum up to (with its salt of SALTS)."""
RunTasks = Callable[[utility.UtilitySplit, list[utility.Task]], list[utility.TaskResult]]


def evaluate(
    real: Flows,
    synthetic: Flows,
    train: Flows | None = None,
    drawn: Flows | None = None,
    *,
    adapter: str | None = None,
    compliance: dict | None = None,
    seeds: int = DEFAULT_SEEDS,
    run_tasks: RunTasks | None = None,
) -> Report:
    """Return the report on synthetic flows.

    What cannot be computed is marked not available, with its reason. Conversations and what
    tools take flows for are read from captures, which `real` and `synthetic` then hold.

    Args:
        real: real flows that the model was not trained on.
        synthetic: generated flows.
        train: flows that the model was trained on; privacy needs them.
        drawn: what the model drew, before repair; what the dataset of the synthetic flows has kept
            unless given.
        adapter: folder or URI of the adapter that drew the synthetic flows, for the baseline; the
            one that their dataset names unless given.
        compliance: that section, as `compliance_section` makes it.
        seeds: runs of each model of the utility section.
        run_tasks: trains the models of the utility section; `utility.run_tasks` on one thread
            unless given.

    Raises:
        NetdiffError: a source cannot be read, or its layout lacks what is compared.
    """
    if drawn is None and isinstance(synthetic, Source):
        drawn = kept_drawings(synthetic)
    given = {"real": real, "synthetic": synthetic, "train": train, "drawn": drawn}
    given = {name: flows for name, flows in given.items() if flows is not None}
    sides = Sides(**{name: _summary(flows, SALTS[name]) for name, flows in given.items()})
    baseline = None
    if isinstance(synthetic, Source) and is_generated(synthetic):
        baseline = plan_baseline(synthetic, adapter)
    if isinstance(baseline, Baseline):
        random, counts = _made_baseline(baseline)
        sides = sides._replace(random=random)
    run_tasks = run_tasks or utility.run_tasks
    split = utility_split(sides)
    results = [] if isinstance(split, str) else run_tasks(split, utility.tasks(seeds))
    sections = {name: measure(name, sides) for name in HEADLINES}
    sections["utility"] = utility.utility_section(split, results)
    read = {"real": real, "synthetic": synthetic}
    conversations = [_from_captures(n, flows, _conversations) for n, flows in read.items()]
    sections["conversation"] = conversation_section(*conversations)
    sections["scene"] = scene_section(
        *(_from_captures(name, flows, _scene) for name, flows in read.items())
    )
    sections["dpi"] = dpi_section(
        *(_from_captures(name, flows, _recognised) for name, flows in read.items())
    )
    sections["compliance"] = compliance or not_available("the packets were not checked", COMPLIANCE)
    if isinstance(baseline, str):
        sections["baseline"] = not_available(baseline, BASELINE)
    elif baseline is not None:
        trained = {}
        for name, source in (("drawn", sides.drawn), ("random", sides.random)):
            if source is not None:
                other = split_of_source(split, source)
                tasks = utility.source_tasks(seeds)
                trained[name] = other if isinstance(other, str) else run_tasks(other, tasks)
        random_conversation = conversation_section(conversations[0], counts)
        sections["baseline"] = baseline_section(sides, sections, trained, random_conversation)
    uris = {name: flows.uri for name, flows in given.items() if isinstance(flows, Source)}
    made = drawn_with(synthetic) if isinstance(synthetic, Source) else {}
    return report(sides, sections, uris, {"seeds": seeds}, made)


def _summary(flows: Flows, salt: int) -> Summary:
    if isinstance(flows, Summary):
        return flows
    return summarise(source_blocks(flows) if isinstance(flows, Source) else flows, salt=salt)


def _from_captures(name: str, flows: Flows, read: Callable[[str, Source], Read]) -> Read | str:
    """Return what is read from the captures of a source, or why it has none."""
    if not isinstance(flows, Source):
        return f"the {name} flows were not given as a source that holds packets"
    return why_no_packets(name, flows) or read(name, flows)


def _made_baseline(baseline: Baseline) -> tuple[Summary, ConversationCounts]:
    salt = SALTS["random"]
    summary, counts = summarise([], salt=salt), []
    for plan in baseline.shards:
        of_part, counted = baseline_part(baseline, plan, salt=salt)
        summary = merge(summary, of_part)
        counts.append(counted)
    return summary, merge_counts(counts)


def _conversations(name: str, source: Source) -> ConversationCounts:
    return count_conversations(source, salt=SALTS[name])


def _scene(_: str, source: Source) -> SceneFlows:
    return read_scene(source)


def _recognised(_: str, source: Source) -> Recognised:
    return recognise(source)


def measure(name: str, sides: Sides) -> dict:
    """Return one of the sections of HEADLINES."""
    if reason := _empty_sources(sides):
        return not_available(reason, HEADLINES[name])
    if name == "fidelity":
        return fidelity(sides.real, sides.synthetic, sides.drawn)
    if name == "privacy":
        return privacy(sides.real, sides.synthetic, sides.train)
    if name == "discrimination":
        return discrimination(sides.real, sides.synthetic, sides.train)
    return coverage(sides.real, sides.synthetic)


def utility_split(sides: Sides) -> utility.UtilitySplit | str:
    """Return what the models of the utility section train and test on, or why they cannot."""
    return _empty_sources(sides) or utility.utility_split(sides.real, sides.synthetic, sides.train)


def split_of_source(
    split: utility.UtilitySplit | str, source: Summary
) -> utility.UtilitySplit | str:
    """Return what models train on instead of the synthetic flows, or why they cannot."""
    return split if isinstance(split, str) else utility.split_of_source(split, source)


def report(
    sides: Sides,
    sections: Mapping[str, dict],
    uris: Mapping[str, str],
    settings: dict,
    drawn_by: Mapping[str, str | int | None] | None = None,
) -> Report:
    """Return the report of all sections, with its pictures.

    Args:
        sides: real and synthetic flows, and those beside them.
        sections: by name, those of SECTIONS that there are.
        uris: where sources were read from, as the user named them.
        settings: that the report shall remember.
        drawn_by: adapter and seed of the synthetic flows; unknown unless given.
    """
    return Report(
        sections={name: sections[name] for name in SECTIONS if name in sections},
        sources={
            name: {
                "source": uris.get(name),
                "flows": summary.total_flows,
                "packets": summary.num_packets,
                "labels": dict(sorted(summary.num_flows.items())),
                "sampled": len(summary.sample),
                "notes": sorted(summary.notes),
            }
            for name, summary in sides.named().items()
        },
        settings=settings,
        made=made_with(drawn_by or {}),
        notes=_label_notes(sides.real, sides.synthetic),
        pictures=_pictures(sections, sides.real, sides.synthetic),
    )


def _empty_sources(sides: Sides) -> str:
    """Return that the real or the synthetic source has no flows, or "" if both have."""
    compared = {"real": sides.real, "synthetic": sides.synthetic}
    empty = [name for name, summary in compared.items() if not summary.total_flows]
    return f"the {' and the '.join(empty)} source has no flows" if empty else ""


def _label_notes(real: Summary, synthetic: Summary) -> list[str]:
    notes = []
    for words, ours, theirs in (("real", real, synthetic), ("synthetic", synthetic, real)):
        alone = sorted(set(ours.labels) - set(theirs.labels))
        if alone:
            notes.append(f"labels of the {words} flows only, not compared: {', '.join(alone)}")
    return notes


def _pictures(
    sections: Mapping[str, dict], real: Summary, synthetic: Summary
) -> list[pictures.Picture]:
    drawn = []
    if sections["fidelity"]["available"]:
        drawn += pictures.overlays(real.sample, synthetic.sample)
        distances = sections["fidelity"]["feature_distances"]
        drawn += pictures.overlays_by_label(real.sample, synthetic.sample, distances)
        drawn.append(pictures.divergence_map(sections["fidelity"]["field_divergence"]))
    if sections.get("scene", {}).get("available"):
        drawn += pictures.volumes(sections["scene"]["volume"])
    if sections["utility"]["available"]:
        drawn += pictures.confusion_matrices(sections["utility"]["confusion"])
    if sections["discrimination"]["available"]:
        drawn.append(pictures.telling_fields(sections["discrimination"]["tables"][1]["rows"]))
    return drawn + pictures.rasters(real.sample, synthetic.sample)


def made_with(drawn_by: Mapping[str, str | int | None]) -> dict:
    """Return when and with what a report and its synthetic flows were made."""
    libraries = ("numpy", "scipy", "scikit-learn")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "netdiff_ray": netdiff_ray.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in libraries},
        },
        "adapter": drawn_by.get("adapter"),
        "seed": drawn_by.get("seed"),
    }
