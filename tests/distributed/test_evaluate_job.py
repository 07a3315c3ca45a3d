"""`netdiff evaluate` on Ray: the report of plain functions, on every kind of side."""

import json
import lzma
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packet_builders import pcap

from netdiff_ray.cli import main
from netdiff_ray.diffusion.adapter import METADATA_FILE, adapter_digest
from netdiff_ray.encoding.encode import plan_parts
from netdiff_ray.encoding.windows import encoded_schema
from netdiff_ray.evaluate import evaluate, open_source
from netdiff_ray.evaluate.compliance import captures_for_tshark, check_captures, compliance_section
from netdiff_ray.evaluate.report import read_report
from netdiff_ray.flows import assemble_flows
from netdiff_ray.generation.flow_repair import RepairedGroup
from netdiff_ray.generation.shard_builder import build_shard
from netdiff_ray.labels.adapter_metadata import AdapterMetadata, metadata_to_json
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.service import window_services
from netdiff_ray.labels.statistics import describe
from netdiff_ray.nprint import LAYOUTS, VACANT, decode, encode_windows
from netdiff_ray.packets import CaptureReader, header_rows
from netdiff_ray.repair import RepairContext, repair
from netdiff_ray.storage.manifest import PCAP_DATASET, commit
from netdiff_ray.storage.shards import index_name, write_shard
from netdiff_ray.storage.store import open_store

pytestmark = pytest.mark.usefixtures("local_ray")

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
LABELS = ("chat", "dns", "ping")
STATEFUL = LAYOUTS["stateful"]
MOST_PACKETS = 64


def run(*arguments):
    """Return the exit code of the command line."""
    return main(["evaluate", *(str(a) for a in arguments)])


def chosen(folder, split, host, labels=LABELS):
    """Return a collection of one host's captures of each label."""
    for label in labels:
        (folder / label).mkdir(parents=True)
        shutil.copy(SAMPLES / split / label / f"host-{host}.pcap.gz", folder / label)
    return folder


def drawn_windows(label):
    """Return (P, 704) int8 matrices as a model might draw them: real ones, a cell in 200 wrong."""
    random = np.random.default_rng(len(label))
    found = []
    with CaptureReader(SAMPLES / "train" / label / "host-1.pcap.gz") as reader:
        for w in assemble_flows((header_rows(t) for t in reader), reader.fingerprint):
            nprint = encode_windows(w, STATEFUL)
            wrong = random.random(nprint.shape) < 0.005
            nprint[wrong] = random.integers(-1, 2, wrong.sum())
            found += [nprint[a:b][:MOST_PACKETS] for a, b in pairwise(w.first)]
    return found


def encoded_rows(matrices, label, ids):
    """Return rows of an encoded dataset for drawn matrices."""
    headers = [decode(nprint, STATEFUL) for nprint in matrices]
    columns = {
        "flow_id": ids,
        "label": [label] * len(ids),
        "service": ["tcp-other"] * len(ids),
        "kind": [""] * len(ids),
        "client_host": [None] * len(ids),
        "server_host": [None] * len(ids),
        "duplicate_hops": [None] * len(ids),
        "duplicate_ns": [None] * len(ids),
        "capture": ["drawn"] * len(ids),
        "window": [0] * len(ids),
        "num_packets": [len(nprint) for nprint in matrices],
        "start_ts_ns": [0] * len(ids),
        "protocol": [int(rows["protocol"][0]) for rows, _, _ in headers],
        "nprint": [
            np.packbits(m == 1, axis=1).tobytes() + np.packbits(m == VACANT, axis=1).tobytes()
            for m in matrices
        ],
        "direction": [direction.tolist() for _, direction, _ in headers],
        "interarrival_ns": [gaps.tolist() for _, _, gaps in headers],
    }
    return pa.table(columns, schema=encoded_schema(STATEFUL))


