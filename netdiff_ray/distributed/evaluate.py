"""Two sides to a report: Ray tasks read, check, train and measure; sums alone travel.

sides -> parts of units -> summarise -> merge -> arena -> models --+
                                          |---> fidelity, ... -----+-> report
synthetic captures -> check --------------------------------------+
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby

import ray
from ray import ObjectRef
from ray.exceptions import RayTaskError

import netdiff_ray
from netdiff_ray.compliance.check import summed
from netdiff_ray.config import EvaluateConfig
from netdiff_ray.distributed.cluster import connected, require_cpus
from netdiff_ray.encoding.encode import plan_parts
from netdiff_ray.errors import ConfigError, DataError, NetdiffError
from netdiff_ray.evaluate import evaluation, utility
from netdiff_ray.evaluate.compliance import (
    HEADLINE,
    asked_of_tshark,
    check_units,
    compliance_part,
)
from netdiff_ray.evaluate.report import Report, read_report
from netdiff_ray.evaluate.report_section import not_available
from netdiff_ray.evaluate.sources import ENCODED, Source, open_source, source_blocks
from netdiff_ray.evaluate.summary import merge, summarise

Progress = Callable[[str, int, int], None]
"""Called with what is being done (read and checked, measured), tasks done, and tasks in all."""

_FIRST = "read and checked"
_READ_BYTES = 16 << 20
_CHECKED_BYTES = 4 << 20


def evaluate(config: EvaluateConfig, progress: Progress = lambda *_: None) -> Report:
    """The report on `config.synthetic`, written into `config.out`.

    The report does not depend on how the work was shared out. One that is there already, of
    the same sides as they are now, is read (without its pictures) and not made again.

    Raises:
        NetdiffError: a side cannot be read, nothing can be compared, or no CPUs.
    """
    sides = _sides(config)
    made_of = {
        "netdiff_ray": netdiff_ray.__version__,
        "seeds": config.seeds,
        **{name: {"source": side.uri, "sha256": side.digest()} for name, side in sides.items()},
    }
    there = read_report(config.out, made_of)
    if there is not None:
        return there
    with connected(config.address):
        require_cpus(1)
        try:
            report = _evaluate(sides, config.seeds, progress)
        except RayTaskError as error:
            if isinstance(error.cause, NetdiffError):
                raise error.cause from None
            raise
    reasons = {p["reason"] for p in report.parts.values()}
    if not any(p["available"] for p in report.parts.values()):
        raise DataError(f"nothing can be compared: {'; '.join(sorted(reasons))}")
    report.write(config.out, made_of)
    return report


def _sides(config: EvaluateConfig) -> dict[str, Source]:
    named = {
        "real": config.real,
        "synthetic": config.synthetic,
        "train": config.train,
        "drawn": config.drawn,
    }
    sides = {name: open_source(uri) for name, uri in named.items() if uri is not None}
    if "drawn" in sides and sides["drawn"].kind != ENCODED:
        raise ConfigError(
            f"--drawn {config.drawn}: a {sides['drawn'].kind}; what a model drew, before repair, "
            "is an encoded dataset"
        )
    return sides


def _evaluate(sides: dict[str, Source], seeds: int, progress: Progress) -> Report:
    sums, compliance = _read(sides, progress)
    arena = _arena.remote(**sums)
    order = utility.tasks(seeds)
    models = groupby(order, lambda task: (task.view, task.model, task.share))
    # The longest first, so that none is left alone at the end.
    tasks = deque((name, partial(_measure.remote, name, **sums)) for name in evaluation.MEASURED)
    for (_, model, _), some in models:
        add = tasks.append if model == "forest" else tasks.appendleft
        add(("utility", partial(_train.remote, arena, list(some))))
    parts, done, count = {"compliance": compliance}, [], len(tasks)
    progress("measured", 0, count)
    for number, (what, (ref,)) in enumerate(_completed(tasks), 1):
        if what == "utility":
            done += ray.get(ref)
        else:
            parts[what] = ray.get(ref)
        progress("measured", number, count)
    done.sort(key=lambda one: order.index(one[0]))
    parts["utility"] = ray.get(_utility.remote(arena, done))
    sources = {name: side.uri for name, side in sides.items()}
    return ray.get(_report.remote(parts, sources, {"seeds": seeds}, **sums))


def _read(sides: dict[str, Source], progress: Progress) -> tuple[dict[str, ObjectRef], dict]:
    """The summary of each side, and the compliance part of the synthetic one."""
    tasks: deque = deque()
    for name, side in sides.items():
        for units in plan_parts(side.units, _READ_BYTES) or [()]:
            tasks.append((name, partial(_summarise.remote, side, units, evaluation.SALTS[name])))
    synthetic = sides["synthetic"]
    asked = asked_of_tshark(synthetic.captures)
    for units in plan_parts(synthetic.captures, _CHECKED_BYTES):
        own = asked & {unit.name for unit in units}
        tasks.append(("checked", partial(_check.remote, synthetic.place, units, own)))
    count, num_done, checked = len(tasks), 0, []
    progress(_FIRST, 0, count)
    sums: dict[str, list[ObjectRef]] = {name: [] for name in sides}
    for what, refs in _completed(tasks):
        if what == "checked":
            checked.append(ray.get(refs[0]))
            num_done += 1
            progress(_FIRST, num_done, count)
            continue
        summary, is_merged = refs
        if not ray.get(is_merged):
            num_done += 1
            progress(_FIRST, num_done, count)
        sums[what].append(summary)
        if len(sums[what]) == 2:
            tasks.appendleft((what, partial(_merge.remote, *sums[what])))
            sums[what] = []
    if checked:
        unasked = len(synthetic.captures) - len(asked)
        in_order = [found for _, found in sorted(checked, key=lambda one: one[0])]
        compliance = compliance_part(summed(in_order), unasked)
    else:
        reason = f"the synthetic side ({synthetic.kind}) holds no captures to check"
        compliance = not_available(reason, HEADLINE)
    return {name: summary for name, (summary,) in sums.items()}, compliance


def _completed(tasks: deque) -> Iterator[tuple[str, list[ObjectRef]]]:
    """(what, its results) of each task as it gets done; `tasks`, of (what, what starts it), may
    grow meanwhile. No more run at a time than there are CPUs, so that their results, which are
    merged as they come, do not pile up."""
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
def _summarise(side: Source, units, salt: int):
    return summarise(source_blocks(side, units), salt=salt), False


@ray.remote(num_returns=2)
def _merge(one, other):
    return merge(one, other), True


@ray.remote
def _check(store, captures, asked):
    return captures[0].name, check_units(store, captures, asked)


@ray.remote
def _arena(**sums):
    return evaluation.arena(sums)


@ray.remote
def _train(arena, chosen):
    return [] if isinstance(arena, str) else utility.run_tasks(arena, chosen)


@ray.remote
def _utility(arena, done):
    return utility.report(arena, done)


@ray.remote
def _measure(name, **sums):
    return evaluation.measure(name, sums)


@ray.remote
def _report(parts, sources, settings, **sums):
    return evaluation.report(sums, parts, sources, settings)
