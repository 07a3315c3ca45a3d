"""Parts made of input that has changed are made again, and nothing else is touched."""

import json

import pytest
from storage.dataset_builders import CONFIG, NAMES, made_shard

from netdiff_ray.errors import ConfigError
from netdiff_ray.storage.inputs import INPUTS_FILE, input_digest, parts_to_write
from netdiff_ray.storage.manifest import PCAP_DATASET, commit
from netdiff_ray.storage.shards import write_shard
from netdiff_ray.storage.store import open_store
from netdiff_ray.storage.verify import verify

INPUTS = dict(zip(NAMES, ("a", "b"), strict=True))


@pytest.fixture
def store(tmp_path):
    """Return a committed dataset of two shards, made of INPUTS."""
    store = open_store(tmp_path / "d")
    for number in parts_to_write(store, CONFIG, INPUTS):
        write_shard(store, made_shard(tmp_path, number), CONFIG)
    commit(store, PCAP_DATASET, CONFIG, NAMES)
    return store


def test_nothing_is_written_for_the_same_input(store, tmp_path):
    assert parts_to_write(store, CONFIG, INPUTS) == []
    assert verify(store).unlisted == []
    store.delete("label=web/part-00001.pcap")
    assert parts_to_write(store, CONFIG, INPUTS) == [1]
    assert "manifest.json" in store.sizes()


def test_a_part_of_other_input_is_removed_with_the_manifest(store):
    assert parts_to_write(store, CONFIG, INPUTS | {NAMES[1]: "c"}) == [1]
    assert sorted(store.sizes()) == [
        INPUTS_FILE, NAMES[0], "label=web/part-00000.pcap", "labels/part-00000.csv",
        "quarantine.jsonl",
    ]  # fmt: skip
    # A run that ended here has left the part to the next.
    assert parts_to_write(store, CONFIG, INPUTS | {NAMES[1]: "c"}) == [1]


def test_a_part_whose_input_is_gone_is_removed(store):
    assert parts_to_write(store, CONFIG, {NAMES[0]: "a"}) == []
    assert NAMES[1] not in store.sizes()
    assert "label=web/part-00001.pcap" not in store.sizes()
    assert "manifest.json" not in store.sizes()


def test_parts_of_unknown_input_are_made_again(store):
    store.delete(INPUTS_FILE)
    assert parts_to_write(store, CONFIG, INPUTS) == [0, 1]


def test_another_run_is_refused_before_anything_is_removed(store):
    before = store.sizes()
    with pytest.raises(ConfigError, match="height is 64 there and 128 requested"):
        parts_to_write(store, {**CONFIG, "height": 128}, {NAMES[0]: "c"})
    assert store.sizes() == before


def test_a_digest_has_every_value():
    digests = {input_digest(), input_digest(["a", 1]), input_digest(["a", 2]), input_digest("a")}
    assert len(digests) == 4
    assert json.dumps(sorted(digests))