def written_adapter(folder, matrices):
    """Write the metadata of an adapter that has seen these matrices of each label; return what a
    manifest says of it."""
    columns = {"nprint": [], "label": [], "service": [], "flow": [], "window": []}
    for label, of_label in matrices.items():
        rows, direction, _ = decode(np.concatenate(of_label), STATEFUL)
        first = np.cumsum([0, *map(len, of_label)])
        columns["nprint"] += of_label
        columns["label"] += [label] * len(of_label)
        columns["service"] += window_services(rows, direction, first)
        columns["flow"] += [f"{label} {k}" for k in range(len(of_label))]
        columns["window"] += [0] * len(of_label)
    metadata = AdapterMetadata(
        base="toy", revision=None, base_digest="0", layout="stateful", max_height=MOST_PACKETS,
        prompt="{label}", trained={}, version="0",
        labels=describe(LabelledWindows(**columns, layout=STATEFUL)),
    )  # fmt: skip
    content = json.dumps(metadata_to_json(metadata)).encode()
    folder.mkdir()
    (folder / METADATA_FILE).write_bytes(content)
    digest = adapter_digest({METADATA_FILE: content})
    return {"adapter": {"name": str(folder), "sha256": digest}}


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Return folders: real, train, a pcap dataset, and what was drawn for it."""
    folder = tmp_path_factory.mktemp("sides")
    chosen(folder / "real", "heldout", 0)
    chosen(folder / "train", "train", 1)
    store, tables = open_store(folder / "synthetic"), []
    drawn = {label: drawn_windows(label) for label in LABELS}
    for number, (label, matrices) in enumerate(drawn.items()):
        numbers = np.arange(len(matrices), dtype=np.uint64) + np.uint64(1000 * number)
        ids = [f"{k:016x}" for k in numbers.tolist()]
        tables.append(encoded_rows(matrices, label, ids))
        repaired = repair(matrices, STATEFUL, RepairContext(label=label), numbers, numbers)
        group = RepairedGroup(tuple(range(len(ids))), "", repaired)
        shard = build_shard([group], number=number, label=label, flow_ids=ids)
        write_shard(store, shard, {})
    config = {"draw": {"seed": 1}, "payload": "dialogue", "flows_per_second": 10.0, "pins": {}}
    models = written_adapter(folder / "adapter", drawn)
    names = [index_name(number) for number in range(len(LABELS))]
    commit(store, PCAP_DATASET, config, names, {"models": models})
    (folder / "drawn").mkdir()
    pq.write_table(pa.concat_tables(tables), folder / "drawn" / "part-00000.parquet")
    return folder


@pytest.fixture(scope="module")
def reported(sides, tmp_path_factory, local_ray):
    """Return (folder of the report, what the command printed) of all sides, read in many parts."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        # Parts of a capture each instead of MiB.
        patch.setattr("netdiff_ray.distributed.evaluate.plan_parts", lambda u, _: plan_parts(u, 1))
        code = run(
            "--real", sides / "real", "--synthetic", sides / "synthetic", "--train",
            sides / "train", "--drawn", sides / "drawn", "--out", folder, "--seeds", 1,
        )  # fmt: skip
    assert code == 0
    return folder


def test_the_report_is_that_of_plain_functions(sides, reported):
    found = json.loads((reported / "report.json").read_text())
    named = {name: open_source(sides / name) for name in ("real", "synthetic", "train", "drawn")}
    synthetic = named["synthetic"]
    names = captures_for_tshark(synthetic.captures)
    compliance = compliance_section(check_captures(synthetic.store, synthetic.captures, names))
    plain = evaluate(**named, compliance=compliance, seeds=1)
    wanted = json.loads(json.dumps(plain.as_dict()))
    assert found["made"].keys() == wanted["made"].keys()
    assert found | {"made": {}} == wanted | {"made": {}}
    assert "<html" in (reported / "report.html").read_text()


def test_the_report_of_the_same_sides_is_not_made_again(sides, reported, capsys):
    capsys.readouterr()
    before = {path.name: path.stat().st_mtime_ns for path in reported.iterdir()}
    given = [
        a for name in ("real", "synthetic", "train", "drawn") for a in (f"--{name}", sides / name)
    ]
    assert run(*given, "--out", reported, "--seeds", 1) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "fidelity.jsd" in said.out
    assert {path.name: path.stat().st_mtime_ns for path in reported.iterdir()} == before

    made_of = json.loads((reported / "made-of.json").read_text())
    assert read_report(reported, made_of) is not None
    assert read_report(reported, made_of | {"seeds": 2}) is None
    changed = made_of["inputs"]["synthetic"] | {"sha256": "0" * 64}
    inputs = made_of["inputs"] | {"synthetic": changed}
    assert read_report(reported, made_of | {"inputs": inputs}) is None


def test_what_was_repaired_is_set_beside_what_was_drawn(reported):
    fidelity = json.loads((reported / "report.json").read_text())["fidelity"]
    assert 0 < fidelity["headline"]["repair_distance"] < 0.1
    table = next(t for t in fidelity["tables"] if "before and after repair" in t["title"])
    (_, before, *_), (_, after, *_) = table["rows"]
    assert before > after > 0


