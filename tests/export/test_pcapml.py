"""pcapML: the packets of a dataset, each with its flow's id and label, as scapy, tshark and we read
them, exported or written by generate."""

import shutil
import subprocess

import pandas as pd
import pytest
from export.test_merge import made_dataset, packets_of
from scapy.utils import RawPcapNgReader

from netdiff_ray.config import ExportConfig, GenerateConfig
from netdiff_ray.errors import ConfigError, DatasetError
from netdiff_ray.evaluate.sources import open_source
from netdiff_ray.export.run import export
from netdiff_ray.flow_labels.read import read_labels


@pytest.fixture
def exported(tmp_path):
    """Return the dataset's folder and the exported file."""
    dataset = made_dataset(tmp_path)
    export(ExportConfig(dataset=str(dataset), target=str(tmp_path / "out"), to="pcapml"))
    return dataset, tmp_path / "out/dataset.pcapng"


@pytest.fixture
def datasets(tmp_path):
    """Return the folders of the same dataset as pcap and in pcapML's form."""
    folders = []
    for form in ("pcap", "pcapml"):
        (tmp_path / form).mkdir()
        folders.append(made_dataset(tmp_path / form, form=form))
    return folders


def comments_in(*captures):
    """Return how many packets each comment stands at."""
    records = [record for capture in captures for record in RawPcapNgReader(str(capture))]
    return pd.Series([meta.comments[0].decode() for _, meta in records]).value_counts().to_dict()


def expected_comments(dataset):
    """Return how many packets each comment stands at."""
    flows = pd.read_parquet(dataset / "flows")
    rows = zip(flows["flow_id"], flows["label"], flows["num_packets"], strict=True)
    return {f"{int(id, 16)},{label}": count for id, label, count in rows}


def test_every_packet_has_its_flow_and_label(exported):
    dataset, capture = exported
    assert packets_of(capture) == packets_of(*sorted(dataset.glob("label=*/*.pcap")))
    assert comments_in(capture) == expected_comments(dataset)


def test_a_dataset_in_this_form_holds_the_same_packets_with_comments(datasets):
    plain, commented = datasets
    captures = sorted(commented.glob("label=*/*"))
    assert [path.name for path in captures] == ["part-00000.pcapng", "part-00001.pcapng"]
    assert packets_of(*captures) == packets_of(*sorted(plain.glob("label=*/*")))
    assert comments_in(*captures) == expected_comments(plain) == expected_comments(commented)
    assert read_labels([str(path) for path in captures]).labels == ["web"]
    units = open_source(commented).units
    assert [unit.num_bytes for unit in units] == [path.stat().st_size for path in captures]


@pytest.mark.parametrize("to", ["pcapml", "zeek", "nfstream", "ipfix"])
def test_it_is_exported_as_the_same_dataset_of_pcap_is(datasets, tmp_path, to):
    written = []
    for k, dataset in enumerate(datasets):
        target = tmp_path / f"out{k}"
        done = export(ExportConfig(dataset=str(dataset), target=str(target), to=to))
        written.append({name: (target / name).read_bytes() for name in done.files})
    assert written[0] == written[1]


def test_what_it_cannot_be_is_refused_in_words(datasets, tmp_path):
    with pytest.raises(DatasetError, match="its captures are those of pcapML"):
        export(ExportConfig(dataset=str(datasets[1]), target=str(tmp_path / "out"), merge=True))
    with pytest.raises(ConfigError, match="a capture of pcapml holds all flows of a shard"):
        GenerateConfig(adapter="a", target="b", format="pcapml", pcap_per_flow=True)


def test_tshark_reads_the_comments(exported):
    if not shutil.which("tshark"):
        pytest.skip("needs tshark")
    dataset, capture = exported
    command = ["tshark", "-n", "-r", str(capture), "-T", "fields", "-e", "frame.comment"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert pd.Series(lines).value_counts().to_dict() == expected_comments(dataset)
