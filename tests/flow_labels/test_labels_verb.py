"""`netdiff labels`: made captures and label files as researchers have them."""

import json
from dataclasses import replace

import pytest
from label_builders import (
    S_NS,
    capture_of,
    cic_2017,
    clock_text,
    made_flows,
    right_share,
    spans_in,
    swapped_quarter,
)

from netdiff_ray.cli import main
from netdiff_ray.flow_labels.clock import estimate_clock, spans_of_labels
from netdiff_ray.flow_labels.match import match_flows
from netdiff_ray.flow_labels.read import read_labels


@pytest.fixture
def place(tmp_path):
    """Return a folder for captures, of the label `day`, and for label files."""
    (tmp_path / "day").mkdir()
    return tmp_path


def run(place, *arguments, labels="labels.csv"):
    """Return the exit code of `netdiff labels` on the captures and a label file."""
    return main(["labels", str(place / "day"), str(place / labels), "--json", *arguments])


def generic(flows, pattern="%Y-%m-%d %H:%M:%S", hours_ahead=0, head="src,dst,sport,dport,proto"):
    """Return the flows as a CSV with `head`, a start, a duration and a label."""
    rows = [f"{head},start,duration,label"]
    rows += [
        f"{f.src},{f.dst},{f.sport},{f.dport},{f.protocol},"
        f"{clock_text(f.start_ns, pattern, hours_ahead)},{f.duration_ns / S_NS},{f.label}"
        for f in flows
    ]
    return "\n".join(rows).encode()


def test_cic_ids2017_on_a_clock_of_12_hours_three_hours_off(place, capsys):
    flows = made_flows(600)
    share, choice = right_share(place, flows, cic_2017(swapped_quarter(flows)))
    assert share >= 0.99
    assert (choice.clock.zone, choice.clock.hours, choice.rivals) == ("-03:00", 12, [])
    assert run(place) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_flows"] == len(flows) == report["outcomes"]["labelled"]
    hulk = report["labels"]["DoS Hulk"]
    assert hulk["flows"] == hulk["rows_used"] == sum(f.label == "DoS Hulk" for f in flows)
    first = next(k for k, f in enumerate(flows) if "XSS" in f.label) + 2
    assert f"line {first}: not UTF-8, read as Windows-1252" in report["problems"][0]
    assert main(["labels", str(place / "day"), str(place / "labels.csv")]) == 0
    assert "UTC-03:00, on a clock of 12 hours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pattern", "hours_ahead", "zone"),
    [
        ("%d/%m/%Y %H:%M:%S", 5.5, "+05:30"),
        ("%m/%d/%Y %I:%M:%S %p", -3, "-03:00"),
        ("%Y/%m/%d %H:%M:%S.{f}", 2, "+02:00"),
        ("%Y-%m-%dT%H:%M:%S.{f}+0000", 0, "+00:00"),
        ("%s.{f}", 0, "+00:00"),
        ("%d/%m/%Y %H:%M", 1 + 7 / 60, "+01:07"),
    ],
)
def test_the_clock_is_read_off_the_captures(place, monkeypatch, pattern, hours_ahead, zone):
    monkeypatch.setenv("TZ", "UTC")
    flows = made_flows(200)
    share, choice = right_share(place, flows, generic(flows, pattern, hours_ahead))
    assert (share, choice.clock.zone, choice.clock.hours) == (1.0, zone, 24)
    assert choice.doubt() is None


def test_a_zone_with_summer_time_and_one_that_is_none(place, capsys):
    flows = made_flows(40)
    (place / "day/a.pcap").write_bytes(capture_of(flows))
    (place / "labels.csv").write_bytes(generic(flows, hours_ahead=-3))
    assert run(place, "--label-zone", "America/Halifax") == 0  # an hour less in winter
    assert json.loads(capsys.readouterr().out)["outcomes"] == {"labelled": len(flows)}
    assert run(place, "--label-zone", "Halifax") == 2
    assert "'Halifax' is no time zone; write what it is ahead of UTC" in capsys.readouterr().err


def test_two_clocks_that_give_other_labels_have_to_be_confirmed(place, capsys):
    flows = made_flows(60, hours=3, again=100)
    later = [replace(f, start_ns=f.start_ns + 3600 * S_NS, label=f"not {f.label}") for f in flows]
    (place / "day/a.pcap").write_bytes(capture_of(flows))
    (place / "labels.csv").write_bytes(generic(flows + later))
    assert run(place) == 1
    said = capsys.readouterr()
    assert "the labels' clock is ambiguous: UTC+00:00 (60 flows); UTC+01:00 (60 flows)" in said.err
    assert run(place, "--label-zone", "+01:00") == 0
    labels = json.loads(capsys.readouterr().out)["labels"]
    assert labels["not BENIGN"]["flows"] == sum(f.label == "BENIGN" for f in flows)


def test_times_that_match_nothing_tell_the_best_offset(place, capsys):
    flows = made_flows(60)
    (place / "day/a.pcap").write_bytes(capture_of(flows))
    (place / "labels.csv").write_bytes(generic(flows, hours_ahead=24 * 40))
    assert run(place) == 1
    said = capsys.readouterr().err
    assert "match nothing: the best clock is UTC+960:00, 40 days ahead of the captures" in said
    assert run(place, "--label-zone", "+960:00") == 0


