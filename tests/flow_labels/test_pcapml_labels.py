"""Captures of pcapML: labels in the comments of packets, times in two halves."""

import struct

import pytest
from label_builders import S_NS, made_flows, right_share_in
from packet_builders import block, enhanced, interface, section

from netdiff_ray.errors import DataError
from netdiff_ray.flow_labels.pcapml import label_of
from netdiff_ray.flow_labels.read import read_labels
from netdiff_ray.packets import CaptureReader

FLOWS = made_flows(60)


def labelled(flows, order="<", comment="{number},{label}", *, in_halves=True):
    """Return a pcapng of the flows' packets, their sample id and label in comments."""
    parts = [section(order), interface(order=order)]
    packets = sorted((*p, k) for k, flow in enumerate(flows) for p in flow.packets())
    for ns, frame, k in packets:
        text = comment.format(number=k, label=flows[k].label).encode()
        high, low = ns // S_NS, ns % S_NS // 1000
        if not in_halves:
            high, low = divmod(ns // 1000, 1 << 32)
        head = struct.pack(order + "IIIII", 0, high, low, len(frame), len(frame))
        options = struct.pack(order + "HH", 4, 2) + b"xx\0\0"  # another option before it
        options += struct.pack(order + "HH", 1, len(text)) + text + bytes(-len(text) % 4)
        options += bytes(4)
        parts.append(block(6, head + frame + bytes(-len(frame) % 4) + options, order))
    return b"".join(parts)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("in_halves", [True, False])
def test_flows_have_the_labels_of_their_packets_comments(tmp_path, order, in_halves):
    path = tmp_path / "a.pcapng"
    path.write_bytes(labelled(FLOWS, order, in_halves=in_halves))
    table = read_labels([str(path)])
    assert len(table) == 4 * len(FLOWS)
    share, choice = right_share_in(path, FLOWS, table, unit_ns=1000)
    assert (share, choice.clock.zone, choice.rivals) == (1.0, "+00:00", [])
    with CaptureReader(path) as reader:
        times = [ns for chunk in reader for ns in chunk.ts_ns.tolist()]
    every = sorted(ns // 1000 * 1000 for flow in FLOWS for ns, _ in flow.packets())
    assert times == every


def test_labels_of_both_kinds_of_comments():
    assert label_of("9003219589747928972,google") == "google"
    assert label_of("12,Web Attack, XSS") == "Web Attack, XSS"
    assert label_of("s=0,proc=curl,dir=lan2wan,dst=example.com") == "curl"
    assert label_of("s=0,label=dns") == "dns"
    assert label_of("") == label_of("no label") == label_of("s=3") == ""


def test_captures_without_labels_and_with_paths_for_labels(tmp_path):
    path = tmp_path / "a.pcapng"
    path.write_bytes(section() + interface() + enhanced(1, FLOWS[0].packets()[0][1]))
    with pytest.raises(DataError, match="no packet has a comment with a label, as pcapML writes"):
        read_labels([str(path)])
    path.write_bytes(labelled(FLOWS[:1]) + labelled(FLOWS[1:2], comment="1,../up"))
    table = read_labels([str(path)])
    assert table.labels == [FLOWS[0].label]
    assert "'../up' is a path, not a name" in str(table.problems[0])
