"""Stacks of hosts: what is counted, what is disclosed, and what is drawn of them."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labels.stack_builders import LINUX, MAC, PLAIN, metadata_of, stack_of, udp_stack

from netdiff_ray.errors import ModelError
from netdiff_ray.header_bytes import ACK, PSH, RST, SYN
from netdiff_ray.labels.adapter_metadata import (
    metadata_from_json,
    metadata_to_json,
)
from netdiff_ray.labels.flow_plan import plan_flow
from netdiff_ray.labels.length_bins import LengthBin
from netdiff_ray.labels.stack import (
    NO_SYN,
    UNKNOWN,
    UNKNOWN_OPTIONS,
    FlowStack,
    StackCount,
    check_stack,
    options_text,
    unknown_stack,
)
from netdiff_ray.labels.stack_counts import disclosed_stacks, flow_stacks
from netdiff_ray.packets import HEADER_ROW


def row_of(side, *, flags=None, options=b"", window=0, ttl=64, tos=0, fragment=0x40):
    """Return a header row of TCP, or of UDP without `flags`, between ports 40000 and 443."""
    row = np.zeros((), HEADER_ROW)
    network, transport = row["network"], row["transport"]
    network[[0, 1, 6, 8]] = 0x45, tos, fragment, ttl
    ports = (40_000, 443) if side == 0 else (443, 40_000)
    transport[:4] = np.frombuffer(np.array(ports, ">u2").tobytes(), np.uint8)
    row["version"], row["network_len"] = 4, 20
    row["protocol"], row["transport_len"] = 17, 8
    if flags is not None:
        row["protocol"], row["transport_len"] = 6, 20 + len(options)
        transport[12:14] = (20 + len(options)) // 4 << 4, flags
        transport[14:16] = window >> 8, window & 255
        transport[20 : 20 + len(options)] = np.frombuffer(options, np.uint8)
    return row


def counted(*packets):
    """Return the stack of a flow of (side, attributes of its row)."""
    rows = np.stack([row_of(side, **attributes) for side, attributes in packets])
    direction = np.array([side for side, _ in packets], np.uint8)
    (stack,) = flow_stacks(
        rows, direction, np.zeros(len(rows), np.int64), np.full((len(rows), 2), [40_000, 443])
    )
    return stack


def test_the_stack_of_a_flow_is_that_of_its_packets():
    stamped = bytearray.fromhex(MAC)
    stamped[12:20] = bytes(range(1, 9))
    stack = counted(
        (0, {"flags": SYN, "options": bytes(stamped), "window": 65_535, "tos": 0}),
        (1, {"flags": SYN | ACK, "options": bytes.fromhex(LINUX), "window": 65_160, "ttl": 49}),
        (0, {"flags": ACK, "window": 5, "tos": 32}),
        (1, {"flags": ACK | PSH, "window": 7, "ttl": 50, "fragment": 0}),
    )
    assert stack == FlowStack(
        "", 443, UNKNOWN, 40_000, 64, 1, UNKNOWN, MAC, 65_535, 49, UNKNOWN, 0, LINUX, 65_160, 0
    )
    assert stack.opens == 1
    assert stack._replace(headers="ipv4 tcp tcp_opt").has_timestamps == 1


def test_who_sends_first_is_counted():
    assert counted((1, {"flags": ACK}), (0, {"flags": ACK})).first_side == 1
    assert counted((0, {"flags": ACK}), (1, {"flags": ACK})).first_side == 0


@pytest.mark.parametrize("changes", [{}, {"one_way": 1, "client_options": NO_SYN}])
def test_a_server_does_not_send_first_where_the_client_opens_or_is_alone(changes):
    stack = stack_of(server_options=NO_SYN, server_window=UNKNOWN, **changes)
    check_stack(stack._replace(first_side=0))
    with pytest.raises(ValueError, match="first_side is 1"):
        check_stack(stack._replace(first_side=1))


@pytest.mark.parametrize(
    ("packets", "options"),
    [
        ([(0, {"flags": ACK}), (1, {"flags": SYN | ACK})], (NO_SYN, NO_SYN)),
        ([(0, {"flags": SYN}), (1, {"flags": RST | ACK})], ("", NO_SYN)),
        ([(0, {"flags": SYN})], ("", NO_SYN)),
        ([(0, {"flags": SYN, "options": b"\x22\x02\1\1"})], (UNKNOWN_OPTIONS, NO_SYN)),
        ([(0, {}), (1, {})], (NO_SYN, NO_SYN)),
    ],
)
def test_a_host_without_a_syn_has_no_options(packets, options):
    stack = counted(*packets)
    assert (stack.client_options, stack.server_options) == options
    assert (stack.server_lifetime == UNKNOWN) == (len(packets) == 1)


def test_what_several_flows_share_is_disclosed_and_the_rest_is_counted_as_the_nearest():
    near = stack_of(client_lifetime=128, client_options=PLAIN, server_options=PLAIN)
    flows = [stack_of()] * 5 + [near] * 3 + [near._replace(server_lifetime=99)]
    table = {row.stack: row.flows for row in disclosed_stacks(flows)}
    assert table == {stack_of(): 5, near: 4}


def test_stacks_of_other_windows_are_counted_without_windows():
    flows = [stack_of(client_window=900 + k) for k in range(3)] + [stack_of()] * 2
    table = {row.stack: row.flows for row in disclosed_stacks(flows)}
    assert table == {stack_of(): 2, stack_of(client_window=UNKNOWN, server_window=UNKNOWN): 3}


def test_flows_that_share_no_stack_have_what_several_share_of_each_attribute():
    flows = [
        stack_of(server_lifetime=40 + k, server_options=options)
        for k, options in enumerate((LINUX, LINUX, PLAIN))
    ]
    (row,) = disclosed_stacks(flows)
    assert row == StackCount(*stack_of(server_lifetime=UNKNOWN), 3)
    assert disclosed_stacks(flows[:1]) == []


def test_a_port_that_several_flows_have_is_not_lost_to_another():
    """Flows of a server's port that share no stack are not counted as those of the next service."""
    calls = [udp_stack(server_port=5060, client_lifetime=60 + k) for k in range(3)]
    rows = disclosed_stacks([udp_stack(server_port=4376)] * 9 + calls)
    assert {(row.server_port, row.flows) for row in rows} == {(4376, 9), (5060, 3)}


