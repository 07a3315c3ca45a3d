"""What drawn flows of a rare label add to all real ones, labels without drawn flows included."""

from dataclasses import replace

import numpy as np
import pytest
from flow_builders import LABELS, made_blocks

from netdiff_ray.evaluate.augmentation import augmentation_section, augmentation_split
from netdiff_ray.evaluate.flow_blocks import joined_blocks
from netdiff_ray.evaluate.summary import summarise

RARE = LABELS[0]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """Return the flows of three sides with the same behaviour: held-out, drawn, training."""
    folder = tmp_path_factory.mktemp("made")
    return [next(joined_blocks(made_blocks(folder, 30, seed))) for seed in (1, 2, 3)]


def of_label(block, label, count, name=None):
    """Return the first flows of a label, under another name if one is given."""
    flows = block.take(np.flatnonzero(block.label == label)[:count])
    return replace(flows, label=np.full_like(flows.label, name or label))


@pytest.fixture(scope="module")
def sides(blocks):
    """Return held-out flows, drawn ones of the rare label alone, and training flows: few of the
    rare label, which are not like it."""
    train = [of_label(blocks[2], label, 30) for label in LABELS[1:]]
    train.append(of_label(blocks[2], LABELS[1], 4, RARE))
    drawn = of_label(blocks[1], RARE, 26)
    return (
        summarise([blocks[0]], salt=0), summarise([drawn], salt=1), summarise(train, salt=2),
    )  # fmt: skip


def test_good_flows_of_a_rare_label_help_and_other_labels_count(sides):
    section = augmentation_section(*sides, seeds=1)
    assert section["available"]
    curve, by_label = section["tables"]
    assert [row[:2] for row in curve["rows"][:4]] == [
        ["sizes and times", few] for few in (10, 30, 100, "all")
    ]
    rows = {row[0]: row[1:] for row in by_label["rows"]}
    assert set(rows) == set(LABELS)
    assert rows[RARE][:2] == [4, 26]
    assert all(rows[label][:2] == [30, 0] for label in LABELS[1:])
    assert section["headline"]["rare_recall_gain"] == pytest.approx(rows[RARE][3] - rows[RARE][2])
    assert section["headline"]["gain"] > 0.1
    assert section["headline"]["rare_recall_gain"] > 0.3


def test_flows_of_another_label_under_its_name_harm(blocks, sides):
    real, _, train = sides
    false = summarise([of_label(blocks[1], LABELS[1], 30, RARE)], salt=1)
    section = augmentation_section(real, false, train, seeds=1)
    assert section["headline"]["gain"] < -0.05
    (of_other,) = (row for row in section["tables"][1]["rows"] if row[0] == LABELS[1])
    assert of_other[4] < of_other[3]


def test_why_it_cannot_be_is_said(blocks, sides):
    real, drawn, train = sides
    assert "no training flows" in augmentation_section(real, drawn, None, seeds=1)["reason"]
    one = summarise([of_label(blocks[0], LABELS[1], 9)], salt=0)
    assert augmentation_split(one, drawn, train) == (
        "1 labels have 4 training flows and a held-out one, and 0 of them synthetic flows; at "
        "least 2 and 1 are needed"
    )
