"""The closed list of kinds: names and ports are unique, and every kind has a module that writes."""

import importlib
from itertools import chain

import pytest

from netdiff_ray.dialogue import KINDS, OPAQUE, OPAQUE_KINDS, Exchange, port_kinds, write_messages
from netdiff_ray.header_bytes import IPPROTO_TCP, IPPROTO_UDP

EXCHANGE = Exchange(
    sides=(0, 1), lengths=(100, 200), ts_ns=(0, 1), seed=1, client=bytes(4), server=bytes(4),
    client_port=50_000, server_port=9, is_tcp=True,
)  # fmt: skip


@pytest.mark.parametrize("transport", [IPPROTO_TCP, IPPROTO_UDP])
def test_a_port_means_one_kind(transport):
    ports = list(chain(*(k.tcp_ports if transport == IPPROTO_TCP else k.udp_ports for k in KINDS)))
    assert len(ports) == len(set(ports))
    for kind in KINDS:
        for port in kind.tcp_ports if transport == IPPROTO_TCP else kind.udp_ports:
            assert KINDS[port_kinds(transport)[port]] == kind


def test_names_are_unique_and_each_has_a_writer():
    names = [kind.name for kind in KINDS]
    assert len(names) == len(set(names))
    for name in set(names) - set(OPAQUE_KINDS):
        assert callable(importlib.import_module(f"netdiff_ray.dialogue.{name}").write)


def test_a_port_of_no_kind_is_opaque():
    assert KINDS[port_kinds(IPPROTO_TCP)[49_999]].name == KINDS[0].name == OPAQUE
    assert [write_messages(kind, EXCHANGE) for kind in OPAQUE_KINDS] == [None] * 3


def test_an_exchange_draws_the_same_twice():
    assert EXCHANGE.random().randbytes(16) == EXCHANGE.random().randbytes(16)
