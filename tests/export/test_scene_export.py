"""A scene in time order: every packet once, the same bytes after a break, and its ground truth."""

import csv
import json
from collections import defaultdict

import pytest
from fs_helpers import content_of
from generation.scene_dataset import SCENE, built_shards, write_dataset
from scenes.scene_builders import metadata

from netdiff_ray.errors import ConfigError
from netdiff_ray.export.scene import SCENE_RECORD, write_scene
from netdiff_ray.packets import CaptureReader
from netdiff_ray.scenes.planner import ScenePlanner
from netdiff_ray.storage.store import open_store

SECONDS = 180.0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(open_store(tmp_path_factory.mktemp("flows")), built_shards())


@pytest.fixture(scope="module")
def planner():
    return ScenePlanner(metadata(), SCENE, 5)


@pytest.fixture(scope="module")
def whole(dataset, planner, tmp_path_factory):
    target = tmp_path_factory.mktemp("scene")
    write_scene(open_store(target), dataset, planner, SECONDS)
    return target


def packets_of(paths):
    """Return the (time, bytes) of each packet of captures, in the order of their names."""
    return [
        (int(ts_ns), table.packet(k))
        for path in sorted(paths)
        for table in CaptureReader(path)
        for k, ts_ns in enumerate(table.ts_ns)
    ]


def test_captures_hold_every_packet_once_in_time_order(whole, dataset, planner, tmp_path):
    captures = sorted(whole.glob("capture-*.pcap"))
    assert [path.name for path in captures] == [f"capture-0000{k}.pcap" for k in range(3)]
    packets = packets_of(captures)
    times = [ts_ns for ts_ns, _ in packets]
    assert times == sorted(times)
    flows = packets_of(dataset.store.path(name) for name in dataset.files if ".pcap" in name)
    assert sorted(packets) == sorted(flows)
    for part, path in enumerate(captures):
        begin = SCENE.start_ns + part * int(SECONDS * 1e9)
        of_part = [ts_ns for ts_ns, _ in packets_of([path])]
        assert of_part[0] >= begin
        assert part == 2 or of_part[-1] < begin + SECONDS * 1e9
    write_scene(open_store(tmp_path), dataset, planner, None)
    assert packets_of(tmp_path.glob("capture-*.pcap")) == packets


def test_labels_and_hosts_say_what_is_true(whole, dataset):
    rows = list(csv.DictReader((whole / "labels.csv").open()))
    assert len(rows) == dataset.manifest["counts"]["flows"]
    hosts = {row["host"]: row for row in csv.DictReader((whole / "hosts.csv").open())}
    roles = defaultdict(set)
    for row in hosts.values():
        roles[row["role"]].add(row["ipv4"])
    assert {role: len(of) for role, of in roles.items() if role != "server"} == {
        "gateway": 1, "resolver": 2, "client": 100,
    }  # fmt: skip
    assert len(set().union(*roles.values())) == len(hosts)
    for row in rows:
        assert hosts[row["host"]]["ipv4"] == row["src_ip"]
        assert row["dst_ip"] in roles["resolver" if row["dst_port"] == "53" else "server"]
    (incident,) = csv.DictReader((whole / "incidents.csv").open())
    flooded = [row for row in rows if row["incident"] == incident["incident"]]
    assert flooded
    assert all(incident["start"] <= row["start"] < incident["end"] for row in flooded)


def test_a_break_leaves_nothing_that_is_complete_and_going_on_makes_the_same(
    whole, dataset, planner, tmp_path
):
    class Broken(Exception):
        pass

    def fail(done, count):
        if done == count - 1:
            raise Broken

    store = open_store(tmp_path)
    with pytest.raises(Broken):
        write_scene(store, dataset, planner, SECONDS, fail)
    assert not json.loads((tmp_path / SCENE_RECORD).read_text())["complete"]
    write_scene(store, dataset, planner, SECONDS)
    assert content_of(tmp_path) == content_of(whole)
    (tmp_path / "capture-00001.pcap").unlink()
    write_scene(store, dataset, planner, SECONDS)
    assert content_of(tmp_path) == content_of(whole)
    seen = []
    write_scene(store, dataset, planner, SECONDS, lambda *done: seen.append(done))
    assert not seen  # it is finished


def test_other_files_are_not_overwritten(dataset, planner, tmp_path):
    (tmp_path / "capture-00000.pcap").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        write_scene(open_store(tmp_path), dataset, planner, SECONDS)
