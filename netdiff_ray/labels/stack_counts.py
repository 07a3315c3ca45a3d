"""Count the stacks of a service's flows, and disclose those that several flows share.

Shape letters: W windows, P packets, K stacks, A attributes.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from netdiff_ray.header_bytes import (
    ACK,
    IPPROTO_TCP,
    IPV4_DONT_FRAGMENT,
    IPV4_FLAGS,
    IPV4_TOS,
    IPV4_TTL,
    IPV6_HL,
    IPV6_VER,
    SYN,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    TCP_OPT,
    TCP_WSIZE,
    words16,
)
from netdiff_ray.labels.profile import MIN_FLOWS_DISCLOSED
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

FIRST_DYNAMIC_PORT = 49_152
"""Ports from which clients choose (RFC 6335 section 6)."""
_MOST_STACKS = 256
"""Stacks of an IP version and transport that are disclosed at most."""
_WINDOWS = ("client_window", "server_window")


def flow_stacks(
    rows: np.ndarray, direction: np.ndarray, window: np.ndarray, ports: np.ndarray
) -> list[FlowStack]:
    """Return the stack of each window; its headers are empty, its client's port is as
    captured, and one_way is UNKNOWN.

    Args:
        rows: (P,) HEADER_ROW, window by window.
        direction: (P,) uint8, 0 from the client.
        window: (P,) int64, which of the W windows each packet is of, ascending from 0.
        ports: (P, 2) int64: the client's and the server's, 0 without ports.
    """
    num_windows = int(window[-1]) + 1 if len(window) else 0
    network, transport = rows["network"], rows["transport"]
    is_ipv4 = rows["version"] == 4
    lifetime = np.where(is_ipv4, network[:, IPV4_TTL], network[:, IPV6_HL])
    ipv6_class = words16(network, IPV6_VER) >> 4 & 255
    traffic_class = np.where(is_ipv4, network[:, IPV4_TOS], ipv6_class)
    fragment = (words16(network, IPV4_FLAGS) & IPV4_DONT_FRAGMENT != 0).astype(np.int64)
    dont_fragment = np.where(is_ipv4, fragment, UNKNOWN)
    is_tcp = (rows["protocol"] == IPPROTO_TCP) & (rows["transport_len"] >= TCP_HEADER_BYTES)
    flags = transport[:, TCP_FLAGS] & (SYN | ACK)
    packet = np.arange(len(rows))
    begin = np.searchsorted(window, np.arange(num_windows))
    opens = np.zeros(num_windows, bool)
    opens[:] = is_tcp[begin] & (flags[begin] == SYN) & (direction[begin] == 0)
    hosts = []
    for side, wanted in enumerate((SYN, SYN | ACK)):
        sent = (direction == side) & (rows["version"] > 0)
        first = np.full(num_windows, UNKNOWN)
        first[window[sent][::-1]] = packet[sent][::-1]
        constant = [
            _constant(values[sent], window[sent], num_windows)
            for values in (dont_fragment, traffic_class)
        ]
        hosts.append(
            [
                _host(
                    rows[i], int(lifetime[i]), *(int(values[k]) for values in constant),
                    bool(opens[k] and is_tcp[i] and flags[i] == wanted),
                )
                if i >= 0
                else (UNKNOWN, UNKNOWN, UNKNOWN, NO_SYN, UNKNOWN)
                for k, i in enumerate(first.tolist())
            ]
        )  # fmt: skip
    known: dict[FlowStack, FlowStack] = {}
    stacks = []
    for i, client, server in zip(begin.tolist(), *hosts, strict=True):
        client_port, server_port = ports[i].tolist()
        first_side = int(direction[i])
        stack = FlowStack(
            "", server_port, UNKNOWN, client_port or UNKNOWN, *client, *server, first_side
        )
        stacks.append(known.setdefault(stack, stack))
    return stacks


def _constant(values: np.ndarray, window: np.ndarray, num_windows: int) -> np.ndarray:
    """Return (W,) int64: the value that all of a window's packets have, else UNKNOWN."""
    least, most = np.full(num_windows, 1 << 16), np.full(num_windows, UNKNOWN)
    np.minimum.at(least, window, values)
    np.maximum.at(most, window, values)
    return np.where(least == most, most, UNKNOWN)


def _host(
    row: np.void, lifetime: int, dont_fragment: int, traffic_class: int, is_syn: bool
) -> tuple[int, int, int, str, int]:
    """Return the attributes of a host in a FlowStack, from its first packet."""
    options, window = NO_SYN, UNKNOWN
    if is_syn:
        header = row["transport"]
        options = options_text(header[TCP_OPT : row["transport_len"]].tobytes())
        window = int(words16(header[None], TCP_WSIZE)[0])
    return lifetime or UNKNOWN, dont_fragment, traffic_class, options, window


