"""Repair under plans: what is planned is assigned, and the laws hold."""

import shutil
from ipaddress import ip_address
from itertools import pairwise

import numpy as np
import pytest
from flow_rows import ACK, matrices, rows_of, tcp_flows, tcp_header
from hypothesis import given, settings
from hypothesis import strategies as st
from tools import tshark_complaints
from windows import DAMAGE, padded, split, write_pcap

from netdiff_ray.compliance.check import check_capture
from netdiff_ray.compliance.rules import ERROR
from netdiff_ray.header_bytes import (
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPV4_DONT_FRAGMENT,
    IPV4_FLAGS,
    IPV4_TOS,
    IPV4_TTL,
    IPV6_HL,
    IPV6_VER,
    RST,
    SYN,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    TCP_OPT,
    TCP_SEQ,
    TCP_WSIZE,
    words16,
)
from netdiff_ray.labels.addresses import UNPLANNED_ADDRESSES, AddressPair
from netdiff_ray.labels.counts import count_windows
from netdiff_ray.labels.flow_plan import PlannedWindow
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.path import UNPLANNED_PATH, FlowPath
from netdiff_ray.labels.planned_cells import OPEN, planned_values
from netdiff_ray.labels.stack import (
    NO_SYN,
    UNKNOWN,
    UNKNOWN_OPTIONS,
    UNPLANNED,
    FlowStack,
    options_text,
)
from netdiff_ray.nprint import encode, layout_named
from netdiff_ray.nprint.layouts import LAYOUTS
from netdiff_ray.repair import RepairContext, plans_of, repair
from netdiff_ray.storage.shards import addresses

STATEFUL = layout_named("stateful")
ADDRESSES = {4: ("192.0.2.7", "198.51.100.255"), 6: ("2001:db8::7", "fe80::ffff:1")}
LEVELS = st.integers(0, 200)
PATHS = st.one_of(st.just(UNPLANNED_PATH), st.builds(FlowPath, LEVELS, LEVELS))
SEEDS = st.integers(0, 2**64 - 1)
MAC = "020405b4010303060101080a000000000000000004020000"
TINY_MSS = "02040100"
FORTY_BYTES = "020405b4" + "0101080a" + "00" * 8 + "0402" + "01030308" + "00" * 18
"""Forty bytes, in an order that no known stack has."""
ANSWERS = {
    MAC: (MAC, "020405b40402080a000000000000000001030307", "02040550", UNKNOWN_OPTIONS, NO_SYN),
    TINY_MSS: (TINY_MSS, "", UNKNOWN_OPTIONS),
    FORTY_BYTES: (FORTY_BYTES, "02040550" + "01010402" + "0103030a"),
    "": ("", TINY_MSS, NO_SYN),
    NO_SYN: (NO_SYN,),
    UNKNOWN_OPTIONS: (UNKNOWN_OPTIONS,),
}


@st.composite
def stacks(draw, headers=("ipv4 tcp", "ipv6 tcp", "ipv4 tcp tcp_opt", "ipv4 udp", "ipv6 icmp")):
    """Draw a possible plan."""
    of = draw(st.sampled_from(headers))
    has_ports = "icmp" not in of
    client = draw(st.sampled_from(list(ANSWERS))) if "tcp" in of else NO_SYN
    server = draw(st.sampled_from(ANSWERS[client]))

    def host(options):
        fragment = st.sampled_from([UNKNOWN, 0, 1] if "ipv4" in of else [UNKNOWN])
        return (
            draw(st.sampled_from([UNKNOWN, 1, 64, 201])), draw(fragment),
            draw(st.sampled_from([UNKNOWN, 0, 0x28, 0xB9])), options,
            draw(st.sampled_from([UNKNOWN, 1, 5840, 65_535])),
        )  # fmt: skip

    one_way = draw(st.sampled_from([UNKNOWN, 0, 1]))
    sides = [UNKNOWN, 0] if client != NO_SYN or one_way == 1 else [UNKNOWN, 0, 1]
    return FlowStack(
        of, draw(st.sampled_from([UNKNOWN, 53, 50_001])) if has_ports else 0, one_way,
        draw(st.sampled_from([UNKNOWN, 53, 123])) if has_ports else UNKNOWN,
        *host(client), *host(server), draw(st.sampled_from(sides)),
    )  # fmt: skip


