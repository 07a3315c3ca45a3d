"""The baseline section of a report: what the model adds to its plans and their repair.

Drawn flows before repair, the same after it, and random bits under the same plans and the same
repair, side by side: a good repair must not make a poor model look good.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from netdiff_ray.config.pins import PlanPins
from netdiff_ray.diffusion.adapter import METADATA_FILE, adapter_digest, parse_metadata
from netdiff_ray.errors import NetdiffError
from netdiff_ray.evaluate.conversation import ConversationCounts, count_conversations
from netdiff_ray.evaluate.fidelity import measure
from netdiff_ray.evaluate.report_section import section, table
from netdiff_ray.evaluate.sources import PCAPS, Source, open_source, source_blocks
from netdiff_ray.evaluate.summary import (
    MAX_FLOWS,
    VARIABLES,
    Sides,
    Summary,
    label_room,
    summarise,
)
from netdiff_ray.evaluate.utility import TaskResult, trained_rows
from netdiff_ray.generation.adapter_files import read_adapter_files
from netdiff_ray.generation.baseline import random_shard
from netdiff_ray.generation.shard_plan import (
    ShardPlan,
    ShardSettings,
    plan_shards,
    windows_to_draw,
)
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.labels.pins import pin_metadata
from netdiff_ray.storage.manifest import PCAP_DATASET, commit, open_dataset
from netdiff_ray.storage.shards import index_name, write_shard
from netdiff_ray.storage.store import open_store

HEADLINE = (
    "random_ratio", "model_adds", "gap_closed", "drawn_ratio", "random_jsd", "random_difference",
)  # fmt: skip
_SHARES = ("largest_difference", "differing_shares")
_PACKETS_AT_ONCE = 4096
"""Packets that are made at a time, about: random lengths make them large."""
_AS_GOOD_AS_REAL = 0.98
"""A ratio that leaves the model no gap to close."""
_NOTE = "random bits under the plans and the repair of the synthetic flows: the baseline"
_ROWS = {
    "drawn": "drawn, before repair", "synthetic": "drawn, after repair",
    "random": "random bits, after the same repair",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Flows of random bits, to be made under the plans of a dataset's flows."""

    metadata: AdapterMetadata
    """Of the adapter that drew the dataset."""
    shards: tuple[ShardPlan, ...]
    """Which flows, in parts that can be made anywhere."""
    settings: ShardSettings
    """How the dataset's flows were repaired."""


def is_generated(source: Source) -> bool:
    """Return whether the flows of a source were drawn by `netdiff generate`."""
    return source.kind == PCAPS and "models" in open_dataset(source.store, PCAP_DATASET).manifest


def plan_baseline(source: Source, adapter: str | None = None) -> Baseline | str:
    """Return the baseline of a generated dataset, or why there can be none.

    It has as many flows of each label as a summary of the dataset has in its sample.

    Args:
        source: a generated dataset.
        adapter: folder or URI of the adapter that drew it; the one that the dataset names unless
            given.
    """
    manifest = open_dataset(source.store, PCAP_DATASET).manifest
    config, drawn_by = manifest["config"], manifest["models"]["adapter"]
    seed = config["draw"]["seed"]
    uri = drawn_by["name"] if adapter is None else adapter
    try:
        files = read_adapter_files(open_store(uri))
        metadata = parse_metadata(files.get(METADATA_FILE), uri)
    except NetdiffError as error:
        return f"the plans of the synthetic flows need their adapter: {error}"
    if adapter_digest(files) != drawn_by["sha256"]:
        return f"{uri} is not the adapter that drew the synthetic flows: its content is another"
    counts = {label: sums["flows"] for label, sums in manifest["counts"]["labels"].items()}
    metadata = pin_metadata(metadata, counts, PlanPins(**config["pins"]))
    room = label_room(np.array(list(counts.values())), MAX_FLOWS)
    return Baseline(
        metadata=metadata,
        shards=tuple(_parts(metadata, {k: min(n, room) for k, n in counts.items()}, seed)),
        settings=ShardSettings(
            seed=seed, payload=config["payload"], order="sequential",
            flows_per_second=config["flows_per_second"],
        ),
    )  # fmt: skip


def _parts(metadata: AdapterMetadata, counts: Mapping[str, int], seed: int) -> list[ShardPlan]:
    """Return the plans of shards with so many flows of each label, of _PACKETS_AT_ONCE packets
    or little more each."""
    parts: list[ShardPlan] = []
    for plan in plan_shards(counts, max(counts.values(), default=1)):
        first, packets = plan.first, 0
        for index, flow in enumerate(windows_to_draw(metadata, plan, seed), plan.first):
            packets += sum(sample.length for sample in flow)
            if packets >= _PACKETS_AT_ONCE or index == plan.first + plan.count - 1:
                count = index + 1 - first
                parts.append(replace(plan, number=len(parts), first=first, count=count))
                first, packets = index + 1, 0
    return parts


