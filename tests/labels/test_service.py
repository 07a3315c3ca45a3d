"""Services: what a window's packets say, and which are too rare to stand alone."""

from collections import Counter

import numpy as np
from labels.test_statistics import metadata_of
from packet_builders import pcap, read, tcp4
from tiny_models import made_rows, made_windows

from netdiff_ray.flows import FlowAssembler
from netdiff_ray.header_bytes import ACK, DPORT, IPPROTO_ICMP, IPPROTO_UDP, SPORT, SYN
from netdiff_ray.labels.adapter_metadata import service_statistics
from netdiff_ray.labels.counts import LabelCounts, folding_of
from netdiff_ray.labels.flow_plan import plan_flow, plan_service
from netdiff_ray.labels.service import (
    MIN_SERVICE_FLOWS,
    LabelService,
    flow_services,
    fold_rare_services,
    window_services,
)
from netdiff_ray.labels.statistics import describe


def test_the_port_is_that_of_the_server_whoever_speaks_first():
    rng = np.random.default_rng(1)
    rows, direction, _ = made_rows(9, 8443, 64, rng)
    udp, udp_direction, _ = made_rows(4, 53, 64, rng)
    udp["protocol"] = IPPROTO_UDP
    udp_direction[0] = 1
    udp["transport"][0, SPORT : SPORT + 2] = (0, 53)
    udp["transport"][0, DPORT : DPORT + 2] = (192, 1)
    every = np.concatenate([rows, udp])
    directions = np.concatenate([direction, udp_direction])
    assert window_services(every, directions, np.array([0, 5, 9, 13])) == [
        "tcp-8443", "tcp-8443", "udp-53",
    ]  # fmt: skip


def test_packets_without_ports_are_icmp_or_other():
    rows, direction, _ = made_rows(3, 80, 64, np.random.default_rng(1))
    rows["transport_len"] = 0
    assert window_services(rows, direction, np.array([0, 3])) == ["other"]
    rows["protocol"] = IPPROTO_ICMP
    assert window_services(rows, direction, np.array([0, 3])) == ["icmp"]
    rows["protocol"][2], rows["transport_len"][2] = IPPROTO_UDP, 8
    assert window_services(rows, direction, np.array([0, 3])) == ["udp-80"]


def test_rare_services_are_one_for_each_transport():
    flows = {
        LabelService("a", "tcp-443"): MIN_SERVICE_FLOWS,
        LabelService("a", "tcp-80"): MIN_SERVICE_FLOWS - 1,
        LabelService("a", "udp-53"): 1,
        LabelService("b", "tcp-443"): 2,
        LabelService("b", "icmp"): 1,
    }
    assert [key.service for key in fold_rare_services(flows, {}).values()] == [
        "tcp-443", "tcp-other", "udp-other", "tcp-other", "icmp",
    ]  # fmt: skip


def test_flows_captured_from_their_middle_on_are_told_apart_where_there_are_enough():
    enough, few = MIN_SERVICE_FLOWS, MIN_SERVICE_FLOWS - 1
    flows = {
        LabelService("a", "tcp-80"): enough,
        LabelService("a", "tcp-80-midstream"): enough,
        LabelService("a", "tcp-443"): enough,
        LabelService("a", "tcp-443-midstream"): few,
        LabelService("a", "tcp-502-midstream"): enough,
        LabelService("a", "tcp-22"): few,
        LabelService("a", "tcp-22-midstream"): few,
        LabelService("a", "tcp-23-midstream"): 1,
    }
    assert [key.service for key in fold_rare_services(flows, {}).values()] == [
        "tcp-80", "tcp-80-midstream", "tcp-443", "tcp-443", "tcp-502", "tcp-22", "tcp-22",
        "tcp-other",
    ]  # fmt: skip


def test_all_windows_of_a_flow_are_of_its_service(tmp_path):
    opened = [tcp4(SYN if k == 0 else ACK, sport=1000, seq=k) for k in range(40)]
    later = [tcp4(ACK, sport=2000, seq=k) for k in range(40)]
    reader, _, rows = read(tmp_path / "c.pcap", pcap([*opened, *later]))
    assembler = FlowAssembler(reader.fingerprint, height=16, release_packets=24)
    open_flows: dict[str, str] = {}
    services: dict[str, set[str]] = {}
    batches = [assembler.add(rows[k : k + 10]) for k in range(0, len(rows), 10)]
    batches = [batch for batch in (*batches, assembler.finish()) if batch is not None]
    assert len(batches) > 2
    for batch in batches:
        for flow, service in zip(batch.flow_id, flow_services(batch, open_flows), strict=True):
            services.setdefault(flow, set()).add(service)
    assert sorted(map(sorted, services.values())) == [["tcp-80"], ["tcp-80-midstream"]]
    assert not open_flows


def test_rare_services_that_speak_the_same_are_one():
    ports = {"udp-5060": 2, "udp-5062": 1, "udp-9000": 2, "tcp-5060": 2, "udp-7": 1}
    flows = {LabelService("a", service): n for service, n in ports.items()}
    flows[LabelService("a", "udp-9002")] = MIN_SERVICE_FLOWS
    spoken = {"udp-5060": "sip", "udp-5062": "sip", "udp-9000": "rtp", "udp-9002": "rtp",
              "tcp-5060": "sip"}  # fmt: skip
    kinds = {LabelService("a", service): kind for service, kind in spoken.items()}
    assert [key.service for key in fold_rare_services(flows, kinds).values()] == [
        "udp-sip", "udp-sip", "udp-other", "tcp-other", "udp-other", "udp-9002",
    ]  # fmt: skip


def test_what_a_service_speaks_is_what_most_of_its_flows_do():
    counts = {
        LabelService("a", "udp-5060"): LabelCounts(
            flow_packets=Counter(w=2, x=2, y=2, z=2),
            kinds={"w": "opaque", "x": "opaque", "y": "sip", "z": "sip"},
        ),
        LabelService("a", "udp-9000"): LabelCounts(
            flow_packets=Counter(s=2, t=2, u=2), kinds={"s": "text", "t": "text"}
        ),
    }
    assert [key.service for key in folding_of(counts).values()] == ["udp-sip", "udp-other"]


def test_flows_have_the_services_of_their_label_in_proportion():
    metadata = metadata_of(describe(made_windows(per_label=10)))
    planned = [plan_service(metadata, "chat", 3, k) for k in range(2000)]
    assert planned == [plan_flow(metadata, "chat", 3, k).service for k in range(2000)]
    assert 150 < planned.count("tcp-other") < 250
    assert set(planned) == {"tcp-443", "tcp-other"}
    assert service_statistics(metadata, "chat", "tcp-443").num_flows == 9
