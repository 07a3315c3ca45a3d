"""Measures of conversations: each has a capture that breaks it alone."""

import numpy as np
import pytest
from conversation_builders import (
    ACK,
    HALF_MS,
    Segment,
    capture,
    changed,
    datagrams,
    dns,
    exchange,
    frames_of,
)
from paths import ROOT

from netdiff_ray.evaluate.conversation import (
    HEADLINE,
    ConversationCounts,
    conversation_section,
    count_conversations,
    merge_counts,
)
from netdiff_ray.evaluate.conversation_measures import FORBIDDEN, MEASURES
from netdiff_ray.evaluate.sources import open_source, why_no_packets

REQUESTS = (b"question 1", b"question 2", b"question 3")
ANSWERS = ((b"a" * 100,), (b"b" * 200,), (b"c" * 300,))


def counted(folder, *flows, label="web"):
    """Return {measure: (steps, steps of which it is true)} of a capture of flows."""
    (folder / label).mkdir(parents=True, exist_ok=True)
    (folder / label / "a.pcap").write_bytes(capture(*flows))
    counts = count_conversations(open_source(folder), salt=0).by_label[label]
    return {name: tuple(counts[0, m, :2].tolist()) for m, name in enumerate(MEASURES)}


def true_of(found, names=tuple(MEASURES[m] for m in FORBIDDEN)):
    return {name: found[name][1] for name in names if found[name][1]}


def test_a_good_conversation_breaks_nothing(tmp_path):
    found = counted(tmp_path, frames_of(exchange(REQUESTS, ANSWERS)))
    assert not true_of(found)
    assert found["right window edge moves back"][0] > 8
    assert found["ACK number inside a segment"][0] == 16
    assert found["server's ACK sooner than half its handshake"] == (3, 0)
    assert found["client's ACK sooner than half its handshake"] == (3, 0)
    assert found["server's answer sooner than half its handshake"] == (3, 0)
    assert found["client's answer sooner than half its handshake"] == (2, 0)
    assert found["pure ACK acknowledges 1 segment"] == (6, 6)
    assert found["first payload from the client"] == (1, 1)


def broken_segments():
    """Return the segments of which one breaks a measure, by the measure's name."""
    good = exchange(REQUESTS, ANSWERS)
    request, ack, reply, reply_ack, second = 3, 4, 5, 6, 7
    later = [*good[: second + 1], *good[second + 2 :]]  # whose ACK the answer carries
    sent = good[request]
    return {
        # The edge stays: a window grows fourfold, and what follows is as wide.
        "window changes more than twofold between acknowledgements of a host": [
            *good[:reply_ack],
            *(changed([s], 0, window=4 * s.window)[0] if s.side == "c" else s
              for s in good[reply_ack:]),
        ],
        "right window edge moves back": changed(
            changed(good, reply_ack, window=510), second, window=508),
        "ACK number inside a segment": changed(good, ack, ack=sent.seq + 4),
        "data beyond the offered window": [
            *(changed([s], 0, window=1)[0] if s.side == "s" and s.at_ms > HALF_MS else s
              for s in exchange((*REQUESTS, b"q" * 200), (*ANSWERS, (b"r",)))),
        ],
        "server's ACK sooner than half its handshake": changed(
            good, ack, at_ms=sent.at_ms + HALF_MS / 2 - 1),
        "client's ACK sooner than half its handshake": changed(
            good, reply_ack, at_ms=good[reply].at_ms + HALF_MS / 4 - 1),
        "server's answer sooner than half its handshake": [
            *later[: second + 1], changed(
                later, second + 1, at_ms=later[second].at_ms + HALF_MS / 2 - 1, ack=later[
                    second + 1].ack)[second + 1], *later[second + 2 :]],
        "retransmitted segment": [*good[:ack], changed(
            [sent], 0, at_ms=sent.at_ms + 1)[0], *good[ack:]],
        "out-of-order segment": [
            *good[:request],
            changed([sent], 0, at_ms=sent.at_ms - 1, seq=sent.seq + 4, data=sent.data[4:])[0],
            changed([sent], 0, data=sent.data[:4])[0],
            *good[ack:],
        ],
        "duplicate ACK": [
            *good[:ack],
            Segment("s", sent.at_ms + 1, ACK, 1, 1),
            Segment("s", sent.at_ms + 2, ACK, 1, 1),
            *good[ack:],
        ],
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(broken_segments()))
def test_a_broken_conversation_breaks_its_measure_alone(tmp_path, name):
    found = counted(tmp_path, frames_of(broken_segments()[name]))
    others = {
        # An answer that comes too early acknowledges too early.
        "server's answer sooner than half its handshake": {
            "server's ACK sooner than half its handshake"
        },
    }.get(name, set())
    assert set(true_of(found)) - others == {name}


