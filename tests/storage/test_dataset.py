"""Shards whole or not at all, resume, refusal, the manifest, and verification."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from storage.dataset_builders import CONFIG, NAMES, made_shard

from netdiff_ray.errors import ConfigError, DatasetError, StorageError
from netdiff_ray.generation.schedule import schedule_packets
from netdiff_ray.packets import CaptureReader
from netdiff_ray.storage.manifest import PCAP_DATASET, commit, missing_parts
from netdiff_ray.storage.shards import write_shard
from netdiff_ray.storage.store import open_store
from netdiff_ray.storage.verify import verify


def content_of(folder):
    """Return {name: bytes} of every file below a folder."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()
    }


def written(tmp_path, name="d", **options):
    """Return a committed dataset of two shards."""
    store = open_store(tmp_path / name)
    how = {name: options.pop(name) for name in ("pcap_per_flow", "form") if name in options}
    for number in missing_parts(store, CONFIG, NAMES):
        shard = made_shard(tmp_path, number, **options)
        write_shard(store, shard, CONFIG, **how)
    commit(store, PCAP_DATASET, CONFIG, NAMES)
    return store


@pytest.mark.parametrize(
    "options", [{}, {"order": "interleaved"}, {"pcap_per_flow": True}, {"form": "pcapml"}]
)
def test_a_dataset_verifies(tmp_path, options):
    store = written(tmp_path, **options)
    result = verify(store)
    assert result.problems == []
    assert (result.num_flows, result.num_packets) == (6, 18)
    assert result.unlisted == []
    manifest = json.loads(store.get("manifest.json"))
    assert manifest["counts"]["labels"] == {
        "web": {"flows": 6, "packets": 18, "wire_bytes": 920, "repair_distance": 0.0}
    }
    assert len(store.get("quarantine.jsonl").splitlines()) == 2
    names = set(manifest["files"])
    assert ("label=web/part-00000.pcap" in names) == (
        not options.keys() & {"pcap_per_flow", "form"}
    )
    (table,) = CaptureReader(store.path(min(n for n in names if n.startswith("label="))))
    assert (np.diff(table.ts_ns) > 0).all()
    assert pq.read_table(store.path("flows/part-00001.parquet")).num_rows == 3


def test_the_index_is_a_table_for_pandas(tmp_path):
    written(tmp_path)
    assert pd.read_parquet(tmp_path / "d" / "flows")["num_packets"].sum() == 18


def test_each_shard_has_the_labels_of_its_flows(tmp_path):
    written(tmp_path, label='a "web", of sorts')
    for number in (0, 1):
        labels = pd.read_csv(tmp_path / f"d/labels/part-{number:05d}.csv", dtype=str)
        flows = pq.read_table(tmp_path / f"d/flows/part-{number:05d}.parquet").to_pylist()
        assert len(labels) == len(flows) == 3
        for written_row, row in zip(labels.to_dict("records"), flows, strict=True):
            end_ns = row["start_ts_ns"] + row["duration_ns"]
            assert written_row == {
                "src_ip": row["client_ip"], "src_port": str(row["client_port"]),
                "dst_ip": row["server_ip"], "dst_port": str(row["server_port"]),
                "protocol": str(row["protocol"]),
                "start": f"{row['start_ts_ns'] // 10**9}.{row['start_ts_ns'] % 10**9:09d}",
                "end": f"{end_ns // 10**9}.{end_ns % 10**9:09d}",
                "label": 'a "web", of sorts', "flow_id": row["flow_id"],
            }  # fmt: skip


def test_resume_does_only_what_is_missing(tmp_path):
    store = written(tmp_path)
    before = content_of(tmp_path / "d")
    assert missing_parts(store, CONFIG, NAMES) == []
    store.delete("label=web/part-00001.pcap")
    assert missing_parts(store, CONFIG, NAMES) == [1]
    store.put("label=web/part-00001.pcap", b"short")
    assert missing_parts(store, CONFIG, NAMES) == [1]
    store.delete("labels/part-00001.csv")
    assert missing_parts(store, CONFIG, NAMES) == [1]
    store.delete("flows/part-00000.parquet")
    assert missing_parts(store, CONFIG, NAMES) == [0, 1]
    written(tmp_path)
    assert content_of(tmp_path / "d") == before


