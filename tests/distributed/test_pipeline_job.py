"""The whole way by one command, again, and after a shard was lost."""

import json
import shutil
from pathlib import Path

import pytest

from netdiff_ray.cli import main

ROOT = Path(__file__).resolve().parent.parent.parent
LABELS = ("dns", "ping")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


def content_of(folder):
    """Return {name: (time of writing, bytes)} of every file below a folder."""
    files = [p for p in Path(folder).rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in files}


@pytest.fixture(scope="module")
def arguments(toy_directory, tmp_path_factory):
    """Return a pipeline on samples of two labels; the held-out side has one more."""
    folder = tmp_path_factory.mktemp("pipeline")
    for side, labels in (("train", LABELS), ("heldout", (*LABELS, "mail"))):
        for label in labels:
            (folder / side / label).mkdir(parents=True)
            name = f"{label}/host-0.pcap.gz"
            shutil.copy(ROOT / "samples" / side / name, folder / side / name)
    return [
        "pipeline", str(folder / "train"), str(folder / "out"),
        "--heldout", str(folder / "heldout"), "--base", str(toy_directory), "--height", "32",
        "--train-steps", "4", "--batch-size", "2", "--flows", "20", "--flows-per-shard", "20",
        "--draw-steps", "2", "--max-quarantined-share", "1",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def out(arguments):
    """Return what a first run has made."""
    assert main(arguments) in (0, 1)  # 1: so few flows do not give every part of the report
    return Path(arguments[2])


def test_everything_lies_below_one_folder(out, arguments):
    assert sorted(p.name for p in out.iterdir()) == ["adapter", "dataset", "encoded", "report"]
    assert main(["verify", str(out / "dataset")]) == 0
    report = json.loads((out / "report" / "report.json").read_text())
    assert list(report["sides"]["synthetic"]["labels"]) == list(LABELS)
    assert "labels of the real flows only, not compared: mail" in report["notes"]
    assert report["privacy"]["headline"]["addresses"] == 0
    assert (out / "report" / "report.html").exists()


def test_a_second_run_does_nothing(out, arguments, capsys):
    before = content_of(out)
    main(arguments)
    said = capsys.readouterr()
    named = [line for line in said.err.splitlines() if not line.startswith("netdiff: ")]
    assert named == [
        "-- how long it takes depends on the base and the machines; each job says its time left",
        "-- 1 of 4: encode", "-- 2 of 4: train", "-- 3 of 4: generate", "-- 4 of 4: evaluate",
    ]  # fmt: skip
    assert f"netdiff info {out}/dataset" in said.out
    hint = next(line.split() for line in said.out.splitlines() if "tshark -r" in line)
    assert Path(hint[2]).is_file()
    assert main(["info", str(out)]) == 0
    assert "what a pipeline has made" in capsys.readouterr().out
    after = content_of(out)
    rewritten = {name for name in after if after[name] != before.get(name)}
    assert {Path(name).name for name in rewritten} <= {
        "manifest.json", "quarantine.jsonl", "_manifest.json", "_quarantine.jsonl",
    }  # fmt: skip
    assert {n: c for n, (_, c) in after.items()} == {n: c for n, (_, c) in before.items()}


def test_a_lost_shard_alone_is_made_again(out, arguments, capsys):
    before = content_of(out)
    lost = "dataset/label=ping/part-00001.pcap"
    (out / lost).unlink()
    main(arguments)
    assert "generated 20 of 40 flows" in capsys.readouterr().err
    after = content_of(out)
    assert {n: c for n, (_, c) in after.items()} == {n: c for n, (_, c) in before.items()}
    untouched = [n for n in before if n.endswith(".pcap") and n != lost]
    assert all(after[name] == before[name] for name in untouched)


def test_more_damage_than_is_allowed_ends_the_pipeline(arguments, tmp_path, capsys):
    folder = tmp_path / "captures" / "dns"
    folder.mkdir(parents=True)
    (folder / "bad.pcap").write_bytes(b"no capture")
    shutil.copy(Path(arguments[1]) / "dns" / "host-0.pcap.gz", folder)
    assert main([arguments[0], str(tmp_path / "captures"), str(tmp_path / "out"),
                 *arguments[3:-1], "0.4"]) == 1  # fmt: skip
    assert (
        "stopped after encode: more was quarantined than --max-quarantined-share 0.4"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out" / "adapter").exists()