def test_random_bits_under_the_plans_stand_beside(reported):
    content = json.loads((reported / "report.json").read_text())
    found = content["baseline"]
    assert [row[0] for row in found["tables"][0]["rows"]] == [
        "drawn, before repair", "drawn, after repair", "random bits, after the same repair",
    ]  # fmt: skip
    assert found["headline"]["model_adds"] == pytest.approx(
        content["utility"]["headline"]["ratio"] - found["headline"]["random_ratio"], abs=1e-5
    )
    assert found["headline"]["random_jsd"] > content["fidelity"]["headline"]["jsd"]
    random, synthetic = (content["sides"][name]["labels"] for name in ("random", "synthetic"))
    # Messages of ICMP whose identifiers differ are flows of their own.
    assert random.pop("ping") >= synthetic.pop("ping")
    assert random == synthetic
    assert (
        "random bits under the same plans and repair reach"
        in (reported / "report.html").read_text()
    )


def test_compliance_by_our_checker_and_beside_it_tshark(reported):
    found = json.loads((reported / "report.json").read_text())["compliance"]
    assert found["headline"]["valid_packets"] > 0.99
    assert found["rules"]["ipv4_checksum"]["passed"] == 1
    if shutil.which("tshark"):
        assert found["headline"]["tshark_errors"] == found["tshark"]["errors"] == 0
        assert found["agreement"]["share"] > 0.99
    page = (reported / "report.html").read_text()
    assert "The checker and tshark" in page or "tshark is not installed" in page


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_without_an_error(reported, tmp_path, width):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium, which is not installed")
    # A frame is as wide as said, which a window on a headless screen may not be.
    (tmp_path / "frame.html").write_text(
        f"""<iframe id="page" src="{(reported / "report.html").as_uri()}" width="{width}"
        height="800" style="border: 0" onload="measure()"></iframe><p id="said"></p><script>
        function measure() {{
          const page = document.getElementById("page").contentDocument;
          const broken = [...page.images].filter(i => !i.naturalWidth).length;
          document.getElementById("said").textContent = JSON.stringify([
            page.documentElement.scrollWidth, page.images.length, broken,
            getComputedStyle(page.querySelector(".pairs")).gridTemplateColumns.split(" ").length]);
        }}</script>"""
    )
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
        "--window-size=1400,900", "--dump-dom", (tmp_path / "frame.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    said = re.search(r'<p id="said">(\[.*\])</p>', done.stdout)
    assert said, done.stdout[-2000:]
    wide, images, broken, columns = json.loads(said[1])
    assert wide <= width, "the page scrolls sideways"
    assert images > 10
    assert broken == 0
    assert columns == (1 if width < 560 else 2)


def test_another_report_is_set_beside(sides, reported, tmp_path, capsys):
    given = ("--real", sides / "real", "--synthetic", sides / "synthetic", "--seeds", 1)
    assert run(*given, "--out", tmp_path / "out", "--against", reported) == 1
    against = json.loads((tmp_path / "out" / "report.json").read_text())["against"]
    rows = {(section, key): values for section, key, *values in against["rows"]}
    assert rows["fidelity", "jsd"][2:] == [0, ""]
    assert against["report"] == str(reported)
    assert 'id="against"' in (tmp_path / "out" / "report.html").read_text()
    capsys.readouterr()
    assert run(*given, "--out", tmp_path / "other", "--against", sides / "real") == 2
    assert "no report.json" in capsys.readouterr().err


def test_encoded_sides_without_training_flows(sides, tmp_path, capsys):
    assert main(["encode", str(sides / "train"), str(tmp_path / "encoded")]) == 0
    capsys.readouterr()
    code = run(
        "--real", sides / "real", "--synthetic", tmp_path / "encoded", "--out", tmp_path / "out",
        "--seeds", 1, "--json",
    )  # fmt: skip
    said = capsys.readouterr()
    assert code == 1
    assert (
        "compliance: not available: the synthetic source (encoded dataset) holds no captures"
        in said.err
    )
    assert "privacy: not available: the flows that the model was trained on" in said.err
    told = [json.loads(line) for line in said.err.splitlines() if line.startswith('{"progress"')]
    assert told[-1]["progress"] == "measured"
    assert told[-1]["done"] == told[-1]["total"] > 30
    printed = json.loads(said.out)
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert printed["out"] == str(tmp_path / "out")
    for name in ("fidelity", "utility", "discrimination", "coverage", "privacy", "compliance"):
        assert printed[name] == found[name]["headline"]
    assert found["utility"]["headline"]["tstr"] > 0.4  # of the worst view; chance is 1 in 3


def test_a_glob_of_compressed_captures_with_a_damaged_one(sides, tmp_path, capsys):
    for label in LABELS:
        (tmp_path / "xz" / label).mkdir(parents=True)
        content = (sides / "synthetic" / f"label={label}").glob("*.pcap")
        data = b"".join(p.read_bytes() for p in content)
        data = data[:-3] if label == "dns" else data
        (tmp_path / "xz" / label / "a.pcap.xz").write_bytes(lzma.compress(data))
    (tmp_path / "xz" / "chat" / "none.pcap.xz").write_bytes(b"no capture at all")
    code = run(
        "--real", sides / "real", "--synthetic", tmp_path / "xz" / "*" / "*.xz", "--out",
        tmp_path / "out", "--seeds", 1,
    )  # fmt: skip
    assert code == 1
    assert "compliance.valid_packets" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    notes = " ".join(found["compliance"]["notes"])
    assert "dns/a.pcap.xz: the file ends inside record" in notes
    assert "chat/none.pcap.xz: no capture" in notes
    assert any("left out" in note for note in found["sides"]["synthetic"]["notes"])
    assert any("read in part" in note for note in found["sides"]["synthetic"]["notes"])


def test_labels_that_differ_one_flow_and_another_layout(sides, tmp_path, capsys):
    other = chosen(tmp_path / "other", "train", 1, ("mqtt",))
    assert main(["encode", str(other), str(tmp_path / "a"), "--layout", "nprint-1088"]) == 0
    code = run("--real", sides / "real", "--synthetic", tmp_path / "a", "--out", tmp_path / "out",
               "--seeds", 1)  # fmt: skip
    said = capsys.readouterr().err
    assert code == 2
    assert "nothing can be compared" in said
    assert "no label is in both sources" in said
    assert not list((tmp_path / "out").glob("*"))

    (tmp_path / "one" / "dns").mkdir(parents=True)
    with CaptureReader(SAMPLES / "train" / "dns" / "host-1.pcap.gz") as reader:
        table = next(iter(reader))
        (tmp_path / "one" / "dns" / "a.pcap").write_bytes(pcap([table.packet(0)], link_type=101))
    code = run("--real", sides / "real", "--synthetic", tmp_path / "one", "--out",
               tmp_path / "out", "--seeds", 1)  # fmt: skip
    said = capsys.readouterr().err
    assert code == 1
    assert "utility: not available: 0 labels have enough flows" in said
    assert "coverage: not available: no label has 2 flows in both sources" in said
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["sides"]["synthetic"]["flows"] == 1
    assert found["fidelity"]["headline"]["jsd"] > 0
    assert found["compliance"]["headline"]["valid_packets"] == 1
    assert found["notes"] == ["labels of the real flows only, not compared: chat, ping"]


def test_an_empty_dataset_and_one_that_is_not_whole(sides, tmp_path, capsys):
    pq.write_table(encoded_schema(STATEFUL).empty_table(), tmp_path / "empty.parquet")
    code = run("--real", sides / "real", "--synthetic", tmp_path / "empty.parquet", "--out",
               tmp_path / "out")  # fmt: skip
    assert code == 2
    assert "the synthetic source has no flows" in capsys.readouterr().err

    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    code = run("--real", tmp_path / "other.parquet", "--synthetic", sides / "synthetic", "--out",
               tmp_path / "out")  # fmt: skip
    said = capsys.readouterr().err
    assert code == 2
    assert "other.parquet: the table's schema names no layout" in said
    assert "Traceback" not in said

    broken = shutil.copytree(sides / "synthetic", tmp_path / "broken")
    (broken / "manifest.json").unlink()
    assert run("--real", sides / "real", "--synthetic", broken, "--out", tmp_path / "out") == 2
    assert "complete when its manifest is written" in capsys.readouterr().err
    broken = shutil.copytree(sides / "synthetic", tmp_path / "more")
    (broken / index_name(1)).unlink()
    assert run("--real", sides / "real", "--synthetic", broken, "--out", tmp_path / "out") == 2
    assert "part-00001.parquet is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--real", "NONE"), "no manifest, no Parquet file and no capture"),
        (("--synthetic", "nowhere://x"), "nowhere"),
        (("--drawn", "REAL"), "is an encoded dataset"),
        (("--seeds", "0"), "at least 1"),
    ],
)
def test_mistakes_get_a_sentence(sides, tmp_path, capsys, arguments, words):
    named = {"--real": "REAL", "--synthetic": "REAL", "--out": "OUT"}
    named |= dict([arguments])
    paths = {"REAL": sides / "real", "NONE": tmp_path / "none", "OUT": tmp_path / "out"}
    flat = [paths.get(a, a) for pair in named.items() for a in pair]
    assert run(*flat) == 2
    assert words in capsys.readouterr().err
