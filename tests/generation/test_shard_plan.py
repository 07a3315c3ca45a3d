"""Plans of shards, packed cells, kept drawings, the context of a label, long flows as one."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from storage.dataset_builders import CONFIG
from tiny_models import LABELS, made_windows

from netdiff_ray.config.pins import PlanPins
from netdiff_ray.datasets.parts import read_shard
from netdiff_ray.encoding.windows import DrawnFlow, drawn_table, unpack_all
from netdiff_ray.errors import ConfigError
from netdiff_ray.evaluate.sources import kept_drawings, open_source, source_blocks
from netdiff_ray.evaluate.summary import summarise
from netdiff_ray.generation.flow_repair import repair_flow, service_context
from netdiff_ray.generation.shard_builder import build_planned_shard, quarantined_shard
from netdiff_ray.generation.shard_plan import (
    ShardPlan,
    ShardSettings,
    apportion,
    pack_cells,
    plan_shards,
    unpack_cells,
    windows_to_draw,
)
from netdiff_ray.labels.adapter_metadata import AdapterMetadata
from netdiff_ray.labels.addresses import plan_addresses
from netdiff_ray.labels.flow_plan import plan_flow
from netdiff_ray.labels.length_bins import LengthBin
from netdiff_ray.labels.profile import LevelCount, Profile
from netdiff_ray.labels.stack import StackCount, unknown_stack
from netdiff_ray.labels.statistics import ServiceStatistics, describe
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import height_for, layout_named
from netdiff_ray.repair import RepairContext
from netdiff_ray.storage.manifest import PCAP_DATASET, commit, missing_parts, open_dataset
from netdiff_ray.storage.shards import index_name, write_shard
from netdiff_ray.storage.store import open_store
from netdiff_ray.storage.verify import verify

SETTINGS = ShardSettings(seed=7, payload="dialogue", order="sequential", flows_per_second=10.0)


@pytest.fixture(scope="module")
def real_windows():
    return made_windows(per_label=12, longest=90)


@pytest.fixture(scope="module")
def facts(real_windows):
    """AdapterMetadata of flows of up to three windows of 32 packets."""
    return AdapterMetadata(
        base="toy", revision=None, base_digest="0", layout="stateful", max_height=32,
        prompt="{label}", labels=describe(real_windows), trained={},
        version="0",
    )  # fmt: skip


def test_a_mix_is_divided_by_weights_and_none_is_lost():
    assert apportion(100, {"web": 3, "dns": 1}) == {"web": 75, "dns": 25}
    assert apportion(10, {"a": 1, "b": 1, "c": 1}) == {"a": 4, "b": 3, "c": 3}
    assert apportion(1, {"b": 1, "a": 1}) == {"a": 1, "b": 0}


@given(
    st.integers(1, 10_000),
    st.dictionaries(st.text(max_size=3), st.floats(0.01, 100), min_size=1, max_size=9),
)
def test_a_mix_sums_up_and_is_off_by_less_than_one(total, weights):
    counts = apportion(total, weights)
    assert sum(counts.values()) == total
    whole = sum(weights.values())
    assert all(abs(n - total * weights[label] / whole) < 1 + 1e-6 for label, n in counts.items())


def test_shards_hold_each_flow_once_whatever_the_order_of_labels():
    plans = plan_shards({"web": 5, "dns": 4, "none": 0}, 2)
    assert plans == plan_shards({"none": 0, "dns": 4, "web": 5}, 2)
    assert [plan.number for plan in plans] == list(range(5))
    flows = [(p.label, p.first + k) for p in plans for k in range(p.count)]
    assert flows == [("dns", k) for k in range(4)] + [("web", k) for k in range(5)]


def test_cells_survive_packing():
    rng = np.random.default_rng(1)
    nprints = [rng.integers(-1, 2, (rows, 704)).astype(np.int8) for rows in (16, 3, 1)]
    packed = pack_cells(nprints)
    assert len(packed) == 2 * 20 * 704 / 8
    np.testing.assert_array_equal(unpack_cells(packed, 704), np.concatenate(nprints))


def test_the_context_of_a_service_holds_what_was_seen_of_it():
    known = ServiceStatistics(
        num_flows=9, num_windows=9, num_prompts=1, lengths={"": [LengthBin(1, 1, 9)]},
        stacks=[
            StackCount(*unknown_stack("ipv4 tcp")._replace(server_port=443), 5),
            StackCount(*unknown_stack("ipv4 udp")._replace(server_port=53), 2),
            StackCount(*unknown_stack("ipv4 icmp")._replace(server_port=0), 2),
        ],
        profile=Profile(
            levels=[
                LevelCount(packet=0, side=0, level=0, packets=2),
                LevelCount(packet=1, side=0, level=17, packets=5),
                LevelCount(packet=1, side=1, level=17, packets=1),
                LevelCount(packet=8, side=1, level=255, packets=3),
            ]
        ),
    )  # fmt: skip
    context = service_context(known, "web", "zeros")
    weights = [0.0] * 256
    weights[0], weights[17], weights[255] = 2.0, 6.0, 3.0
    assert context == RepairContext(
        label="web", server_ports=(53, 443), payload="zeros",
        interarrival_weights=tuple(weights), profile=known.profile,
    )  # fmt: skip


def test_a_service_of_which_nothing_was_seen_has_an_open_context():
    known = ServiceStatistics(
        num_flows=1,
        num_windows=1,
        num_prompts=1,
        lengths={"": [LengthBin(1, 1, 1)]},
        profile=Profile(),
    )
    assert service_context(known, "x", "dialogue") == RepairContext(label="x")


def cells_of(facts, plan, real_windows):
    """Return a drawing of a plan: rows of real windows, vacant behind the flow's end."""
    source = np.concatenate(
        [n for n, label in zip(real_windows.nprint, real_windows.label, strict=True)
         if label == plan.label]
    )  # fmt: skip
    parts = []
    for flow in windows_to_draw(facts, plan, SETTINGS.seed):
        for sample in flow:
            window = np.full((sample.height, source.shape[1]), -1, np.int8)
            window[: sample.length] = source[: sample.length]
            parts.append(window)
    return np.concatenate(parts)


