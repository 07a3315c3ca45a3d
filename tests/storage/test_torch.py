"""Windows as torch's datasets, and the examples of the document."""

import re

import numpy as np
import pytest
import torch
from paths import ROOT
from storage.dataset_builders import CONFIG, made_shard

import netdiff_ray as nd
from netdiff_ray.errors import ConfigError
from netdiff_ray.storage.manifest import PCAP_DATASET, commit
from netdiff_ray.storage.shards import index_name, write_shard
from netdiff_ray.storage.store import open_store

NUM_PARTS = 5


@pytest.fixture
def dataset(tmp_path):
    """Return a pcap dataset of five parts of three windows, of two labels."""
    store = open_store(tmp_path / "pcaps")
    for number in range(NUM_PARTS):
        write_shard(store, made_shard(tmp_path, number, label=("web", "dns")[number % 2]), CONFIG)
    commit(store, PCAP_DATASET, CONFIG, [index_name(number) for number in range(NUM_PARTS)])
    return nd.load(tmp_path / "pcaps", height=16)


def pairs_of(stream):
    """Return the pairs of a dataset as bytes."""
    return [(nprint.numpy().tobytes(), label) for nprint, label in stream]


def test_a_stream_in_order_is_the_map_style_dataset(dataset):
    windows, stream = dataset.to_torch(16), dataset.to_torch_stream(16, shuffle=False)
    assert stream.classes == windows.classes == ["dns", "web"]
    assert pairs_of(stream) == pairs_of(windows[k] for k in range(len(windows)))


def test_each_epoch_has_all_windows_in_its_own_order(dataset):
    stream = dataset.to_torch_stream(16, seed=3, parts_at_once=2)
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        orders.append(pairs_of(stream))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(pairs_of(dataset.to_torch(16)))
    assert orders[0] != pairs_of(dataset.to_torch_stream(16, seed=4, parts_at_once=2))


def test_parts_that_are_read_at_once_are_mixed(dataset):
    labels = [label for _, label in dataset.to_torch_stream(16, seed=1)]
    changes = np.count_nonzero(np.diff(labels))
    assert changes > NUM_PARTS - 1  # as many as parts that follow each other could have


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_and_workers_share_the_parts(dataset, workers):
    seen = []
    for rank in range(2):
        stream = dataset.to_torch_stream(16, seed=5, rank=rank, num_ranks=2)
        loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=workers)
        seen.append(pairs_of(loader))
    assert all(seen)
    assert sorted(seen[0] + seen[1]) == sorted(pairs_of(dataset.to_torch(16)))


def test_workers_that_stay_learn_of_the_epoch(dataset):
    stream = dataset.to_torch_stream(16)
    options = {"batch_size": None, "num_workers": 1, "persistent_workers": True}
    loader = torch.utils.data.DataLoader(stream, **options)
    first = pairs_of(loader)
    stream.set_epoch(1)
    assert first != pairs_of(loader)


def test_what_does_not_fit_is_said(dataset):
    with pytest.raises(ConfigError, match="height 2: a window has 3 packets"):
        list(dataset.to_torch_stream(2, shuffle=False))
    with pytest.raises(ConfigError, match="rank is 2; it must be from 0 to 1"):
        dataset.to_torch_stream(16, rank=2, num_ranks=2)


def test_the_documents_torch_examples_run(dataset, monkeypatch, capsys):
    text = (ROOT / "docs" / "python.md").read_text()
    section = text.partition("### Training a classifier")[2]
    map_style, iterable, _ = re.findall(r"```python\n(.*?)```", section, re.S)
    monkeypatch.setattr(nd, "load", lambda uri: dataset)
    torch.manual_seed(0)
    names = {}
    for code in (map_style, iterable):
        assert "range(3)" in code
        exec(compile(code.replace("range(3)", "range(20)"), "docs/python.md", "exec"), names)
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
