"""What captured payloads show: every kind that is written, and nothing of noise."""

import dpkt
import numpy as np
import pytest
from wire import exchange_of, packets_of, write_capture

from netdiff_ray.dialogue import KINDS, write_messages
from netdiff_ray.dialogue.recognise import PAYLOADS, SIGNS, recognise, window_kinds
from netdiff_ray.flows import assemble_flows
from netdiff_ray.packets import CaptureReader, header_rows

PATTERNS = {
    "tls": (True, 8444, "517 -3000 126 -51 200"),
    "http": (True, 8082, "200 -900 300 -5000"),
    "websocket": (True, 8082, "300 -150 40 -60"),
    "ssh": (True, 2200, "41 -41 1400 -1088 1208"),
    "sip": (False, 5070, "336 -307"),
    "mqtt": (True, 1884, "45 -4 22 -6 2"),
    "modbus": (True, 1502, "12 -11 12 -11"),
    "dns": (False, 53, "40 -56"),
    "quic": (False, 8444, "1250 -1280 -73 48"),
    "gquic": (False, 8444, "1350 -1350 60 -900"),
    "stun": (False, 10_045, "88 -92"),
    "dtls": (False, 4500, "169 -781 659 -75"),
    "rtp": (False, 6000, "172 172 -172 172 -172"),
    "ntp": (False, 123, "48 -48"),
    "dhcp": (False, 67, "300 -300"),
    "snmp": (False, 161, "42 -46"),
    "ldap": (True, 390, "14 -22 100 -200"),
    "postgresql": (True, 5433, "84 -342 60 -70"),
    "smtp": (True, 26, "-60 20 -100 40 -8"),
    "http2": (True, 8082, "64 -45 160 -500"),
    "telnet": (True, 2323, "-12 12 -9 9 -30 8"),
    "coap": (False, 5683, "14 -20 16 -80"),
    "nbns": (False, 137, "50 -62"),
    "mgcp": (False, 2428, "59 -19 40 -12"),
    "nbdgm": (False, 138, "215 229"),
}
"""Transport, port and lengths of a flow of each kind, on a port that does not mean it where its
payloads alone say enough."""


def kinds_of(path):
    """Return what each flow of a capture shows."""
    chunks = (header_rows(table) for table in CaptureReader(path))
    return [
        kind
        for windows in assemble_flows(chunks, b"")
        for kind in window_kinds(windows.rows["sign"], windows.first)
    ]


@pytest.mark.parametrize("kind", PATTERNS)
def test_written_flows_show_their_kind(kind, tmp_path):
    is_tcp, port, pattern = PATTERNS[kind]
    exchange = exchange_of(pattern, port, is_tcp=is_tcp)
    path = tmp_path / "flow.pcap"
    write_capture(path, [(exchange, write_messages(kind, exchange))])
    assert kinds_of(path) == [kind]


@pytest.mark.parametrize("is_tcp", [True, False])
@pytest.mark.parametrize(
    ("kind", "alphabet"),
    [
        ("text", b"Key: value, 12\r\n"),
        ("binary", bytes(20) + b"\5\6\7\x80"),
        ("opaque", bytes(range(256))),
    ],
)
def test_unknown_payloads_are_told_by_how_even_they_are(kind, alphabet, is_tcp, tmp_path):
    rng = np.random.default_rng(2)
    flows = []
    for number in range(10):
        exchange = exchange_of("300 -200 100 -900 30 -80", 49_000, number, is_tcp=is_tcp)
        messages = [
            b"\xf7" + bytes(rng.choice(list(alphabet), n - 1).tolist()) for n in exchange.lengths
        ]
        if kind == "text":
            messages = [b"K" + message[1:] for message in messages]
        flows.append((exchange, messages))
    path = tmp_path / "unknown.pcap"
    write_capture(path, flows)
    assert set(kinds_of(path)) == {kind}


