"""Filters on flows in the words of pcap-filter, and pcapML's label files of them."""

import numpy as np
import pytest
from label_builders import S_NS, MadeFlow, capture_of, spans_in

from netdiff_ray.cli import main
from netdiff_ray.errors import ConfigError, DataError
from netdiff_ray.flow_labels.clock import Clock, estimate_clock, spans_of_labels
from netdiff_ray.flow_labels.filters import both_directions, parse_filter
from netdiff_ray.flow_labels.match import match_flows
from netdiff_ray.flow_labels.outcome import Outcome
from netdiff_ray.flow_labels.read import read_labels

UTC = Clock()
T = 1_700_000_000
FLOWS = [
    MadeFlow("10.0.0.1", "10.0.1.9", 40000, 443, 6, T * S_NS, S_NS, "web"),
    MadeFlow("10.0.0.2", "192.168.7.1", 50000, 53, 17, (T + 10) * S_NS, S_NS, "dns"),
    MadeFlow("10.0.0.1", "192.168.7.1", 0, 0, 1, (T + 20) * S_NS, S_NS, "ping"),
    MadeFlow("10.0.3.3", "10.0.0.2", 8080, 22, 6, (T + 30) * S_NS, 10 * S_NS, "ssh"),
]
"""Each by its position: 0 web, 1 dns, 2 ping, 3 ssh."""


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    path = tmp_path_factory.mktemp("filters") / "a.pcap"
    path.write_bytes(capture_of(FLOWS, late_share=0))
    return path


@pytest.fixture(scope="module")
def spans(capture):
    return spans_in(capture)


def passing(spans, text):
    """Return the positions in FLOWS of the flows that a filter lets pass."""
    directions = both_directions(spans.words)
    passes = np.logical_or(*map(parse_filter(text), directions))
    starts = [flow.start_ns for flow in FLOWS]
    return {starts.index(ns) for ns in spans.start_ns[passes].tolist()}


CASES = {
    "": {0, 1, 2, 3},
    "host 10.0.0.1": {0, 2},
    "10.0.0.1": {0, 2},
    "not host 10.0.0.1": {1, 3},
    "! 10.0.0.1 && ! udp": {3},
    "tcp": {0, 3},
    "icmp or udp": {1, 2},
    "ip": {0, 1, 2, 3},
    "ip6": set(),
    "ip proto 1": {2},
    "proto udp": {1},
    "port 443 or 53": {0, 1},
    "tcp port (443 or 53)": {0},
    "udp dst port 53": {1},
    "portrange 20-80": {1, 3},
    "net 192.168": {1, 2},
    "net 192.168.7.0/24 and not icmp": {1},
    "src and dst net 10": {0, 3},
    "dst net 10.0.0.0 mask 255.255.255.0 and tcp": {0, 3},
    "src host 10.0.0.2 and src port 22": {3},
    "src host 10.0.0.2 and dst port 22": set(),
    "src or dst host 10.0.0.2": {1, 3},
    # Both have equal precedence, from left to right: (port 443 or port 53) and tcp.
    "port 443 or port 53 and tcp": {0},
    "port 443 or (port 53 and udp)": {0, 1},
    "host 10.0.0.2 and not (port 22 or port 80)": {1},
    "not host 10.0.0.1 and 10.0.0.2": {1, 3},
    "port 0": set(),
}


@pytest.mark.parametrize("text", CASES)
def test_filters_let_pass_what_tcpdump_would(spans, text):
    assert passing(spans, text) == CASES[text]


def test_addresses_of_ip_version_6():
    words = np.zeros((2, 5), np.uint64)
    words[:, 0], words[:, 2] = 0x20010DB8 << 32, 0x20010DB8 << 32 | 1
    words[:, 1], words[:, 3] = (1, 2), 5
    words[:, 4] = 40000 << 32 | 443 << 16 | 6 << 8 | 6
    one, _ = both_directions(words)
    assert parse_filter("host 2001:db8::1")(one).tolist() == [True, False]
    assert parse_filter("src net 2001:db8::/64 and tcp port 443")(one).all()
    assert not parse_filter("dst net 2001:db8::/64")(one).any()
    assert not parse_filter("net 0.0.0.0/0")(one).any()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("vlan 7", "'vlan' is no address"),
        ("tcp[13] & 2 != 0", r"'\[' is not expected there"),
        ("host example.com", "'example.com' is no address"),
        ("port http", "'http' is no port"),
        ("port 70000", "'70000' is no port"),
        ("tcp host 10.0.0.1", "'tcp' does not go with 'host'"),
        ("icmp port 7", "'icmp' does not go with 'port'"),
        ("net 10.0.0.1/8", "bits behind its prefix"),
        ("(tcp", "it ends too early"),
        ("tcp and", "it ends too early"),
        ("tcp udp", "'udp' is not expected there"),
        ("less 100", "'less' is no address"),
        ("proto gre", "'gre' is no protocol"),
    ],
)
def test_what_flows_do_not_have_is_refused_in_words(text, what):
    with pytest.raises(DataError, match=what) as caught:
        parse_filter(text)
    assert "filters on flows have host, net, port" in str(caught.value)