def test_scaled_windows_are_compared(tmp_path):
    """A window of 512 is 65,536 bytes where both SYNs say so, and 512 where only one does."""
    big = tuple((b"x" * 700,) for _ in REQUESTS)
    assert not true_of(counted(tmp_path, frames_of(exchange(REQUESTS, big))))
    plain = changed(exchange(REQUESTS, big), 1, options=b"")
    assert true_of(counted(tmp_path, frames_of(plain))) == {"data beyond the offered window": 3}


def test_windows_that_are_updated_alone(tmp_path):
    good = exchange(REQUESTS, ANSWERS)
    ack = good[4]
    updated = [*good[:5], changed([ack], 0, at_ms=ack.at_ms + 1, window=ack.window + 1)[0]]
    name = "pure ACK updates its window alone"
    assert counted(tmp_path, frames_of([*updated, *good[5:]]))[name] == (7, 1)
    assert counted(tmp_path / "good", frames_of(good))[name] == (6, 0)


def test_delayed_acknowledgements_and_runs(tmp_path):
    good = exchange((b"question",), ((b"a" * 10, b"b" * 20),))
    delayed = [*good[:6], *good[7:]]  # without the ACK of the first answer
    found = counted(tmp_path, frames_of(delayed))
    assert found["pure ACK acknowledges 2 segments"] == (2, 1)
    assert found["server sends 2 or 3 in a row"] == (1, 1)
    assert found["client sends 1 packet with payload in a row"] == (1, 1)


def test_silences_bursts_and_repeats(tmp_path):
    steady = [("c", 20 * k, b"\x80" + bytes(159)) for k in range(20)]
    found = counted(tmp_path, datagrams(steady, server_port=4000))
    assert found["payload of the commonest size of its sender"] == (20, 20)
    assert found["gap in the commonest tenth of a decade of its sender"] == (19, 19)
    assert found["gap of 10 to 100 ms"] == (19, 19)
    assert found["burst of 1 packet"] == (20, 20)
    assert found["first payload: RTP"] == (1, 1)
    mixed = [("c", 1.8**k, b"\x80" + bytes(k)) for k in range(20)]
    found = counted(tmp_path, datagrams(mixed, server_port=4000))
    assert found["payload of the commonest size of its sender"] == (20, 1)
    assert found["gap in the commonest tenth of a decade of its sender"][1] < 5
    assert found["gap of 10 s or more"][1] == 2
    assert found["burst of 4 to 9 packets"] == (15, 1)


def test_names_and_records_of_dns(tmp_path):
    good = [("c", 0, dns(7, b"a.Example")), ("s", 30, dns(7, b"a.example", answers=1))]
    names = [name for name in MEASURES if name.startswith("DNS answer")]
    found = counted(tmp_path, datagrams(good))
    assert [found[name] for name in names] == [(1, 1)] * 3
    other = [good[0], ("s", 30, dns(7, b"b.example", answers=1))]
    found = counted(tmp_path, datagrams(other))
    assert [found[name] for name in names] == [(1, 1), (1, 0), (1, 1)]
    none = [good[0], ("s", 30, dns(7, b"a.example", answers=0))]
    found = counted(tmp_path, datagrams(none))
    assert [found[name] for name in names] == [(1, 1), (1, 1), (1, 0)]
    unasked = [good[0], ("s", 30, dns(8, b"a.example", answers=1))]
    found = counted(tmp_path, datagrams(unasked))
    assert [found[name] for name in names] == [(1, 0), (0, 0), (1, 1)]
    empty = counted(tmp_path, datagrams([good[0], ("s", 30, b"")]))
    assert true_of(empty) == {"empty UDP datagram": 1}


TLS = {
    "hello": b"\x16\x03\x01\0\x40\x01" + bytes(64),
    "answer": b"\x16\x03\x03\0\x40\x02" + bytes(64),
    "secured": b"\x14\x03\x03\0\x01\x01",
}
MODBUS = b"\0\x09\0\0\0\x06\x01\x03\0\0\0\x01"
STUN = bytes.fromhex("000100002112a442") + b"transaction!"
QUIC = b"\xc3\0\0\0\x01" + bytes(1195)
HANDSHAKES = {  # requests and answers, port, and whether over TCP
    "TLS": ((TLS["hello"], TLS["secured"]), ((TLS["answer"],), (b"\x17\x03\x03\0\x01x",)), 443, 1),
    "HTTP": ((b"GET / HTTP/1.1\r\n",), ((b"HTTP/1.1 200 OK\r\n",),), 80, 1),
    "SSH": ((b"SSH-2.0-a\r\n",), ((b"SSH-2.0-b\r\n",),), 22, 1),
    "SIP": ((b"INVITE sip:a@b SIP/2.0\r\n",), ((b"SIP/2.0 200 OK\r\n",),), 5060, 0),
    "STUN": ((STUN,), ((b"\x01\x01" + STUN[2:],),), 3478, 0),
    "MQTT": ((b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0",), ((b"\x20\x02\0\0",),), 1883, 1),
    "Modbus": ((MODBUS,), ((MODBUS[:5] + b"\x05\x01\x03\x02\0\0",),), 502, 1),
    "QUIC": ((QUIC,), ((QUIC,),), 443, 0),
}
FIRST = {"TLS": "TLS handshake", "HTTP": "HTTP", "SSH": "SSH banner", "SIP": "SIP",
         "STUN": "STUN", "MQTT": "MQTT CONNECT", "Modbus": "Modbus",
         "QUIC": "QUIC long header"}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HANDSHAKES))
