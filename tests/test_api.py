"""The public Python API: names, captures and datasets as arrays."""

import ast
import dataclasses
import subprocess
import sys
import typing
from importlib import resources

import numpy as np
import pytest
from packet_builders import pcap, tcp4, udp4
from paths import ROOT
from storage.dataset_builders import CONFIG, NAMES, made_shard

import netdiff_ray as nd
from netdiff_ray.encoding.collection import list_captures
from netdiff_ray.encoding.encode import EncodeSettings, encode_part, encoded_part_name
from netdiff_ray.generation.flow_repair import RepairedGroup
from netdiff_ray.generation.shard_builder import build_shard
from netdiff_ray.nprint.layouts import LAYOUTS
from netdiff_ray.repair import RepairContext, repair
from netdiff_ray.storage.manifest import ENCODED_DATASET, PCAP_DATASET, commit
from netdiff_ray.storage.shards import index_name, write_shard
from netdiff_ray.storage.store import open_store

PACKETS = [tcp4(2), udp4(), *[udp4(sport=9)] * 20, tcp4(0x10)]


@pytest.fixture
def encoded(tmp_path):
    """Return an encoded dataset of two parts, with windows of at most 16 packets."""
    for label in ("web", "dns"):
        (tmp_path / "captures" / label).mkdir(parents=True)
        (tmp_path / "captures" / label / "a.pcap").write_bytes(pcap(PACKETS))
    source, captures, _ = list_captures(str(tmp_path / "captures"))
    target = open_store(tmp_path / "encoded")
    settings = EncodeSettings(layout="nprint-1088", height=16, idle_timeout_s=60.0)
    for number, capture in enumerate(captures):
        encode_part(source, [capture], target, number, settings, {})
    commit(target, ENCODED_DATASET, {}, [encoded_part_name(k) for k in range(2)])
    return tmp_path / "encoded"


@pytest.fixture(
    params=[{}, {"pcap_per_flow": True}, {"form": "pcapml"}],
    ids=["shards", "a pcap a flow", "pcapml"],
)
def pcaps(tmp_path, request):
    """Return a pcap dataset of two shards, its packets interleaved, and the rows of its index."""
    store, rows = open_store(tmp_path / "pcaps"), []
    for number, label in enumerate(("web", "chat")):
        shard = made_shard(tmp_path, number, label=label, order="interleaved")
        write_shard(store, shard, CONFIG, **request.param)
        rows += shard.flows.to_pylist()
    commit(store, PCAP_DATASET, CONFIG, NAMES)
    return tmp_path / "pcaps", rows


