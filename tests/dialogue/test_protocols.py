"""Each protocol's messages have the lengths that they should, and others can read them.

tshark and ndpiReader each read a single capture with all protocols. The lengths are those of real
conversations.
"""

from dataclasses import replace
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import client_of, dissect, errors_of, exchange_of, recognised, write_capture

from netdiff_ray.dialogue import KINDS, OPAQUE_KINDS, write_messages

SEEDS = (1, 2)


class Case(NamedTuple):
    """Conversations of a protocol, and what is asked of those who read them."""

    kind: str
    is_tcp: bool
    port: int
    patterns: tuple[str, ...]
    """Lengths of messages, negative from the server."""
    dissector: str
    """What tshark reads each message as."""
    ndpi: str | None
    """What nDPI takes each for; None where it knows no such protocol."""
    answers: str = ""
    """Field of tshark that answers have, of all that the server sends."""
    client_port: int | None = None


CASES = (
    Case("dtls", False, 4433, (
        "169 -781 659 -75 100 -1140 120", "157 -76 180 -1203 -570 546 -120 37 -260 40",
        "153 -1198 546 -570 81", "71 -28 71 -500 250 -300", "120 -260 75 100 -120",
    ), "dtls", "DTLS"),
    Case("modbus", True, 502, (
        "12 -11 12 -11 12 -11 12 -11", "11 -18 11 -20", "10 -12 12 -12 10 -12 12 -12",
        "14 -12 12 -10 17 -12 12 -259", "12 -33 24 -250 19 -33 13 -12",
    ), "modbus", "Modbus", "modbus.request_frame"),
    Case("quic", False, 443, (
        "1250 -1280 -1280 -1280 -73 48 88 77 41 390 -25", "1350 -39", "1232 -1232 145 1007 -1018",
        "1252 1252 -112 -112 1252 1252 -54 -1200 -1200 -582 55 149", "1350 358 -1350 41 -31 -30",
        "1280 -1252 -970 -30 1280 176 28 494",
    ), "quic", "QUIC"),
    Case("gquic", False, 443, (
        "1350 -1350 1350 -1350 60 -40 -1350 -900 45", "1252 80 -41 -1252 -700 300",
    ), "gquic", "QUIC"),
    Case("sip", False, 5060, (
        "336 -307", "806 -273 -325", "554 -320 -414 555 -321 -415 528 -313 395",
        "877 -262 -446 -783 410 -852 383 751 -451 418 -530 804 -322 -433 410",
    ), "sip", "SIP"),
    Case("mqtt", True, 1883, (
        "45 -4 22 -6 2", "47 -4 13 -5 24 -8 2", "47 -4 28 -4 4 -4 2", "21 -4 172", "49 -8 23 -7 3",
        "49 -8 14 -6 26 -12 3", "207 -8 23 -7 31", "30 -55", "2 -88 64 -90 64 -90 64",
    ), "mqtt", "MQTT"),
    Case("ntp", False, 123, (
        "48 -48 48 -48", "68 -68", "72 -72", "76 -76", "48 -90",
    ), "ntp", "NTP"),
    Case("dhcp", False, 67, (
        "300 -300 300 -300", "300 300", "342 -590",
    ), "dhcp", "DHCP", client_port=68),
    Case("snmp", False, 161, (
        "64 -115 140 -143 142 -143 142 -153", "41 -44 43 -45 43 -44", "43 -67", "99 -234",
        "43 -300 130 -131 129 -132 128 -133 260 -300 258 -256",
    ), "snmp", "SNMP"),
    Case("ldap", True, 389, (
        "14 -14 61 -1626 61 -677 61 -1939 7", "14 -14 103 -418 7", "14 -14 117 -14 200 -14 7",
    ), "ldap", "LDAP", "ldap.response_to"),
    Case("ldap", True, 389, ("59 -14 123 -128 7",), "ldap", None, "ldap.response_to"),
    Case("postgresql", True, 5432, (
        "8 -1 84 -13 41 -361 30 -15 20 -70 5", "8 -1 109 -24 55 -93 110 -420 103 -600 5",
    ), "pgsql", "PostgreSQL"),
    Case("postgresql", True, 5432, ("8 -1 327 -2515 440 -884 107 -65",), "tcp", "PostgreSQL"),
    Case("rdp", True, 3389, (
        "19 -19 147 -872 318 -51", "47 -19 446 -1405 200 -300 800",
    ), "tcp", "RDP"),
    Case("redis", True, 6379, (
        "31 -5 22 -10 35 -5 27 -300", "14 -7 40 -5 24 -5000 30 -4 22 -5", "110 -5 22 -106 22 -107",
    ), "resp", "Redis"),
    Case("smtp", True, 25, (
        "-36 19 -87 22 -30 28 -30 6 -59 445 -58 6 -24", "-20 30 -300 60 -30 60 -30 500 -40 6 -15",
    ), "smtp", "SMTP"),
    Case("smtp", True, 25, ("-36 19 -87 10 -24 517 -3273 121 -715 63 -30",), "tcp", "SMTP"),
    Case("imap", True, 143, ("-121 18 -168 16 -37 517 -3276 80 -542 40 -203",), "tcp", None),
    Case("pop3", True, 110, ("-28 6 -29 517 -2700 80 -300 40 -90",), "tcp", None),
    Case("pop3", True, 110, (
        "-29 6 -89 12 -4 18 -16 8 -694 6 -18", "-29 11 -5 13 -16 6 -134 9 -351 8 -608 6 -18",
    ), "pop", "POP3"),
    Case("imap", True, 143, (
        "-121 15 -168 27 -409 21 -303 70 -1155 29 -665 12 -47",
        "-121 18 -168 27 -409 21 -303 49 -431 14 -68",
    ), "imap", "IMAP", "imap.response_to"),
    Case("ftp", True, 21, (
        "-30 12 -34 12 -23 6 -19 6 -51 8 -30 20 -60 6 -14",
    ), "ftp", "FTP_CONTROL"),
    Case("smb2", True, 445, (
        "73 -252 108 -252 166 -347 538 -85 114 -84 348 -412 92 -128 117 -1108 72 -72",
        "108 -206 166 -253 523 -85 116 -84 124 -156 128 -216 72 -72",
    ), "nbss", "NetBIOS.SMBv23"),
    Case("coap", False, 5683, ("14 -20 16 -80 60 -12", "4 -4 9 -9 200 -30"), "coap", "COAP"),
    Case("telnet", True, 23, (
        "-12 12 -9 9 -30 8 -10 10 -40 5 -60", "21 -12 3 -60 7 -12",
    ), "telnet", "Telnet"),
    Case("syslog", False, 514, ("120 90 200", "50 60 70"), "syslog", "Syslog"),
    Case("mgcp", False, 2427, (
        "41 -56 59 -19 44 -15", "49 -18 70 70 -812", "300 -44 24 -9", "-61 10 -110 400",
    ), "mgcp", "MGCP"),
    Case("ssdp", False, 1900, (
        "137 132 133 101", "306 306 315 309", "94 -300 -325",
    ), "ssdp", "SSDP"),
    Case("ssh", True, 22, (
        "41 -41 1400 -1088 1208 -1564 60 -44 60 -76 140", "738 -1129 48 -524 120 -120 500",
        "-21 981 -704 24 -152 144 -464 64 -48", "33 -43 1432 -1648 48 -280 60",
    ), "ssh", "SSH"),
    Case("sip", True, 5060, ("653 -314 301", "692 -312 301"), "sip", "SIP"),
    Case("stun", False, 10045, (
        "88 -92 64 -64 169 -781 659 -75", "20 -32 20 -32", "44 -32 44 -32", "104 -72 116 -76",
    ), "udp", "STUN"),
    Case("stun", False, 3478, (
        "108 -92 112 -100", "20 -32 40 -44 68 -187 -153", "28 -64 300 -120 212 -68 272 -68",
    ), "stun", "STUN"),
    Case("dns", False, 53, (
        "40 -56", "33 -33", "45 -131", "40 40 -56 -68", "60 -400", "51 -51 51 -95", "44 -60",
    ), "dns", "DNS", "dns.response_to"),
    Case("dns", False, 5353, ("45 45 120", "120 -300"), "mdns", "MDNS"),
    Case("dns", True, 53, ("42 -90 43 -2000",), "tcp", "DNS", "dns.response_to"),
    Case("http", True, 80, (
        "78 -512", "350 -9000 410 -187 420 -1500", "2300 -140 88 -27", "600 -5350",
    ), "tcp", "HTTP", "http.response.code"),
    Case("tls", True, 443, (
        "517 -3200 126 -51 300 -900 31", "250 -1400 64 -500 100 -20000", "517 -141 51 -600 31",
        "517 -99 517 -1500 80 -70", "180 -7", "1800 -6000 93 -300 24",
    ), "tcp", "TLS"),
    Case("http2", True, 8080, (
        "64 -45 160 -5000 13", "110 -27 200 -900 9 -40 60 -3000 70 -200000 22",
        "260 -400 64 -9 120 -500 17",
    ), "http", None),
    Case("nbns", False, 137, (
        "50 50 50", "68 68 68 -62", "50 -62 50 -157", "50 -265", "57 -68 90 -96", "60 -300",
    ), "nbns", "NetBIOS", client_port=137),
    Case("nbdgm", False, 138, ("201 201", "215 229 -240", "172 190 250 500"), "browser",
         "NetBIOS.SMBv1", client_port=138),
    Case("websocket", True, 8080, (
        "240 -129 40 -60 12 -300 2000 -70000", "400 -180 6 -2 131 -128",
    ), "tcp", "HTTP"),
    Case("rtp", False, 6000, (
        "172 172 172 172 -172 -172 172 172 172", "32 -32 32 32 -32 32 32 -32 -32",
        "1140 1140 400 1140 1140 300", "92 -80 85 -77 60 -120 90",
    ), "udp", "RTP"),
)  # fmt: skip


