"""Rare labels filled up by one command, and again."""

import shutil
from pathlib import Path

import pytest
from fs_helpers import content_of
from paths import ROOT

import netdiff_ray as nd
from netdiff_ray.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def arguments(toy_directory, tmp_path_factory):
    """Return a command on samples of three labels, of which dns has most flows."""
    folder = tmp_path_factory.mktemp("augment")
    for label in ("dns", "mail", "ping"):
        (folder / "captures" / label).mkdir(parents=True)
        name = f"{label}/host-0.pcap.gz"
        shutil.copy(ROOT / "samples" / "train" / name, folder / "captures" / name)
    encoded = str(folder / "encoded")
    nd.encode(nd.EncodeConfig(source=str(folder / "captures"), target=encoded, height=32))
    return [
        "augment", encoded, str(folder / "out"), "--to-balance", "--base", str(toy_directory),
        "--train-steps", "4", "--batch-size", "2", "--draw-steps", "2", "--flows-per-shard", "20",
        "--max-quarantined-share", "1",
    ]  # fmt: skip


def flows_of(folder):
    """Return the flows of each label of an encoded dataset."""
    return {label: n["flows"] for label, n in nd.load(folder).manifest["counts"]["labels"].items()}


def test_every_label_is_filled_up_and_a_second_run_does_nothing(arguments, capsys):
    assert main(arguments) == 0
    out, before = Path(arguments[2]), flows_of(arguments[1])
    said = capsys.readouterr()
    assert f"to {max(before.values()):,} flows a label, these are drawn:" in said.err
    dataset, drawn = nd.load(out / "augmented"), nd.load(out / "dataset")
    quarantined = drawn.manifest["counts"]["quarantined"]
    counts = dataset.manifest["counts"]
    assert counts["flows"] + quarantined == len(before) * max(before.values())
    assert counts["synthetic"] == drawn.manifest["counts"]["flows"]
    real = dict.fromkeys(before, 0)
    for label, flow in set(zip(dataset.labels, dataset.flow_ids, strict=True)):
        real[label] += flow not in set(drawn.flow_ids)
    assert real == before
    assert main(["verify", str(out / "dataset")]) == 0
    made = content_of(out)
    assert main(arguments) == 0
    assert content_of(out) == made


def test_a_drawn_dataset_is_not_augmented_again(arguments, capsys):
    again = [arguments[0], f"{arguments[2]}/augmented", *arguments[2:]]
    assert main(again) == 2
    assert "holds drawn flows; name the dataset of real ones" in capsys.readouterr().err