def test_handshakes(tmp_path, name):
    def found_of(requests, answers):
        if over_tcp:
            return counted(tmp_path, frames_of(exchange(requests, answers), server_port=port))
        sent = []
        for k, (request, replies) in enumerate(zip(requests, answers, strict=True)):
            sent.append(("c", 100 * k, request))
            sent += [("s", 100 * k + 50, reply) for reply in replies]
        return counted(tmp_path, datagrams(sent, server_port=port))

    requests, answers, port, over_tcp = HANDSHAKES[name]
    found = found_of(requests, answers)
    complete = [n for n in MEASURES if n.endswith("handshake complete")]
    assert true_of(found, complete) == {f"{name} handshake complete": 1}
    assert found[f"first payload: {FIRST[name]}"] == (1, 1)
    noise = tuple(tuple(bytes([255]) * len(r) for r in replies) for replies in answers)
    assert not true_of(found_of(requests, noise), complete)
    if name in ("STUN", "Modbus"):
        other = bytes([1, 1]) + answers[0][0][2:4] + answers[0][0][4:-1] + b"?"
        assert not true_of(found_of(requests, ((other,),)), complete)


def test_payloads_that_were_not_captured_are_not_judged(tmp_path):
    frames = frames_of(exchange(REQUESTS, ANSWERS))
    headers = 14 + 20 + 20
    cut = [(ms, frame[:headers] if len(frame) > headers + 4 else frame) for ms, frame in frames]
    found = counted(tmp_path, cut)
    assert found["first payload: words"] == (0, 0)
    assert found["HTTP handshake complete"] == (0, 0)
    assert found["retransmitted segment"] == (6, 0)


def section_of(real, synthetic):
    return conversation_section(
        count_conversations(real, salt=0), count_conversations(synthetic, salt=1)
    )


def test_the_section_names_what_differs(tmp_path):
    good = [frames_of(exchange(REQUESTS, ANSWERS), flow=k) for k in range(150)]
    bad = [frames_of(broken_segments()["duplicate ACK"], flow=k) for k in range(150)]
    for name, flows in (("real", good), ("synthetic", bad)):
        (tmp_path / name / "web").mkdir(parents=True)
        (tmp_path / name / "web" / "a.pcap").write_bytes(capture(*flows))
    section = section_of(open_source(tmp_path / "real"), open_source(tmp_path / "synthetic"))
    assert section["available"]
    assert tuple(section["headline"]) == HEADLINE
    assert section["headline"]["differing_shares"] > 0
    first = section["tables"][0]["rows"]
    assert ["web", "duplicate ACK"] in [row[:2] for row in first]
    share = section["shares"]["web"]["duplicate ACK"]
    assert share["real"] == 0
    assert share["synthetic"] == pytest.approx(1 / 6, abs=0.1)
    assert share["differs"]


def test_real_flows_against_real_flows_differ_in_nothing():
    """Halves of the held-out captures, flow by flow."""
    from netdiff_ray.evaluate import conversation
    from netdiff_ray.evaluate.summary import mixed

    source, halves = open_source(ROOT / "samples" / "heldout"), []
    whole_weights = conversation.flow_weights
    for half in range(2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                conversation, "flow_weights",
                lambda key, salt, half=half: whole_weights(key, salt)
                * (mixed(key, 77) % np.uint64(2) == half),
            )  # fmt: skip
            halves.append(count_conversations(source, salt=half))
    section = conversation_section(*halves)
    assert section["headline"]["compared_shares"] > 300
    assert section["tables"][0]["rows"] == []
    assert section["headline"]["differing_shares"] == 0


def test_parts_sum_up_to_the_whole():
    source = open_source(ROOT / "samples" / "heldout" / "dns")
    whole = count_conversations(source, salt=0)
    parts = [count_conversations(source, [unit], salt=0) for unit in reversed(source.captures)]
    merged = merge_counts(parts)
    assert merged.by_label.keys() == whole.by_label.keys()
    assert all((merged.by_label[k] == whole.by_label[k]).all() for k in whole.by_label)


def test_what_cannot_be_compared(tmp_path):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "bad.pcap").write_bytes(b"no capture at all")
    source = open_source(tmp_path)
    assert why_no_packets("real", source) is None
    counts = count_conversations(source, salt=0)
    section = conversation_section(counts, counts)
    assert not section["available"]
    assert "left out" in section["reason"]
    section = conversation_section("why not", ConversationCounts())
    assert section["reason"] == "why not"