def repaired(nprints, stacks, layout=STATEFUL, paths=None):
    numbers = np.arange(len(nprints), dtype=np.uint64)
    plans = plans_of(stacks, paths=paths)
    return repair(nprints, layout, RepairContext(), numbers, numbers, plans=plans)


def assert_planned(result, k, stack, layout):
    """Raise unless the flow at `k` of a result is as planned."""
    flows, packets = result.batch.flows, result.batch.packets
    part = slice(*flows.starts[k : k + 2])
    rows, direction = packets.rows[part], packets.direction[part]
    network, transport = rows["network"], rows["transport"]
    version, protocol = stack.protocols
    assert (flows.version[k], flows.protocol[k]) == (version, protocol)
    if stack.sends_one_way:
        assert not direction.any()
    if stack.first_side != UNKNOWN and layout.needs_flow:
        assert direction[0] == stack.first_side
    is_ipv4 = version == 4
    ports = {"client": flows.client_port[k], "server": flows.server_port[k]}
    values = {
        "lifetime": network[:, IPV4_TTL if is_ipv4 else IPV6_HL],
        "traffic_class": network[:, IPV4_TOS] if is_ipv4 else words16(network, IPV6_VER) >> 4 & 255,
        "dont_fragment": words16(network, IPV4_FLAGS) & IPV4_DONT_FRAGMENT != 0,
    }
    for side, name in enumerate(ports):
        planned = getattr(stack, f"{name}_port")
        same = stack.client_port == stack.server_port and not layout.needs_flow
        assert planned in (UNKNOWN, 0) or ports[name] == planned or same
        for attribute, of_packet in values.items():
            planned = getattr(stack, f"{name}_{attribute}")
            of_side = of_packet[direction == side]
            neighbours = protocol == IPPROTO_ICMPV6 and attribute == "lifetime"  # 255, RFC 4861
            assert planned == UNKNOWN or neighbours or (of_side == planned).all()
    if protocol != IPPROTO_TCP or stack.opens == UNKNOWN:
        return
    flags = transport[:, TCP_FLAGS]
    assert (flags[0] & SYN != 0) == stack.opens
    for side in range(min(len(rows), 2) if stack.opens else 0):
        options, window = (
            (stack.client_options, stack.client_window),
            (stack.server_options, stack.server_window),
        )[0 if stack.sends_one_way else side]
        if flags[side] & SYN and options not in (NO_SYN, UNKNOWN_OPTIONS):
            written = transport[side, TCP_OPT : rows["transport_len"][side]].tobytes()
            assert options_text(written) == options
        if flags[side] & SYN and window != UNKNOWN and not len(rows) > 2:
            # A window of 1 is raised for the answer's SYN, which counts in the numbers.
            assert words16(transport, TCP_WSIZE)[side] in (window, max(window, 2))
    if stack.has_timestamps != UNKNOWN:
        later = rows[2 if stack.opens else 0 :]
        later = later[later["transport"][:, TCP_FLAGS] & (RST | SYN) == 0]
        assert (later["transport_len"] == TCP_HEADER_BYTES + 12 * stack.has_timestamps).all()


def assert_handshake_takes(result, stack, path):
    """Raise unless the handshake of the only flow of a result takes the planned times."""
    if stack.protocols[1] == IPPROTO_TCP and stack.opens == 1 and path != UNPLANNED_PATH:
        level = result.batch.packets.level[1:3].tolist()
        assert level == [path.server_level, path.client_level][: len(level)]