def test_nothing_is_folded_across_transports_or_ip_versions():
    ipv6 = stack_of("ipv6 tcp", client_dont_fragment=UNKNOWN, server_dont_fragment=UNKNOWN)
    flows = [stack_of()] * 4 + [udp_stack()] + [ipv6] + [udp_stack(server_port=5353)]
    rows = disclosed_stacks(flows)
    assert {(row.headers, row.flows) for row in rows} == {("ipv4 tcp", 4), ("ipv4 udp", 2)}
    (of_udp,) = (row for row in rows if row.headers == "ipv4 udp")
    assert of_udp.stack == udp_stack(server_port=UNKNOWN)


def test_a_clients_port_is_known_if_flows_share_it():
    flows = [udp_stack(client_port=123)] * 4 + [
        udp_stack(client_port=port) for port in (50_000, 50_000, 3000, 3001)
    ]
    table = {row.stack: row.flows for row in disclosed_stacks(flows)}
    assert table == {udp_stack(client_port=123): 4, udp_stack(): 4}


VALUES = {
    "headers": st.sampled_from(["ipv4 tcp", "ipv4 tcp tcp_opt", "ipv6 tcp", "ipv4 udp", ""]),
    "server_port": st.integers(0, 3), "client_port": st.integers(1, 3),
    "client_lifetime": st.sampled_from([UNKNOWN, 64]), "server_lifetime": st.integers(50, 60),
    "client_options": st.sampled_from([NO_SYN, "", PLAIN, LINUX, MAC]),
    "server_options": st.sampled_from([NO_SYN, "", PLAIN, LINUX, MAC]),
    "client_window": st.integers(0, 2), "server_window": st.just(UNKNOWN),
}  # fmt: skip


@given(st.lists(st.fixed_dictionaries(VALUES), max_size=30))
def test_disclosed_stacks_are_possible_of_several_flows_and_as_many(changes):
    flows = [stack_of(**of) for of in changes]
    rows = disclosed_stacks(flows)
    for row in rows:
        check_stack(row.stack)
        assert row.flows >= 2
    real = Counter(stack.protocols for stack in flows if any(stack.protocols))
    drawn = Counter()
    for row in rows:
        drawn[row.stack.protocols] += row.flows
    assert drawn == {protocols: n for protocols, n in real.items() if n >= 2}
    port = Counter((stack.protocols, stack.server_port) for stack in flows)
    for row in rows:
        assert row.server_port == UNKNOWN or port[row.stack.protocols, row.server_port] >= 2


def test_stacks_survive_json():
    rows = [StackCount(*stack_of(client_options=MAC), 3), StackCount(*udp_stack(), 2)]
    metadata = metadata_of(rows)
    text = json.dumps(metadata_to_json(metadata))
    assert metadata_from_json(text, "a") == metadata


