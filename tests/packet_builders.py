"""Builders of captures and packets, byte by byte."""

import struct

import numpy as np

from netdiff_ray.packets import HEADER_ROW, CaptureReader, header_rows

ETHERNET_IPV4 = bytes.fromhex("020000000002020000000001" + "0800")
ETHERNET_IPV6 = bytes.fromhex("020000000002020000000001" + "86dd")


def pcap(packets, *, order="<", magic=0xA1B2C3D4, link_type=1, snaplen=65535, extra=b""):
    """Return a pcap of (seconds, fraction, bytes) or bytes, `extra` after each record header."""
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, link_type)]
    for k, packet in enumerate(packets):
        seconds, fraction, data = packet if isinstance(packet, tuple) else (k, 0, packet)
        parts.append(struct.pack(order + "IIII", seconds, fraction, len(data), len(data)))
        parts.append(extra + data)
    return b"".join(parts)


def block(kind, body, order="<"):
    """Return a pcapng block."""
    body += b"\0" * (-len(body) % 4)
    length = len(body) + 12
    return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", length)


def section(order="<"):
    """Return a pcapng section header block."""
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link_type=1, snaplen=0, options=b"", order="<"):
    """Return a pcapng interface description block."""
    return block(1, struct.pack(order + "HHI", link_type, 0, snaplen) + options, order)


def enhanced(units, data, number=0, order="<", caplen=None):
    """Return a pcapng enhanced packet block at a time in units of the interface's resolution."""
    caplen = len(data) if caplen is None else caplen
    head = struct.pack(order + "IIIII", number, units >> 32, units & 0xFFFFFFFF, caplen, len(data))
    return block(6, head + data, order)


def udp4(payload=b"", source="10.0.0.1", target="10.0.0.2", sport=1000, dport=53, **ip):
    """Return an Ethernet frame of an IPv4 UDP packet, checksums zero."""
    udp = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    return ETHERNET_IPV4 + ipv4(udp, 17, source, target, **ip)


def tcp4(
    flags, payload=b"", source="10.0.0.1", target="10.0.0.2", sport=1000, dport=80, options=b"",
    **numbers,
):  # fmt: skip
    """Return an Ethernet frame of an IPv4 TCP packet, checksums zero, `seq` and `ack` 1, `window`
    8192."""
    seq, ack, window = (numbers.pop(n, k) for n, k in (("seq", 1), ("ack", 1), ("window", 8192)))
    assert not numbers
    doff = (20 + len(options)) // 4
    tcp = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, doff << 4, flags, window, 0, 0)
    tcp += options
    return ETHERNET_IPV4 + ipv4(tcp + payload, 6, source, target)


def ipv4(body, protocol, source, target, identification=1, fragment=0, options=b""):
    """Return an IPv4 packet; `fragment` is the 16-bit flags and offset field."""
    words = (20 + len(options)) // 4
    addresses = bytes(map(int, source.split("."))) + bytes(map(int, target.split(".")))
    total = words * 4 + len(body)
    head = struct.pack(
        "!BBHHHBBH", 0x40 | words, 0, total, identification, fragment, 64, protocol, 0
    )
    return head + addresses + options + body


def read(path, data, **options):
    """Return (reader, dict of concatenated columns, header rows) of a capture with these bytes."""
    path.write_bytes(data)
    reader = CaptureReader(path, **options)
    names = ("ts_ns", "caplen", "wirelen", "reason", "link_type", "network", "transport",
             "version", "protocol", "fragment", "offset", "ether_type")  # fmt: skip
    columns = {name: [] for name in names}
    rows = []
    for table in reader:
        for name in names:
            columns[name].append(getattr(table, name).copy())
        rows.append(header_rows(table))
    joined = {n: np.concatenate(c) if c else np.empty(0, np.int64) for n, c in columns.items()}
    return reader, joined, np.concatenate([np.empty(0, HEADER_ROW), *rows])
