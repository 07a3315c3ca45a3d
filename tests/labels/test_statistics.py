"""Statistics of labels: aggregates, and nothing of a lone flow."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_models import LABELS, made_windows

from netdiff_ray.errors import ConfigError, ModelError
from netdiff_ray.labels.adapter_metadata import (
    AdapterMetadata,
    label_statistics,
    metadata_from_json,
    metadata_to_json,
)
from netdiff_ray.labels.counts import count_windows, fold_counts, folding_of, merge_counts
from netdiff_ray.labels.flow_plan import plan_flow, seed_of
from netdiff_ray.labels.labelled_windows import LabelledWindows
from netdiff_ray.labels.length_bins import LengthBin
from netdiff_ray.labels.statistics import (
    KindCount,
    by_label,
    describe,
    describe_counts,
    most_option_octets,
    services_of,
)
from netdiff_ray.nprint.layouts import layout_named


def metadata_of(labels) -> AdapterMetadata:
    return AdapterMetadata(
        base="b", revision=None, base_digest="0", layout="stateful", max_height=32,
        prompt="{label}", labels=labels, trained={}, version="0",
    )  # fmt: skip


def test_kinds_of_several_flows_are_counted_and_planned():
    windows = made_windows(per_label=9)
    spoken = {1: "http", 2: "", **dict.fromkeys(range(3, 9), "tls"), 0: "ssh"}
    kinds = [spoken[int(flow.rpartition("-")[2])] for flow in windows.flow]
    labels = describe(dataclasses.replace(windows, kind=kinds))
    metadata = metadata_of(labels)
    text = json.dumps(metadata_to_json(metadata))
    assert metadata_from_json(text, "here") == metadata
    for label in LABELS:
        services = labels[label].services
        assert services["tcp-443"].kinds == [KindCount(443, "tls", 6)]
        assert services["tcp-other"].kinds == []
        plans = [plan_flow(metadata, label, 1, index) for index in range(30)]
        assert {plan.kind for plan in plans if plan.service == "tcp-443"} == {"tls"}
        assert {plan.kind for plan in plans if plan.service == "tcp-other"} <= {""}
    known = labels[LABELS[0]].services["tcp-443"]
    with pytest.raises(ValueError, match="1 flows speak 'tls'"):
        dataclasses.replace(known, kinds=[KindCount(443, "tls", 1)])


def test_flows_lengths_and_stacks_are_counted():
    windows = made_windows(per_label=9)
    statistics = describe(windows)
    assert list(statistics) == sorted(LABELS)
    for number, label in enumerate(LABELS):
        of_label = statistics[label]
        assert of_label.num_flows == 9
        assert of_label.num_windows == sum(of == label for of in windows.label)
        assert list(of_label.services) == ["tcp-443", "tcp-other"]
        for service, flows in (("tcp-443", 8), ("tcp-other", 1)):
            of_service = of_label.services[service]
            assert list(of_service.lengths) == ["ipv4 tcp"]
            assert sum(length.flows for length in of_service.lengths["ipv4 tcp"]) == flows
            assert sum(row.flows for row in of_service.stacks) == (flows if flows > 1 else 0)
            for row in of_service.stacks:
                assert (row.headers, row.server_port, row.client_port) == ("ipv4 tcp", 443, -1)
                assert (row.client_lifetime, row.server_lifetime) == (64, 50 + number)
            assert sum(of_service.heights.values()) == of_service.num_windows
            rows = sum(
                len(nprint)
                for nprint, *key in zip(windows.nprint, windows.label, windows.service, strict=True)
                if key == [label, "tcp-443" if flows > 1 else f"tcp-{9000 + number}"]
            )
            assert sum(row.packets for row in of_service.profile.levels) == rows
            assert of_service.tcp_options == {"0": rows}


def test_the_longest_options_are_those_of_the_service_that_has_the_longest():
    plain = list(services_of(describe(made_windows(per_label=9))).values())
    assert most_option_octets(plain) == 0

    def with_options(*of):
        return [
            dataclasses.replace(service, tcp_options=options)
            for options, service in zip(of, plain, strict=False)
        ]

    assert most_option_octets(with_options({})) == 0
    assert most_option_octets(with_options({"12": 990, "20": 5, "36": 5})) == 20
    assert most_option_octets(with_options({"12": 991, "20": 4, "36": 5})) == 12
    assert most_option_octets(with_options({"12": 990, "36": 9}, {"28": 1})) == 28


def test_a_port_of_a_single_flow_is_not_disclosed():
    statistics = describe(made_windows(per_label=9))
    stacks = [row for service in services_of(statistics).values() for row in service.stacks]
    assert {row.server_port for row in stacks} == {443}


def test_a_layout_without_time_takes_it_from_its_column():
    made = made_windows(per_label=4)
    lengths = [len(nprint) for nprint in made.nprint]
    layout = layout_named("nprint-1088")
    plain = LabelledWindows(
        nprint=[np.zeros((n, layout.width), np.int8) for n in lengths], label=made.label,
        service=["other"] * len(lengths), flow=made.flow, window=made.window, layout=layout,
        direction=[np.ones(n, np.uint8) for n in lengths],
        interarrival_ns=[np.full(n, 2000) for n in lengths],
    )  # fmt: skip
    profile = describe(plain)["chat"].services["other"].profile
    rows = sum(n for n, of in zip(lengths, made.label, strict=True) if of == "chat")
    assert {(row.side, row.level) for row in profile.levels} == {(1, 9)}
    assert sum(row.packets for row in profile.levels) == rows


def test_flows_in_which_only_the_client_sends_are_counted_apart():
    windows = made_windows(per_label=9)
    direction = [np.zeros(len(nprint), np.uint8) for nprint in windows.nprint]
    alone = LabelledWindows(**{**vars(windows), "direction": direction})
    for of_label in describe(alone).values():
        for service in of_label.services.values():
            assert service.lengths == {}
            assert sum(n.flows for n in service.one_way_lengths["ipv4 tcp"]) == service.num_flows
            assert {row.one_way for row in service.stacks} <= {1}
    for of_label in describe(windows).values():
        for service in of_label.services.values():
            assert service.one_way_lengths == {}
            assert {row.one_way for row in service.stacks} <= {0}


def test_drawn_lengths_follow_the_labels_own():
    rng = np.random.default_rng(0)
    lengths = np.minimum(1 + rng.geometric(0.03, 400), 300)
    layout = layout_named("stateful")
    windows = LabelledWindows(
        nprint=[np.zeros((n, layout.width), np.int8) for n in lengths],
        label=["x"] * 400, service=["other"] * 400, flow=[str(k) for k in range(400)],
        window=[0] * 400, layout=layout,
    )  # fmt: skip
    metadata = dataclasses.replace(metadata_of(describe(windows)), max_height=1024)
    drawn = [plan_flow(metadata, "x", 0, k).num_packets for k in range(2000)]
    grid = np.arange(400)
    real_share = np.searchsorted(np.sort(lengths), grid, side="right") / 400
    drawn_share = np.searchsorted(np.sort(drawn), grid, side="right") / 2000
    assert np.abs(real_share - drawn_share).max() < 0.05


def test_headers_are_those_of_most_packets_and_lengths_go_with_them():
    layout = layout_named("stateful")
    rng = np.random.default_rng(3)
    flows = [(("ipv4", "tcp"), 9)] * 30 + [(("ipv6", "icmp"), 2)] * 10 + [(("ipv6",), 4)] * 5
    flows += [(("ipv6", "tcp", "tcp_opt"), 5)] * 20
    nprints = []
    for headers, packets in flows:
        nprint = np.full((packets, layout.width), -1, np.int8)
        here = layout.columns_of(("flow", *headers), options=False)
        options = layout.columns("tcp_opt").start + np.arange(96)
        here[options] = "tcp_opt" in headers
        nprint[:, here] = rng.integers(0, 2, (packets, here.sum()))
        for name, bits in (("ipv4_ver", (0, 1, 0, 0)), ("ipv6_ver", (0, 1, 1, 0))):
            if name[:4] in headers:
                nprint[:, layout.columns(name)] = bits
        nprint[:, layout.columns("flow_direction")] = np.arange(packets)[:, None] % 2
        if "tcp" in headers:  # a handshake has options in any flow
            nprint[:, layout.columns("tcp_syn")] = 0
            nprint[:2, layout.columns("tcp_syn")] = 1
            nprint[:2, options] = 0
            doff = [
                [1, 0, 0, 0] if nprint[k, options[0]] >= 0 else [0, 1, 0, 1] for k in range(packets)
            ]
            nprint[:, layout.columns("tcp_doff")] = doff
        nprints.append(nprint)
    # A single packet of another kind does not make a flow of another kind.
    nprints[0][4] = nprints[30][0]
    ids = [str(k) for k in range(len(flows))]
    windows = LabelledWindows(
        nprint=nprints, label=["x"] * len(flows), service=["other"] * len(flows), flow=ids,
        window=[0] * len(flows), layout=layout,
    )  # fmt: skip
    statistics = describe(windows)
    assert statistics["x"].services["other"].lengths == {
        "": [LengthBin(4, 4, 5)], "ipv4 tcp": [LengthBin(9, 9, 30)],
        "ipv6 icmp": [LengthBin(2, 2, 10)], "ipv6 tcp tcp_opt": [LengthBin(5, 5, 20)],
    }  # fmt: skip
    assert (statistics["x"].fewest_packets, statistics["x"].most_packets) == (2, 9)
    drawn = [plan_flow(metadata_of(statistics), "x", 0, k).samples[0] for k in range(900)]
    assert {(s.headers, s.length) for s in drawn} == {
        ((), 4), (("ipv4", "tcp"), 9), (("ipv6", "icmp"), 2), (("ipv6", "tcp", "tcp_opt"), 5),
    }  # fmt: skip
    assert 340 < sum(s.length == 9 for s in drawn) < 490


def test_metadata_survive_json():
    metadata = metadata_of(describe(made_windows(per_label=3)))
    text = json.dumps(metadata_to_json(metadata))
    restored = metadata_from_json(text, "x")
    assert restored == metadata
    services = services_of(metadata.labels)
    for key, of_service in services_of(restored.labels).items():
        for name in ("payloads", "successions", "windows", "mss", "levels"):
            rows = getattr(of_service.profile, name)
            assert list(map(type, rows)) == list(map(type, getattr(services[key].profile, name)))


def test_parts_of_windows_add_up():
    windows = made_windows(per_label=5)
    parts = []
    for chosen in (slice(None, 7), slice(7, None)):
        columns = {
            name: getattr(windows, name)[chosen] for name in ("nprint", "label", "service", "flow")
        }
        part = LabelledWindows(**columns, window=windows.window[chosen], layout=windows.layout)
        parts.append(count_windows(part, 32))
    counts = merge_counts(parts)
    services = describe_counts(fold_counts(counts, folding_of(counts)))
    assert by_label(services) == describe(windows, 32)


def chat_of(content):
    return content["labels"]["chat"]["services"]["tcp-other"]


def payloads_of(content):
    return chat_of(content)["profile"]["payloads"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda json: json.update(labels=3), "labels: Input should be an object"),
        (
            lambda json: chat_of(json).pop("profile"),
            r"@profile: ",
        ),
        (
            lambda json: chat_of(json).update(num_flows="9"),
            r"@num_flows: .*integer",
        ),
        (
            lambda json: chat_of(json).update(colour=1),
            r"@colour: Unexpected",
        ),
        (
            lambda json: [column.clear() for column in payloads_of(json).values()],
            r"@profile: .*which payloads lack",
        ),
        (
            lambda json: payloads_of(json).pop("flags"),
            r"@profile\.payloads: .*needs the columns transport, packet, side, ",
        ),
        (
            lambda json: payloads_of(json)["flags"].pop(),
            r"@profile\.payloads: .*lists of one length",
        ),
        (
            lambda json: payloads_of(json).update(flags=3),
            r"@profile\.payloads: .*lists of one length",
        ),
        (
            lambda json: payloads_of(json)["flags"].__setitem__(0, "8"),
            r"@profile\.payloads\.0\..*: Input should be a valid integer",
        ),
        (
            lambda json: chat_of(json)["profile"].update(windows=[[0, 0, 501, 2]]),
            r"@profile\.windows: .*needs the columns packet, side, window, flows",
        ),
    ],
)
def test_metadata_edited_by_hand_say_what_is_wrong(change, said):
    content = metadata_to_json(metadata_of(describe(made_windows(per_label=3))))
    change(content)
    said = said.replace("@", r"labels\.chat\.services\.tcp-other\.")
    said = r"x is not an adapter\.json of this version: " + said + r".*\. Train the adapter again"
    with pytest.raises(ModelError, match=said):
        metadata_from_json(json.dumps(content), "x")
    with pytest.raises(ModelError, match=r"of this version: Invalid JSON: EOF"):
        metadata_from_json(b"", "x")


def test_an_unknown_label_is_refused():
    with pytest.raises(ConfigError, match="'who'; it knows chat"):
        label_statistics(metadata_of(describe(made_windows(per_label=1))), "who")


def test_seeds_are_pinned():
    """They decide what a run draws; a change of them would change every dataset."""
    assert seed_of(0, "chat", 0, "noise 0") == 3721228500622399403
    assert 0 <= seed_of(2**40, "ü", 7, "length") < 2**63
