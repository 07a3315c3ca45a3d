"""Each measure of a scene sees its own change in made captures, and no difference in the same."""

import socket
import struct
from dataclasses import dataclass, replace

import numpy as np
import pytest
from packet_builders import pcap, tcp4, udp4

from netdiff_ray.evaluate.scene import (
    DISTRIBUTIONS,
    SHARES,
    VARIATION,
    difference,
    measure_scene,
    recordings,
    scene_section,
)
from netdiff_ray.evaluate.scene_flows import merge_scenes, read_scene
from netdiff_ray.evaluate.scene_names import dns_message, name_hash, requested_name
from netdiff_ray.evaluate.sources import open_source

SYN, PSH_ACK = 2, 24
RESOLVER = "192.0.2.53"
OPEN, CLIENT_FLOWS, CLIENT_SERVERS, GAPS, CLIENT_GAPS, CLIENT_OPEN, PARALLEL = DISTRIBUTIONS
LOOKED_UP, NAMED, TOLD = SHARES


def question(name):
    """Return a DNS query."""
    labels = b"".join(bytes([len(part)]) + part for part in name.split(b"."))
    return struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, 1, 1)


def answer(name, address):
    """Return the answer to it, with one address."""
    record = struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(address)
    asked = question(name)
    return asked[:2] + struct.pack(">5H", 0x8180, 1, 1, 0, 0) + asked[12:] + record


def request(name):
    return b"GET / HTTP/1.1\r\nHost: " + name + b"\r\n\r\n"


def client_hello(name):
    """Return a record with a ClientHello that asks for a server name."""
    entry = struct.pack(">BH", 0, len(name)) + name
    extension = struct.pack(">HHH", 0, len(entry) + 2, len(entry)) + entry
    body = b"\3\3" + bytes(32) + b"\0" + struct.pack(">HH", 2, 0x1301) + b"\1\0"
    body += struct.pack(">H", len(extension)) + extension
    handshake = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + struct.pack(">H", len(handshake)) + handshake


@dataclass(frozen=True)
class Made:
    """What clients do in a made scene."""

    clients: int = 6
    visits: int = 4
    apart_s: float = 20.0
    client_apart_s: float = 0.5
    lasts_s: float = 1.0
    parallel: int = 1
    lookups: bool = True
    named: bool = True
    told: bool = True
    servers: int = 4
    padding: int = 0


def lookup(made, at_s, client, server, name, port):
    """Return (time, frame) of a query and its answer."""
    asked = name if made.named else b"other.example"
    told = server if made.told else "198.51.100.250"
    up = {"source": client, "target": RESOLVER, "sport": port, "dport": 53}
    down = {"source": RESOLVER, "target": client, "sport": 53, "dport": port}
    query, reply = udp4(question(asked), **up), udp4(answer(asked, told), **down)
    return [(at_s - 0.05, query), (at_s - 0.03, reply)]


def scene(tmp_path, **changes):
    """Read clients that visit servers: a lookup 50 ms before each, then parallel connections."""
    made = Made(**changes)
    packets, port = [], 2000
    for k, v in np.ndindex(made.clients, made.visits):
        client, server = f"10.0.0.{k + 1}", f"198.51.100.{1 + v % made.servers}"
        at_s = 1000 + v * made.apart_s + k * made.client_apart_s
        name = b"host%d.example" % (v % made.servers)
        if made.lookups:
            packets += lookup(made, at_s, client, server, name, port + 1)
        for n in range(made.parallel):
            ends = {"source": client, "target": server, "sport": port + 2 + n, "dport": 80}
            begin_s = at_s + 0.001 * n
            last = bytes(1 + made.padding * v)
            packets.append((begin_s, tcp4(SYN, b"", **ends)))
            packets.append((begin_s + 0.01, tcp4(PSH_ACK, request(name), **ends)))
            packets.append((begin_s + made.lasts_s, tcp4(PSH_ACK, last, **ends)))
        port += 2 + made.parallel
    packets.sort(key=lambda packet: packet[0])
    path = tmp_path / "web" / "c.pcap"
    path.parent.mkdir(exist_ok=True)
    times_us = [round(at_s * 1e6) for at_s, _ in packets]
    records = [(*divmod(us, 10**6), p) for us, (_, p) in zip(times_us, packets, strict=True)]
    path.write_bytes(pcap(records))
    return read_scene(open_source(tmp_path))


def apart(tmp_path, **changes):
    """Return {measure: difference} of the plain scene and a changed one."""
    plain = measure_scene(scene(tmp_path))
    changed = measure_scene(scene(tmp_path, **changes))
    return {name: difference(name, plain[name], changed[name]) for name in plain}


