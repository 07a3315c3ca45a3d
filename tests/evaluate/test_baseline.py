"""The baseline: random bits under the plans and the repair of a dataset."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flow_builders import LABELS, made_windows

from netdiff_ray.diffusion.adapter import METADATA_FILE, adapter_digest
from netdiff_ray.diffusion.plan_constraints import planned_cells
from netdiff_ray.evaluate import SALTS, evaluate, open_source, source_blocks, summarise
from netdiff_ray.evaluate import baseline as baseline_module
from netdiff_ray.evaluate.baseline import Baseline, baseline_part, is_generated, plan_baseline
from netdiff_ray.evaluate.utility import run_tasks
from netdiff_ray.generation.baseline import random_cells, random_shard
from netdiff_ray.generation.shard_builder import build_planned_shard
from netdiff_ray.generation.shard_plan import ShardSettings, plan_shards, windows_to_draw
from netdiff_ray.labels.adapter_metadata import AdapterMetadata, metadata_to_json
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.planned_cells import OPEN, planned_values
from netdiff_ray.labels.service import window_services
from netdiff_ray.labels.statistics import describe
from netdiff_ray.nprint.codec import VACANT, encode_windows
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.storage.manifest import PCAP_DATASET, commit
from netdiff_ray.storage.shards import index_name, write_shard
from netdiff_ray.storage.store import open_store

LAYOUT = layout_named("stateful")
SETTINGS = ShardSettings(
    seed=7, payload="dialogue", order="sequential", flows_per_second=10.0, keep_drawn=True
)
FLOWS = 40


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    """Real windows of every label."""
    columns = {"nprint": [], "label": [], "service": [], "flow": [], "window": []}
    folder = tmp_path_factory.mktemp("captures")
    for label in LABELS:
        for some in made_windows(folder, label, FLOWS, 1, height=64):
            nprint = encode_windows(some, LAYOUT)
            columns["nprint"] += np.split(nprint, some.first[1:-1])
            columns["label"] += [label] * len(some)
            columns["service"] += window_services(some.rows, some.direction, some.first)
            columns["flow"] += some.flow_id
            columns["window"] += some.window.tolist()
    return LabelledWindows(**columns, layout=LAYOUT)


@pytest.fixture(scope="module")
def metadata(windows):
    return AdapterMetadata(
        base="toy", revision=None, base_digest="0", layout="stateful", max_height=64,
        prompt="{label}", labels=describe(windows), trained={}, version="0",
    )  # fmt: skip


@pytest.fixture(scope="module")
def adapter(metadata, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    (folder / METADATA_FILE).write_text(json.dumps(metadata_to_json(metadata)))
    return folder


def real_cells(metadata, plan, windows, seed):
    """Return what a perfect model would draw: real windows of the planned headers and length."""
    random = np.random.default_rng(seed)
    at_hand = [n for n, label in zip(windows.nprint, windows.label, strict=True)
               if label == plan.label]  # fmt: skip
    cells = []
    for flow in windows_to_draw(metadata, plan, SETTINGS.seed):
        for sample in flow:
            fitting = [n for n in at_hand if len(n) == sample.length]
            window = np.full((sample.height, LAYOUT.width), VACANT, np.int8)
            window[: sample.length] = fitting[random.integers(len(fitting))]
            cells.append(window)
    return np.concatenate(cells)


def dataset(folder, metadata, adapter, make):
    """Return a dataset as `netdiff generate` commits it, of the shards that `make` builds."""
    store = open_store(folder)
    config = {
        "draw": {"seed": SETTINGS.seed}, "payload": "dialogue", "flows_per_second": 10.0,
        "pins": {},
    }  # fmt: skip
    plans = plan_shards(dict.fromkeys(LABELS, FLOWS), 100)
    for plan in plans:
        write_shard(store, make(plan), config)
    digest = adapter_digest({METADATA_FILE: (adapter / METADATA_FILE).read_bytes()})
    models = {"adapter": {"name": str(adapter), "sha256": digest}}
    commit(store, PCAP_DATASET, config, [index_name(p.number) for p in plans], {"models": models})
    return open_source(folder)


@pytest.fixture(scope="module")
def drawn_well(metadata, adapter, windows, tmp_path_factory):
    """Return a dataset of a perfect model."""

    def make(plan):
        return build_planned_shard(metadata, plan, real_cells(metadata, plan, windows, 1), SETTINGS)

    return dataset(tmp_path_factory.mktemp("well"), metadata, adapter, make)


@pytest.fixture(scope="module")
def drawn_at_random(metadata, adapter, tmp_path_factory):
    """Return a dataset of a model that knows nothing."""
    folder = tmp_path_factory.mktemp("random")
    return dataset(folder, metadata, adapter, lambda plan: random_shard(metadata, plan, SETTINGS))


def judged(real, synthetic, views=("sizes and times", "header values")):
    """Return the report, of forests in these views alone."""

    def run_some(split, tasks):
        return run_tasks(split, [t for t in tasks if t.view in views and t.model == "forest"])

    return evaluate(real, synthetic, seeds=1, run_tasks=run_some)


def test_random_bits_keep_to_the_plans(metadata):
    (plan, *_) = plan_shards({"web": 12}, 12)
    cells = random_cells(metadata, plan, 7)
    samples = [s for flow in windows_to_draw(metadata, plan, 7) for s in flow]
    assert len(cells) == sum(sample.height for sample in samples)
    ends = np.cumsum([sample.height for sample in samples])
    bits = []
    for sample, window in zip(samples, np.split(cells, ends[:-1]), strict=True):
        vacant, occupied = (of_all[0] for of_all in planned_cells([sample], LAYOUT.width))
        assert (window[vacant] == VACANT).all()
        assert (window[occupied] != VACANT).all()
        planned = planned_values(sample, LAYOUT)
        is_held = (planned != OPEN) & ~vacant
        assert is_held[: sample.length].any(axis=1).all()
        assert (window[is_held] == planned[is_held]).all()
        bits.append(window[occupied & ~is_held])
    bits = np.concatenate(bits)
    assert abs(bits.mean() - 0.5) < 0.02
    assert np.array_equal(random_cells(metadata, plan, 7), cells)
    assert not np.array_equal(random_cells(metadata, plan, 8), cells)


def test_the_baseline_is_that_of_the_dataset(drawn_well, metadata):
    assert is_generated(drawn_well)
    baseline = plan_baseline(drawn_well)
    assert isinstance(baseline, Baseline)
    assert baseline.metadata == metadata
    assert replace(baseline.settings, keep_drawn=True) == SETTINGS
    summary, counts = baseline_part(baseline, baseline.shards[0], salt=SALTS["random"])
    assert summary.num_flows == {LABELS[0]: FLOWS}
    assert set(counts.by_label) == {LABELS[0]}


def test_a_model_of_random_bits_adds_nothing(drawn_well, drawn_at_random):
    report = judged(drawn_well, drawn_at_random)
    found = report.sections["baseline"]
    assert found["headline"]["model_adds"] == pytest.approx(0, abs=1e-5)
    assert found["headline"]["random_ratio"] == pytest.approx(
        report.sections["utility"]["headline"]["ratio"], abs=1e-5
    )
    differences = report.sections["conversation"]["headline"]["largest_difference"]
    assert found["headline"]["random_difference"] == differences
    jsd = report.sections["fidelity"]["headline"]["jsd"]
    assert found["headline"]["random_jsd"] == pytest.approx(jsd)
    drawn, after, random = found["tables"][0]["rows"]
    assert drawn[5] > after[5] == pytest.approx(random[5])
    assert report.sources["random"]["flows"] == FLOWS * len(LABELS)
    words = [r["words"] for r in report.verdict["reasons"] if r["section"] == "baseline"]
    assert words[0].endswith("the model adds +0.00")


def test_a_perfect_model_adds_what_random_bits_lack(drawn_well):
    real = summarise(source_blocks(drawn_well))
    # Profiles of these labels give random bits their sizes and times.
    found = judged(real, drawn_well, ["bits of 32 packets"]).sections["baseline"]["headline"]
    assert found["gap_closed"] == 1
    assert found["model_adds"] > 0
    assert found["random_jsd"] > 0


def test_an_adapter_that_is_not_at_hand(drawn_well, tmp_path):
    reason = plan_baseline(drawn_well, str(tmp_path))
    assert "need their adapter" in reason
    assert str(tmp_path) in reason
    (tmp_path / METADATA_FILE).write_text("{}")
    assert "is not an adapter.json of this version" in plan_baseline(drawn_well, str(tmp_path))


def test_another_adapter_than_the_one_that_drew(drawn_well, metadata, tmp_path):
    other = replace(metadata, prompt="another {label}")
    (tmp_path / METADATA_FILE).write_text(json.dumps(metadata_to_json(other)))
    assert "is not the adapter that drew" in plan_baseline(drawn_well, str(tmp_path))


def test_a_large_baseline_is_made_in_parts(drawn_well, monkeypatch):
    (of_label, *_) = whole = plan_baseline(drawn_well).shards
    assert [plan.count for plan in whole] == [FLOWS] * len(LABELS)
    monkeypatch.setattr(baseline_module, "_PACKETS_AT_ONCE", 20)
    parts = plan_baseline(drawn_well).shards
    assert [plan.number for plan in parts] == list(range(len(parts)))
    assert len(parts) > 2 * len(LABELS)
    indices = [p.first + k for p in parts if p.label == of_label.label for k in range(p.count)]
    assert indices == list(range(FLOWS))


def test_traffic_that_nothing_here_drew_has_no_baseline(drawn_well):
    assert not is_generated(open_source(drawn_well.store.path("drawn")))
