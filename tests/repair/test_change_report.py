"""The change report has every cell that repair changed, under the rule that owns its field."""

import numpy as np
import pytest
from flow_rows import readable_matrices
from hypothesis import given, settings
from hypothesis import strategies as st
from windows import repaired, split

from netdiff_ray.fields import FIELDS
from netdiff_ray.header_bytes import (
    IPPROTO_TCP,
    IPV6_HEADER_BYTES,
    MAX_HEADER_BYTES,
    UDP_HEADER_BYTES,
)
from netdiff_ray.nprint import encode
from netdiff_ray.nprint.layouts import LAYOUTS, layout_named
from netdiff_ray.repair import ASSIGNED, RULES, RepairContext, repair
from netdiff_ray.repair.batch import gather, read
from netdiff_ray.repair.plans import no_plans
from netdiff_ray.repair.serialise import serialise

STAMPS = [rule.name for rule in RULES].index("tcp_timestamps")
CHECKSUMS = {"ipv4_cksum", "tcp_cksum", "udp_cksum", "icmp_cksum"}


def test_each_field_has_one_owner():
    owned = [name for rule in RULES for name in rule.fields] + sorted(CHECKSUMS)
    assert sorted(owned) == sorted(field.name for field in FIELDS)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**64 - 1))
def test_every_changed_cell_is_counted(layout, data, seed):
    nprint = data.draw(readable_matrices(layout))
    result = repair([nprint], layout, RepairContext(), [seed])
    assert not result.rejected
    after = result.nprint(layout)
    apart = nprint[: len(after)] != after
    for k, field in enumerate(FIELDS):
        if field.name in layout.fields:
            count = apart[:, layout.columns(field.name)].sum()
            assert result.changed[0, :, k].sum() == count, field.name
        else:
            assert not result.changed[0, :, k].any()
    assert result.corrected.sum() == sum(result.corrected_by_rule().values()).sum()
    assert 0 < result.answerable[0] <= after.size
    assert 0 <= result.distance[0] <= 1


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**64 - 1))
def test_a_rule_writes_only_the_fields_it_owns(layout, data, seed):
    nprint = data.draw(readable_matrices(layout))
    context = RepairContext()
    drawn = gather([nprint], layout)
    seeds = np.array([seed], np.uint64)
    batch, _, rejected = read(drawn, layout, seeds, seeds, no_plans(1))
    assert not rejected
    everything = layout_named("nprint")
    before = snapshot(batch, everything)
    for rule in RULES:
        rule.apply(batch, context, layout)
        after = snapshot(batch, everything)
        for name in before:
            if (before[name] != after[name]).any():
                stamps = rule is RULES[STAMPS] and name == "tcp_opt"
                assert name in rule.fields or stamps, f"{rule.name} wrote {name}"
        before = after
    serialise(batch, context)
    after = snapshot(batch, everything)
    assert {n for n in before if (before[n] != after[n]).any()} <= CHECKSUMS


def snapshot(batch, layout):
    """Return header bits by field, of headers with all options."""
    rows = batch.packets.rows.copy()
    rows["network_len"] = np.where(rows["version"] == 4, MAX_HEADER_BYTES, IPV6_HEADER_BYTES)
    is_tcp = rows["protocol"] == IPPROTO_TCP
    rows["transport_len"] = np.where(is_tcp, MAX_HEADER_BYTES, UDP_HEADER_BYTES)
    nprint = encode(rows, layout)
    return {name: nprint[:, layout.columns(name)] for name in layout.fields}


def test_assigned_fields_are_not_the_models_to_draw(real_windows):
    layout = layout_named("nprint-1088")
    for result in repaired(real_windows[:60], layout):
        drawn = split(result, layout)
        context = RepairContext(
            server_ports=tuple(set(result.batch.flows.server_port.tolist()) - {0})
        )
        clean = repair(drawn, layout, context, result.batch.flows.seed, result.batch.flows.number)
        for nprint in drawn:
            for name in ("tcp_seq", "tcp_ackn", "ipv4_id", "tcp_cksum", "udp_cksum"):
                cells = nprint[:, layout.columns(name)]
                cells[cells >= 0] ^= 1
        noisy = repair(drawn, layout, context, result.batch.flows.seed, result.batch.flows.number)
        assert noisy.changed[:, ASSIGNED].any()
        assert not noisy.corrected.any()
        np.testing.assert_array_equal(noisy.packets.data, clean.packets.data)
