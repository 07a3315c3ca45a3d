"""Records of the rows between stages, and the errors that travel in them."""

import dataclasses

import pytest

from netdiff_ray import errors
from netdiff_ray.distributed.columns import ErrorColumns, fault_of, record_of
from netdiff_ray.errors import CaptureError, DataError, NetdiffError
from netdiff_ray.generation.shard_plan import ShardPlan

PLAN = ShardPlan(number=3, label="web", first=6, count=2)


def test_a_row_holds_a_record_and_more():
    assert record_of(ShardPlan, {**dataclasses.asdict(PLAN), "cells": b""}) == PLAN


def test_missing_columns_are_named_beside_the_available_ones():
    row = {"number": 3, "lable": "web", "first": 6}
    with pytest.raises(
        DataError,
        match="ShardPlan needs the columns label, count; available are number, lable, first",
    ):
        record_of(ShardPlan, row)


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type)], ids=str
)
def test_an_error_is_raised_again_of_its_class(kind):
    error = CaptureError("a.pcap", "cut", 9) if kind is CaptureError else kind("what is wrong")
    with pytest.raises(NetdiffError) as raised:
        fault_of(error).raise_if_any()
    assert (type(raised.value), str(raised.value)) == (kind, str(error))


def test_no_error_is_not_raised():
    ErrorColumns().raise_if_any()
