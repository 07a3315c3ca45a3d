"""Valid flows made for the tests of repair, as an independent stack would send them."""

import struct

import numpy as np
from hypothesis import strategies as st

from netdiff_ray.header_bytes import IPPROTO_TCP, TCP_ACKN, TCP_FLAGS, TCP_SEQ
from netdiff_ray.nprint.layouts import LAYOUTS, STATE_FIELDS, Layout
from netdiff_ray.packets import HEADER_ROW
from netdiff_ray.repair.rules.flow import LEVEL_STARTS

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
STATELESS = Layout(
    "stateless", tuple(n for n in LAYOUTS["stateful"].fields if n not in STATE_FIELDS),
    zeroes_assigned=True,
)  # fmt: skip
"""Directions and times, which a test chooses, and no state: drawings of the nprint layouts, which
say nothing of losses and acknowledgements either, are played by the same rules."""


def rows_of(packets, *, version=4, protocol=6, ttl=(64, 57), tos=0):
    """Return header rows and direction of (direction, transport header, payload bytes).

    TCP segments without numbers get those of hosts that lose nothing and acknowledge all at once.
    """
    rows = np.zeros(len(packets), HEADER_ROW)
    for row, (direction, transport, payload_bytes) in zip(rows, packets, strict=True):
        length = len(transport) + payload_bytes
        if version == 4:
            network = struct.pack(
                "!BBHHHBBH8x", 0x45, tos, 20 + length, 0, 0x4000, ttl[direction], protocol, 0
            )
        else:
            network = struct.pack(
                "!IHBB32x", 6 << 28 | tos << 20 | 0x12345, length, protocol, ttl[direction]
            )
        row["network"][: len(network)] = np.frombuffer(network, np.uint8)
        row["transport"][: len(transport)] = np.frombuffer(transport, np.uint8)
        row["network_len"], row["transport_len"] = len(network), len(transport)
        row["version"], row["protocol"] = version, protocol
    if protocol == IPPROTO_TCP and not rows["transport"][:, TCP_SEQ : TCP_ACKN + 4].any():
        _number(rows, packets)
    return rows, np.array([p[0] for p in packets], np.uint8)


def _number(rows, packets):
    sent = [1_000, 5_000]
    for row, (side, transport, payload_bytes) in zip(rows, packets, strict=True):
        flags = transport[TCP_FLAGS]
        acked = sent[1 - side] if flags & ACK else 0
        numbers = np.array([sent[side], acked], ">u4").view(np.uint8)
        row["transport"][TCP_SEQ : TCP_ACKN + 4] = numbers
        sent[side] += payload_bytes + (flags & SYN != 0) + (flags & FIN != 0)


def tcp_header(direction, flags, *, window=501, options=b"", port=443):
    """Return a TCP header between client port 50000 and the server's."""
    ports = (50_000, port) if direction == 0 else (port, 50_000)
    offset = (20 + len(options)) // 4 << 4
    return struct.pack("!HHIIBBHHH", *ports, 0, 0, offset, flags, window, 0, 0) + options


def udp_header(direction, payload_bytes, port=53):
    """Return a UDP header."""
    ports = (50_000, port) if direction == 0 else (port, 50_000)
    return struct.pack("!HHHH", *ports, 8 + payload_bytes, 0)


STAMP = bytes([1, 1, 8, 10]) + bytes(8)


