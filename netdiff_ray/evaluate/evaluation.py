"""All parts of an evaluation: each is a function of the sides' summaries, whoever runs it."""

from collections.abc import Callable, Iterable, Mapping

from netdiff_ray.evaluate import pictures, utility
from netdiff_ray.evaluate.compliance import HEADLINE as COMPLIANCE
from netdiff_ray.evaluate.coverage import HEADLINE as COVERAGE
from netdiff_ray.evaluate.coverage import coverage
from netdiff_ray.evaluate.discrimination import HEADLINE as DISCRIMINATION
from netdiff_ray.evaluate.discrimination import discrimination
from netdiff_ray.evaluate.fidelity import HEADLINE as FIDELITY
from netdiff_ray.evaluate.fidelity import fidelity
from netdiff_ray.evaluate.flowset import FlowBlock
from netdiff_ray.evaluate.privacy import HEADLINE as PRIVACY
from netdiff_ray.evaluate.privacy import privacy
from netdiff_ray.evaluate.report import PARTS, Report
from netdiff_ray.evaluate.report_section import not_available
from netdiff_ray.evaluate.sources import Source, source_blocks
from netdiff_ray.evaluate.summary import Summary, summarise

SALTS = {"real": 0, "synthetic": 1, "train": 2, "drawn": 3}
"""The salt with which each side is summed up."""
MEASURED = {
    "fidelity": FIDELITY, "discrimination": DISCRIMINATION, "coverage": COVERAGE,
    "privacy": PRIVACY,
}  # fmt: skip
"""The parts that `measure` computes, and their headlines."""
DEFAULT_SEEDS = 3

Sums = Mapping[str, Summary]
"""Summaries of the sides, real and synthetic at least, by name, each with its salt of SALTS."""
Flows = Source | Summary | Iterable[FlowBlock]
"""One side: where it lies, its blocks, or what they sum up to (with its salt of SALTS)."""


def evaluate(
    real: Flows,
    synthetic: Flows,
    train: Flows | None = None,
    drawn: Flows | None = None,
    *,
    compliance: dict | None = None,
    seeds: int = DEFAULT_SEEDS,
    run_tasks: Callable[[utility.Arena, list[utility.Task]], list[utility.Done]] | None = None,
) -> Report:
    """The report on synthetic flows.

    What cannot be computed is marked not available, with its reason.

    Args:
        real: real flows that the model was not trained on.
        synthetic: generated flows.
        train: flows that the model was trained on; privacy needs them.
        drawn: what the model drew, before repair.
        compliance: that part, as `compliance_part` makes it.
        seeds: runs of each model of the utility part.
        run_tasks: what trains the models of the utility part: `utility.run_tasks`, here and
            on one thread, unless given.

    Raises:
        NetdiffError: a side cannot be read, or its layout lacks what is compared.
    """
    given = {"real": real, "synthetic": synthetic, "train": train, "drawn": drawn}
    given = {name: flows for name, flows in given.items() if flows is not None}
    sums = {name: _summary(flows, SALTS[name]) for name, flows in given.items()}
    flows = arena(sums)
    done = []
    if not isinstance(flows, str):
        done = (run_tasks or utility.run_tasks)(flows, utility.tasks(seeds))
    parts = {name: measure(name, sums) for name in MEASURED}
    parts["utility"] = utility.report(flows, done)
    parts["compliance"] = compliance or not_available("the packets were not checked", COMPLIANCE)
    sources = {name: flows.uri for name, flows in given.items() if isinstance(flows, Source)}
    return report(sums, parts, sources, {"seeds": seeds})


def _summary(flows: Flows, salt: int) -> Summary:
    if isinstance(flows, Summary):
        return flows
    return summarise(source_blocks(flows) if isinstance(flows, Source) else flows, salt=salt)


def measure(name: str, sums: Sums) -> dict:
    """One of the parts MEASURED."""
    if empty := _empty_sides(sums):
        return not_available(empty, MEASURED[name])
    real, synthetic = sums["real"], sums["synthetic"]
    if name == "fidelity":
        return fidelity(real, synthetic, sums.get("drawn"))
    if name == "privacy":
        return privacy(real, synthetic, sums.get("train"))
    return {"discrimination": discrimination, "coverage": coverage}[name](real, synthetic)


def arena(sums: Sums) -> utility.Arena | str:
    """What the models of the utility part are trained and tested on, or why they cannot be."""
    return _empty_sides(sums) or utility.arena(sums["real"], sums["synthetic"], sums.get("train"))


def report(
    sums: Sums, parts: Mapping[str, dict], sources: Mapping[str, str], settings: dict
) -> Report:
    """The report of parts that are all there, with its pictures.

    Args:
        parts: by name, all of PARTS.
        sources: where sides were read from, as the user named it.
        settings: that the report shall remember.
    """
    real, synthetic = sums["real"], sums["synthetic"]
    return Report(
        parts={name: parts[name] for name in PARTS},
        sides={
            name: {
                "source": sources.get(name),
                "flows": side.total_flows,
                "packets": side.num_packets,
                "labels": dict(sorted(side.num_flows.items())),
                "sampled": len(side.sample),
                "notes": sorted(side.notes),
            }
            for name, side in sums.items()
        },
        settings=settings,
        notes=_label_notes(real, synthetic),
        pictures=_pictures(parts, real, synthetic),
    )


def _empty_sides(sums: Sums) -> str:
    """What to say where the real or the synthetic side has no flows; empty if both have."""
    empty = [name for name in ("real", "synthetic") if not sums[name].total_flows]
    return f"the {' and the '.join(empty)} side has no flows" if empty else ""


def _label_notes(real: Summary, synthetic: Summary) -> list[str]:
    notes = []
    for words, ours, theirs in (("real", real, synthetic), ("synthetic", synthetic, real)):
        alone = sorted(set(ours.labels) - set(theirs.labels))
        if alone:
            notes.append(f"labels on the {words} side only, not compared: {', '.join(alone)}")
    return notes


def _pictures(
    parts: Mapping[str, dict], real: Summary, synthetic: Summary
) -> list[pictures.Picture]:
    drawn = []
    if parts["fidelity"]["available"]:
        drawn += pictures.overlays(real.sample, synthetic.sample)
        drawn.append(pictures.divergence_map(parts["fidelity"]["field_divergence"]))
    if parts["utility"]["available"]:
        drawn += pictures.confusion_matrices(parts["utility"]["confusion"])
    if parts["discrimination"]["available"]:
        drawn.append(pictures.telling_fields(parts["discrimination"]["tables"][1]["rows"]))
    return drawn + pictures.rasters(real.sample, synthetic.sample)