class Flow(NamedTuple):
    """A conversation in the capture of all."""

    case: Case
    pattern: str
    client: str


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Return the path of a capture of all cases, and its flows."""
    path = tmp_path_factory.mktemp("dialogues") / "all.pcap"
    flows, written = [], []
    for case in CASES:
        for pattern in case.patterns:
            for seed in SEEDS:
                exchange = exchange_of(
                    pattern, case.port, len(flows), seed, case.client_port, is_tcp=case.is_tcp
                )
                messages = write_messages(case.kind, exchange)
                assert messages is not None, (case.kind, pattern)
                written.append((exchange, messages))
                flows.append(Flow(case, pattern, client_of(exchange)))
    write_capture(path, written)
    return path, flows


@pytest.fixture(scope="module")
def packets(capture):
    """Return the packets with payload, as tshark reads them, by client."""
    fields = {case.answers for case in CASES if case.answers}
    fields |= {"sip.response-time", "sip.Via.transport", "tls.handshake.type"}
    return dissect(capture[0], *sorted(fields))


@pytest.fixture(scope="module")
def applications(capture):
    """Return what nDPI takes flows for, by client."""
    return recognised(capture[0], capture[0].parent)


by_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}-{case.port}")


@by_case
def test_tshark_reads_every_message(case, capture, packets):
    for flow in capture[1]:
        if flow.case != case:
            continue
        theirs = packets[flow.client]
        assert theirs
        assert not errors_of(theirs), flow.pattern
        num_read = sum(case.dissector in p["frame.protocols"][0].split(":") for p in theirs)
        lengths = flow.pattern.replace("-", "").split()
        assert num_read >= len(lengths) - lengths.count("1"), flow.pattern
        if case.answers:
            num_answers = sum(bool(p[case.answers]) for p in theirs)
            asked = flow.pattern.replace("-", "", 1) if flow.pattern[0] == "-" else flow.pattern
            assert num_answers >= asked.count("-"), flow.pattern


@by_case
def test_ndpi_recognises_every_flow(case, capture, applications):
    if case.ndpi is None:
        pytest.skip("nDPI has no such protocol")
    theirs = {f.pattern: applications.get(f.client) for f in capture[1] if f.case == case}
    assert set(theirs.values()) == {case.ndpi}, theirs


@pytest.mark.parametrize("kind", ["imap", "pop3", "postgresql", "smtp"])
def test_connections_turn_to_tls(kind, capture, packets):
    """After a question in the clear, and its answer, tshark reads a handshake."""
    flows = [f for f in capture[1] if f.case.kind == kind and f.case.dissector == "tcp"]
    assert flows
    for flow in flows:
        messages = [type_ for p in packets[flow.client] for type_ in p["tls.handshake.type"]]
        assert messages[:2] == ["1", "2"], flow.pattern


def test_calls_are_answered_and_announce_their_media(capture, packets, tmp_path):
    flows = [f for f in capture[1] if f.case.kind == "sip"]
    assert {p["sip.Via.transport"][0] for f in flows for p in packets[f.client]} == {"TCP", "UDP"}
    for flow in flows:
        theirs = packets[flow.client]
        # tshark times answers over UDP alone
        assert flow.case.is_tcp or any(p["sip.response-time"] for p in theirs), flow.pattern
    exchange = exchange_of("806 -273 -325 -700 400", 5060, seed=3)
    call = write_messages("sip", exchange)
    ports = [int(m.split(b"m=audio ")[1].split()[0]) for m in call if b"m=audio" in m]
    assert len(ports) == 2
    media = exchange_of("172 -172 " * 4, ports[1], client_port=ports[0])
    media = replace(media, ts_ns=tuple(ts_ns + 10**9 for ts_ns in media.ts_ns))
    voice = write_messages("rtp", media)
    path = tmp_path / "call.pcap"
    write_capture(path, [(exchange, call), (media, voice)])
    theirs = dissect(path, "rtp.ssrc", "rtp.seq")[client_of(exchange)]
    theirs = [packet for packet in theirs if packet["rtp.ssrc"]]
    assert len(theirs) == len(voice)
    for side in (0, 1):
        numbers = [int(p["rtp.seq"][0]) for p in theirs[side::2]]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert len({p["rtp.ssrc"][0] for p in theirs[side::2]}) == 1


@pytest.mark.parametrize("pattern", ["1200 -1200 60", "1252 -112 1252 -1200"])
def test_anybody_decrypts_initials_of_quic(pattern):
    crypto = pytest.importorskip("aioquic.quic.crypto", reason="aioquic is not installed")
    packet = pytest.importorskip("aioquic.quic.packet")
    buffer = pytest.importorskip("aioquic.buffer")
    exchange = exchange_of(pattern, 443)
    first_id, hellos = None, []
    for side, data in zip(exchange.sides, write_messages("quic", exchange), strict=True):
        buf = buffer.Buffer(data=data)
        header = packet.pull_quic_header(buf, host_cid_length=8)
        if header.packet_type == packet.QuicPacketType.RETRY:
            tag = packet.get_retry_integrity_tag(data[:-16], first_id, header.version)
            assert tag == data[-16:]
            first_id = None
        if header.packet_type != packet.QuicPacketType.INITIAL:
            continue
        if side == 0 and first_id is None:
            first_id = header.destination_cid
        pair = crypto.CryptoPair()
        pair.setup_initial(first_id, is_client=bool(side), version=header.version)
        whole = data[: header.packet_length]
        plain, content, _ = pair.decrypt_packet(whole, buf.tell(), 0)
        assert len(plain) + 16 + len(content) == header.packet_length
        at = content.index(b"\6\0") + 4
        hellos.append(content[at])
    assert hellos[0] == 1  # a client's
    assert hellos[-1] == 2


def divided(exchange, random):
    """Return an exchange whose messages are divided at random places."""
    sizes = []
    for length in exchange.lengths:
        rest = length
        while rest:
            sizes.append(min(random.choice((random.randrange(1, 60), 700, 1_400)), rest))
            rest -= sizes[-1]
    return replace(exchange, segments=tuple(sizes))


@pytest.fixture(scope="module")
def divided_packets(tmp_path_factory):
    """Return the packets with payload, by client, of conversations over TCP that segments divide at
    random places, and which kind each client speaks."""
    random, kinds, written = Random(1), {}, []
    for case in CASES:
        for pattern in case.patterns if case.is_tcp else ():
            for seed in range(8):
                exchange = exchange_of(pattern, case.port, len(kinds), seed, is_tcp=True)
                exchange = divided(exchange, random)
                kinds[client_of(exchange)] = case.kind
                messages = write_messages(case.kind, exchange)
                if messages is not None:
                    assert tuple(map(len, messages)) == exchange.lengths
                    written.append((exchange, messages))
    path = tmp_path_factory.mktemp("divided") / "all.pcap"
    write_capture(path, written)
    return dissect(path), kinds


@pytest.mark.parametrize("kind", sorted({case.kind for case in CASES if case.is_tcp}))
def test_segments_divide_messages_at_any_place(kind, divided_packets):
    """tshark puts messages together; heads that it cannot are in one segment."""
    packets, kinds = divided_packets
    flows = [packets[client] for client in kinds if kinds[client] == kind]
    assert sum(map(bool, flows)) > len(flows) // 2
    assert not [errors for flow in flows if (errors := errors_of(flow))]


MESSAGES = st.lists(
    st.tuples(st.booleans(), st.integers(1, 40) | st.integers(1, 400) | st.integers(1, 70_000)),
    min_size=1, max_size=12,
)  # fmt: skip


@pytest.mark.parametrize("kind", sorted({kind.name for kind in KINDS} - set(OPAQUE_KINDS)))
@given(messages=MESSAGES, seed=st.integers(0, 2**64 - 1), is_tcp=st.booleans(), cuts=st.booleans())
def test_any_lengths_in_any_order_divided_anywhere(kind, messages, seed, is_tcp, cuts):
    pattern = " ".join(str(-n if is_server else n) for is_server, n in messages)
    exchange = exchange_of(pattern, 443, seed=seed, is_tcp=is_tcp)
    if is_tcp and cuts:
        exchange = divided(exchange, Random(seed))
    written = write_messages(kind, exchange)
    if written is not None:
        assert tuple(map(len, written)) == exchange.lengths
        assert all(type(message) is bytes for message in written)
    assert write_messages(kind, exchange) == written


@pytest.mark.parametrize("kind", sorted({kind.name for kind in KINDS} - set(OPAQUE_KINDS)))
@pytest.mark.parametrize("pattern", ["3000000 -12 200 -3000000", "200 -200 3000001 -3000001"])
def test_messages_of_megabytes(kind, pattern):
    exchange = exchange_of(pattern, 443, seed=1, is_tcp=True)
    written = write_messages(kind, exchange)
    assert written is None or tuple(map(len, written)) == exchange.lengths


def test_a_check_of_stun_within_a_flight_of_dtls_moves_no_length():
    exchange = exchange_of("28 -67 508 28 26", 443, seed=0, is_tcp=False)
    assert tuple(map(len, write_messages("stun", exchange))) == exchange.lengths


def test_a_record_of_netbios_is_no_longer_than_its_length_can_say():
    assert write_messages("nbns", exchange_of("50 -62 -65594", 137)) is None


@pytest.mark.parametrize(
    "pattern", ["41 -41 36 -44 1488 -1088 72 -36 300 -40", "41 -41 1104 -364 36 -36 48 -280 52 -92"]
)
def test_the_key_exchange_of_ssh_waits_for_messages_that_have_room(pattern, tmp_path):
    exchange = exchange_of(pattern, 22, is_tcp=True)
    messages = write_messages("ssh", exchange)
    assert [len(message) for message in messages] == list(exchange.lengths)
    assert all(message.startswith(b"SSH-2.0-") for message in messages[:2])
    path = tmp_path / "ssh.pcap"
    write_capture(path, [(exchange, messages)])
    read = [packet for packets in dissect(path, "ssh.message_code").values() for packet in packets]
    assert not any(packet["_ws.malformed"] for packet in read)
    codes = {code for packet in read for code in packet["ssh.message_code"]}
    assert codes >= {"2", "20"}  # ignored ones, and those with algorithms
    assert set(recognised(path, tmp_path).values()) == {"SSH"}