def test_the_plain_scene_is_measured_as_it_was_made(tmp_path):
    measured = measure_scene(scene(tmp_path))
    assert measured[CLIENT_FLOWS].values.tolist() == [8] * 6  # a lookup and a connection a visit
    assert measured[CLIENT_SERVERS].values.tolist() == [5] * 6  # and the resolver
    assert [measured[name].figure for name in SHARES] == [1, 1, 1]
    assert len(measured[LOOKED_UP].values) == len(measured[NAMED].values) == 24
    assert measured[PARALLEL].values.tolist() == [1] * 24
    assert np.isclose(np.sort(measured[CLIENT_GAPS].values)[:24], 0.05, atol=1e-3).all()


def test_a_scene_differs_from_itself_nowhere(tmp_path):
    flows = scene(tmp_path)
    section = scene_section(flows, flows)
    assert section["available"]
    assert section["headline"]["scene_difference"] == section["headline"]["measures_beyond"] == 0
    assert section["headline"]["scene_measures"] >= 8


@pytest.mark.parametrize(
    ("changes", "seen", "unseen"),
    [
        ({"lookups": False}, {LOOKED_UP, CLIENT_FLOWS, CLIENT_SERVERS}, {PARALLEL}),
        ({"named": False}, {NAMED}, {*DISTRIBUTIONS, LOOKED_UP, TOLD}),
        ({"told": False}, {TOLD}, {*DISTRIBUTIONS, LOOKED_UP, NAMED, VARIATION}),
        ({"servers": 1}, {CLIENT_SERVERS}, {*DISTRIBUTIONS, *SHARES} - {CLIENT_SERVERS}),
        ({"parallel": 3}, {PARALLEL, CLIENT_OPEN, CLIENT_FLOWS, OPEN}, {CLIENT_SERVERS, *SHARES}),
        ({"lasts_s": 5.0}, {OPEN}, {CLIENT_FLOWS, CLIENT_SERVERS, GAPS, CLIENT_GAPS, *SHARES}),
        ({"apart_s": 40.0}, {CLIENT_GAPS}, {CLIENT_FLOWS, CLIENT_SERVERS, CLIENT_OPEN, *SHARES}),
        ({"client_apart_s": 0.9}, {GAPS}, {CLIENT_GAPS, CLIENT_FLOWS, CLIENT_OPEN, *SHARES}),
        ({"visits": 8}, {CLIENT_FLOWS}, {CLIENT_SERVERS, PARALLEL, CLIENT_OPEN, *SHARES}),
        ({"padding": 300}, {VARIATION}, {*DISTRIBUTIONS, *SHARES}),
    ],
)  # fmt: skip
def test_each_measure_sees_its_own_change(tmp_path, changes, seen, unseen):
    found = apart(tmp_path, **changes)
    assert {name for name in seen if not found[name] > 0.05} == set()
    assert {name for name in unseen if found[name] > 0.05} == set()


def test_captures_close_in_time_are_one_recording(tmp_path):
    flows = scene(tmp_path)
    later_ns = 200 * 10**9
    parts = [
        replace(flows, capture=np.full(len(flows), name), start_ns=flows.start_ns + shift,
                end_ns=flows.end_ns + shift)
        for name, shift in (("a", 0), ("b", 10**9), ("c", later_ns))
    ]  # fmt: skip
    of = recordings(merge_scenes(parts)).reshape(3, -1)
    assert (of[0] == of[1]).all()
    assert (of[2] != of[0]).all()


def test_sources_without_packets_or_with_few_flows_are_not_available(tmp_path):
    flows = scene(tmp_path)
    assert scene_section("no packets", flows)["reason"] == "no packets"
    few = scene_section(flows, flows.chosen(np.arange(len(flows)) < 3))
    assert few["reason"] == "the synthetic captures have fewer than 10 flows"


def test_names_are_read_from_payloads():
    expected = name_hash(b"Host.Example.")
    assert requested_name(client_hello(b"host.example")) == expected
    assert requested_name(request(b"host.example:8080")) == expected
    assert dns_message(question(b"host.example")).name == expected
    message = dns_message(answer(b"host.example", "198.51.100.1"))
    assert message.is_answer
    assert len(message.addresses) == 1


@pytest.mark.parametrize("make", [client_hello, request, question])
def test_cut_payloads_have_no_name_or_the_right_one(make):
    payload = make(b"host.example")
    for end in range(len(payload)):
        cut = payload[:end]
        name = requested_name(cut) if make is not question else getattr(dns_message(cut), "name", 0)
        assert isinstance(name, int)
