"""Known answers: identical sides, shuffled labels, a planted copy of the training flows."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flow_builders import LABELS, chosen_flows, made_blocks, renamed

from netdiff_ray.evaluate import coverage as coverage_module
from netdiff_ray.evaluate import discrimination as discrimination_module
from netdiff_ray.evaluate import utility
from netdiff_ray.evaluate.coverage import coverage, prdc
from netdiff_ray.evaluate.discrimination import discrimination
from netdiff_ray.evaluate.distances import distances, pack
from netdiff_ray.evaluate.fidelity import fidelity
from netdiff_ray.evaluate.flow_blocks import joined_blocks
from netdiff_ray.evaluate.flow_view import VIEW
from netdiff_ray.evaluate.membership import ATTACKS
from netdiff_ray.evaluate.models import (
    MODELS,
    balanced_accuracy,
    confusion,
    distinct_columns,
    first_packets,
    fit_and_predict,
)
from netdiff_ray.evaluate.privacy import auc, closer_share, privacy
from netdiff_ray.evaluate.sources import open_source, source_blocks
from netdiff_ray.evaluate.summary import mixed, summarise
from netdiff_ray.evaluate.verdict import grade

NUM_FLOWS = 60
SAMPLES = Path(__file__).resolve().parents[2] / "samples"


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """Return the blocks of three sides with the same behaviour: real, other, training."""
    folder = tmp_path_factory.mktemp("made")
    return [made_blocks(folder, NUM_FLOWS, seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def sides(blocks):
    return [summarise(b, salt=k) for k, b in enumerate(blocks)]


@pytest.fixture(scope="module")
def twin(blocks):
    """Return the real flows again, under other ids."""
    return summarise(renamed(blocks[0], 99), salt=1)


def test_identical_sides(sides, twin):
    found = fidelity(sides[0], twin)
    assert found["headline"]["jsd"] == found["headline"]["tvd"] == 0
    assert found["headline"]["hellinger"] == 0
    assert found["headline"]["jsd_floor"] > 0
    found = coverage(sides[0], twin)["headline"]
    assert found["precision"] == found["recall"] == found["coverage"] == 1
    assert found["density"] >= 1
    assert discrimination(sides[0], twin)["headline"]["accuracy"] == 0.5


def test_sides_alike(sides):
    found = fidelity(sides[0], sides[1])["headline"]
    assert 0 < found["jsd"] < 0.05
    found = discrimination(sides[0], sides[1], sides[2])["headline"]
    assert abs(found["accuracy"] - 0.5) < 0.15
    assert found["beyond_floor"] < 0.12
    found = coverage(sides[0], sides[1])["headline"]
    assert found["precision"] > 0.8
    assert found["coverage"] > 0.8


def test_a_telling_field_is_named(blocks, sides):
    changed = []
    for block in blocks[1]:
        bits = block.bits.copy()
        bits[:, VIEW.columns("ipv4_ttl")] = [0, 0, 1, 0, 0, 0, 0, 0]
        changed.append(replace(block, bits=bits))
    odd = summarise(changed, salt=1)
    found = discrimination(sides[0], odd)
    assert found["headline"]["accuracy"] == 1
    assert found["tables"][1]["rows"][0][:2] == ["ipv4_ttl", 1]
    by_field = next(t for t in fidelity(sides[0], odd)["tables"] if t["title"].endswith("by field"))
    assert by_field["rows"][0][:2] == ["ipv4_ttl", 1]


def with_hosts(blocks, lifetimes):
    """Return the flows in turn from captures of several hosts, each with another TTL."""
    changed = []
    for block in blocks:
        host = np.arange(len(block)) % len(lifetimes)
        bits = block.bits.copy()
        of_packet = np.repeat(np.array(lifetimes, np.uint8)[host], np.diff(block.first))
        bits[:, VIEW.columns("ipv4_ttl")] = np.unpackbits(of_packet[:, None], axis=1)
        changed.append(replace(block, bits=bits, capture=mixed(host.astype(np.uint64), 3)))
    return changed


def test_ttls_of_hosts_tell_nothing(blocks):
    """A judge that sees flows of every host knows real ones by the host; one that does not
    cannot, nor does the same between halves of the captures."""
    real = summarise(with_hosts(blocks[0], [50, 51, 52, 53, 60, 61, 62, 63]), salt=0)
    other = summarise(with_hosts(blocks[1], [50, 51, 52, 53, 60, 61, 62, 63]), salt=1)
    found = discrimination(real, other)
    assert found["headline"]["beyond_floor"] < 0.12
    ttl = {row[0]: row[1] for row in found["tables"][1]["rows"]}.get("ipv4_ttl", 0.5)
    assert ttl < 0.6


def test_folds_keep_captures_together_and_sides_even(blocks):
    real = summarise(with_hosts(blocks[0], [50, 51, 52, 53, 60, 61]), salt=0).sample
    other = summarise(renamed(blocks[0][:1], 7) + blocks[1][1:], salt=1).sample
    a, b, folds = discrimination_module._pair(real, other, 0)
    ours, theirs = folds[: len(a)], folds[len(a) :]
    for label in LABELS:
        of_label = a.label == label
        captures = a.capture[of_label]
        assert all(len(set(ours[of_label][captures == c])) == 1 for c in np.unique(captures))
        np.testing.assert_array_equal(
            np.bincount(ours[of_label], minlength=5),
            np.bincount(theirs[b.label == label], minlength=5),
        )


def trained(real, synthetic, num_seeds=2):
    """Return the headline of a quick utility run."""
    flows = utility.utility_split(real, synthetic, None)
    wanted = [
        t
        for t in utility.tasks(num_seeds)
        if t.view in ("bits of 8 packets", "sizes and times") and t.model == "forest"
    ]
    return utility.utility_section(flows, utility.run_tasks(flows, wanted))["headline"]


def test_learnable_labels_are_learned(sides):
    found = trained(sides[0], sides[1])
    assert found["trtr"] > 0.8
    assert found["tstr"] > 0.7
    assert found["ratio"] == pytest.approx(found["tstr"] / found["trtr"], rel=1e-4)


@pytest.fixture(scope="module")
def splits():
    """Return both sides of the samples."""
    return [
        summarise(source_blocks(open_source(SAMPLES / split)), salt=k).sample
        for k, split in enumerate(("train", "heldout"))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_models_are_good_judges(model, splits):
    """Labels of the held-out samples, told from the first packets by what `train` taught."""
    train, heldout = splits
    labels = np.unique(train.label)
    y, y_test = (np.searchsorted(labels, side.label) for side in (train, heldout))
    predicted, _ = fit_and_predict(model, first_packets(train, 8), y, first_packets(heldout, 8), 0)
    assert balanced_accuracy(confusion(y_test, predicted, len(labels))) > 0.88


def test_columns_that_say_the_same_are_shown_once():
    x = np.array([[1, 0, 1, 5, 2], [2, 0, 2, 5, 1], [2, 0, 2, 5, 2]])
    assert distinct_columns(x).tolist() == [0, 4]
    assert distinct_columns(x.astype(np.float32)).tolist() == [0, 4]


def shuffled(some):
    """Return the same flows under each other's labels."""
    (whole,) = joined_blocks(some)
    label = np.random.default_rng(0).permutation(whole.label)
    return summarise([replace(whole, label=label)], salt=1)