@pytest.mark.parametrize("is_tcp", [True, False])
def test_noise_is_opaque_and_silence_nothing(is_tcp, tmp_path):
    rng = np.random.default_rng(1)
    flows = []
    for number in range(40):
        exchange = exchange_of("300 -200 100 -900 30 -80", 49_000, number, is_tcp=is_tcp)
        messages = [b"\xf7" + rng.bytes(length - 1) for length in exchange.lengths]
        flows.append((exchange, messages))
    path = tmp_path / "noise.pcap"
    write_capture(path, flows)
    assert set(kinds_of(path)) == {"opaque"}
    signs, first = np.zeros(3, np.uint8), np.array([0, 3])
    assert window_kinds(signs, first) == [""]


_WINDOWS = {
    "tls": ("", "opaque", "tls", "http"),
    "rtp": ("rtp", "rtp", "opaque"),
    "opaque": ("rtp", "opaque", "text"),
    "websocket": ("http", "websocket"),
    "http2": ("http", "http2"),
    "text": ("opaque", "text", "text"),
    "binary": ("binary", "binary", "text"),
}
"""What windows show, by what they are."""


@pytest.mark.parametrize(
    ("protocol", "data", "kind"),
    [
        (17, b"\x0d" + bytes(8) + b"Q035\1" + bytes(40), "gquic"),
        (17, b"\xc3Q046\x50" + bytes(40), "gquic"),
        (17, b"\xc3\xfa\xce\xb0\2\x08" + bytes(40), "quic"),
        (17, b"\xc1T051\x08" + bytes(40), "quic"),
        (17, b"\xc3\xff\0\0\x1d\x08" + bytes(40), "quic"),
        (17, b"\x80\x60" + bytes(30), "rtp"),
        (6, b"\xc0\0", "mqtt"),
        (6, b"\x10\x80\x01\0\4MQTT\4" + bytes(20), "mqtt"),
        (6, b"OPTIONS sip:a@example.com SIP/2.0", "sip"),
        (6, b"OPTIONS * HTTP/1.1\r\n\r\n", "http"),
        (6, b"HTTP/1.1 101 Switching", "websocket"),
        (6, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n", "http2"),
        (6, b"GET / HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n", "http"),
        (6, b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", "websocket"),
        (6, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http2"),
        (6, b"\x17\3\3\0\x20" + bytes(32), "tls"),
        (6, b"", ""),
        (1, b"\x16\3\1\0\x20", ""),
    ],
)
def test_beginnings_are_told(protocol, data, kind):
    array = np.frombuffer(data + b"x", np.uint8)
    assert SIGNS[recognise(array, 0, len(data), protocol, (50_000, 49_999))] == kind


def test_what_ethernet_pads_a_frame_with_is_no_payload(tmp_path):
    exchange = exchange_of("300 -200", 8082, is_tcp=True)
    flow = exchange, write_messages("http", exchange)
    path = tmp_path / "padded.pcap"
    with open(path, "wb") as file:
        writer = dpkt.pcap.Writer(file, linktype=dpkt.pcap.DLT_RAW)
        for at, packet in packets_of(*flow):
            if not packet.data.data:
                writer.writepkt(bytes(packet) + bytes(6), at)
    assert kinds_of(path) == [""]


def test_a_window_is_what_its_first_known_payload_is():
    codes = {name: code for code, name in enumerate(SIGNS)}
    signs = np.array([codes[name] for names in _WINDOWS.values() for name in names], np.uint8)
    first = np.cumsum([0, *map(len, _WINDOWS.values())])
    assert window_kinds(signs, first) == list(_WINDOWS)
    late = np.full(PAYLOADS + 1, codes["opaque"], np.uint8)
    late[-1] = codes["tls"]
    assert window_kinds(late, np.array([0, len(late)])) == ["opaque"]


def test_every_sign_is_a_kind():
    assert set(SIGNS) - {""} <= {kind.name for kind in KINDS}
