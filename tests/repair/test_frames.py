"""Payload frames: every port that Wireshark knows, at every length; and what is in them."""

import subprocess

import dpkt
import numpy as np
import pytest
from flow_rows import rows_of, tcp_header, udp_header
from tools import tshark_complaints
from windows import write_pcap

from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.repair import RepairContext, repair
from netdiff_ray.repair.frames import UNFRAMED_TCP, UNFRAMED_UDP

TIMED = layout_named("timed")
PSH_ACK = 24


def flow(protocol, port, sizes, rng):
    """Return an nprint with a packet of each payload size, either side sending."""
    packets = []
    for size in sizes:
        side = int(rng.integers(0, 2)) if packets else 0
        if protocol == 6:
            packets.append((side, tcp_header(side, PSH_ACK, port=port), int(size)))
        else:
            packets.append((side, udp_header(side, int(size), port), int(size)))
    rows, direction = rows_of(packets, protocol=protocol)
    gaps_ns = np.full(len(rows), 100_000)
    return encode(rows, TIMED, direction=direction, interarrival_ns=gaps_ns)


def registered(table):
    """Return the ports for which tshark has a dissector."""
    command = ["tshark", "-G", "decodes"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = (line.split("\t") for line in told.stdout.splitlines())
    return sorted({int(port) for name, port, *_ in lines if name == table})


@pytest.mark.slow
@pytest.mark.usefixtures("tshark")
@pytest.mark.parametrize(
    ("protocol", "table", "unframed"),
    [(6, "tcp.port", UNFRAMED_TCP), (17, "udp.port", UNFRAMED_UDP)],
)
def test_every_registered_port_takes_every_length(protocol, table, unframed, tmp_path):
    rng = np.random.default_rng(protocol)
    ports = [port for port in registered(table) if port not in unframed]
    sizes = [*range(1, 80), *rng.integers(80, 1400, 40)]
    drawn = [flow(protocol, port, rng.permutation(sizes), rng) for port in ports]
    result = repair(drawn, TIMED, RepairContext(), np.arange(len(drawn)))
    path = tmp_path / "ports.pcap"
    write_pcap(path, [result])
    assert not tshark_complaints(path)


def bodies(protocol, port, sizes):
    """Yield (side, payload) of each packet."""
    drawn = flow(protocol, port, sizes, np.random.default_rng(3))
    result = repair([drawn], TIMED, RepairContext(), [5])
    for i, side in enumerate(result.batch.packets.direction):
        yield side, dpkt.ethernet.Ethernet(result.packets.packet(i)).data.data.data


def test_tls_records_follow_each_other_over_segments():
    sizes = [600, 3, 1, 900, 2000, 7, 1, 1, 40_000, 12]
    streams = [b"", b""]
    for side, body in bodies(6, 443, sizes):
        streams[side] += body
    assert sum(map(len, streams)) == sum(sizes)
    for stream in streams:
        at = 0
        while at + 5 <= len(stream):
            kind, version, length = stream[at], stream[at + 1 : at + 3], stream[at + 3 : at + 5]
            assert (kind, version) == (23, b"\x03\x03")
            assert 0 < int.from_bytes(length) <= 16_384
            at += 5 + int.from_bytes(length)


def test_dns_messages_fill_every_length():
    ids = [set(), set()]
    for side, body in bodies(17, 53, range(17, 600)):
        message = dpkt.dns.DNS(body)
        assert len(message.qd) == 1
        assert message.qr == side
        assert message.id not in ids[side]
        ids[side].add(message.id)
        assert bytes(message) == body or len(body) >= 28


def test_quic_has_its_fixed_bit():
    for _, body in bodies(17, 443, range(1, 100)):
        assert body[0] & 0xC0 == 0x40


def test_dhcp_is_dhcp():
    for side, body in bodies(17, 67, [300, 548, 20]):
        assert dpkt.dhcp.DHCP(body).op == side + 1