LINES = f"""# filters, label, key
BPF:port 443,web,hashme

BPF:host 10.0.0.2 and udp|TS_START:{T}|TS_END:{T + 60},dns
TS_START:{T + 20}|TS_END:{T + 20}|BPF:icmp,ping
BPF:tcp|TS_START:{T + 30}|TS_END:{T + 31},login
BPF:tcp|TS_START:{T + 30}|TS_END:{T + 90},ssh
BPF:tcp,other
BPF:port 9,discard
BPF:udp|TS_START:1|TS_END:2,long ago
"""


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(LINES)
    return path


def test_the_first_filter_that_fits_labels_what_others_leave(spans, labels):
    table = read_labels([str(labels)])
    choice = estimate_clock(spans, table)
    assert (str(choice.clock), choice.doubt(), choice.num_matched) == ("UTC+00:00", None, 4)
    fates = np.ones(len(table), np.uint8)
    matches = match_flows(spans, spans_of_labels(table, choice.clock), fates)
    found = {
        start: table.labels[code]
        for start, code in zip(spans.start_ns.tolist(), matches.label.tolist(), strict=True)
    }
    assert found == {flow.start_ns: flow.label for flow in FLOWS}
    assert fates.tolist() == [0, 0, 0, 0, 0, 0, 1, 2]


def test_time_shared_evenly_is_ambiguous_and_time_without_filter_is_named(spans, tmp_path):
    path = tmp_path / "labels.csv"
    half = f"BPF:port 22|TS_START:{T + 30}|TS_END:{T + 34},a\nBPF:tcp|TS_START:{T + 35},b\n"
    path.write_text(half + f"BPF:icmp|TS_END:{T},early\n")
    matches = match_flows(spans, spans_of_labels(table := read_labels([str(path)]), UTC))
    by_start = dict(zip(spans.start_ns.tolist(), matches.outcome.tolist(), strict=True))
    outcomes = [by_start[flow.start_ns] for flow in FLOWS]
    assert outcomes == [
        Outcome.OTHER_TIME, Outcome.NO_ROW, Outcome.OTHER_TIME, Outcome.AMBIGUOUS
    ]  # fmt: skip
    assert table.labels == ["a", "b", "early"]


def test_the_older_form_is_read_where_it_is_named(spans, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text(f"#label,filter,start,end\nweb,tcp port 443\nrest,,{T},{T + 100}\n")
    table = read_labels([str(path)], form="pcapml")
    matches = match_flows(spans, spans_of_labels(table, UTC))
    codes = dict(zip(spans.start_ns.tolist(), matches.label.tolist(), strict=True))
    assert [table.labels[codes[f.start_ns]] for f in FLOWS] == ["web", "rest", "rest", "rest"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("BPF:tcp", "line 2: a filter and a label are needed"),
        ("BPF:vlan 3,x", "line 2: the filter 'vlan 3': 'vlan' is no address"),
        ("BPF:tcp,../up", "line 2: the label '../up' is a path, not a name"),
        ("BPF:tcp,", "line 2: the label '' is empty"),
        ("BPF:tcp|TS_START:1.5,x", "line 2: the time '1.5' is no whole number of seconds"),
        ("BPF:tcp|TS_START:9|TS_END:3,x", "line 2: it ends at 3 s, before it begins at 9 s"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, what):
    path = tmp_path / "labels.csv"
    path.write_text(f"BPF:udp,a\n{line}\n")
    with pytest.raises(DataError, match=what):
        read_labels([str(path)])


def test_filters_stand_alone_and_have_no_zone(spans, labels, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("src,dst,start,label\n10.0.0.1,10.0.0.2,1700000000,x\n")
    with pytest.raises(ConfigError, match="filters and other labels do not go together"):
        read_labels([str(labels), str(other)])
    with pytest.raises(ConfigError, match="seconds since 1970-01-01 UTC: leave out"):
        estimate_clock(spans, read_labels([str(labels)]), zone="+01:00")


def test_the_verb_reports_filters(capture, labels, capsys):
    assert main(["labels", str(capture), str(labels)]) == 0
    shown = capsys.readouterr().out
    assert "1 captures, 4 flows, 8 label rows" in shown
    assert ["labelled", "4", "1.0000"] in [line.split() for line in shown.splitlines()]
    assert ["ssh", "1", "1", "1", "0", "0"] in [line.split() for line in shown.splitlines()]
