"""Tunnels: followed to the inner packet when asked, outer packets otherwise."""

import struct

import numpy as np
import pytest
from packet_builders import ETHERNET_IPV4, ipv4, pcap, read, tcp4

from netdiff_ray.cli import main
from netdiff_ray.local.inspect import inspect_capture
from netdiff_ray.packets import CaptureReader
from netdiff_ray.packets.tunnels import TUNNELS

INNER = tcp4(0x02, source="192.168.0.1", target="192.168.0.2", sport=40000)
INNER_4 = INNER[14:]
INNER_6 = (
    struct.pack("!IHBB", 6 << 28, 20, 6, 64) + bytes(15) + b"\1" + bytes(15) + b"\2" + INNER_4[20:]
)


def outer(protocol, body):
    """Return an Ethernet frame of an IPv4 packet of that protocol."""
    return ETHERNET_IPV4 + ipv4(body, protocol, "10.0.0.1", "10.0.0.2")


def datagram(port, body):
    """Return an Ethernet frame of a UDP datagram to a port."""
    return outer(17, struct.pack("!HHHH", 50_000, port, 8 + len(body), 0) + body)


TUNNELLED = {
    "GRE": [
        outer(47, struct.pack("!HH", 0, 0x0800) + INNER_4),
        outer(47, struct.pack("!HHIII", 0xB000, 0x86DD, 1, 2, 3) + INNER_6),
        outer(47, struct.pack("!HH", 0, 0x6558) + INNER),
    ],
    "IP-in-IP": [outer(4, INNER_4)],
    "6in4": [outer(41, INNER_6)],
    "VXLAN": [datagram(4789, b"\x08" + bytes(7) + INNER)],
    "Geneve": [
        datagram(6081, struct.pack("!BBHI", 0, 0, 0x6558, 0) + INNER),
        datagram(6081, struct.pack("!BBHI", 2, 0, 0x86DD, 0) + bytes(8) + INNER_6),
    ],
    "GTP-U": [
        datagram(2152, struct.pack("!BBHI", 0x30, 255, len(INNER_4), 7) + INNER_4),
        # With a sequence number and an extension header of 4 bytes.
        datagram(
            2152,
            struct.pack("!BBHIHBB", 0x36, 255, len(INNER_6) + 8, 7, 1, 0, 0x85)
            + b"\1\0\0\0"
            + INNER_6,
        ),
    ],
    "Teredo": [
        datagram(3544, INNER_6),
        datagram(3544, b"\0\1\0\0" + bytes(9) + b"\0\0" + bytes(6) + INNER_6),
    ],
}


@pytest.mark.parametrize("name", TUNNELLED)
def test_tunnels_are_followed(tmp_path, name, capsys):
    frames = TUNNELLED[name]
    (tmp_path / "c.pcap").write_bytes(pcap(frames))
    assert name in TUNNELS.values()
    _, _, rows = read(tmp_path / "c", pcap(frames), decapsulate=True)
    assert len(rows) == len(frames)
    assert set(rows["protocol"].tolist()) == {6}
    np.testing.assert_array_equal(rows["transport"][:, :20], [list(INNER_4[20:40])] * len(frames))
    assert {bytes(row["network"][12:20]) for row in rows if row["version"] == 4} <= {INNER_4[12:20]}
    inspection = inspect_capture(tmp_path / "c", 60.0, decapsulate=True)
    assert inspection.tunnels == {name: len(frames)}
    target = tmp_path / "inner.pcap"
    assert main(["convert", str(tmp_path / "c.pcap"), str(target), "--decapsulate"]) == 0
    assert capsys.readouterr().out.endswith(f"; tunnels followed: {name} {len(frames)}\n")
    # Outer packets unless asked for.
    _, _, rows = read(tmp_path / "c", pcap(frames))
    assert not np.isin(rows["protocol"], [6]).any()
    assert inspect_capture(tmp_path / "c", 60.0).tunnels == {}


def test_tunnels_in_tunnels(tmp_path):
    frame = outer(47, struct.pack("!HH", 0, 0x6558) + datagram(4789, b"\x08" + bytes(7) + INNER))
    _, _, rows = read(tmp_path / "c", pcap([frame]), decapsulate=True)
    assert rows["protocol"].tolist() == [6]
    assert inspect_capture(tmp_path / "c", 60.0, decapsulate=True).tunnels == {"GRE": 1, "VXLAN": 1}


@pytest.mark.parametrize("name", TUNNELLED)
def test_what_is_cut_or_none_stays_outer(tmp_path, name):
    """At whatever byte the frame is cut, nothing past it is read."""
    for frame in TUNNELLED[name]:
        cuts = [frame[:size] for size in range(len(frame))]
        _, whole, _ = read(tmp_path / "c", pcap(cuts))
        with CaptureReader(tmp_path / "c", decapsulate=True) as reader:
            (table,) = reader
            assert (table.network + 20 * (table.network >= 0) <= table.caplen).all()
            outer_still = table.tunnels == 0
            np.testing.assert_array_equal(table.reason[outer_still], whole["reason"][outer_still])
        random = np.random.default_rng(1)
        noise = [frame[:34] + random.bytes(len(frame) - 34) for _ in range(200)]
        read(tmp_path / "c", pcap(noise), decapsulate=True)