@st.composite
def tcp_flows(draw):
    """Return a valid TCP flow: handshake or not, data and acknowledgements, a close or none."""
    stamped = draw(st.booleans())
    opens = draw(st.booleans())
    options = STAMP if stamped else b""
    packets = []

    def send(direction, flags, payload_bytes=0, options=options, window=501):
        header = tcp_header(direction, flags, options=options, window=window)
        packets.append((direction, header, payload_bytes))

    if opens:
        stamp = bytes([4, 2, 8, 10]) + bytes(8) if stamped else bytes([1, 1, 4, 2])
        syn = bytes([2, 4, 5, 0xB4]) + stamp + bytes([1, 3, 3, 7])
        send(0, SYN, options=syn, window=64240)
        send(1, SYN | ACK, options=syn, window=65160)
        send(0, ACK)
    unseen = [0, 0]  # segments that each side has yet to acknowledge
    for _ in range(draw(st.integers(1, 20))):
        direction = draw(st.integers(0, 1))
        if unseen[direction] and draw(st.booleans()):
            send(direction, ACK)
            unseen[direction] = 0
        else:
            send(direction, PSH | ACK, draw(st.integers(8, 1400)))
            unseen[1 - direction] += 1
    close = draw(st.sampled_from(["none", "fin", "rst"]))
    if close == "fin":
        first = draw(st.integers(0, 1))
        send(first, FIN | ACK)
        send(1 - first, FIN | ACK)
        send(first, ACK)
    elif close == "rst":
        send(draw(st.integers(0, 1)), RST | ACK, options=b"")
    version = draw(st.sampled_from([4, 6]))
    return rows_of(packets, version=version, ttl=draw(st.sampled_from([(64, 57), (128, 240)])))


@st.composite
def udp_flows(draw):
    """Return a valid UDP flow."""
    packets = []
    for _ in range(draw(st.integers(1, 20))):
        direction = draw(st.integers(0, 1)) if packets else 0
        payload_bytes = draw(st.integers(19, 1400))
        packets.append((direction, udp_header(direction, payload_bytes), payload_bytes))
    return rows_of(packets, version=draw(st.sampled_from([4, 6])), protocol=17)


@st.composite
def echo_flows(draw):
    """Return a valid ICMP or ICMPv6 echo flow."""
    version = draw(st.sampled_from([4, 6]))
    request, reply = (8, 0) if version == 4 else (128, 129)
    packets = []
    for k in range(draw(st.integers(1, 10))):
        size = draw(st.integers(0, 64))
        packets.append((0, struct.pack("!BBHHH", request, 0, 0, 7, k), size))
        if draw(st.booleans()):
            packets.append((1, struct.pack("!BBHHH", reply, 0, 0, 7, k), size))
    return rows_of(packets, version=version, protocol=1 if version == 4 else 58)


@st.composite
def valid_flows(draw):
    """Return (rows, direction, inter-arrival times) of a valid flow of any protocol, in which no
    answer comes sooner than in the handshake."""
    rows, direction = draw(st.one_of(tcp_flows(), udp_flows(), echo_flows()))
    levels = draw(st.lists(st.integers(1, 255), min_size=len(rows), max_size=len(rows)))
    levels[1:3] = [min(levels)] * len(levels[1:3])
    return rows, direction, LEVEL_STARTS[np.array(levels)]


def readable_matrices(layout, max_rows=32):
    """Return matrices of noise that repair reads as packets: of the flow columns, an IP header and
    a transport header at most each third cell is vacant, of the others most are."""

    @st.composite
    def matrix(draw):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        headers = (
            "flow", draw(st.sampled_from(["ipv4", "ipv6"])),
            draw(st.sampled_from(["tcp", "udp", "icmp"])),
        )  # fmt: skip
        shape = (draw(st.integers(1, max_rows)), layout.width)
        step = draw(st.sampled_from([3, 8, layout.width]))
        holes = (np.arange(layout.width) + rng.integers(0, step, (shape[0], 1))) % step == 0
        present = layout.columns_of(headers, options=draw(st.booleans()))
        others = rng.random(shape) < draw(st.sampled_from([0.6, 1.0]))
        vacant = np.where(present, holes, others)
        return np.where(vacant, -1, rng.integers(0, 2, shape)).astype(np.int8)

    return matrix()


def matrices(width, max_rows=32):
    """Return any matrix of cells, from noise to nearly all vacant."""

    @st.composite
    def matrix(draw):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        vacancy = draw(st.sampled_from([0.0, 0.2, 0.6, 0.95, 1.0]))
        shape = (draw(st.integers(1, max_rows)), width)
        cells = rng.integers(0, 2, shape)
        return np.where(rng.random(shape) < vacancy, -1, cells).astype(np.int8)

    return matrix()