def assert_held_cells_are_assigned(result, stack, path, layout):
    """Raise unless drawing holds cells at what repair makes of them."""
    nprint = result.nprint(layout)
    sample = PlannedWindow(
        label="x", service="s", index=0, window=0, height=len(nprint), length=len(nprint),
        headers=tuple(stack.headers.split()), stack=stack, path=path,
    )  # fmt: skip
    held = planned_values(sample, layout)
    held[:, layout.columns("tcp_wsize")] = OPEN  # may be raised, for what is sent into it
    if stack.protocols[1] == IPPROTO_ICMPV6:
        held[:, layout.columns("ipv6_hl")] = OPEN  # 255 of neighbours
    refused = len(nprint) == 2 and nprint[1, layout.columns("tcp_rst")][0] == 1
    if refused:
        held[1] = OPEN
    same = (held == OPEN) | (held == nprint)
    assert same.all(), np.unique(np.array(layout.column_names)[np.nonzero(~same)[1]])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_matrix_becomes_what_is_planned_and_stays_so(layout, data):
    nprint, stack = data.draw(matrices(layout.width)), data.draw(stacks())
    has_handshake = stack.opens == 1 and not stack.sends_one_way
    path = data.draw(PATHS) if has_handshake else UNPLANNED_PATH
    once = repaired([nprint], [stack], layout, [path])
    if once.rejected:
        return
    assert_planned(once, 0, stack, layout)
    assert_handshake_takes(once, stack, path)
    assert_held_cells_are_assigned(once, stack, path, layout)
    twice = repaired(split(once, layout), [stack], layout, [path])
    assert not twice.corrected.any()
    np.testing.assert_array_equal(once.packets.data, twice.packets.data)
    np.testing.assert_array_equal(once.packets.ts_ns, twice.packets.ts_ns)


@settings(max_examples=60, deadline=None)
@given(flow=tcp_flows(), data=st.data())
def test_what_a_flow_has_already_is_no_correction(flow, data):
    rows, direction = flow
    drawn = encode(rows, STATEFUL, direction=direction, interarrival_ns=np.full(len(rows), 1000))
    counted = LabelledWindows(
        nprint=[drawn], label=["x"], service=["tcp-443"], flow=["f"], window=[0], layout=STATEFUL
    )
    (counts,) = count_windows(counted, 64).values()
    headers = f"ipv{rows['version'][0]} tcp"
    stack = counts.stacks["f"]._replace(headers=headers)
    if not stack.opens and rows["transport_len"][0] > TCP_HEADER_BYTES:
        stack = stack._replace(headers=f"{headers} tcp_opt")
    before, after = (
        repaired([drawn], [planned], paths=[path])
        for planned, path in ((UNPLANNED, UNPLANNED_PATH), (stack, counts.paths["f"]))
    )
    np.testing.assert_array_equal(before.packets.data, after.packets.data)
    wrong = repaired([drawn], [stack._replace(client_lifetime=99, server_port=80)])
    names = [name for name, count in wrong.corrected_by_rule().items() if count.any()]
    assert set(names) <= {"ports", "lifetime", "lengths"}
    assert "ports" in names


@settings(max_examples=20, deadline=None)
@given(flows=st.lists(st.tuples(matrices(STATEFUL.width, 8), stacks()), min_size=2, max_size=6))
def test_a_plan_holds_for_its_flow_alone(flows):
    nprints, planned = zip(*flows, strict=True)
    whole = repaired(nprints, planned)
    for k, i in enumerate(whole.batch.position):
        numbers = np.array([i], np.uint64)
        alone = repair(
            [nprints[i]], STATEFUL, RepairContext(), numbers, numbers, plans=plans_of([planned[i]])
        )
        span = slice(*whole.packets.starts[whole.batch.flows.starts[k : k + 2]])
        np.testing.assert_array_equal(alone.packets.data, whole.packets.data[span])


@pytest.mark.parametrize("syns", [1, 4])
@pytest.mark.parametrize("stamped", [False, True])
def test_only_the_client_sends_behind_its_syn(syns, stamped):
    options = MAC if stamped else "020405b401010402"
    stack = UNPLANNED._replace(
        headers="ipv4 tcp tcp_opt" if stamped else "ipv4 tcp", server_port=443, one_way=1,
        client_options=options, server_options=NO_SYN, client_window=5840,
    )  # fmt: skip
    stamps = bytes.fromhex("0101080a") + bytes(8) if stamped else b""
    headers = [
        (k % 2, tcp_header(k % 2, SYN if k < syns else ACK, options=stamps), 40) for k in range(5)
    ]
    rows, _ = rows_of(headers)
    drawn = encode(
        rows, STATEFUL, direction=np.arange(5) % 2, interarrival_ns=np.full(5, 1_000_000)
    )
    result = repaired([drawn], [stack])
    packets = result.batch.packets
    transport = packets.rows["transport"]
    assert not packets.direction.any()
    assert (transport[:, TCP_FLAGS] & SYN != 0).tolist() == [k == 0 or syns > 1 for k in range(5)]
    num_syns = 5 if syns > 1 else 1
    for row, length in zip(transport[:num_syns], packets.rows["transport_len"], strict=False):
        assert options_text(row[TCP_OPT:length].tobytes()) == options
    assert (words16(transport, TCP_WSIZE)[:num_syns] == 5840).all()
    assert (packets.payload_bytes > 0).tolist() == [k >= num_syns for k in range(5)]
    sent = np.cumsum([0, *packets.payload_bytes[:-1]]) + (np.arange(5) >= num_syns)
    seq = words16(transport, TCP_SEQ) << 16 | words16(transport, TCP_SEQ + 2)
    assert ((seq - seq[0]) % (1 << 32)).tolist() == sent.tolist()
    lengths = packets.rows["transport_len"][num_syns:] - TCP_HEADER_BYTES
    assert (lengths == (12 if stamped else 0)).all()
    again = repaired(split(result, STATEFUL), [stack])
    assert not again.corrected.any()
    np.testing.assert_array_equal(result.packets.data, again.packets.data)


