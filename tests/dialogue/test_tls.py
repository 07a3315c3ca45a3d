"""TLS dialogues, read record by record."""

import pytest
from cryptography import x509
from exchanges import exchange, stream_exchanges, streams
from hypothesis import given, settings
from hypothesis import strategies as st

from netdiff_ray.dialogue import tls

CHANGE, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23


def records(stream):
    """Return (type, body) of the whole records of a stream, and the bytes behind them."""
    read, at = [], 0
    while at + 5 <= len(stream):
        size = int.from_bytes(stream[at + 3 : at + 5])
        assert stream[at] in (CHANGE, ALERT, HANDSHAKE, DATA)
        assert stream[at + 1] == 3
        assert stream[at + 2] in (1, 3)
        assert 0 < size <= (1 << 14) + 256
        if at + 5 + size > len(stream):
            break
        read.append((stream[at], stream[at + 5 : at + 5 + size]))
        at += 5 + size
    return read, len(stream) - at


def extensions(hello, at):
    """Return the extensions of a hello by type, which end it."""
    read, end = {}, at + 2 + int.from_bytes(hello[at : at + 2])
    assert end == len(hello)
    at += 2
    while at < end:
        size = int.from_bytes(hello[at + 2 : at + 4])
        read[int.from_bytes(hello[at : at + 2])] = hello[at + 4 : at + 4 + size]
        at += 4 + size
    assert at == end
    return read


def client_extensions(hello):
    assert hello[0] == 1
    assert int.from_bytes(hello[1:4]) == len(hello) - 4
    at = 38 + 1 + hello[38]
    at += 2 + int.from_bytes(hello[at : at + 2])
    return extensions(hello, at + 2)


def handshake(first, answer, *more, seed=1):
    """Return the records of both sides of a connection."""
    signs = [(0, first), (1, answer), *((k % 2, size) for k, size in enumerate(more))]
    made = exchange(signs, seed=seed, is_tcp=True)
    return [records(stream)[0] for stream in streams(tls.write(made), made.sides)]


@pytest.mark.parametrize("length", [*range(130, 800), 1500, 1800, 9000])
def test_a_hello_of_any_length_has_a_name(length):
    (kind, hello), *rest = handshake(length, 7)[0]
    assert kind == HANDSHAKE
    assert not rest
    assert client_extensions(hello)[0].endswith((b".com", b".net", b".org", b".example"))


@pytest.mark.parametrize("answer", [*range(47, 1300), 2000, 3000, 4500, 6000, 20_000])
def test_an_answer_of_any_length_has_a_hello(answer):
    (kind, hello), *rest = handshake(517, answer)[1]
    assert kind == HANDSHAKE
    assert hello[0] == 2
    if answer >= 191 and int.from_bytes(hello[1:4]) + 9 < answer:
        assert rest


def test_certificates_are_read():
    read = 0
    for seed in range(40):
        for kind, body in handshake(517, 3000, seed=seed)[1]:
            if kind != HANDSHAKE or body[0] != 11:
                continue
            at = 7
            while at < len(body):
                size = int.from_bytes(body[at : at + 3])
                x509.load_der_x509_certificate(body[at + 3 : at + 3 + size])
                read += 1
                at += 3 + size
    assert read > 10


def test_both_versions_are_spoken():
    versions = set()
    for seed in range(30):
        _, answered = handshake(517, 3000, 126, 51, 200, 900, seed=seed)
        versions.add(43 in extensions(answered[0][1], 42 + answered[0][1][38]))
    assert versions == {True, False}


@settings(max_examples=300, deadline=None)
@given(made=stream_exchanges(st.one_of(st.integers(6, 200), st.integers(6, 40_000))))
def test_records_follow_each_other(made):
    for stream in streams(tls.write(made), made.sides):
        read, rest = records(stream)
        assert read or rest == len(stream)
        assert rest < 100


def test_a_refusal_is_an_alert():
    assert handshake(300, 7)[1] == [(ALERT, b"\2\x28")]


def test_an_end_of_the_right_length_is_an_alert():
    ends = {handshake(517, 2000, 126, 51, 300, 700, 31, seed=seed)[0][-1][0] for seed in range(20)}
    assert ends == {ALERT, DATA}
