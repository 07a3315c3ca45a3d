"""Planned names: a lookup asks for the host that a connection then names, and is told where."""

from dataclasses import replace
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from exchanges import exchange, streams
from test_tls import client_extensions, records

from netdiff_ray.dialogue import Named, write_messages
from netdiff_ray.dialogue.dns import wire_name

HOST = b"news-of-7.example.org"
ADDRESSES = (bytes([198, 18, 0, 7]), ip_address("2001:db8::7").packed)
QUESTION = 12 + len(wire_name(HOST)) + 4


def named(messages, *, with_addresses=False, **choices):
    host = Named(HOST, ADDRESSES if with_addresses else ())
    return replace(exchange(messages, **choices), named=host)


@pytest.mark.parametrize("extra", [0, 11, 15, 40])
@pytest.mark.parametrize(
    ("behind", "address"),
    [(16, ADDRESSES[0]), (48, ADDRESSES[0]), (16 + 37, ADDRESSES[0]), (28, ADDRESSES[1])],
)
def test_a_lookup_asks_for_the_host_and_is_told_its_address(extra, behind, address):
    for seed in range(8):
        messages = [(0, QUESTION + extra), (1, QUESTION + behind + 11 * (extra > 0))]
        made = named(messages, server_port=53, seed=seed, with_addresses=True)
        asked, told = map(dns.message.from_wire, write_messages("dns", made))
        assert asked.question[0].name.to_text().encode() == HOST + b"."
        assert told.question == asked.question
        assert told.rcode() == dns.rcode.NOERROR
        assert ip_address(address).compressed in {
            record.to_text() for records in told.answer for record in records
        }


@pytest.mark.parametrize("length", [QUESTION - 1, QUESTION + 5, QUESTION + 13])
def test_a_lookup_that_the_name_does_not_fit_asks_for_another(length):
    made = named([(0, length), (1, length + 16)], server_port=53)
    asked, _ = map(dns.message.from_wire, write_messages("dns", made))
    assert asked.question[0].name.to_text().encode() != HOST + b"."


@pytest.mark.parametrize("length", [*range(140, 420), 517, 1500])
def test_a_hello_names_the_host_and_nothing_else(length):
    made = named([(0, length), (1, 1500)], server_port=443, is_tcp=True)
    client, _ = streams(write_messages("tls", made), made.sides)
    (_, hello), *_ = records(client)[0]
    assert client_extensions(hello)[0][5:] == HOST


def test_requests_name_the_host():
    made = named([(0, 300), (1, 900), (0, 180), (1, 500)], server_port=80, is_tcp=True)
    requests, _ = streams(write_messages("http", made), made.sides)
    assert requests.count(b"\r\nHost: " + HOST + b"\r\n") == 2


def test_what_is_not_planned_is_as_before():
    for kind, port in (("http", 80), ("tls", 443)):
        made = exchange([(0, 300), (1, 900)], server_port=port, is_tcp=True)
        planned = replace(made, named=Named(HOST))
        assert write_messages(kind, made) == write_messages(kind, replace(planned, named=None))
        assert write_messages(kind, made) != write_messages(kind, planned)
