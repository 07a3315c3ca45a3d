"""Services: the transport and server port of a flow.

A label often mixes protocols (an IoT device: DNS, DHCP, TLS), so that prompts, statistics and plans
belong to a label's service, not to the label.

Shape letters: W windows, P packets.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from netdiff_ray.flows import Windows
from netdiff_ray.header_bytes import (
    DPORT,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    SPORT,
    SYN,
    TCP_FLAGS,
    words16,
)

MIN_SERVICE_FLOWS = 6
"""Flows that a service of a label has at least; rarer ones count as `udp-sip`, `tcp-other`, ..."""
MIN_KIND_FLOWS = 3
"""Flows that rare services of a label have at least together that speak the same protocol, to count
as a service."""
OTHER = "other"
"""The service of packets without ports or ICMP type, and the end of the name of rare services."""
MIDSTREAM = "-midstream"
"""End of the name of the service of TCP flows whose first packet is no SYN: what was captured of
them begins in their middle, and so differently."""
_PORT_BYTES = 4


class LabelService(NamedTuple):
    """A service of a label."""

    label: str
    service: str
    """`tcp-443`, `tcp-443-midstream`, `udp-53`, `udp-rtp`, `tcp-other`, `udp-other`, `icmp` or
    `other`."""


def window_services(rows: np.ndarray, direction: np.ndarray, first: np.ndarray) -> list[str]:
    """Return the W services of windows, by the first packet of each that has ports.

    Args:
        rows: (P,) HEADER_ROW, window by window.
        direction: (P,) uint8, 0 from the client.
        first: (W + 1,) first packet of each window, the last element P.
    """
    protocol, transport = rows["protocol"], rows["transport"]
    port = np.where(direction == 1, words16(transport, SPORT), words16(transport, DPORT))
    has_ports = np.isin(protocol, (IPPROTO_TCP, IPPROTO_UDP))
    has_ports &= rows["transport_len"] >= _PORT_BYTES
    at = np.flatnonzero(has_ports)
    index = np.searchsorted(at, first[:-1])
    services = []
    for begin, end, k in zip(first[:-1].tolist(), first[1:].tolist(), index.tolist(), strict=True):
        if k < len(at) and at[k] < end:
            transport_name = "tcp" if protocol[at[k]] == IPPROTO_TCP else "udp"
            services.append(f"{transport_name}-{port[at[k]]}")
        else:
            is_icmp = begin < end and protocol[begin] in (IPPROTO_ICMP, IPPROTO_ICMPV6)
            services.append("icmp" if is_icmp else OTHER)
    return services


def flow_services(windows: Windows, open_flows: dict[str, str]) -> list[str]:
    """Return the services of the flows of W windows, by the first window of each.

    Args:
        windows: of a capture, each flow's in order.
        open_flows: services of flows of which windows have come and others may come, by their ids;
            brought up to date.
    """
    services = window_services(windows.rows, windows.direction, windows.first)
    firsts = windows.rows[windows.first[:-1]]
    begins = (firsts["protocol"] == IPPROTO_TCP) & (firsts["transport_len"] > TCP_FLAGS)
    begins &= firsts["transport"][:, TCP_FLAGS] & SYN == 0
    for k, flow in enumerate(windows.flow_id):
        if windows.window[k]:
            services[k] = open_flows.get(flow, services[k])
        elif begins[k]:
            services[k] += MIDSTREAM
        if windows.is_last[k]:
            open_flows.pop(flow, None)
        else:
            open_flows[flow] = services[k]
    return services


def fold_rare_services(
    flows: Mapping[LabelService, int], kinds: Mapping[LabelService, str]
) -> dict[LabelService, LabelService]:
    """Return the service that each service of a label counts as.

    Flows that begin in their middle are a service of their own if these and the others each have
    MIN_SERVICE_FLOWS. Services of fewer flows count as what they speak (`udp-rtp`), if those
    of the transport that speak it have MIN_KIND_FLOWS together; else as `tcp-other` or `udp-other`.

    Args:
        flows: number of flows by service.
        kinds: what most of a service's flows speak; services of which it is not known are missing.
    """
    names = {key: _whole(key, flows) for key in flows}
    together: Counter[LabelService] = Counter()
    for key, number in flows.items():
        together[names[key]] += number
    spoken_by = {names[key]: kinds[key] for key in sorted(kinds, key=flows.__getitem__)}
    folding = _fold_rare(together, spoken_by)
    return {key: folding[name] for key, name in names.items()}


def _whole(key: LabelService, flows: Mapping[LabelService, int]) -> LabelService:
    """Return the service without regard to where its flows begin, unless that tells enough flows
    apart."""
    whole = LabelService(key.label, key.service.removesuffix(MIDSTREAM))
    midstream = LabelService(key.label, whole.service + MIDSTREAM)
    fewest = min(flows.get(whole, 0), flows.get(midstream, 0))
    return whole if fewest < MIN_SERVICE_FLOWS else key


def _fold_rare(
    flows: Mapping[LabelService, int], kinds: Mapping[LabelService, str]
) -> dict[LabelService, LabelService]:
    """Return the service that each counts as, if fewer than MIN_SERVICE_FLOWS flows have it."""
    folding = {key: key for key in flows}
    rare = [key for key in flows if flows[key] < MIN_SERVICE_FLOWS and "-" in key.service]
    spoken: Counter[LabelService] = Counter()
    for key in rare:
        folding[key] = _on_transport(key, kinds.get(key, OTHER))
        spoken[folding[key]] += flows[key]
    for key in rare:
        if spoken[folding[key]] < MIN_KIND_FLOWS:
            folding[key] = _on_transport(key, OTHER)
    return folding


def _on_transport(key: LabelService, name: str) -> LabelService:
    """Return the service of a name with the transport of another service."""
    return LabelService(key.label, f"{key.service.partition('-')[0]}-{name}")
