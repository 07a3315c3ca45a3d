"""The same dataset on an object store as on a disk, against a real S3 server."""

import json
import urllib.request

import pyarrow.fs as pafs
import pytest
from moto.server import ThreadedMotoServer
from storage.dataset_builders import CONFIG, NAMES, made_shard

from netdiff_ray.storage.manifest import PCAP_DATASET, commit, missing_parts
from netdiff_ray.storage.shards import write_shard
from netdiff_ray.storage.store import open_store
from netdiff_ray.storage.verify import verify


@pytest.fixture
def bucket(monkeypatch):
    """Yield the URI of an empty folder in a bucket, and its endpoint."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    query = f"endpoint_override={host}:{port}&scheme=http&allow_bucket_creation=true"
    filesystem, _ = pafs.FileSystem.from_uri(f"s3://flows/?{query}")
    filesystem.create_dir("flows")
    yield f"s3://flows/run?{query}", f"http://{host}:{port}"
    server.stop()


def test_a_dataset_on_s3(bucket, tmp_path):
    uri, endpoint = bucket
    store, local = open_store(uri), open_store(tmp_path / "local")
    for target in (store, local):
        assert missing_parts(target, CONFIG, NAMES) == [0, 1]
        for number in (0, 1):
            write_shard(target, made_shard(tmp_path, number), CONFIG)
        commit(target, PCAP_DATASET, CONFIG, NAMES)
        assert missing_parts(target, CONFIG, NAMES) == []
        assert verify(target).problems == []
    assert store.sizes() == local.sizes()
    assert json.loads(store.get("manifest.json")) == json.loads(local.get("manifest.json"))
    store.delete("label=web/part-00000.pcap")
    assert missing_parts(store, CONFIG, NAMES) == [0]
    # No upload is left open that a reader could stumble over.
    with urllib.request.urlopen(f"{endpoint}/flows?uploads") as answer:
        assert b"<Upload>" not in answer.read()
