"""Captures of written dialogues, and what tshark and ndpiReader say of them."""

import csv
import shutil
import struct
import subprocess
from collections import Counter, defaultdict
from ipaddress import ip_address

import dpkt
import pytest

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.segments import segments_by_message

MSS = 1460
STEP_NS = 20_000_000
BEGIN_NS = 1_750_000_000 * 10**9
CLIENT_PORT = 49_152
CLIENTS = "10.0."


def exchange_of(pattern, port, number=0, seed=1, client_port=None, *, is_tcp=False):
    """Return an exchange out of lengths, negative from the server: "12 -11 12 -11"."""
    signed = [int(n) for n in pattern.split()]
    return Exchange(
        sides=tuple(int(n < 0) for n in signed),
        lengths=tuple(abs(n) for n in signed),
        ts_ns=tuple(BEGIN_NS + STEP_NS * k for k in range(len(signed))),
        seed=seed,
        client=ip_address("10.0.0.0").packed[:2] + struct.pack(">H", 256 + number),
        server=ip_address("192.0.2.1").packed,
        client_port=CLIENT_PORT + number if client_port is None else client_port,
        server_port=port,
        is_tcp=is_tcp,
    )


def packets_of(exchange, messages):
    """Yield (time in seconds, IPv4 packet) of a flow: segments between a handshake and a close.

    Of messages that are not divided segments have MSS bytes.
    """
    hosts = (exchange.client, exchange.server)
    ports = (exchange.client_port, exchange.server_port)
    sent = [1_000, 2_000]
    is_tcp = exchange.is_tcp

    def segment(side, flags, data=b""):
        tcp = dpkt.tcp.TCP(
            sport=ports[side], dport=ports[1 - side], seq=sent[side],
            ack=sent[1 - side] if flags & dpkt.tcp.TH_ACK else 0, flags=flags, data=data,
            win=64_000,
        )  # fmt: skip
        sent[side] += len(data) + bool(flags & (dpkt.tcp.TH_SYN | dpkt.tcp.TH_FIN))
        return packet(side, tcp, dpkt.ip.IP_PROTO_TCP)

    def packet(side, transport, protocol):
        return dpkt.ip.IP(src=hosts[side], dst=hosts[1 - side], p=protocol, data=transport)

    at = exchange.ts_ns[0] / 1e9
    if is_tcp:
        yield at - 3e-3, segment(0, dpkt.tcp.TH_SYN)
        yield at - 2e-3, segment(1, dpkt.tcp.TH_SYN | dpkt.tcp.TH_ACK)
        yield at - 1e-3, segment(0, dpkt.tcp.TH_ACK)
    parts = segments_by_message(exchange)
    for side, message, ts_ns, part in zip(
        exchange.sides, messages, exchange.ts_ns, parts, strict=True
    ):
        at = ts_ns / 1e9
        if is_tcp:
            k = 0
            while k < len(message):
                data = message[k : k + (part.pop(0) if exchange.segments else MSS)]
                yield at + k * 1e-8, segment(side, dpkt.tcp.TH_ACK | dpkt.tcp.TH_PUSH, data)
                k += len(data)
        else:
            udp = dpkt.udp.UDP(
                sport=ports[side], dport=ports[1 - side], data=message, ulen=len(message) + 8
            )
            yield at, packet(side, udp, dpkt.ip.IP_PROTO_UDP)
    if is_tcp:
        yield at + 2e-3, segment(0, dpkt.tcp.TH_FIN | dpkt.tcp.TH_ACK)
        yield at + 3e-3, segment(1, dpkt.tcp.TH_FIN | dpkt.tcp.TH_ACK)
        yield at + 4e-3, segment(0, dpkt.tcp.TH_ACK)


def write_capture(path, flows):
    """Write a pcap of flows: pairs of exchange and messages."""
    packets = [packet for flow in flows for packet in packets_of(*flow)]
    with open(path, "wb") as file:
        writer = dpkt.pcap.Writer(file, linktype=dpkt.pcap.DLT_RAW)
        for at, packet in sorted(packets, key=lambda p: p[0]):
            writer.writepkt(bytes(packet), at)


def dissect(path, *fields):
    """Return the packets with payload by client: a dictionary of lists by field, each.

    Beside `fields`: ip.addr, tcp.len, frame.protocols, _ws.malformed, _ws.expert.severity and
    _ws.expert.message.
    """
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    names = ["ip.addr", "tcp.len",
             "frame.protocols", "_ws.malformed", "_ws.expert.severity", "_ws.expert.message",
             *fields]  # fmt: skip
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=/t"]
    command += ["-E", "aggregator=|"]
    for name in names:
        command += ["-e", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    by_client = defaultdict(list)
    for line in done.stdout.splitlines():
        values = dict(zip(names, line.split("\t"), strict=True))
        if values["tcp.len"] != "0":
            packet = {name: value.split("|") if value else [] for name, value in values.items()}
            by_client[_client_in(packet["ip.addr"])].append(packet)
    return by_client


def client_of(exchange):
    """Return the address of an exchange's client as text."""
    return str(ip_address(exchange.client))


def _client_in(addresses):
    return next(a for a in addresses if a.startswith(CLIENTS))


def recognised(path, folder):
    """Return what ndpiReader takes flows for, by client, without guessing by port."""
    if shutil.which("ndpiReader") is None:
        pytest.skip("ndpiReader is not installed")
    out = folder / "flows.csv"
    subprocess.run(
        ["ndpiReader", "-q", "-d", "-i", path, "-C", out], capture_output=True, check=False
    )
    with open(out, newline="", errors="replace") as file:
        return {
            _client_in([row["src_ip"], row["dst_ip"]]): row["ndpi_proto"]
            for row in csv.DictReader(file)
            if row["#flow_id"].isdigit()  # nDPI breaks lines where an SSH version ends
        }


def errors_of(packets):
    """Count what tshark finds malformed, and expert infos that are errors, by text."""
    errors = Counter()
    for packet in packets:
        if packet["_ws.malformed"]:
            errors["malformed"] += 1
        errors.update(
            message
            for severity, message in zip(
                packet["_ws.expert.severity"], packet["_ws.expert.message"], strict=False
            )
            if int(severity) == 0x800000  # PI_ERROR
        )
    return errors