def test_the_windows_of_a_long_flow_become_one_flow(facts, real_windows):
    plan = ShardPlan(number=3, label=LABELS[0], first=4, count=20)
    planned = windows_to_draw(facts, plan, SETTINGS.seed)
    assert planned[2] == plan_flow(facts, LABELS[0], SETTINGS.seed, 6).samples
    lengths = [sum(sample.length for sample in flow) for flow in planned]
    assert max(len(flow) for flow in planned) == 3
    assert all(height_for(flow[-1].length) == flow[-1].height for flow in planned)
    shard = build_planned_shard(facts, plan, cells_of(facts, plan, real_windows), SETTINGS)
    assert not shard.quarantine
    assert shard.flows["num_packets"].to_pylist() == lengths
    columns = shard.flows.select(["service", "server_port"])
    assert {tuple(row.values()) for row in columns.to_pylist()} == {
        ("tcp-443", 443),
        ("tcp-other", 9000),
    }
    assert len(set(shard.flows["flow_id"].to_pylist())) == 20


def test_a_flow_does_not_depend_on_its_shard(facts, real_windows):
    columns = ["flow_id", "num_packets", "client_ip", "client_port", "server_ip", "wire_bytes",
               "duration_ns", "seed", "repair_distance"]  # fmt: skip
    whole = ShardPlan(number=0, label=LABELS[1], first=0, count=10)
    rest = ShardPlan(number=1, label=LABELS[1], first=6, count=4)
    one, other = (
        build_planned_shard(
            facts, plan, cells_of(facts, plan, real_windows), SETTINGS
        ).flows.select(columns)
        for plan in (whole, rest)
    )
    assert one.slice(6).to_pylist() == other.to_pylist()


@pytest.mark.parametrize("order", ["sequential", "interleaved"])
def test_a_shard_has_the_networks_and_the_start_that_are_given(facts, real_windows, order):
    plan = ShardPlan(number=0, label=LABELS[1], first=0, count=20)
    pins = PlanPins(client_net=("192.0.2.0/24",), server_net=("198.18.0.0/15",), start="1e9")
    settings = replace(
        SETTINGS, order=order, start_ns=pins.start_ns(),
        addresses=plan_addresses(facts, {LABELS[1]: 20}, pins, SETTINGS.seed),
    )  # fmt: skip
    shard = build_planned_shard(facts, plan, cells_of(facts, plan, real_windows), settings)
    assert shard.ts_ns.min() == 10**18
    for name, net in (("client_ip", pins.client_net), ("server_ip", pins.server_net)):
        used = {ip_address(text) for text in shard.flows[name].to_pylist()}
        assert all(address in ip_network(net[0]) for address in used)


def test_a_shard_that_could_not_be_made_names_each_of_its_flows(facts, real_windows):
    plan = ShardPlan(number=5, label=LABELS[2], first=8, count=4)
    shard = quarantined_shard(facts, plan, "its worker died", SETTINGS)
    made = build_planned_shard(facts, plan, cells_of(facts, plan, real_windows), SETTINGS)
    assert len(shard.flows) == 0
    assert [r["flow_id"] for r in shard.quarantine] == made.flows["flow_id"].to_pylist()
    assert {r["reason"] for r in shard.quarantine} == {"its worker died"}


