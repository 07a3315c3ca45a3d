"""How many segments are sent again: counted, disclosed, drawn and pinned."""

from dataclasses import replace

import numpy as np
import pytest
from stack_builders import metadata_of, stack_of

from netdiff_ray.config.pins import PlanPins
from netdiff_ray.errors import ConfigError
from netdiff_ray.flow_state import AGAIN, PACKET_STATE
from netdiff_ray.header_bytes import IPPROTO_TCP
from netdiff_ray.labels.flow_plan import plan_flow
from netdiff_ray.labels.loss import (
    LOSSLESS,
    MOST_LOSS,
    UNPLANNED_LOSS,
    LossCount,
    disclosed_losses,
    loss_of,
    losses_between,
    share_bounds,
    window_losses,
)
from netdiff_ray.labels.pins import pin_metadata
from netdiff_ray.labels.stack import StackCount
from netdiff_ray.labels.statistics import LabelStatistics
from netdiff_ray.packets.headers import HEADER_ROW


@pytest.mark.parametrize(
    ("again", "segments", "loss"),
    [
        (0, 9, LOSSLESS),
        (1, 2, 8),
        (1, 3, 7),
        (1, 4, 7),
        (1, 5, 6),
        (1, 8, 6),
        (1, 129, 1),
        (9, 9, 8),
    ],
)
def test_the_class_of_a_share(again, segments, loss):
    assert loss_of(again, segments) == loss
    least, most = share_bounds(loss)
    assert least <= again / segments <= most


def test_windows_are_counted():
    payload = np.array([0, 0, 100, 100, 1, 50, 50, 0])
    rows = np.zeros(len(payload), HEADER_ROW)
    rows["protocol"] = IPPROTO_TCP
    state = np.zeros(len(rows), PACKET_STATE)
    state["sequence"][[3, 4, 7]] = AGAIN  # a copy, a keep-alive of a byte, a segment without data
    window = np.array([0] * 7 + [1])
    assert window_losses(rows, payload, state, window) == [(3, loss_of(1, 5)), (1, UNPLANNED_LOSS)]


def test_rare_losses_count_as_the_nearest_and_none_is_of_a_single_flow():
    flows = [(4, 0)] * 9 + [(4, 6)] * 3 + [(4, 8), (2, 0), (3, UNPLANNED_LOSS)]
    assert disclosed_losses(flows, 2) == [LossCount(4, 0, 9), LossCount(4, 6, 4)]
    assert disclosed_losses([(4, 0), (5, 3)], 2) == []


def test_bounds_keep_the_classes_that_they_cut():
    rows = [LossCount(4, loss, 2) for loss in range(MOST_LOSS + 1)]
    assert [row.loss for row in losses_between(rows, 0.0, 0.0)] == [0]
    assert [row.loss for row in losses_between(rows, 0.03, 0.1)] == [3, 4, 5]
    assert [row.loss for row in losses_between(rows, 0.3, 0.3)] == [7]
    assert len(losses_between(rows, 0.0, 1.0)) == len(rows)


def metadata(losses):
    """Return metadata of a label whose service has flows with the losses."""
    whole = metadata_of([StackCount(*stack_of(), 90)])
    service = replace(whole.labels["x"].services["s"], losses=losses)
    whole.labels["x"] = LabelStatistics(services={"s": service})
    return whole


def test_plans_have_losses_as_often_as_flows_do():
    whole = metadata([LossCount(3, 0, 30), LossCount(3, 5, 10)])
    drawn = [plan_flow(whole, "x", 1, k).loss for k in range(400)]
    assert set(drawn) == {0, 5}
    assert 0.2 < drawn.count(5) / len(drawn) < 0.3
    assert plan_flow(metadata([]), "x", 1, 0).loss == UNPLANNED_LOSS


def test_a_pinned_loss():
    whole = metadata([LossCount(3, 0, 30), LossCount(3, 5, 10)])
    pinned = pin_metadata(whole, ["x"], PlanPins(loss="0.05:0.2"))
    assert {plan_flow(pinned, "x", 1, k).loss for k in range(50)} == {5}
    with pytest.raises(ConfigError, match=r"0.5 to 1 of the .* sent again\); .* 0 to 0.12 of the"):
        pin_metadata(whole, ["x"], PlanPins(loss="0.5:1"))
    with pytest.raises(ConfigError, match="no flow of label 'x' is as pinned"):
        pin_metadata(metadata([]), ["x"], PlanPins(loss="0"))


@pytest.mark.parametrize("loss", ["much", "0.5:0.3", "-0.1", "2", "0:1:0", "nan"])
def test_shares_that_are_none(loss):
    with pytest.raises(ConfigError, match=f"loss is {loss!r}; it must be shares LOW:HIGH"):
        PlanPins(loss=loss)