def test_flows_and_rows_without_each_other_are_counted_by_reason(place, capsys):
    flows = made_flows(60, again=100)
    (place / "day/a.pcap").write_bytes(capture_of(flows))
    rows = [
        *flows[5:],
        replace(flows[0], start_ns=flows[0].start_ns + 9 * 3600 * S_NS, label="later"),
        replace(flows[5], src="9.9.9.9", label="elsewhere"),
        replace(flows[9], label=""),
        replace(flows[10], label=flows[10].label + "!"),
    ]
    rows.remove(flows[9])
    (place / "labels.csv").write_bytes(generic(rows))
    assert run(place) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["outcomes"] == {
        "labelled": len(flows) - 7, "no row has its endpoints": 4, "its row has no label": 1,
        "its endpoints have rows at other times only": 1,
        "rows of several labels overlap it equally": 1,
    }  # fmt: skip
    assert len(report["ambiguous"]) == 1
    assert report["labels"]["later"]["rows_at_other_times"] == 1
    assert report["labels"]["elsewhere"]["rows_without_flow"] == 1


def test_the_label_that_overlaps_longest_is_taken(place):
    flow = replace(made_flows(1)[0], duration_ns=20 * S_NS)
    cut = [
        replace(flow, duration_ns=4 * S_NS, label="first"),
        replace(flow, start_ns=flow.start_ns + 6 * S_NS, duration_ns=8 * S_NS, label="second"),
        replace(flow, start_ns=flow.start_ns + 15 * S_NS, duration_ns=3 * S_NS, label="first"),
    ]
    (place / "day/a.pcap").write_bytes(capture_of([flow]))
    (place / "labels.csv").write_bytes(generic(cut, "%Y-%m-%d %H:%M:%S.{f}"))
    table = read_labels([str(place / "labels.csv")])
    spans = spans_in(place / "day/a.pcap")
    matches = match_flows(spans, spans_of_labels(table, estimate_clock(spans, table).clock))
    assert table.labels[matches.label[0]] == "second"


@pytest.mark.parametrize("head", ["Alice,Bob,from_port,to_port,what", "a,b,c,d,e"])
def test_columns_that_cannot_be_guessed_are_named(place, capsys, head):
    flows = made_flows(20)
    (place / "day/a.pcap").write_bytes(capture_of(flows))
    (place / "labels.csv").write_bytes(generic(flows, head=head))
    assert run(place) == 2
    said = capsys.readouterr().err
    assert f"labels.csv: cannot tell which columns are src, dst among {head.split(',')[0]}" in said
    assert "GeneratedLabelledFlows" in said
    fields = ("src", "dst", "sport", "dport", "protocol")
    named = [f"{field}={name}" for field, name in zip(fields, head.split(","), strict=True)]
    assert run(place, "--label-columns", *named) == 0
    assert run(place, "--label-columns", "src=nobody") == 2
    assert "no column 'nobody', for src, among" in capsys.readouterr().err
    assert run(place, "--label-columns", "sender=a") == 2
    assert "it must be FIELD=NAME, with a field of src, dst" in capsys.readouterr().err


def test_bad_rows_are_named_by_their_lines(place, capsys):
    flows = made_flows(20)
    lines = generic(flows).decode().splitlines()
    good = lines[1].split(",")
    bad = {
        2: "10.0.0.1,10.0.0.2",
        4: ",".join([*good[:-1], "../../etc"]),
        5: ",".join(["10.0.0.999", *good[1:]]),
        6: ",".join([*good[:4], "arp", *good[5:]]),
        7: ",".join([*good[:5], "soon", *good[6:]]),
        8: ",".join([*good[:2], "99999", *good[3:]]),
        9: ",".join([*good[:-1], "tab\x07"]),
        10: ",,,,,,,",
    }
    for line, text in bad.items():
        lines.insert(line - 1, text)
    (place / "day/a.pcap").write_bytes(capture_of(flows))
    (place / "labels.csv").write_bytes("\n".join(lines).encode())
    assert run(place) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["outcomes"] == {"labelled": len(flows)}
    assert sorted(report["problems"]) == sorted(
        f"labels.csv, line {line}: {what}"
        for line, what in {
            2: "a row cut short: 2 cells of 8",
            4: "the label '../../etc' is a path, not a name",
            5: "an address that is none: '10.0.0.999'",
            6: "a protocol other than TCP, UDP, ICMP, ICMPv6: 'arp'",
            7: "a time that cannot be read: 'soon'",
            8: "a port that is none: '99999'",
            9: "the label 'tab\\x07' holds control characters",
            10: "no addresses",
        }.items()
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty; a table of labels begins with column names"),
        ("src,dst\n".encode("utf-16"), "line 1: it is in UTF-16; save it in UTF-8"),
        (b"src,dst,start,label\nx,y,z,a\n", "no row can be used"),
        (None, "no such file"),
    ],
)
def test_files_that_are_of_no_use(place, capsys, content, words):
    (place / "day/a.pcap").write_bytes(capture_of(made_flows(4)))
    if content is not None:
        (place / "labels.csv").write_bytes(content)
    assert run(place) == 2
    assert words in capsys.readouterr().err