def test_another_configuration_is_refused(tmp_path):
    store = written(tmp_path)
    other = {**CONFIG, "height": 128}
    with pytest.raises(ConfigError, match="height is 64 there and 128 requested"):
        missing_parts(store, other, NAMES)
    store.delete("manifest.json")
    with pytest.raises(ConfigError, match="height is 64 there and 128 requested"):
        missing_parts(store, other, NAMES)


def test_commit_needs_every_shard(tmp_path):
    store = open_store(tmp_path / "d")
    write_shard(store, made_shard(tmp_path, 0), CONFIG)
    with pytest.raises(DatasetError, match=r"part-00001\.parquet is missing"):
        commit(store, PCAP_DATASET, CONFIG, NAMES)
    with pytest.raises(DatasetError, match=r"no manifest.json"):
        verify(store)


def test_a_writer_that_dies_leaves_nothing(tmp_path, monkeypatch):
    store = open_store(tmp_path / "d")

    def replace(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_shard(store, made_shard(tmp_path, 0), CONFIG)
    assert content_of(tmp_path / "d") == {}


def test_files_under_a_partial_name_do_not_exist(tmp_path):
    store = written(tmp_path)
    (tmp_path / "d/label=web/part-00009.pcap.0123.partial").write_bytes(b"x")
    assert verify(store).problems == []
    assert verify(store).unlisted == []


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("label=web/part-00000.pcap", None, "missing"),
        ("label=web/part-00000.pcap", lambda b: b[:-1], "bytes;"),
        ("label=web/part-00000.pcap", lambda b: b[:-1] + b"\7", "SHA-256 is not the manifest's"),
        ("flows/part-00001.parquet", lambda b: b + b"x", "bytes;"),
        ("labels/part-00000.csv", lambda b: b.replace(b"web", b"wab"), "SHA-256 is not the"),
        ("quarantine.jsonl", lambda b: b"", "bytes;"),
    ],
)
def test_damage_is_found(tmp_path, name, damage, words):
    store = written(tmp_path)
    if damage is None:
        store.delete(name)
    else:
        store.put(name, damage(store.get(name)))
    (problem,) = verify(store).problems
    assert problem.startswith(name)
    assert words in problem


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("num_packets", 9, "num_packets is 9 in the index and"),
        ("wire_bytes", 1, "wire_bytes is 1 in the index and"),
        ("start_ts_ns", 5, "start_ts_ns is 5 in the index and"),
        ("client_port", 9, "is not in label=web/part-00000.pcap"),
    ],
)
def test_an_index_that_is_not_its_packets_is_found(tmp_path, column, value, words):
    store = open_store(tmp_path / "d")
    shard = made_shard(tmp_path, 0)
    at = shard.flows.schema.get_field_index(column)
    values = shard.flows[column].to_pylist()
    values[1] = value
    kind = shard.flows.schema.field(column).type
    import pyarrow as pa

    table = shard.flows.set_column(at, column, pa.array(values, kind))
    write_shard(store, type(shard)(**{**vars(shard), "flows": table}), CONFIG)
    commit(store, PCAP_DATASET, CONFIG, NAMES[:1])
    assert any(words in p for p in verify(store).problems)


def test_stores_that_cannot_be(tmp_path):
    with pytest.raises(StorageError):
        open_store("nowhere://bucket/x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        open_store(tmp_path / "file" / "inside").put("a", b"x")


@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    order=st.sampled_from(["sequential", "interleaved"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_schedules_are_strictly_increasing(counts, order, seed):
    random = np.random.default_rng(seed)
    first = np.concatenate([[0], np.cumsum(counts)])
    relative = [np.cumsum(random.integers(1, 3, n)) - 1 for n in counts]
    relative = np.concatenate(relative).astype(np.int64)
    ts_ns, permutation = schedule_packets(
        relative, first, order=order, start_ns=100, flows_per_second=1e9, seed=seed
    )
    assert sorted(permutation.tolist()) == list(range(len(relative)))
    assert (np.diff(ts_ns[permutation]) > 0).all()
    for begin, end in itertools.pairwise(first):
        assert (np.diff(ts_ns[begin:end]) > 0).all()


def test_a_password_in_a_uri_is_not_printed():
    uri = "s3://key:a%2Fb@bucket/folder?region=us-east-1"
    assert open_store(uri).uri == "s3://bucket/folder?region=us-east-1"
    assert open_store(uri).root == "bucket/folder"
    assert open_store("data/a@b").uri == "data/a@b"
    with pytest.raises(StorageError) as refused:
        open_store("nowhere://me:secret@host/x")
    assert "secret" not in str(refused.value)
