"""Encoding on Ray: the same parts as without it, resumed, refused, with its exit codes."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fs_helpers import content_of
from packet_builders import ETHERNET_IPV4, ipv4, pcap, tcp4, udp4

from netdiff_ray.cli import main
from netdiff_ray.encoding.collection import host_key, list_captures
from netdiff_ray.encoding.encode import EncodeSettings, encode_part, encoded_part_name, plan_parts
from netdiff_ray.packets import CaptureReader
from netdiff_ray.storage.store import open_store

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def collection(tmp_path):
    """Twenty captures of two labels, one of them damaged."""
    for k in range(20):
        folder = tmp_path / "captures" / ("web" if k % 2 else "dns")
        folder.mkdir(parents=True, exist_ok=True)
        packets = [tcp4(2, sport=k), *[udp4(bytes(k), sport=j) for j in range(k)]]
        (folder / f"{k:02d}.pcap").write_bytes(pcap(packets)[: -3 if k == 7 else None])
    return tmp_path / "captures"


def run(*arguments):
    """Return the exit code of the command line."""
    return main([str(a) for a in arguments])


def test_parts_are_those_of_plain_functions(collection, tmp_path, capsys, monkeypatch):
    # Parts of some hundred bytes instead of MiB.
    monkeypatch.setattr(
        "netdiff_ray.distributed.encode.plan_parts", lambda c, _: plan_parts(c, 3000)
    )
    target = tmp_path / "encoded"
    assert run("encode", collection, target, "--json") == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["captures"] == 20
    assert counts["quarantined"] == 1
    source, captures, _ = list_captures(str(collection))
    parts = plan_parts(captures, 3000)
    assert counts["parts"] == len(parts) > 4
    plain = open_store(tmp_path / "plain")
    settings = EncodeSettings(
        layout="stateful", height=1024, idle_timeout_s=60.0, host_key=host_key(source, captures)
    )
    config = json.loads((target / "_manifest.json").read_text())["config"]
    for number, part in enumerate(parts):
        encode_part(source, part, plain, number, settings, config)
        name = encoded_part_name(number)
        assert (target / name).read_bytes() == plain.get(name)

    before = content_of(target)
    (target / encoded_part_name(2)).unlink()
    assert run("encode", collection, target) == 0
    assert content_of(target) == before
    assert run("encode", collection, target, "--height", 64) == 2
    assert "height is 1024 there and 64 requested" in capsys.readouterr().err


def test_the_allowed_fraction_decides_the_exit_code(collection, tmp_path, capsys):
    assert run("encode", collection, tmp_path / "a", "--max-quarantined-share", 0) == 1
    assert "1 captures in _quarantine.jsonl" in capsys.readouterr().out
    record = json.loads((Path(tmp_path) / "a" / "_quarantine.jsonl").read_text())
    assert record["capture"] == "web/07.pcap"
    assert "the file ends inside a record" in record["reason"]
    # One of twenty is damaged.
    assert run("encode", collection, tmp_path / "a", "--max-quarantined-share", 0.049) == 1
    assert run("encode", collection, tmp_path / "a", "--max-quarantined-share", 0.05) == 0


def test_mistakes_get_a_sentence(tmp_path, capsys):
    assert run("encode", tmp_path / "none", tmp_path / "out") == 2
    assert "no captures there" in capsys.readouterr().err
    assert run("encode", tmp_path, "nowhere://x") == 2


def rows_of(folder):
    """Return every row of an encoded dataset, sorted, parts set aside."""
    rows = []
    for path in sorted(folder.glob("*.parquet")):
        rows += pq.read_table(path).to_pylist()
    return sorted(rows, key=lambda row: (row["flow_id"], row["window"]))


@pytest.fixture
def large(tmp_path):
    """Return a capture of 5 MB: flows of all lengths that interleave, fragments among them."""
    random = np.random.default_rng(3)
    packets = []
    for k in range(6000):
        client = f"10.0.0.{random.integers(1, 60)}"
        body = random.bytes(int(random.integers(0, 1300)))
        if k % 10:
            packets.append((k // 7, k, udp4(body, source=client, sport=int(random.integers(1, 5)))))
        else:
            first = udp4(bytes(16), source=client, identification=k, fragment=0x2000)
            later = ETHERNET_IPV4 + ipv4(bytes(16), 17, client, "10.0.0.2", k, fragment=3)
            packets += [(k // 7, k, first), (k // 7, k, later)]
    folder = tmp_path / "large" / "udp"
    folder.mkdir(parents=True)
    (folder / "large.pcap").write_bytes(pcap(packets))
    (folder / "small.pcap").write_bytes(pcap([udp4()]))
    return tmp_path / "large"


@pytest.mark.parametrize("damage", ["none", "cut", "length", "deceiving"])
def test_a_split_capture_gives_the_unsplit_rows(large, tmp_path, capsys, damage):
    path = large / "udp" / "large.pcap"
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[:-10]
    elif damage == "length":  # nothing behind this record can be reached
        at = next(CaptureReader(path).__iter__()).offset[2000]
        data[at + 8 : at + 12] = b"\xff\xff\xff\xff"
    elif damage == "deceiving":  # a wire length that resynchronising does not believe
        for table in CaptureReader(path):
            for at in table.offset[::5]:
                data[at + 12 : at + 16] = bytes(4)
    path.write_bytes(data)
    assert run("encode", large, tmp_path / "whole", "--max-quarantined-share", 1) == 0
    assert run(
        "encode", large, tmp_path / "split", "--part-megabytes", 1, "--split-megabytes", 1,
        "--max-quarantined-share", 1,
    ) == 0  # fmt: skip
    assert len(list((tmp_path / "split").glob("*.parquet"))) >= 5
    whole, split = (rows_of(tmp_path / name) for name in ("whole", "split"))
    assert len(whole) > 100
    assert split == whole
    counts, quarantines = [], []
    for name in ("whole", "split"):
        manifest = json.loads((tmp_path / name / "_manifest.json").read_text())
        counts.append({k: v for k, v in manifest["counts"].items() if k != "parts"})
        quarantines.append((tmp_path / name / "_quarantine.jsonl").read_text())
    assert counts[0] == counts[1]
    assert quarantines[0] == quarantines[1]

    if damage == "none":
        before = content_of(tmp_path / "split")
        (tmp_path / "split" / encoded_part_name(3)).unlink()
        assert run(
            "encode", large, tmp_path / "split", "--part-megabytes", 1, "--split-megabytes", 1
        ) == 0  # fmt: skip
        assert content_of(tmp_path / "split") == before


@pytest.fixture
def rerun(tmp_path):
    """Return a collection of two labels, a capture each, of which one part is made."""
    for label, name, packets in (("webish", "a", [tcp4(2)] * 9), ("dnsish", "b", [udp4()] * 4)):
        (tmp_path / "in" / label).mkdir(parents=True)
        (tmp_path / "in" / label / f"{name}.pcap").write_bytes(pcap(packets))
    return tmp_path / "in"


def packets_by_capture(folder):
    """Return {capture: packets} of an encoded dataset, its counts checked against the rows."""
    packets = {}
    for row in rows_of(folder):
        packets[row["capture"]] = packets.get(row["capture"], 0) + row["num_packets"]
    counts = json.loads((folder / "_manifest.json").read_text())["counts"]
    assert counts["packets"] == sum(packets.values())
    return packets


def test_a_capture_that_was_changed_is_encoded_again(rerun, tmp_path, capsys):
    target = tmp_path / "out"
    assert run("encode", rerun, target) == 0
    assert packets_by_capture(target) == {"webish/a.pcap": 9, "dnsish/b.pcap": 4}
    (rerun / "dnsish" / "b.pcap").write_bytes(pcap([udp4(b"other")] * 2))
    assert run("encode", rerun, target) == 0
    assert "11 packets" in capsys.readouterr().out
    assert packets_by_capture(target) == {"webish/a.pcap": 9, "dnsish/b.pcap": 2}

    (rerun / "dnsish" / "b.pcap").unlink()
    (rerun / "dnsish" / "c.pcap").write_bytes(pcap([udp4()] * 3))
    assert run("encode", rerun, target) == 0
    assert packets_by_capture(target) == {"webish/a.pcap": 9, "dnsish/c.pcap": 3}


def test_only_the_parts_of_changed_captures_are_encoded_again(
    collection, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("netdiff_ray.distributed.encode.plan_parts", lambda c, _: plan_parts(c, 1))
    target = tmp_path / "out"
    assert run("encode", collection, target) == 0
    before = content_of(target)
    capsys.readouterr()
    (collection / "dns" / "04.pcap").write_bytes(pcap([udp4()]))
    (collection / "dns" / "02.pcap").touch()  # the same bytes, at another time
    assert run("encode", collection, target) == 0
    assert capsys.readouterr().err.startswith("encoded 18 of 20 parts")
    after = content_of(target)
    parts = {name for name in after if name.endswith(".parquet")}
    assert {name for name in parts if after[name] != before[name]} == {"part-00002.parquet"}

    # One capture less: the part that no capture makes any more is gone, also for readers that
    # take every Parquet file of the folder.
    (collection / "web" / "19.pcap").unlink()
    assert run("encode", collection, target, "--max-quarantined-share", 1) == 0
    assert encoded_part_name(19) not in content_of(target)


def test_other_labels_are_encoded_again(rerun, tmp_path):
    table, target = tmp_path / "labels.csv", tmp_path / "out"
    for label in ("names", "lookups"):
        table.write_text(f"capture,label\nb.pcap,{label}\n")
        assert (
            run("encode", rerun, target, "--labels-csv", table, "--max-quarantined-share", 1) == 0
        )
        assert {row["label"] for row in rows_of(target)} == {label}
        record = json.loads((target / "_quarantine.jsonl").read_text())
        assert record["capture"] == "webish/a.pcap"


def test_labels_of_flows_come_from_a_table_and_another_one_is_read_anew(tmp_path, capsys):
    (tmp_path / "day").mkdir()
    packets = [udp4(sport=port) for port in (1000, 2000, 3000)]
    (tmp_path / "day/a.pcap").write_bytes(pcap(packets))
    rows = ["src,dst,sport,dport,proto,start,label"]
    rows += [f"10.0.0.2,10.0.0.1,53,{1000 + 1000 * k},udp,{k},kind {k}" for k in range(2)]
    table, target = tmp_path / "labels.csv", tmp_path / "encoded"
    table.write_text("\n".join(rows))
    command = ["encode", tmp_path / "day", target, "--labels", table, "--unlabelled", "other"]
    assert run(*command) == 0
    said = capsys.readouterr()
    assert "clock of the labels: UTC+00:00; 2 of 2 flows of known endpoints" in said.err
    assert "1 flows without a label: no row has its endpoints" in said.out
    labels = pq.read_table(target / encoded_part_name(0))["label"].to_pylist()
    assert sorted(labels) == ["kind 0", "kind 1", "other"]
    before = content_of(target)
    assert run(*command) == 0
    assert content_of(target) == before
    table.write_text("\n".join(rows).replace("kind 0", "another kind"))
    assert run(*command) == 0
    labels = pq.read_table(target / encoded_part_name(0))["label"].to_pylist()
    assert sorted(labels) == ["another kind", "kind 1", "other"]