def test_shuffled_labels_give_chance(blocks, sides):
    found = trained(sides[0], shuffled(blocks[1]), 4)
    assert found["tstr"] == pytest.approx(1 / len(LABELS), abs=0.15)
    assert found["trtr"] > 0.8


def gain(real, synthetic, num_seeds=2):
    """Return (gain at 10 real flows, its error) in one view."""
    flows = utility.utility_split(real, synthetic, None)
    wanted = [
        task
        for task in utility.tasks(num_seeds)
        if task.view == "sizes and times"
        and task.model == "forest"
        and (task.few == 10 or (task.few is None and task.share in (0.0, 1.0)))
    ]
    assert sum(task.few == 10 for task in wanted) == 2 * 3 * num_seeds
    found = utility.utility_section(flows, utility.run_tasks(flows, wanted))["headline"]
    return found["gain_10"], found["gain_10_error"]


def test_more_real_flows_are_a_gain_and_no_flows_are_none(blocks, sides):
    for source, wanted in ((sides[1], "good"), (shuffled(blocks[1]), "poor")):
        found, error = gain(sides[0], source)
        assert 0 < error < 0.2
        assert (found - error > -0.05) == (wanted == "good")
        headline = {"gain_10": found, "gain_10_error": error}
        assert grade("utility", "gain_10", headline) == wanted