@pytest.mark.parametrize("version", [4, 6])
def test_planned_addresses_are_assigned(version):
    stack = UNPLANNED._replace(headers=f"ipv{version} udp", server_port=53)
    pair = AddressPair(*(ip_address(text).packed for text in ADDRESSES[version]))
    noise = np.random.default_rng(2).integers(0, 2, (2, 6, STATEFUL.width), np.int8)
    seeds = np.arange(2, dtype=np.uint64)
    plans = plans_of([stack, stack], [pair, UNPLANNED_ADDRESSES])
    result = repair(noise, STATEFUL, RepairContext(), seeds, plans=plans)
    for k, (begin, end) in enumerate(pairwise(result.batch.flows.starts)):
        sources, targets = addresses(result.batch.packets.rows[begin:end])
        for side, ends in zip(
            result.batch.packets.direction[begin:end],
            zip(sources, targets, strict=True), strict=True,
        ):  # fmt: skip
            is_planned = (ends[::-1] if side else ends) == ADDRESSES[version]
            assert is_planned == (k == 0)


def test_clients_with_a_fixed_port_differ_in_their_address():
    rng = np.random.default_rng(1)
    noise = np.full((5000, 1, STATEFUL.width), -1, np.int8)
    present = STATEFUL.columns_of(("flow", "ipv4", "udp"))
    noise[:, :, present] = rng.integers(0, 2, (5000, 1, int(present.sum())))
    stack = UNPLANNED._replace(headers="ipv4 udp", client_port=123, server_port=123)
    result = repaired(noise, [stack] * len(noise))
    network = result.batch.packets.rows["network"]
    assert (result.batch.flows.client_port == 123).all()
    is_client = result.batch.packets.direction == 0
    clients = np.where(is_client[:, None], network[:, 12:16], network[:, 16:20])
    assert len(np.unique(clients, axis=0)) == len(noise)


@pytest.mark.parametrize("damage", ["none", "5 %"])
def test_checkers_have_no_complaint(real_windows, damage, tmp_path):
    windows = real_windows[:150]
    drawn = [DAMAGE[damage](padded(w.nprint(STATEFUL)), k) for k, w in enumerate(windows)]
    rng = np.random.default_rng(3)
    sets = [(client, server) for client, of in ANSWERS.items() for server in of]
    planned = []
    for window in windows:
        protocol = {6: "tcp", 17: "udp"}.get(window.protocol, "icmp")
        stack = UNPLANNED._replace(
            headers=f"ipv{window.rows['version'][0]} {protocol}",
            client_lifetime=int(rng.integers(1, 256)), server_lifetime=int(rng.integers(1, 256)),
            client_traffic_class=int(rng.integers(0, 256)),
        )  # fmt: skip
        if protocol == "tcp":
            client, server = sets[rng.integers(len(sets))]
            stack = stack._replace(
                client_options=client, server_options=server, client_window=1, server_window=9,
                one_way=int(len(planned) % 5 == 0),
            )  # fmt: skip
        planned.append(stack)
    result = repaired(drawn, planned)
    assert not result.rejected
    path = tmp_path / "repaired.pcap"
    lossy = write_pcap(path, [result])
    checked = check_capture(path, with_tshark=False)
    assert not [rule for rule in checked.rules if rule.broken and rule.rule.severity == ERROR]
    if shutil.which("tshark"):
        assert not tshark_complaints(path, lossy=lossy)
