"""Collections of captures, their labels, and encoded parts."""

import gzip
import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from packet_builders import ETHERNET_IPV4, ipv4, pcap, tcp4, udp4

from netdiff_ray.encoding.collection import Capture, host_key, list_captures
from netdiff_ray.encoding.encode import (
    DUPLICATE_UNIT,
    EncodeSettings,
    encode_part,
    encoded_part_name,
    plan_parts,
)
from netdiff_ray.encoding.split import encode_bucket, read_range, split_ranges
from netdiff_ray.encoding.windows import unpack_all
from netdiff_ray.errors import DataError, StorageError
from netdiff_ray.evaluate.sources import open_source, source_blocks
from netdiff_ray.local.inspect import captures_in
from netdiff_ray.storage.manifest import ENCODED_DATASET, commit, missing_parts
from netdiff_ray.storage.store import open_store

SETTINGS = EncodeSettings(layout="stateful", height=16, idle_timeout_s=60.0)


@pytest.fixture
def collection(tmp_path):
    """Return captures in folders, plain and compressed, one cut and one that is none."""
    root = tmp_path / "captures"
    for folder in ("web", "label=dns/day1", "odd"):
        (root / folder).mkdir(parents=True)
    web = pcap([tcp4(2), tcp4(0x10), udp4(), *[udp4(sport=9)] * 20])
    (root / "web/a.pcap").write_bytes(web)
    (root / "web/b.pcap.gz").write_bytes(gzip.compress(web))
    (root / "label=dns/day1/c.cap").write_bytes(pcap([udp4()])[:-1])
    (root / "odd/d.pcapng").write_text("no capture")
    (root / "odd/notes.txt").write_text("not looked at")
    return root


def names_and_labels(source, labels=None):
    """Return {name: label} of a collection."""
    return {c.name: c.label for c in list_captures(str(source), labels)[1]}


def test_labels_from_folders(collection):
    assert names_and_labels(collection) == {
        "label=dns/day1/c.cap": "dns", "odd/d.pcapng": "odd", "web/a.pcap": "web",
        "web/b.pcap.gz": "web",
    }  # fmt: skip
    assert names_and_labels(collection / "web") == {"a.pcap": "web", "b.pcap.gz": "web"}
    assert names_and_labels(collection / "*/*.pcap*") == {
        "odd/d.pcapng": "odd", "web/a.pcap": "web", "web/b.pcap.gz": "web",
    }  # fmt: skip
    assert names_and_labels(collection / "web/a.pcap") == {"a.pcap": "web"}
    assert names_and_labels(f"file://{collection}/web") == {"a.pcap": "web", "b.pcap.gz": "web"}


