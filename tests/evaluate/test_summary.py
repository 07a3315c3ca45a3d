"""Summaries: what is merged is what would have been summed up at once."""

import numpy as np
import pytest
from flow_builders import chosen_flows, made_blocks
from hypothesis import given, settings
from hypothesis import strategies as st

from netdiff_ray.evaluate import summary as summaries
from netdiff_ray.evaluate.flow_blocks import FlowBlock, joined_blocks
from netdiff_ray.evaluate.flow_statistics import FEATURES
from netdiff_ray.evaluate.flow_view import VIEW
from netdiff_ray.evaluate.summary import (
    NUM_REPLICATES,
    VARIABLES,
    feature_levels,
    flow_weights,
    label_room,
    merge,
    summarise,
    summarise_block,
)


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    (block,) = joined_blocks(made_blocks(tmp_path_factory.mktemp("made"), 20, 3))
    return block


def same(a, b):
    assert a.outcome_counts.keys() == b.outcome_counts.keys()
    for label in a.outcome_counts:
        np.testing.assert_array_equal(a.outcome_counts[label], b.outcome_counts[label])
    for name in (
        "num_flows",
        "num_packets",
        "keys",
        "contents",
        "sequences",
        "addresses",
        "corrected",
    ):
        assert getattr(a, name) == getattr(b, name), name
    for name in ("label", "key", "content", "first", "bits", "features"):
        np.testing.assert_array_equal(getattr(a.sample, name), getattr(b.sample, name), name)


@settings(max_examples=8, deadline=None)
@given(pieces=st.lists(st.integers(0, 3), min_size=60, max_size=60), most=st.integers(3, 70))
def test_merging_equals_summing_up_at_once(block, pieces, most):
    pieces = np.array(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summaries, "MAX_FLOWS", most)
        whole = summarise_block(block, salt=1)
        parts = [
            summarise_block(chosen_flows(block, np.flatnonzero(pieces == k)), salt=1)
            for k in range(4)
        ]
        same(whole, merge(merge(parts[0], parts[1]), merge(parts[2], parts[3])))
        same(whole, merge(parts[3], merge(parts[2], merge(parts[1], parts[0]))))
    assert len(whole.sample) <= max(most, 3)


def test_counts_by_hand(block):
    summary = summarise_block(block, salt=0)
    web = np.flatnonzero(block.label == "web")
    packets = np.concatenate([block.bits[block.first[k] : block.first[k + 1]] for k in web])
    counts = summary.outcome_counts["web"][0]
    column = VIEW.offsets["tcp_syn"]
    np.testing.assert_array_equal(
        counts[3 * column : 3 * column + 3],
        [(packets[:, column] == state).sum() for state in (1, 0, -1)],
    )
    field = VARIABLES.of_kind("field").start + VIEW.fields.index("tcp_syn")
    start = VARIABLES.starts[field]
    zero_one_vacant_part = counts[start : start + 4]
    np.testing.assert_array_equal(
        zero_one_vacant_part, [*((packets[:, column] == state).sum() for state in (0, 1, -1)), 0]
    )
    feature = VARIABLES.starts[VARIABLES.of_kind("feature")][0]
    assert counts[feature : feature + 256].sum() == len(web)
    assert summary.num_packets == block.features[:, 0].sum()


def test_a_field_vacant_in_part_is_an_outcome_of_its_own(block):
    bits = block.bits.copy()
    bits[0, VIEW.offsets["ipv4_ttl"]] = -1
    one = FlowBlock(**{**vars(block), "bits": bits})
    one = summarise_block(chosen_flows(one, [0]), salt=0)
    field = VARIABLES.of_kind("field").start + VIEW.fields.index("ipv4_ttl")
    end = VARIABLES.starts[field + 1]
    (tally,) = one.outcome_counts.values()
    assert tally[0, end - 1] == 1


def test_weights_are_poisson_and_halves_even():
    key = np.random.default_rng(0).integers(0, 2**63, 20_000).astype(np.uint64)
    weights = flow_weights(key, 0)
    assert (weights[0] == 1).all()
    replicates, splits = weights[1 : 1 + NUM_REPLICATES], weights[1 + NUM_REPLICATES :]
    assert replicates.mean(axis=1) == pytest.approx(1, abs=0.05)
    assert replicates.var(axis=1) == pytest.approx(1, abs=0.1)
    assert splits.mean(axis=1) == pytest.approx(0.5, abs=0.02)
    assert np.abs(np.corrcoef(weights[1:]) - np.eye(len(weights) - 1)).max() < 0.05
    assert (flow_weights(key, 1)[1:] != weights[1:]).any(axis=1).all()


@given(st.lists(st.integers(1, 100), min_size=1, max_size=8), st.integers(1, 300))
def test_room_is_the_largest_that_fits(counts, most):
    counts = np.array(counts)
    room = label_room(counts, most)
    assert room == 1 or np.minimum(counts, room).sum() <= most
    assert room == counts.max() or np.minimum(counts, room + 1).sum() > most


def test_levels_are_eighths_of_octaves():
    values = np.zeros((1, len(FEATURES)))
    values[0, FEATURES.index("packets")] = 2
    values[0, FEATURES.index("bytes")] = 0
    values[0, FEATURES.index("duration_s")] = 4e-6
    levels = feature_levels(values)[0]
    assert levels[FEATURES.index("packets")] == 9
    assert levels[FEATURES.index("bytes")] == 0
    assert levels[FEATURES.index("duration_s")] == 17


def test_nothing_sums_up_to_nothing():
    summary = summarise([])
    assert summary.total_flows == len(summary.sample) == 0
    assert summary.labels == []
