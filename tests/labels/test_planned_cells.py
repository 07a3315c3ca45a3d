"""The cells of rasters whose values a plan decides."""

import numpy as np

from netdiff_ray.labels.flow_plan import PlannedWindow
from netdiff_ray.labels.path import FlowPath
from netdiff_ray.labels.planned_cells import OPEN, planned_values, syn_options
from netdiff_ray.labels.stack import UNKNOWN, FlowStack, unknown_stack
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.nprint.timecode import level_of_bytes

STATEFUL = layout_named("stateful")
OPTIONS = "020405b4"
STACK = FlowStack(
    "ipv4 tcp", 443, 0, UNKNOWN, 64, 1, 0, OPTIONS, 64_240, 65, 1, UNKNOWN, OPTIONS, UNKNOWN
)


def sample_of(stack=STACK, **changes):
    values = {"window": 0, "height": 16, "length": 9, "headers": tuple(stack.headers.split())}
    return PlannedWindow(label="x", service="s", index=0, stack=stack, **values | changes)


def bits(values, row, field):
    """Return the planned bits of a field in a row, as text."""
    return "".join("?" if bit == OPEN else str(bit) for bit in values[row, STATEFUL.columns(field)])


def test_a_handshake_is_planned_whole():
    values = planned_values(sample_of(), STATEFUL)
    port, zeros = f"{443:016b}", "0" * 16
    of_row = [
        ("0" * 8, zeros, port, f"{64:08b}", f"{64_240:016b}", "1"),
        ("1" * 8, port, zeros, f"{65:08b}", "?" * 16, "1"),
        ("0" * 8, zeros, port, f"{64:08b}", "?" * 16, "?"),
    ]
    fields = ("flow_direction", "tcp_sprt", "tcp_dprt", "ipv4_ttl", "tcp_wsize", "tcp_syn")
    for row, planned in enumerate(of_row):
        assert tuple(bits(values, row, field) for field in fields) == planned
    for row in (0, 1):
        assert bits(values, row, "tcp_opt")[:33] == f"{int(OPTIONS, 16):032b}?"
        assert bits(values, row, "tcp_doff") == f"{6:04b}"
        assert bits(values, row, "tcp_ackf") == str(row)


def test_the_first_packet_is_of_who_sends_it():
    stack = STACK._replace(client_options="-", server_options="-", client_window=UNKNOWN)
    for side, lifetime in ((0, 64), (1, 65)):
        values = planned_values(sample_of(stack._replace(first_side=side)), STATEFUL)
        assert bits(values, 0, "flow_direction") == str(side) * 8
        assert bits(values, 0, "ipv4_ttl") == f"{lifetime:08b}"
        assert bits(values, 1, "flow_direction") == "?" * 8
        later = planned_values(sample_of(stack._replace(first_side=side), window=1), STATEFUL)
        assert bits(later, 0, "flow_direction") == "?" * 8


def test_the_times_of_a_handshake_are_planned():
    values = planned_values(sample_of(path=FlowPath(client_level=3, server_level=200)), STATEFUL)
    for row, level in ((1, 200), (2, 3)):
        code = np.packbits(values[row, STATEFUL.columns("flow_interarrival")])
        assert level_of_bytes(*code) == level
    assert bits(values, 0, "flow_interarrival") == bits(values, 3, "flow_interarrival") == "?" * 24
    short = planned_values(sample_of(path=FlowPath(3, 200), length=2), STATEFUL)
    assert (short[2:] == OPEN).all()


def test_other_packets_have_what_both_sides_have():
    values = planned_values(sample_of(), STATEFUL)
    assert bits(values, 3, "flow_direction") == "?" * 8
    assert bits(values, 3, "ipv4_ttl") == "0100000?"
    assert bits(values, 3, "ipv4_dfbit") == "1"
    assert bits(values, 3, "ipv4_tos") == "?" * 8
    assert bits(values, 3, "tcp_sprt") == f"{443:016b}".replace("1", "?")
    assert (values[3:9] == values[3]).all()
    assert (values[9:] == OPEN).all()


def test_where_only_the_client_sends_its_values_stand_in_every_row():
    stack = unknown_stack("ipv4 udp")._replace(
        server_port=53, one_way=1, client_lifetime=64, client_options="-", server_options="-"
    )
    values = planned_values(sample_of(stack), STATEFUL)
    for row in range(9):
        assert bits(values, row, "flow_direction") == "0" * 8
        assert bits(values, row, "ipv4_ttl") == f"{64:08b}"
        assert bits(values, row, "udp_dport") == f"{53:016b}"
    assert (values[9:] == OPEN).all()


def test_later_windows_and_flows_captured_later_have_no_handshake():
    later = planned_values(sample_of(window=1), STATEFUL)
    assert (later[:9] == planned_values(sample_of(), STATEFUL)[3]).all()
    middle = STACK._replace(client_options="-", server_options="-")
    assert (planned_values(sample_of(middle), STATEFUL)[:9] == later[0]).all()
    assert syn_options(sample_of(window=1)) == syn_options(sample_of(middle)) == []
    assert syn_options(sample_of(length=1)) == [bytes.fromhex(OPTIONS)]


def test_nothing_is_planned_of_what_is_unknown():
    unknown = planned_values(sample_of(unknown_stack("ipv6 icmp")), STATEFUL)
    assert (unknown == OPEN).all()
    other = planned_values(sample_of(headers=("ipv6", "tcp")), STATEFUL)
    assert (other == OPEN).all()


def test_a_port_that_only_the_layout_keeps_is_planned():
    udp = STACK._replace(
        headers="ipv4 udp", client_options="-", server_options="-", client_port=5353,
        server_port=5353,
    )  # fmt: skip
    both = planned_values(sample_of(udp), STATEFUL)
    assert bits(both, 4, "udp_sport") == bits(both, 4, "udp_dport") == f"{5353:016b}"
    fixed = planned_values(sample_of(udp._replace(client_port=4000)), STATEFUL)
    assert bits(fixed, 4, "udp_sport") == f"{5353:016b}".replace("1", "?")
    whole = layout_named("nprint-1088")
    either = np.bitwise_xor(5353, 4000)
    text = "".join("?" if bit == "1" else "=" for bit in f"{either:016b}")
    values = planned_values(sample_of(udp._replace(client_port=4000)), whole)
    planned = values[4, whole.columns("udp_sport")]
    assert "".join("?" if bit == OPEN else "=" for bit in planned) == text
