"""`netdiff check-base`: what an autoencoder does to header bits is counted."""

import json

import numpy as np
import pytest
from packet_builders import pcap, tcp4, udp4

from netdiff_ray.cli import main
from netdiff_ray.encoding.collection import list_captures
from netdiff_ray.encoding.encode import EncodeSettings, encode_part, encoded_part_name
from netdiff_ray.local.check_base import base_table, compare
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, layout_named
from netdiff_ray.storage.manifest import ENCODED_DATASET, commit
from netdiff_ray.storage.store import open_store

LAYOUT = layout_named(DEFAULT_LAYOUT)


def made(num_packets, seed=0):
    """Return a window of TCP packets with random bits, and its raster's matrix."""
    bits = np.random.default_rng(seed).integers(0, 2, (num_packets, LAYOUT.width), np.int8)
    bits[:, ~LAYOUT.columns_of(("flow", "ipv4", "tcp"), options=False)] = -1
    raster = np.full((16, LAYOUT.width), -1, np.int8)
    raster[:num_packets] = bits
    return bits, raster


def test_what_comes_back_as_it_was_is_right():
    result = compare(16, LAYOUT, [made(5), made(16, seed=1)])
    assert (result.windows, result.wrong, result.invented, result.lost) == (2, 0, 0, 0)
    assert result.bits == 21 * (made(1)[0] != -1).sum()
    assert result.worst_field == ""
    assert result.wrong_share == 0


def test_wrong_invented_and_lost_are_told_apart():
    real, returned = made(5)
    returned[2, LAYOUT.columns("tcp_wsize")] = 1 - returned[2, LAYOUT.columns("tcp_wsize")]
    returned[0, LAYOUT.columns("udp_len").start] = 0
    returned[4] = -1
    other = made(9, seed=1)
    result = compare(16, LAYOUT, [(real, returned), other])
    columns = (real[0] != -1).sum()
    assert result.wrong == 16 + columns
    assert (result.invented, result.lost) == (1, 1)
    assert result.worst_field == "tcp_wsize"
    assert result.worst_share == pytest.approx(32 / (14 * 16))
    assert "tcp_wsize" in base_table([result])


def test_a_vacant_row_within_a_window_loses_the_packets_behind_it():
    real, returned = made(5)
    returned[1] = -1
    assert compare(16, LAYOUT, [(real, returned)]).lost == 1


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Return an encoded dataset of two labels, its windows of at most 16 packets."""
    folder = tmp_path_factory.mktemp("encoded")
    for label in ("web", "dns"):
        (folder / "captures" / label).mkdir(parents=True)
        packets = [tcp4(2), udp4(), *[udp4(sport=9)] * 20, tcp4(0x10)]
        (folder / "captures" / label / "a.pcap").write_bytes(pcap(packets))
    source, captures, _ = list_captures(str(folder / "captures"))
    target = open_store(folder / "encoded")
    settings = EncodeSettings(layout=DEFAULT_LAYOUT, height=16, idle_timeout_s=60.0)
    config = {"layout": DEFAULT_LAYOUT, "height": 16}
    for number, capture in enumerate(captures):
        encode_part(source, [capture], target, number, settings, config)
    commit(target, ENCODED_DATASET, config, [encoded_part_name(k) for k in range(2)])
    return str(folder / "encoded")


def test_nano_keeps_the_bits(encoded, capsys):
    assert main(["check-base", "nano", "--data", encoded, "--json", "--device", "cpu"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["heights"]
    assert result["height"] == 16
    assert result["windows"] == 8
    assert result["wrong"] / result["bits"] < 1e-3


def test_random_weights_do_not(toy_directory, encoded, capsys):
    wanted = ["check-base", str(toy_directory), "--data", encoded, "--labels", "web"]
    assert main([*wanted, "--device", "cpu", "--windows", "2", "--batch-size", "3"]) == 1
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:5] == ["height", "windows", "bits", "right", "lost"]
    assert row.split()[:2] == ["16", "2"]
    assert float(row.split()[3]) < 0.9


def test_labels_that_are_not_there_are_named(toy_directory, encoded, capsys):
    assert main(["check-base", str(toy_directory), "--data", encoded, "--labels", "mail"]) == 2
    assert "has no windows of mail; it has " in capsys.readouterr().err