def test_the_error_of_a_gain_has_two_sources():
    none = np.zeros((4, 3))
    assert utility.error_of_gain(none) == 0
    by_choice = np.repeat([[0.1], [-0.1], [0.1], [-0.1]], 3, axis=1)
    deviation = np.std([0.1, -0.1, 0.1, -0.1], ddof=1)
    assert utility.error_of_gain(by_choice) == pytest.approx(1.96 * deviation / 2)
    by_flows_tested = np.repeat([[0.0, 0.1, -0.1]], 4, axis=0)
    deviation = np.std([0.1, -0.1], ddof=1)
    assert utility.error_of_gain(by_flows_tested) == pytest.approx(1.96 * deviation)


def test_every_task_derives_from_itself_alone(sides):
    flows = utility.utility_split(sides[0], sides[1], None)
    chosen = [utility.Task("flow statistics", m, 0.5, 3) for m in ("forest", "boosting")]
    together = utility.run_tasks(flows, chosen, jobs=2)
    alone = utility.run_tasks(flows, chosen[1:])
    np.testing.assert_array_equal(together[1][1], alone[0][1])


def test_training_flows_train_and_held_out_ones_test(sides):
    flows = utility.utility_split(sides[0], sides[1], sides[2])
    assert len(flows.pool) == len(flows.test) == 3 * NUM_FLOWS
    assert utility.utility_split(sides[0], sides[1], sides[0]).test is None


def test_a_planted_copy_of_the_training_flows_is_caught(blocks, sides):
    real, honest, train = sides
    addresses = frozenset({bytes([10, 0, 0, 1]), bytes([224, 0, 0, 251])})
    train = replace(train, addresses=addresses, has_addresses=True)
    honest = replace(honest, addresses=frozenset({bytes(4)}), has_addresses=True)
    planted = summarise(renamed(blocks[2], 5), salt=1)
    planted = replace(planted, addresses=addresses, has_addresses=True)
    caught = privacy(real, planted, train)["headline"]
    clear = privacy(real, honest, train)["headline"]
    assert caught["closer_to_train"] > 0.85
    assert abs(clear["closer_to_train"] - 0.5) < 0.12
    assert caught["mia_auc"] > 0.85
    assert abs(clear["mia_auc"] - 0.5) < 0.12
    assert caught["copies"] == 1
    assert clear["copies"] < 0.2
    assert (caught["addresses"], clear["addresses"]) == (1, 0)
    copies = privacy(real, planted, train)["tables"][-1]["rows"]
    assert copies[1][1] == 1
    assert copies[1][2] < 0.5
    assert caught["sequences"] == 1
    assert caught["sequences_floor"] < 0.5
    assert clear["sequences"] < 0.5


def test_every_attack_catches_a_copy_of_the_training_flows(blocks, sides):
    real, honest, train = sides
    planted = summarise(renamed(blocks[2], 5), salt=1)
    by_attack = []
    for synthetic in (planted, honest):
        rows = privacy(real, synthetic, train)["tables"][0]["rows"][1:]
        by_attack.append([row[1] for row in rows])
    assert len(by_attack[0]) == len(ATTACKS) == 3
    for caught, clear in zip(*by_attack, strict=True):
        assert caught > 0.75
        assert abs(clear - 0.5) < 0.15


def test_addresses_that_synthetic_flows_repeat_are_guessed(blocks, sides):
    def elsewhere(of_blocks, network):
        return summarise([replace(b, hosts=b.hosts ^ np.uint64(network)) for b in of_blocks])

    real, train = elsewhere(blocks[0], 1), elsewhere(blocks[2], 2)
    planted = elsewhere(renamed(blocks[2], 5), 2)
    assert privacy(real, planted, train)["headline"]["attribute_gain"] > 0.5
    honest = elsewhere(blocks[1], 3)
    assert abs(privacy(real, honest, train)["headline"]["attribute_gain"]) < 0.1


