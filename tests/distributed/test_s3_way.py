"""The whole way on an object store: from captures there to a dataset there."""

import threading
from contextlib import contextmanager

import pytest
from paths import ROOT

from netdiff_ray.cli import main
from netdiff_ray.storage.store import open_store

LABELS = ("dns", "ping")


@contextmanager
def watched(uris):
    """Yield {uri: {name: sizes}} of every object that was to be seen meanwhile."""
    seen = {uri: {} for uri in uris}
    stores = {uri: open_store(uri) for uri in uris}
    ended = threading.Event()

    def watch():
        while not ended.wait(0.2):
            for uri, store in stores.items():
                for name, size in store.sizes().items():
                    seen[uri].setdefault(name, set()).add(size)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow
def test_encode_train_generate_and_verify(local_ray, bucket_uri, toy_directory, capsys):
    folders = ("captures", "encoded", "adapter", "dataset")
    captures, encoded, adapter, dataset = uris = [bucket_uri.format(f) for f in folders]
    for label in LABELS:
        for host in (0, 1):
            name = f"{label}/host-{host}.pcap.gz"
            content = (ROOT / "samples" / "heldout" / name).read_bytes()
            open_store(captures).put(name, content)
    with watched(uris[1:]) as seen:
        assert main(["encode", captures, encoded, "--height", "32"]) == 0
        flags = "--steps 2 --batch-size 2 --warmup-steps 0 --rank 2 --cpus-per-worker 1"
        flags += f" --base {toy_directory}"
        assert main(["train", encoded, adapter, *flags.split()]) == 0
        flags = "--flows 8 --flows-per-shard 2 --steps 2 --denoisers 2 2 --max-quarantined-share 1"
        assert main(["generate", adapter, dataset, *flags.split()]) == 0
    assert main(["verify", dataset]) == 0
    said = capsys.readouterr()
    assert "testing:testing" not in said.out + said.err
    for uri in uris[1:]:
        store = open_store(uri)
        # Of the run's checkpoints, which Ray writes and removes, only the result is judged.
        whole = {n: {size} for n, size in store.sizes().items() if not n.startswith("run/")}
        found = {n: sizes for n, sizes in seen[uri].items() if not n.startswith("run/")}
        assert len(found) >= 3
        assert found.items() <= whole.items()
        assert not any(b"testing:testing" in store.get(name) for name in store.sizes())
    assert len([name for name in open_store(dataset).sizes() if name.endswith(".pcap")]) == 8