def baseline_part(
    baseline: Baseline, plan: ShardPlan, *, salt: int
) -> tuple[Summary, ConversationCounts]:
    """Return what the flows of a shard of a baseline sum up to, read as those of a dataset are.

    Args:
        salt: as `summarise` takes it.
    """
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        write_shard(store, random_shard(baseline.metadata, plan, baseline.settings), {})
        commit(store, PCAP_DATASET, {}, [index_name(plan.number)])
        source = open_source(folder)
        summary = summarise(source_blocks(source), salt=salt)
        summary = replace(summary, notes=summary.notes | {_NOTE})
        return summary, count_conversations(source, salt=salt)


def baseline_section(
    sides: Sides,
    sections: Mapping[str, dict],
    trained: Mapping[str, list[TaskResult] | str],
    random_conversation: dict,
) -> dict:
    """Return the section: drawn flows before repair, after it, and random bits, side by side.

    `headline` {random_ratio, drawn_ratio: what models reach that are trained on random bits after
    repair, or on the flows as they were drawn, as a ratio to real ones, of the worst view;
    model_adds: the ratio of the synthetic flows less that of random bits; gap_closed: the same as
    a share of what random bits lack, 1 where the synthetic flows lack nothing; random_jsd: as in
    fidelity; random_difference: the largest difference of a share of conversations}.

    Args:
        sides: with random flows; with drawn ones, where these are kept.
        sections: utility and conversation, of the synthetic flows.
        trained: what models that were trained on drawn and random flows scored, or why none was.
        random_conversation: that section, of random bits.
    """
    notes = [
        f"no model was trained on the flows {_ROWS[name]}: {reason}"
        for name, reason in trained.items() if isinstance(reason, str)
    ]  # fmt: skip
    if sides.drawn is None:
        notes.append("what was drawn is not kept (netdiff generate --keep-drawn keeps it)")
    ratios = _ratios(sections["utility"], trained)
    worst = {name: _worst(ratios.get(name, {})) for name in _ROWS}
    jsd = _divergences(sides)
    conversations = {"synthetic": sections["conversation"], "random": random_conversation}
    headlines = {name: of_source["headline"] for name, of_source in conversations.items()}
    rows = [
        [words, summary.total_flows, *worst[name], jsd.get(name),
         *(headlines.get(name, {}).get(key) for key in _SHARES)]
        for name, words in _ROWS.items() if (summary := sides.named().get(name)) is not None
    ]  # fmt: skip
    added = _added(worst["synthetic"][0], worst["random"][0])
    return section(
        {
            "random_ratio": worst["random"][0], "model_adds": added[0], "gap_closed": added[1],
            "drawn_ratio": worst["drawn"][0], "random_jsd": jsd.get("random"),
            "random_difference": headlines["random"][_SHARES[0]],
        },
        notes=notes,
        tables=[
            table(
                "Before repair, after it, and random bits",
                ["flows", "number", "utility ratio", "in view", "of model", "bit divergence",
                 "largest difference of a share", "shares that differ"],
                rows,
                "Random bits have the plans of the synthetic flows and the same repair: what they "
                "reach is no merit of the model. Before repair, flows are bits that make no "
                "packets, so that their conversations cannot be read.",
            ),
            table(
                "Utility ratio by view", ["trained on", "model", *(_ROWS[n] for n in ratios)],
                [[*key, *(of_source.get(key) for of_source in ratios.values())]
                 for key in ratios["synthetic"]],
            ),
        ],
    )  # fmt: skip


Ratios = dict[tuple[str, str], float | None]
"""Balanced accuracy as a ratio to training on real flows, by view and model."""


def _ratios(utility: Mapping, trained: Mapping[str, list[TaskResult] | str]) -> dict[str, Ratios]:
    """Return the ratios of synthetic flows, and of the others on which models were trained."""
    rows = utility.get("trained", ())
    real = {(view, model): accuracy for view, model, accuracy, _, _ in rows}
    ratios = {"synthetic": {(view, model): ratio for view, model, _, _, ratio in rows}}
    for name, results in trained.items():
        if not isinstance(results, str):
            ratios[name] = {
                (view, model): accuracy / real[view, model] if real[view, model] else None
                for view, model, accuracy in trained_rows(results)
            }
    return ratios


def _added(ratio: float | None, random: float | None) -> tuple[float | None, float | None]:
    """Return what the model adds to the ratio of random bits, and which share of the gap it
    closes; None where either is not known."""
    if ratio is None or random is None:
        return None, None
    gap = 1 - min(random, _AS_GOOD_AS_REAL)
    return ratio - random, 1.0 if ratio >= _AS_GOOD_AS_REAL else (ratio - random) / gap


def _worst(ratios: Ratios) -> tuple[float | None, str | None, str | None]:
    """Return (ratio, view, model) of the view and model with the least ratio; None of none."""
    known = [(ratio, *key) for key, ratio in ratios.items() if ratio is not None]
    return min(known, default=(None, None, None))


def _divergences(sides: Sides) -> dict[str, float]:
    """Return the mean divergence of packet bits from the real flows, by source, over the labels
    that all sources have."""
    sources = {name: summary for name, summary in sides.named().items() if name in _ROWS}
    bits = VARIABLES.of_kind("bit")
    labels = sorted(
        set(sides.real.labels).intersection(*(source.labels for source in sources.values()))
    )
    if not labels:
        return {}
    return {
        name: float(measure(sides.real, source, labels)["jsd"][0][:, bits].mean())
        for name, source in sources.items()
    }