def test_the_floor_tells_recordings_apart_from_training_flows(blocks, sides):
    real, honest, train = sides
    alike = privacy(real, honest, train)["headline"]
    hops = VIEW.columns("ipv4_ttl")
    elsewhere = []
    for block in blocks[0]:
        bits = block.bits.copy()
        bits[:, hops] = np.where(bits[:, hops] < 0, bits[:, hops], 1 - bits[:, hops])
        elsewhere.append(replace(block, bits=bits))
    found = privacy(summarise(elsewhere, salt=0), honest, train)["headline"]
    for name in ("closer_to_train", "mia_auc"):
        assert abs(alike[f"{name}_floor"] - 0.5) < 0.12
        assert found[f"{name}_floor"] > 0.75
        assert abs(found[name] - found[f"{name}_floor"]) < 0.12


def test_real_flows_that_were_trained_on_are_not_held_out(sides):
    found = privacy(sides[2], sides[1], sides[2])
    assert found["headline"]["mia_auc"] is None
    assert "held-out ones are needed" in " ".join(found["notes"])
    assert found["headline"]["copies"] is not None
    assert found["headline"]["addresses"] is None
    assert not privacy(sides[0], sides[1], None)["available"]


def test_before_and_after_repair(blocks, sides):
    noise = np.random.default_rng(0)
    drawn = [
        replace(b, bits=np.where(noise.random(b.bits.shape) < 0.05, -1, b.bits).astype(np.int8))
        for b in blocks[1]
    ]
    spoken = Counter({("web", "http", True): 2, ("web", "http", False): 1, ("ping", "", False): 4})
    after = [replace(b, num_repaired=len(b), repair_distance=0.1 * len(b), answerable=1000)
             for b in blocks[1]]  # fmt: skip
    after[0] = replace(after[0], dialogues=spoken)
    found = fidelity(sides[0], summarise(after, salt=1), summarise(drawn, salt=3))
    assert found["headline"]["repair_distance"] == pytest.approx(0.1)
    before, later = found["tables"][1]["rows"]
    assert (before[0], later[0]) == ("before repair", "after repair")
    assert before[1] > later[1]
    (dialogues,) = [t for t in found["tables"] if t["title"] == "What flows speak"]
    assert dialogues["rows"] == [["web", "http", 3, 1]]


def test_prdc_by_hand():
    # Real flows at 0, 1, 2 on a line, one neighbour's radius 1 each; synthetic at 0 and 10.
    real, drawn = np.array([0.0, 1.0, 2.0]), np.array([0.0, 10.0])
    between = [np.abs(a[:, None] - b[None, :]) for a, b in
               ((real, real), (drawn, drawn), (real, drawn))]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage_module, "NEIGHBOURS", 1)
        found = prdc(*between)
    assert found == pytest.approx({"precision": 0.5, "recall": 1, "density": 1, "coverage": 2 / 3})


def test_distance_is_the_share_of_cells_that_differ(sides):
    flows = sides[0].sample.take(np.arange(0, 3 * NUM_FLOWS, 7))
    bits = first_packets(flows, 32)
    for i, row in enumerate(distances(pack(flows), pack(flows))):
        differ = (bits[i] != bits).sum(axis=1)
        there = ((bits[i] != -1) | (bits != -1)).sum(axis=1)
        np.testing.assert_allclose(row, differ / there, rtol=1e-6)


def test_areas_and_shares_by_hand():
    area, (low, high) = auc(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
    assert area == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert low < area < high or high == 1
    assert auc(np.arange(5.0), np.arange(5.0))[0] == 0.5
    assert closer_share(np.array([0, 1, 1.0]), np.array([1, 1, 0.0])) == pytest.approx(0.5)
    matrix = confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 3)
    assert balanced_accuracy(matrix) == pytest.approx(0.75)


def test_one_flow_and_labels_apart(blocks, sides):
    one = summarise([chosen_flows(blocks[1][0], [0])], salt=1)
    assert fidelity(sides[0], one)["headline"]["jsd"] > 0
    assert "at least 2 labels" in utility.utility_split(sides[0], one, None)
    assert "at least 10 from each" in discrimination(sides[0], one)["reason"]
    assert coverage(sides[0], one)["reason"] == "no label has 2 flows in both sources"
    assert privacy(sides[0], one, sides[2])["available"]
    assert privacy(one, sides[0], one)["headline"]["mia_auc"] is None
    other = summarise([replace(b, label=np.char.add(b.label, "2")) for b in blocks[1]], salt=1)
    assert fidelity(sides[0], other)["reason"] == "no label is in both sources"
    assert "0 labels have enough flows" in utility.utility_split(sides[0], other, None)
