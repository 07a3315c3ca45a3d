"""`netdiff show`: lists of flows, packets of one, and its picture."""

import numpy as np
import pytest
from export.test_merge import made_dataset
from packet_builders import pcap, tcp4, udp4
from PIL import Image

from netdiff_ray.cli import main
from netdiff_ray.header_bytes import ACK, PSH, SYN
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, layout_named

BACK = {"source": "10.0.0.2", "target": "10.0.0.1", "sport": 80, "dport": 40000}
CONNECTION = [
    tcp4(SYN, seq=7, ack=0, sport=40000), tcp4(SYN | ACK, seq=100, ack=8, **BACK),
    tcp4(ACK, seq=8, ack=101, sport=40000),
    tcp4(PSH | ACK, bytes(20), seq=8, ack=101, sport=40000),
]  # fmt: skip


def shown(capsys, *arguments):
    """Return the lines that `netdiff show` prints."""
    assert main(["show", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_dataset_is_listed_and_a_flow_of_it_shown(tmp_path, capsys):
    dataset = made_dataset(tmp_path)
    listed = shown(capsys, dataset)
    assert [line.split()[:3] for line in listed[2:]] == [
        [f"{number:04x}{k:04x}", "web", "UDP" if k == 1 else "TCP"]
        for number in (0, 1)
        for k in range(3)
    ]
    assert shown(capsys, dataset, "--most", 4)[-1] == "... and more; --most shows them"
    lines = shown(capsys, dataset, "00010001")
    assert lines[0] == "00010001 web: UDP, 10.0.1.2:4001 -> 10.0.0.2:53"
    assert [line.split()[-2:] for line in lines[4:]] == [[str(k), "UDP"] for k in range(3)]


def test_packets_of_a_capture_of_one_flow_and_its_picture(tmp_path, capsys):
    capture = tmp_path / "c.pcap"
    capture.write_bytes(pcap([(k, 500, frame) for k, frame in enumerate(CONNECTION)]))
    picture = tmp_path / "flow.png"
    lines = shown(capsys, capture, "--picture", picture)
    assert "10.0.0.1:40000 -> 10.0.0.2:80" in lines[0]
    assert [line.split(None, 5)[1:3] for line in lines[4:8]] == [
        ["0.000000", "->"], ["1.000000", "<-"], ["2.000000", "->"], ["3.000000", "->"],
    ]  # fmt: skip
    assert lines[5].endswith("SYN ACK, seq 0, ack 1, win 8,192")
    assert lines[7].endswith("20  PSH ACK, seq 1, ack 1, win 8,192")
    layout = layout_named(DEFAULT_LAYOUT)
    pixels = np.asarray(Image.open(picture))
    assert pixels.shape == (2 * (14 + 2 * 16 + 6), 2 * layout.width, 3)
    raster = pixels[14 : 14 + 32 : 2, ::2]
    control = pixels[52 + 14 : 52 + 14 + 32 : 2, ::2]
    assert {tuple(c) for c in raster.reshape(-1, 3)} == {(255, 0, 0), (0, 255, 0), (0, 0, 255)}
    udp = layout.columns("udp_len")
    assert (raster[:, udp] == (0, 0, 255)).all()
    assert (control[:, udp] == (0, 0, 255)).all()
    said = (control[:4] != 0).any(axis=2) & (control[:4] != 255).any(axis=2)
    assert said.sum() > 100
    assert (control[:4][said] == raster[:4][said]).all()


def test_flows_that_are_not_there_and_pictures_of_many_are_refused(tmp_path, capsys):
    capture = tmp_path / "c.pcap"
    capture.write_bytes(pcap([*CONNECTION, udp4(b"abc")]))
    assert len(shown(capsys, capture)) == 4
    for arguments, words in (
        ((capture, "zz"), "no flow has an id"),
        ((capture, "--picture", tmp_path / "p.png"), "give its id"),
        ((tmp_path, "00"), "no manifest.json"),
    ):
        assert main(["show", *map(str, arguments)]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("most", ["0", "-1"])
def test_a_table_has_a_row(tmp_path, capsys, most):
    assert main(["show", str(tmp_path), "--most", most]) == 2
    assert "most is" in capsys.readouterr().err