def test_what_was_drawn_is_kept_beside_the_packets(facts, real_windows, tmp_path):
    plan = ShardPlan(number=0, label=LABELS[0], first=4, count=20)
    cells = cells_of(facts, plan, real_windows)
    plain = build_planned_shard(facts, plan, cells, SETTINGS)
    assert plain.drawn is None
    kept = build_planned_shard(facts, plan, cells, replace(SETTINGS, keep_drawn=True))
    assert kept.flows == plain.flows
    store = open_store(tmp_path)
    write_shard(store, kept, CONFIG)
    commit(store, PCAP_DATASET, CONFIG, [index_name(0)])

    windows = pq.read_table(tmp_path / "drawn" / "part-00000.parquet")
    samples = [s for flow in windows_to_draw(facts, plan, SETTINGS.seed) for s in flow]
    assert windows["num_packets"].to_pylist() == [sample.length for sample in samples]
    assert windows["window"].to_pylist() == [sample.window for sample in samples]
    assert windows["service"].to_pylist() == [sample.service for sample in samples]
    assert list(dict.fromkeys(windows["flow_id"].to_pylist())) == kept.flows["flow_id"].to_pylist()
    assert np.array_equal(np.concatenate(unpack_all(windows)), cells[(cells != VACANT).any(axis=1)])

    assert verify(store).problems == []
    assert open_dataset(store, PCAP_DATASET).part_names == [index_name(0)]
    rows = read_shard(index_name(0), store=store, layout=layout_named(facts.layout), height=64)
    assert set(rows["flow_id"].to_pylist()) == set(kept.flows["flow_id"].to_pylist())
    source = open_source(tmp_path)
    assert [unit.name for unit in source.units] == [index_name(0)]
    assert summarise(source_blocks(source)).num_flows == {LABELS[0]: 20}
    for drawn in (kept_drawings(source), open_source(tmp_path / "drawn")):
        assert summarise(source_blocks(drawn)).num_flows == {LABELS[0]: 20}

    (tmp_path / "drawn" / "part-00000.parquet").write_bytes(b"short")
    assert "drawn/part-00000.parquet" in verify(store).problems[0]
    assert missing_parts(store, CONFIG, [index_name(0)]) == [0]


def test_rows_behind_the_end_of_a_drawn_flow_are_not_kept(facts):
    layout = layout_named(facts.layout)
    first, second = np.zeros((2, 4, layout.width), np.int8)
    second[2] = VACANT
    flow = DrawnFlow(flow_id="f", service="tcp-443", windows=[first, second, first])
    nothing = DrawnFlow(flow_id="g", service="tcp-443", windows=[np.full_like(first, VACANT)])
    table = drawn_table([flow, nothing], layout, label="a", capture="c")
    assert table["num_packets"].to_pylist() == [4, 2]
    assert table["flow_id"].to_pylist() == ["f", "f"]


def test_an_unknown_label_is_named(facts):
    with pytest.raises(ConfigError, match="does not know label 'ftp'"):
        windows_to_draw(facts, ShardPlan(number=0, label="ftp", first=0, count=1), 0)


def test_a_flow_repaired_by_itself_has_the_packets_of_its_shard(facts, real_windows):
    plan = ShardPlan(number=0, label=LABELS[1], first=6, count=4)
    drawn = cells_of(facts, plan, real_windows)
    shard = build_planned_shard(facts, plan, drawn, SETTINGS)
    windows = windows_to_draw(facts, plan, SETTINGS.seed)
    ends = np.cumsum([0, *(sum(sample.height for sample in flow) for flow in windows)])
    for k, row in enumerate(shard.flows.to_pylist()):
        flow = repair_flow(
            facts, plan.label, plan.first + k, drawn[ends[k] : ends[k + 1]],
            seed=SETTINGS.seed, payload=SETTINGS.payload,
        )  # fmt: skip
        span = slice(shard.first[k], shard.first[k + 1])
        begin = shard.start[span][0]
        np.testing.assert_array_equal(flow.data, shard.data[begin : begin + len(flow.data)])
        np.testing.assert_array_equal(flow.caplen, shard.caplen[span])
        np.testing.assert_array_equal(flow.relative_ns, shard.ts_ns[span] - shard.ts_ns[span][0])
        assert (flow.flow_id, flow.distance) == (row["flow_id"], row["repair_distance"])


def test_a_flow_without_packets_says_why(facts):
    vacant = np.full((16, 704), -1, np.int8)
    flow = repair_flow(facts, LABELS[1], 0, vacant, seed=SETTINGS.seed, payload="dialogue")
    assert flow.reason
    assert len(flow.data) == len(flow.caplen) == len(flow.relative_ns) == 0