def names_for_type_checkers():
    """Return {name: module} of the imports that only type checkers see."""
    tree = ast.parse((ROOT / "netdiff_ray" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_every_name_is_there_and_known_to_type_checkers():
    assert {name for name in dir(nd) if not name.startswith("_")} == {*nd.__all__} - {"__version__"}
    assert names_for_type_checkers() == nd._MODULE_OF
    assert set(nd._MODULE_OF) < set(nd.__all__)
    for name in nd.__all__:
        assert getattr(nd, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nd.nothing
    assert resources.files(nd).joinpath("py.typed").is_file()


def test_records_that_configurations_take_are_public():
    records = [
        getattr(nd, name) for name in nd.__all__ if dataclasses.is_dataclass(getattr(nd, name))
    ]
    configs = [r for r in records if r.__module__.startswith("netdiff_ray.config")]
    assert len(configs) > 10
    for config in configs:
        for hint in typing.get_type_hints(config).values():
            for taken in (hint, *typing.get_args(hint)):
                if dataclasses.is_dataclass(taken):
                    assert getattr(nd, taken.__name__) is taken


def test_public_functions_are_typed():
    for name in ("encode", "train", "generate", "evaluate", "run_pipeline", "load", "read_capture"):
        function = getattr(nd, name)
        hints = typing.get_type_hints(function)
        assert set(hints) == {*function.__code__.co_varnames[: _num_arguments(function)], "return"}


def _num_arguments(function):
    return function.__code__.co_argcount + function.__code__.co_kwonlyargcount


@pytest.mark.parametrize(
    "before",
    ["import netdiff_ray.evaluate.report", "import netdiff_ray.distributed.evaluate", "pass"],
)
def test_evaluate_is_the_function_whatever_was_imported(before):
    code = (
        f"{before}\nimport netdiff_ray as nd; first = nd.evaluate\n"
        "from netdiff_ray.evaluate.report import Report\n"
        "import netdiff_ray.evaluate.summary\n"
        "from netdiff_ray import evaluate\n"
        "assert callable(first) and nd.evaluate is first is evaluate"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_capture_as_windows(tmp_path):
    (tmp_path / "a.pcap").write_bytes(pcap(PACKETS))
    capture = nd.read_capture(tmp_path / "a.pcap", layout="nprint", height=16)
    windows = list(capture)
    assert capture.fault is None
    assert sorted(len(w.nprint) for w in windows) == [1, 2, 4, 16]
    assert {w.nprint.shape[1] for w in windows} == {capture.layout.width} == {1408}
    assert len({w.flow_id for w in windows}) == 3
    long = [w for w in windows if w.flow_id == max(windows, key=lambda w: len(w.nprint)).flow_id]
    assert [(w.number, w.is_last) for w in long] == [(0, False), (1, True)]
    assert all(len(w.ts_ns) == len(w.direction) == len(w.interarrival_ns) for w in windows)
    with open(tmp_path / "a.pcap", "rb") as file:
        assert len(list(nd.read_capture(file))) == 3


def test_a_capture_that_is_cut_or_none(tmp_path):
    (tmp_path / "cut.pcap").write_bytes(pcap(PACKETS)[:-1])
    capture = nd.read_capture(str(tmp_path / "cut.pcap"))
    assert sum(len(w.nprint) for w in capture) == len(PACKETS) - 1
    assert "ends inside a record" in str(capture.fault)
    (tmp_path / "none.pcap").write_text("no capture")
    with pytest.raises(nd.CaptureError, match="this is text"):
        nd.read_capture(tmp_path / "none.pcap")
    with pytest.raises(nd.ConfigError, match="height"):
        nd.read_capture(tmp_path / "cut.pcap", height=3)


def test_an_encoded_dataset(encoded):
    dataset = nd.load(encoded)
    assert dataset.kind == ENCODED_DATASET
    assert len(dataset) == len(dataset.nprints) == 8
    assert dataset.field_names == LAYOUTS["nprint-1088"].fields
    assert len(dataset.column_names) == 1088
    assert dataset.labels.tolist() == ["dns"] * 4 + ["web"] * 4
    known = {}
    for label in ("web", "dns"):
        path = encoded.parent / "captures" / label / "a.pcap"
        for w in nd.read_capture(path, layout="nprint-1088", height=16):
            known[label, w.flow_id, w.number] = w.nprint
    keys = zip(dataset.labels, dataset.flow_ids, dataset.window_numbers, strict=True)
    for k, key in enumerate(keys):
        np.testing.assert_array_equal(dataset.nprints[k], known[key])
    np.testing.assert_array_equal(dataset.nprints[-1], list(dataset.nprints)[7])
    for some, k in zip(dataset.nprints[6:0:-4], (6, 2), strict=True):
        np.testing.assert_array_equal(some, dataset.nprints[k])
    with pytest.raises(IndexError):
        dataset.nprints[8]
    with pytest.raises(nd.ConfigError, match="encoded already"):
        nd.load(encoded, height=32)


def test_a_pcap_dataset(pcaps):
    folder, rows = pcaps
    dataset = nd.load(folder)
    assert dataset.kind == PCAP_DATASET
    frame = dataset.to_pandas().set_index("flow_id")
    assert sorted(frame.index) == sorted(row["flow_id"] for row in rows)
    for row in rows:
        window = frame.loc[row["flow_id"]]
        assert window["label"] == row["label"]
        assert window["num_packets"] == len(window["nprint"]) == row["num_packets"]
        assert window["start_ts_ns"] == row["start_ts_ns"]
        assert window["interarrival_ns"].sum() == row["duration_ns"]
    low = nd.load(folder, layout="nprint", height=16)
    assert low.nprints[0].shape[1] == 1408


def test_flows_of_a_pcap_dataset_are_those_of_its_index(tmp_path):
    """Noise gives the packets of a ping several identifiers, and makes its client answer."""
    path = ROOT / "samples" / "train" / "ping" / "host-0.pcap.gz"
    drawn = [w.nprint.copy() for w in nd.read_capture(path, height=64) if w.is_last]
    random = np.random.default_rng(1)
    for nprint in drawn:
        wrong = random.random(nprint.shape) < 0.05
        nprint[wrong] = random.integers(-1, 2, wrong.sum())
    numbers = np.arange(len(drawn), dtype=np.uint64)
    repaired = repair(drawn, LAYOUTS["stateful"], RepairContext(label="ping"), numbers, numbers)
    ids = [f"flow-{k}" for k in numbers]
    group = RepairedGroup(tuple(range(len(ids))), "icmp", repaired)
    shard = build_shard([group], number=0, label="ping", flow_ids=ids, order="interleaved")
    store = open_store(tmp_path)
    write_shard(store, shard, {})
    commit(store, PCAP_DATASET, {}, [index_name(0)])
    table = nd.load(tmp_path, height=16).table
    counts = table.group_by("flow_id").aggregate([("num_packets", "sum"), ("window", "max")])
    rows = {row["flow_id"]: row for row in shard.flows.to_pylist()}
    assert sorted(rows) == sorted(counts["flow_id"].to_pylist())
    for row in counts.to_pylist():
        packets = rows[row["flow_id"]]["num_packets"]
        assert row["num_packets_sum"] == packets
        assert row["window_max"] == (packets - 1) // 16
    first = {r["flow_id"]: r["direction"] for r in table.to_pylist() if r["window"] == 0}
    directions = [first[ids[k]][0] for k in repaired.batch.position.tolist()]
    assert directions == repaired.batch.packets.direction[repaired.batch.flows.starts[:-1]].tolist()


def test_windows_for_torch(encoded):
    from torch.utils.data import DataLoader

    dataset = nd.load(encoded)
    windows = dataset.to_torch(height=32)
    assert windows.classes == ["dns", "web"]
    assert len(windows) == 8
    ((nprints, classes),) = DataLoader(windows, batch_size=8)
    assert nprints.shape == (8, 32, 1088)
    assert classes.tolist() == [0] * 4 + [1] * 4
    length = len(dataset.nprints[5])
    np.testing.assert_array_equal(nprints[5, :length].numpy(), dataset.nprints[5])
    assert (nprints[5, length:] == -1).all()
    assert dataset.to_torch()[0][0].shape == (16, 1088)
    with pytest.raises(nd.ConfigError, match="a window has 16 packets"):
        dataset.to_torch(height=8)


def test_what_is_no_dataset(pcaps, tmp_path):
    with pytest.raises(nd.DatasetError, match=r"neither manifest\.json nor _manifest\.json"):
        nd.load(tmp_path / "nothing")
    folder, _ = pcaps
    with pytest.raises(nd.ConfigError, match="'wide' is not known"):
        nd.load(folder, layout="wide")
    for height in (0, 3):
        with pytest.raises(nd.ConfigError, match=f"height is {height}; it must be one of 16"):
            nd.load(folder, height=height)
    lost = next(folder.glob("label=web/**/*.pcap*"))
    lost.unlink()
    with pytest.raises(nd.DatasetError, match=rf"{lost.name} is missing"):
        len(nd.load(folder))