def test_an_adapter_of_a_layout_that_is_gone_is_refused():
    facts = metadata_to_json(metadata_of([StackCount(*stack_of(), 3)]))
    text = json.dumps({**facts, "layout": "timed"})
    with pytest.raises(
        ModelError, match=r"a: layout 'timed' is not known.*Train the adapter again"
    ):
        metadata_from_json(text, "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flows": 1}, "1 flows have"),
        ({"headers": "ipv4 sctp"}, "headers are 'ipv4 sctp'"),
        ({"headers": "ipv4 udp tcp_opt"}, "headers are 'ipv4 udp tcp_opt'"),
        ({"server_port": 65_536}, "server_port is 65536; it is -1 to 65,535"),
        ({"client_lifetime": 256}, "client_lifetime is 256"),
        ({"client_lifetime": 0}, "a lifetime or the client's port is 0"),
        ({"client_window": "7"}, "valid integer"),
        ({"server_traffic_class": -2}, "server_traffic_class is -2"),
        ({"headers": "ipv6 tcp"}, "client_dont_fragment is 1; it is -1 to 0"),
        ({"client_options": "zz"}, "client_options 'zz': non-hexadecimal"),
        ({"client_options": "0204"}, "whole words"),
        ({"client_options": "02040000"}, "kind 2 with a value that is not 48 to 65,535"),
        ({"client_options": "0103030f"}, "kind 3 with a value that is not 0 to 14"),
        ({"client_options": "22020101"}, "kind 34, which is unknown"),
        ({"client_options": PLAIN * 2}, "kind 2, which is unknown, repeated"),
        ({"client_options": "01010101"}, "more than 3 NOPs"),
        ({"client_options": "00000001"}, "go on after their end"),
        ({"client_options": "01010204"}, "end within kind 2"),
        ({"client_options": LINUX[:-8] + "01010101"}, "more than 3 NOPs"),
        ({"client_options": PLAIN}, "do not offer"),
        ({"client_options": NO_SYN}, "do not offer"),
        ({"headers": "ipv4 udp"}, "client_options are .* without TCP"),
        ({"headers": "ipv4 icmp"}, "server_port is 443; it is -1 to 0"),
    ],
)
def test_stacks_edited_by_hand_are_refused_in_words(change, message):
    edited = metadata_to_json(metadata_of([StackCount(*stack_of(), 3)]))
    columns = edited["labels"]["x"]["services"]["s"]["stacks"]
    for name, value in change.items():
        columns[name] = [value]
    with pytest.raises(ModelError, match=message):
        metadata_from_json(json.dumps(edited), "a")


@given(st.binary(max_size=44))
def test_any_options_are_well_formed_text_or_unknown(options):
    text = options_text(options)
    if text != UNKNOWN_OPTIONS:
        check_stack(stack_of(client_options=text, server_options=NO_SYN))
        assert len(bytes.fromhex(text)) == len(options)


def test_plans_draw_stacks_as_often_as_they_were_and_lengths_with_them():
    mac = stack_of("ipv4 tcp tcp_opt", client_options=MAC)
    metadata = metadata_of(
        [StackCount(*mac, 30), StackCount(*stack_of(), 50), StackCount(*udp_stack(), 20)]
    )
    plans = [plan_flow(metadata, "x", 4, k) for k in range(1000)]
    assert plans == [plan_flow(metadata, "x", 4, k) for k in range(1000)]
    drawn = Counter(plan.stack for plan in plans)
    assert set(drawn) == {mac, stack_of(), udp_stack()}
    assert 240 < drawn[mac] < 360
    assert 440 < drawn[stack_of()] < 560
    for plan in plans:
        assert " ".join(plan.headers) == plan.stack.headers
        assert [sample.stack for sample in plan.samples] == [plan.stack]


def test_a_refusing_server_has_the_stack_that_answers_such_clients():
    server = {k: v for k, v in unknown_stack("")._asdict().items() if k.startswith("server_")}
    silent = stack_of(**server | {"server_options": NO_SYN, "server_port": 443, "one_way": 1})
    refusing = stack_of(server_options=NO_SYN, server_window=UNKNOWN)
    other = stack_of(client_options=PLAIN, server_options=PLAIN)
    rows = [StackCount(*stack, 3) for stack in (silent, refusing, other, stack_of())]
    answered = {stack_of(), silent, other}
    assert {plan_flow(metadata_of(rows), "x", 0, k).stack for k in range(100)} == answered
    alone = metadata_of([StackCount(*refusing, 3), StackCount(*other, 3)])
    assert {plan_flow(alone, "x", 0, k).stack for k in range(100)} == {refusing, other}


def test_a_flow_in_which_the_client_alone_sends_is_planned_so():
    unknown = {k: v for k, v in unknown_stack("")._asdict().items() if k.startswith("server_")}
    unknown |= {"server_options": NO_SYN, "server_port": 53, "one_way": 1}
    silent = udp_stack()._replace(**unknown)
    metadata = metadata_of([StackCount(*silent, 30), StackCount(*udp_stack(), 70)])
    drawn = Counter(plan_flow(metadata, "x", 0, k).stack for k in range(1000))
    assert set(drawn) == {silent, udp_stack()}
    assert 250 < drawn[silent] < 350
    assert silent.sends_one_way
    assert stack_of(one_way=1).sends_one_way
    unknown_syn = stack_of(client_options=UNKNOWN_OPTIONS, server_options=UNKNOWN_OPTIONS)
    assert not unknown_syn._replace(one_way=1).sends_one_way


def test_headers_without_stacks_have_those_of_the_same_transport():
    lengths = {name: [LengthBin(9, 9, 5)] for name in ("ipv4 tcp tcp_opt", "ipv6 udp")}
    metadata = metadata_of([StackCount(*stack_of(), 10)], lengths)
    drawn = {plan_flow(metadata, "x", 0, k).stack for k in range(100)}
    assert drawn == {stack_of(), unknown_stack("ipv6 udp")}
