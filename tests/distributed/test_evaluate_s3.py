"""Sides on an object store, and a report put there, against a real S3 server."""

import json

import pytest
from paths import ROOT

from netdiff_ray.cli import main
from netdiff_ray.storage.store import open_store

pytestmark = pytest.mark.usefixtures("local_ray")


def test_sides_and_report_on_an_object_store(bucket_uri, capsys):
    for name, host in (("real", 0), ("synthetic", 1)):
        for label in ("dns", "ping"):
            capture = ROOT / "samples" / "heldout" / label / f"host-{host}.pcap.gz"
            open_store(bucket_uri.format(name)).put(f"{label}/a.pcap.gz", capture.read_bytes())
    code = main(
        ["evaluate", "--real", bucket_uri.format("real/*/*.pcap.gz"), "--synthetic",
         bucket_uri.format("synthetic"), "--out", bucket_uri.format("out"), "--seeds", "1"]
    )  # fmt: skip
    assert code == 1, capsys.readouterr().err
    content = json.loads(open_store(bucket_uri.format("out")).get("report.json"))
    assert content["sides"]["real"]["labels"].keys() == {"dns", "ping"}
    assert content["compliance"]["headline"]["valid_packets"] > 0.99
    assert not content["privacy"]["available"]
