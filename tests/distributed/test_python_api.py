"""The Python API on Ray, and the example of its document."""

import re
import shutil

import numpy as np
import pytest
import torch
from paths import ROOT
from storage.dataset_builders import CONFIG, NAMES, made_shard

import netdiff_ray as nd
from netdiff_ray.storage.manifest import PCAP_DATASET, commit
from netdiff_ray.storage.shards import write_shard
from netdiff_ray.storage.store import open_store

pytestmark = pytest.mark.usefixtures("local_ray")

AT_TOY_SIZE = {
    '"nano"': "BASE",
    "steps=220": "steps=4",
    "warmup_steps=22": "warmup_steps=1, batch_size=2",
    "steps=4)\nnd.generate": "steps=2)\nnd.generate",
    "height=64": "height=32",
    '("mqtt", "dns")': '("ping", "dns")',
    "flows=110": "flows=20",
}
"""Words of the example, and what stands for them in the test."""


def test_windows_as_a_ray_dataset(tmp_path):
    store = open_store(tmp_path / "pcaps")
    for number in range(2):
        write_shard(store, made_shard(tmp_path, number), CONFIG)
    commit(store, PCAP_DATASET, CONFIG, NAMES)
    dataset = nd.load(tmp_path / "pcaps")
    rows = {row["flow_id"]: row for row in dataset.to_ray().take_all()}
    assert set(rows) == set(dataset.flow_ids)
    for flow_id, nprint in zip(dataset.flow_ids, dataset.nprints, strict=True):
        np.testing.assert_array_equal(rows[flow_id]["nprint"], nprint)
        assert rows[flow_id]["label"] == "web"


def test_the_documents_ray_example_trains(tmp_path, capsys):
    store = open_store(tmp_path / "pcaps")
    for number, label in enumerate(("web", "dns")):
        write_shard(store, made_shard(tmp_path, number, label=label), CONFIG)
    commit(store, PCAP_DATASET, CONFIG, NAMES)
    dataset = nd.load(tmp_path / "pcaps", height=64)
    text = (ROOT / "docs" / "python.md").read_text().partition("### Training a classifier")[2]
    code = re.findall(r"```python\n(.*?)```", text, re.S)[2]
    linear = torch.nn.Linear(64 * dataset.layout.width, 2)
    before = linear.weight.detach().clone()
    names = {
        "dataset": dataset, "windows": dataset.to_torch(64), "torch": torch,
        "model": torch.nn.Sequential(torch.nn.Flatten(), linear),
        "optimizer": torch.optim.AdamW(linear.parameters(), lr=1e-3),
    }  # fmt: skip
    exec(compile(code, "docs/python.md", "exec"), names)
    assert 0 < float(capsys.readouterr().out) < 10
    assert not torch.equal(before, linear.weight)


@pytest.mark.slow
def test_the_documents_example_runs(toy_directory, tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.S)[1]
    assert len(code.splitlines()) <= 20
    for words, toy in AT_TOY_SIZE.items():
        assert words in code, words
        code = code.replace(words, toy)
    for side in ("train", "heldout"):
        for label in ("ping", "dns"):
            (tmp_path / "samples" / side / label).mkdir(parents=True)
            name = f"{side}/{label}/host-0.pcap.gz"
            shutil.copy(ROOT / "samples" / name, tmp_path / "samples" / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/python.md", "exec"), {"BASE": str(toy_directory)})
    number, labels, shape = re.fullmatch(
        r"(\d+) (\{.*\}) (\(.*\))\n", capsys.readouterr().out
    ).groups()
    assert int(number) > 0
    assert "dns" in labels
    assert shape.endswith(", 704)")
