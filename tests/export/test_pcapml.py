"""pcapML: the packets of the dataset, each with its flow's id and label, as scapy and tshark read
them."""

import shutil
import subprocess

import pandas as pd
import pytest
from export.test_merge import made_dataset, packets_of
from scapy.utils import RawPcapNgReader

from netdiff_ray.config import ExportConfig
from netdiff_ray.export.run import export


@pytest.fixture
def exported(tmp_path):
    """Return the dataset's folder and the exported file."""
    dataset = made_dataset(tmp_path)
    export(ExportConfig(dataset=str(dataset), target=str(tmp_path / "out"), to="pcapml"))
    return dataset, tmp_path / "out/dataset.pcapng"


def expected_comments(dataset):
    """Return how many packets each comment stands at."""
    flows = pd.read_parquet(dataset / "flows")
    rows = zip(flows["flow_id"], flows["label"], flows["num_packets"], strict=True)
    return {f"{int(id, 16)},{label}": count for id, label, count in rows}


def test_every_packet_has_its_flow_and_label(exported):
    dataset, capture = exported
    assert packets_of(capture) == packets_of(*sorted(dataset.glob("label=*/*.pcap")))
    comments = [metadata.comments[0].decode() for _, metadata in RawPcapNgReader(str(capture))]
    found = pd.Series(comments).value_counts().to_dict()
    assert found == expected_comments(dataset)


def test_tshark_reads_the_comments(exported):
    if not shutil.which("tshark"):
        pytest.skip("needs tshark")
    dataset, capture = exported
    command = ["tshark", "-n", "-r", str(capture), "-T", "fields", "-e", "frame.comment"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert pd.Series(lines).value_counts().to_dict() == expected_comments(dataset)