def disclosed_stacks(stacks: Sequence[FlowStack]) -> list[StackCount]:
    """Return the stacks that several flows share, with those of other flows counted as the nearest
    of the same IP version and transport, and of the same server's port if it has such.

    A stack that a single flow has is first compared without its windows, which are then UNKNOWN. If
    flows of an IP version, transport and server's port share no stack, a single one stands for
    them, of the values that several share.

    Args:
        stacks: of all flows, with their headers; those whose headers name no transport are
            left out.

    Returns:
        sorted; each of at least MIN_FLOWS_DISCLOSED flows.
    """
    groups: dict[tuple[int, int], list[FlowStack]] = {}
    for stack in as_planned(stacks):
        if all(stack.protocols):
            groups.setdefault(stack.protocols, []).append(stack)
    counts: list[StackCount] = []
    for group in groups.values():
        counts += [StackCount(*stack, flows) for stack, flows in _disclosed(group).items()]
    return sorted(counts)


def as_planned(stacks: Sequence[FlowStack]) -> list[FlowStack]:
    """Return the stacks of a service's flows as plans may have them: only what is possible, and of
    clients' ports only those that are not chosen anew for each flow."""
    possible = {stack: _possible(stack) for stack in set(stacks)}
    planned = [possible[stack] for stack in stacks]
    flows = Counter((stack.protocols, stack.client_port) for stack in planned)
    return [
        stack
        if stack.client_port < FIRST_DYNAMIC_PORT
        and flows[stack.protocols, stack.client_port] >= MIN_FLOWS_DISCLOSED
        else stack._replace(client_port=UNKNOWN)
        for stack in planned
    ]


def _possible(stack: FlowStack) -> FlowStack:
    """Return a stack without an answer to a SYN that the SYN does not allow, or without anything
    known if something else in it is impossible."""
    for candidate in (stack, stack._replace(server_options=UNKNOWN_OPTIONS)):
        try:
            check_stack(candidate)
        except ValueError:
            continue
        return candidate
    return unknown_stack(stack.headers)


def _disclosed(stacks: Sequence[FlowStack]) -> dict[FlowStack, int]:
    """Return flows by disclosed stack, of stacks of one IP version and transport."""
    table, rare = _shared(Counter(stacks))
    coarse: Counter[FlowStack] = Counter()
    for stack, flows in rare.items():
        coarse[stack._replace(**dict.fromkeys(_WINDOWS, UNKNOWN))] += flows
    more, rare = _shared(coarse)
    table.update(more)
    ranked = sorted(table.items(), key=lambda item: (-item[1], item[0]))
    table = dict(ranked[:_MOST_STACKS])
    rare.update(dict(ranked[_MOST_STACKS:]))
    added = _add_ports(table, stacks)
    rare = Counter({stack: n for stack, n in rare.items() if stack.server_port not in added})
    if not table:
        common = _common_stack(stacks)
        return {common: len(stacks)} if len(stacks) >= MIN_FLOWS_DISCLOSED else {}
    kept = list(table)
    codes = _codes([*kept, *rare])
    port = FlowStack._fields.index("server_port")
    for code, flows in zip(codes[len(kept) :], rare.values(), strict=True):
        # Those kept are in order of their flows, so that the first of the nearest has the most.
        differs = codes[: len(kept)] != code
        apart = differs.sum(axis=1) + differs[:, port] * len(FlowStack._fields)
        table[kept[int(apart.argmin())]] += flows
    return table


def _add_ports(table: dict[FlowStack, int], stacks: Sequence[FlowStack]) -> set[int]:
    """Add to disclosed stacks one for each server's port that several flows have and none of them;
    return these ports."""
    known = {stack.server_port for stack in table}
    by_port: dict[int, list[FlowStack]] = {}
    for stack in stacks:
        if stack.server_port not in known:
            by_port.setdefault(stack.server_port, []).append(stack)
    added = set()
    for port, of_port in by_port.items():
        if len(of_port) >= MIN_FLOWS_DISCLOSED and len(table) < _MOST_STACKS:
            common = _common_stack(of_port)
            table[common] = table.get(common, 0) + len(of_port)
            added.add(port)
    return added


def _shared(
    counts: Counter[FlowStack],
) -> tuple[Counter[FlowStack], Counter[FlowStack]]:
    """Return the counts that are disclosed, and the others."""
    shared = Counter({s: flows for s, flows in counts.items() if flows >= MIN_FLOWS_DISCLOSED})
    return shared, Counter({s: flows for s, flows in counts.items() if s not in shared})


def _common_stack(stacks: Sequence[FlowStack]) -> FlowStack:
    """Return a stack of the values that most flows share, UNKNOWN where each has another."""
    headers = Counter(stack.headers for stack in stacks).most_common(1)[0][0]
    common = unknown_stack(headers)
    for name in common._fields[1:]:
        value, flows = Counter(getattr(stack, name) for stack in stacks).most_common(1)[0]
        if flows >= MIN_FLOWS_DISCLOSED:
            common = common._replace(**{name: value})
    return _possible(common)


def _codes(stacks: Sequence[FlowStack]) -> np.ndarray:
    """Return (K, A) int64 that are equal where stacks have equal attributes."""
    columns = [np.unique(column, return_inverse=True)[1] for column in zip(*stacks, strict=True)]
    return np.stack(columns, axis=1)
