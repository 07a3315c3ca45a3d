"""Shards of a scene: times, hosts and labels are as planned, whatever is drawn."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from generation.scene_dataset import (
    SCENE,
    SETTINGS,
    built_shards,
    drawn,
    planned_shards,
    write_dataset,
)
from scenes.scene_builders import metadata

from netdiff_ray.generation.flow_repair import flow_id
from netdiff_ray.generation.schedule import FlowTimes, schedule_packets
from netdiff_ray.generation.shard_builder import build_planned_shard, quarantined_shard
from netdiff_ray.generation.shard_plan import scene_flows
from netdiff_ray.scenes.planner import ScenePlanner
from netdiff_ray.storage.shards import labels_name
from netdiff_ray.storage.store import open_store
from netdiff_ray.storage.verify import verify


@pytest.fixture(scope="module")
def shards():
    return built_shards()


def test_flows_begin_when_and_where_they_are_planned(shards):
    for plan, shard in zip(planned_shards(), shards, strict=True):
        flows = scene_flows(metadata(), plan, 5, SCENE)
        rows = shard.flows.to_pylist()
        assert [row["flow_id"] for row in rows] == [
            flow_id(5, plan.label, plan.first + k) for k in range(plan.count)
        ]
        for flow, row in zip(flows, rows, strict=True):
            assert 0 <= row["start_ts_ns"] - flow.start_ns < 1000
            assert row["duration_ns"] <= flow.most_ns + 1000
            assert row["client_ip"].startswith("10.1.0.")
            assert row["client_port"] == flow.client_port
            assert row["service"] == flow.plan.service
        assert shard.truth["host"] == [flow.host for flow in flows]
        assert np.all(np.diff(shard.ts_ns[shard.order]) > 0)


def test_lookups_end_before_their_connections():
    lookups = [
        flow
        for plan in planned_shards()
        for flow in scene_flows(metadata(), plan, 5, SCENE)
        if flow.plan.service == "udp-53"
    ]
    waited = [flow for flow in lookups if flow.most_ns < 10**11]
    assert len(waited) > 10
    first = np.array([0, 3, 5])
    relative = np.array([0, 100, 1000, 0, 90])
    times = FlowTimes(np.array([10_000, 10_040]), np.array([100, 90]))
    ts_ns, order = schedule_packets(
        relative, first, order="interleaved", start_ns=times, flows_per_second=1, seed=0
    )
    assert ts_ns.tolist() == [10_000, 10_010, 10_100, 10_040, 10_130]
    assert order.tolist() == [0, 1, 3, 2, 4]


def test_a_scene_is_a_dataset_whose_labels_name_hosts_and_incidents(shards, tmp_path):
    store = open_store(tmp_path)
    write_dataset(store, shards)
    assert not verify(store).problems
    rows = [
        row
        for shard in shards
        for row in csv.DictReader((tmp_path / labels_name(shard.number)).open())
    ]
    flooded = [row for row in rows if row["incident"]]
    assert {row["incident"] for row in flooded} == {"flood"}
    assert len(flooded) == pytest.approx(30, abs=20)
    assert len({row["host"] for row in flooded}) == 1
    begin = SCENE.start_ns / 1e9
    assert all(240 <= float(row["start"]) - begin < 301 for row in flooded)


def test_parts_are_the_same_whatever_is_planned_beside_them(shards):
    plan = planned_shards()[-1]
    assert build_planned_shard(metadata(), plan, drawn(plan), SETTINGS).flows == shards[-1].flows
    other = replace(SETTINGS, scene=replace(SCENE, incidents=()))
    calm = ScenePlanner(metadata(), other.scene, 5).counts()
    assert {label: sum(of.values()) for label, of in calm.items()}["web"] > 20


def test_a_shard_that_cannot_be_drawn_is_quarantined_whole():
    plan = planned_shards()[0]
    shard = quarantined_shard(metadata(), plan, "why", SETTINGS)
    assert len(shard.quarantine) == plan.count
    assert shard.truth == {"host": [], "incident": []}