def test_labels_from_a_csv(collection, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("capture,label\nweb/a.pcap,browsing\nc.cap,names\n")
    _, captures, without = list_captures(str(collection), str(table))
    assert {c.name: c.label for c in captures} == {
        "web/a.pcap": "browsing", "label=dns/day1/c.cap": "names",
    }  # fmt: skip
    assert [r["capture"] for r in without] == ["odd/d.pcapng", "web/b.pcap.gz"]
    table.write_text("file,class\nx,y\n")
    with pytest.raises(DataError, match="columns capture and label"):
        list_captures(str(collection), str(table))
    with pytest.raises(DataError, match="no such file"):
        list_captures(str(collection), str(tmp_path / "none.csv"))


@pytest.fixture
def odd_collection(collection):
    """Return the collection with what has a capture's suffix and cannot be read by its name."""
    (collection / os.fsdecode(b"web/\xff.pcap")).write_bytes(b"no capture")
    (collection / os.fsdecode(b"\xfe")).mkdir()
    (collection / os.fsdecode(b"\xfe/a.pcap")).write_bytes(pcap([udp4()]))
    (collection / os.fsdecode(b"web/\xff.txt")).write_text("not looked at")
    (collection / "web/gone.pcap").symlink_to("nowhere")
    (collection / "web/round.pcap").symlink_to("round.pcap")
    os.mkfifo(collection / "web/fifo.pcap")
    (collection / "web/null.pcap").symlink_to("/dev/null")
    return collection


ODD = {
    "\\xfe/a.pcap": "its name is not UTF-8; rename it",
    "web/\\xff.pcap": "its name is not UTF-8; rename it",
    "web/fifo.pcap": "a FIFO, not a file",
    "web/gone.pcap": "a link to nothing",
    "web/null.pcap": "a device, not a file",
    "web/round.pcap": "a link that leads to itself",
}


def test_what_is_no_file_is_quarantined(odd_collection):
    _, captures, quarantine = list_captures(str(odd_collection))
    assert [c.name for c in captures] == list(names_and_labels(odd_collection))
    assert len(captures) == 4
    assert {record["capture"]: record["reason"] for record in quarantine} == ODD
    assert list_captures(str(odd_collection / "*/*.pcap"))[2] == quarantine
    with pytest.raises(DataError, match=r"fifo\.pcap: a FIFO, not a file"):
        list_captures(str(odd_collection / "web/fifo*"))
    with pytest.raises(DataError, match="not a file or folder"):
        list_captures(str(odd_collection / "web/fifo.pcap"))
    with pytest.raises(StorageError, match=r"xfe: the path is not UTF-8"):
        list_captures(str(odd_collection / os.fsdecode(b"\xfe")))


def test_links_to_folders_are_followed_once(collection):
    before = names_and_labels(collection)
    (collection / "web/again").symlink_to("..")
    (collection / "more").symlink_to("web")
    after = names_and_labels(collection)
    assert after == {**before, "more/a.pcap": "more", "more/b.pcap.gz": "more"}


def test_all_readers_say_what_is_no_file(odd_collection):
    paths, left_out = captures_in((odd_collection,))
    assert len(paths) == 4
    faults = [fault for inspection in left_out for fault in inspection.faults]
    assert faults == [f"{odd_collection}/{name}: {reason}" for name, reason in ODD.items()]
    source = open_source(odd_collection)
    notes = [note for block in source_blocks(source) for note in block.notes]
    assert {f"left out: {odd_collection}: {name}: {reason}" for name, reason in ODD.items()} <= set(
        notes
    )
    assert len(source.captures) == 4


def test_nothing_found(tmp_path):
    with pytest.raises(DataError, match="no captures there"):
        list_captures(str(tmp_path / "nowhere"))


def test_parts_are_runs_of_captures():
    captures = [Capture(str(k), "x", size) for k, size in enumerate((3, 4, 5, 50, 1, 1))]
    parts = plan_parts(captures, part_bytes=8)
    assert [[c.num_bytes for c in part] for part in parts] == [[3, 4], [5], [50], [1, 1]]
    assert plan_parts([]) == []


def test_parts_hold_windows_and_the_quarantine(collection, tmp_path):
    source, captures, _ = list_captures(str(collection))
    target = open_store(tmp_path / "encoded")
    names = [encoded_part_name(k) for k in range(2)]
    config = {"layout": "stateful"}
    assert missing_parts(target, config, names) == [0, 1]
    for number, part in enumerate([*plan_parts(captures, part_bytes=1)[:1], tuple(captures[1:])]):
        encode_part(source, part, target, number, SETTINGS, config)
    assert missing_parts(target, config, names) == []
    counts = commit(target, ENCODED_DATASET, config, names).manifest["counts"]
    assert counts["labels"]["web"] == {"captures": 2, "flows": 6, "packets": 46, "windows": 8}
    assert counts["quarantined"] == 2
    reasons = [json.loads(line)["reason"] for line in target.get("_quarantine.jsonl").splitlines()]
    assert "the file ends inside a record" in reasons[0]
    assert "this is text" in reasons[1]
    table = pq.read_table(tmp_path / "encoded" / names[1])
    assert table["label"].to_pylist() == ["web"] * 8
    assert [len(nprint) for nprint in unpack_all(table)] == table["num_packets"].to_pylist()
    a, b = (table.filter(np.array(table["capture"]) == n) for n in ("web/a.pcap", "web/b.pcap.gz"))
    assert a["flow_id"].to_pylist() == b["flow_id"].to_pylist()  # the same content


def test_the_folder_is_a_table_for_pandas(collection, tmp_path):
    source, captures, _ = list_captures(str(collection))
    target = open_store(tmp_path / "encoded")
    names = [encoded_part_name(k) for k in range(len(captures))]
    for number, capture in enumerate(captures):
        encode_part(source, [capture], target, number, SETTINGS, {})
    commit(target, ENCODED_DATASET, {}, names)
    frame = pd.read_parquet(tmp_path / "encoded")
    assert frame.groupby("label")["num_packets"].sum().to_dict() == {"web": 46}
    assert pq.read_table(tmp_path / "encoded").num_rows == len(frame) == 8


def test_hosts_are_the_same_numbers_in_all_captures(collection, tmp_path):
    (collection / "odd/d.pcapng").write_bytes(
        pcap([udp4(source="10.0.0.2", target="10.0.0.1", sport=53, dport=2000),
              udp4(source="10.0.0.3", target="10.0.0.2", sport=2001, dport=53)])
    )  # fmt: skip
    source, captures, _ = list_captures(str(collection))
    numbers = []
    for key in (host_key(source, captures), b"another"):
        target = open_store(tmp_path / key.hex())
        encode_part(source, captures, target, 0, replace(SETTINGS, host_key=key), {})
        rows = pq.read_table(target.path(encoded_part_name(0))).to_pylist()
        numbers.append({(row["client_host"], row["server_host"]) for row in rows})
    # All servers are 10.0.0.2, and the clients 10.0.0.1 and 10.0.0.3.
    assert [len(of_key) for of_key in numbers] == [2, 2]
    assert len({server for _, server in numbers[0]}) == 1
    assert not numbers[0] & numbers[1]


def test_the_key_of_hosts_is_of_the_first_capture(collection, tmp_path):
    source, captures, _ = list_captures(str(collection))
    assert host_key(source, []) == b""
    assert host_key(source, captures) == host_key(source, captures[:1])
    assert host_key(source, captures) != host_key(source, captures[1:])


def test_parts_are_the_same_bytes_each_time(collection, tmp_path):
    source, captures, _ = list_captures(str(collection))
    contents = []
    for folder in ("one", "two"):
        target = open_store(tmp_path / folder)
        encode_part(source, captures, target, 0, SETTINGS, {"a": 1})
        contents.append(target.get(encoded_part_name(0)))
    assert contents[0] == contents[1]


def test_tunnels_are_followed_in_parts_and_ranges(tmp_path):
    frames = [
        ETHERNET_IPV4 + ipv4(tcp4(0x10, sport=k)[14:], 4, "10.0.0.1", "10.0.0.2")
        for k in range(1, 201)
    ]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.pcap").write_bytes(pcap(frames))
    source, (capture,), _ = list_captures(str(tmp_path / "in"))
    target = open_store(tmp_path / "out")
    settings = replace(SETTINGS, decapsulate=True)
    whole = encode_part(source, [capture], target, 0, settings, {})
    assert whole.sums["flows"] == 200
    assert encode_part(source, [capture], target, 1, SETTINGS, {}).sums["flows"] == 0
    ranges = [
        read_range(source, capture, byte_range, k, [0], 1, decapsulate=True)[0]
        for k, byte_range in enumerate(split_ranges(capture.num_bytes, 10_000))
    ]
    assert len(ranges) > 1
    split = encode_bucket(ranges, capture, target, 2, settings, {})
    assert whole.counts["in"]["tunnelled in IP-in-IP"] == 200
    assert split.counts == whole.counts
    parts = [pq.read_table(tmp_path / "out" / encoded_part_name(k)) for k in (0, 2)]
    assert parts[0].equals(parts[1])


def test_packets_captured_twice_stand_once(tmp_path):
    root = tmp_path / "captures"
    (root / "web").mkdir(parents=True)
    packets = []
    for k in range(300):
        frame = tcp4(0x18, bytes(k % 7), sport=1000 + k // 10, seq=k)
        nearer = bytearray(frame)
        nearer[14 + 8] -= 1
        times = (0, 300) if k < 200 else (0,)
        packets += [(0, 2_000 * k + us, bytes(nearer) if us else frame) for us in times]
    (root / "web/a.pcap").write_bytes(pcap(packets))
    source, captures, _ = list_captures(str(root))
    target = open_store(str(tmp_path / "encoded"))
    whole = encode_part(source, captures, target, 0, SETTINGS, {})
    assert whole.counts["web"]["packets"] == 300
    assert whole.counts["web"][DUPLICATE_UNIT] == 200
    table = pq.read_table(tmp_path / "encoded" / encoded_part_name(0))
    columns = zip(
        table["duplicate_hops"].to_pylist(), table["duplicate_ns"].to_pylist(), strict=True
    )
    assert sorted(columns, key=str) == [(1, 300_000)] * 20 + [(None, None)] * 10
    (capture,) = captures
    ranges = [
        read_range(source, capture, byte_range, k, [0], 1)[0]
        for k, byte_range in enumerate(split_ranges(capture.num_bytes, 9_000))
    ]
    assert len(ranges) > 2
    joined = encode_bucket(ranges, capture, target, 1, SETTINGS, {})
    assert joined.counts == whole.counts
    assert pq.read_table(tmp_path / "encoded" / encoded_part_name(1)).equals(table)
