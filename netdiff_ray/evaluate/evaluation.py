"""All parts of an evaluation, one after another."""

from collections.abc import Callable, Iterable

from netdiff_ray.evaluate import pictures, utility
from netdiff_ray.evaluate.coverage import HEADLINE as COVERAGE
from netdiff_ray.evaluate.coverage import coverage
from netdiff_ray.evaluate.discrimination import HEADLINE as DISCRIMINATION
from netdiff_ray.evaluate.discrimination import discrimination
from netdiff_ray.evaluate.fidelity import HEADLINE as FIDELITY
from netdiff_ray.evaluate.fidelity import fidelity
from netdiff_ray.evaluate.flowset import FlowBlock
from netdiff_ray.evaluate.part import not_available
from netdiff_ray.evaluate.privacy import HEADLINE as PRIVACY
from netdiff_ray.evaluate.privacy import privacy
from netdiff_ray.evaluate.report import Report
from netdiff_ray.evaluate.sides import Side, side_blocks
from netdiff_ray.evaluate.summary import Summary, summarise

SALTS = {"real": 0, "synthetic": 1, "train": 2, "drawn": 3}
"""The salt with which each side is summed up."""
COMPLIANCE = ("valid_packets", "valid_flows", "tshark_errors")
_DEFAULT_SEEDS = 3

Flows = Side | Summary | Iterable[FlowBlock]
"""One side: where it lies, its blocks, or what they sum up to (with its salt of SALTS)."""


def evaluate(
    real: Flows,
    synthetic: Flows,
    train: Flows | None = None,
    drawn: Flows | None = None,
    *,
    compliance: dict | None = None,
    seeds: int = _DEFAULT_SEEDS,
    run_tasks: Callable[[utility.Arena, list[utility.Task]], list[utility.Done]] | None = None,
) -> Report:
    """The report on synthetic flows.

    What cannot be computed is marked not available, with its reason.

    Args:
        real: real flows that the model was not trained on.
        synthetic: generated flows.
        train: flows that the model was trained on; privacy needs them.
        drawn: what the model drew, before repair.
        compliance: that part, as `part` makes it.
        seeds: runs of each model of the utility part.
        run_tasks: what trains the models of the utility part: `utility.run_tasks`, here and
            on one thread, unless given. The tasks are independent, so that threads or a
            cluster may share them.

    Raises:
        NetdiffError: a side cannot be read, or its layout lacks what is compared.
    """
    given = {"real": real, "synthetic": synthetic, "train": train, "drawn": drawn}
    given = {name: flows for name, flows in given.items() if flows is not None}
    sums = {name: _summary(flows, SALTS[name]) for name, flows in given.items()}
    sides = {
        name: {
            "source": given[name].uri if isinstance(given[name], Side) else None,
            "flows": side.total_flows,
            "packets": side.num_packets,
            "labels": dict(sorted(side.num_flows.items())),
            "sampled": len(side.sample),
            "notes": sorted(side.notes),
        }
        for name, side in sums.items()
    }
    parts = _parts(sums, seeds, run_tasks or utility.run_tasks)
    parts["compliance"] = compliance or not_available("the packets were not checked", COMPLIANCE)
    return Report(
        parts=parts,
        sides=sides,
        settings={"seeds": seeds},
        notes=_label_notes(sums["real"], sums["synthetic"]),
        pictures=_pictures(parts, sums["real"], sums["synthetic"]),
    )


def _summary(flows: Flows, salt: int) -> Summary:
    if isinstance(flows, Summary):
        return flows
    return summarise(side_blocks(flows) if isinstance(flows, Side) else flows, salt=salt)


def _parts(
    sums: dict[str, Summary],
    seeds: int,
    run_tasks: Callable[[utility.Arena, list[utility.Task]], list[utility.Done]],
) -> dict[str, dict]:
    real, synthetic, train = sums["real"], sums["synthetic"], sums.get("train")
    empty = [name for name in ("real", "synthetic") if not sums[name].total_flows]
    if empty:
        reason = f"the {' and the '.join(empty)} side has no flows"
        headlines = {
            "fidelity": FIDELITY, "utility": utility.HEADLINE, "discrimination": DISCRIMINATION,
            "coverage": COVERAGE, "privacy": PRIVACY,
        }  # fmt: skip
        return {name: not_available(reason, headline) for name, headline in headlines.items()}
    flows = utility.arena(real, synthetic, train)
    done, left_out = [], []
    if not isinstance(flows, str):
        done = run_tasks(flows, utility.tasks(seeds))
        left_out = sorted({*real.labels, *synthetic.labels} - set(flows.labels))
    return {
        "fidelity": fidelity(real, synthetic, sums.get("drawn")),
        "utility": utility.report(flows, done, left_out),
        "discrimination": discrimination(real, synthetic),
        "coverage": coverage(real, synthetic),
        "privacy": privacy(real, synthetic, train),
    }


def _label_notes(real: Summary, synthetic: Summary) -> list[str]:
    notes = []
    for words, ours, theirs in (("real", real, synthetic), ("synthetic", synthetic, real)):
        alone = sorted(set(ours.labels) - set(theirs.labels))
        if alone:
            notes.append(f"labels on the {words} side only, not compared: {', '.join(alone)}")
    return notes


def _pictures(parts: dict[str, dict], real: Summary, synthetic: Summary) -> list[pictures.Picture]:
    drawn = []
    if parts["fidelity"]["available"]:
        drawn += pictures.overlays(real.sample, synthetic.sample)
        drawn.append(pictures.divergence_map(parts["fidelity"]["field_divergence"]))
    if parts["utility"]["available"]:
        drawn += pictures.confusion_matrices(parts["utility"]["confusion"])
    if parts["discrimination"]["available"]:
        drawn.append(pictures.telling_fields(parts["discrimination"]["tables"][1]["rows"]))
    return drawn + pictures.rasters(real.sample, synthetic.sample)
