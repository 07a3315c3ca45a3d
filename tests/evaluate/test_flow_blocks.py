"""The common view: the same flows give the same block, whatever they come from."""

import numpy as np
import pyarrow as pa
import pytest
from flow_builders import made_blocks, made_table, made_windows
from packet_builders import pcap, read, tcp4

from netdiff_ray.encoding.windows import METADATA_LAYOUT, encoded_table, unpack
from netdiff_ray.errors import NprintError
from netdiff_ray.evaluate.flow_blocks import (
    blocks_of_table,
    blocks_of_windows,
    complete_flows,
    joined_blocks,
)
from netdiff_ray.evaluate.flow_statistics import FEATURES
from netdiff_ray.evaluate.flow_view import IDENTIFYING, MAX_PACKETS, VIEW, WIDE
from netdiff_ray.fields import FIELD_NAMED
from netdiff_ray.flows import FlowAssembler, assemble_flows
from netdiff_ray.nprint import layout_named
from netdiff_ray.packets.duplicates import without_duplicates


def one(blocks):
    (block,) = joined_blocks(blocks)
    return block


def test_the_view_identifies_nothing():
    assert IDENTIFYING.issubset(FIELD_NAMED)
    assert not IDENTIFYING & set(VIEW.fields)
    words = ("sprt", "dprt", "sport", "dport", "src", "dst", "_id", "cksum", "seq", "ackn", "roh")
    assert not [n for n in VIEW.fields if n.endswith(words)]
    names = [WIDE.column_names[k] for k in WIDE.indices(VIEW.fields)]
    assert tuple(names) == VIEW.column_names


def test_features_by_hand(tmp_path):
    # 40 bytes of headers and payloads of 0, 10, 60; times 0, 1 and 3 s; the answer is second.
    back = {"source": "10.0.0.2", "target": "10.0.0.1", "sport": 80, "dport": 1000}
    packets = [(0, 0, tcp4(2)), (1, 0, tcp4(0x12, bytes(10), **back)),
               (3, 0, tcp4(0x18, bytes(60)))]  # fmt: skip
    reader, _, rows = read(tmp_path / "c.pcap", pcap(packets))
    block = one(blocks_of_windows(list(assemble_flows([rows], reader.fingerprint)), "web"))
    found = dict(zip(FEATURES, block.features[0], strict=True))
    wanted = {
        "packets": 3, "packets_up": 2, "packets_down": 1, "bytes": 190, "bytes_up": 140,
        "bytes_down": 50, "duration_s": 3, "iat_mean_s": 1.5, "iat_std_s": 0.5**0.5, "iat_max_s": 2,
        "size_mean": 190 / 3, "size_max": 100, "size_up_mean": 70, "size_up_max": 100,
        "size_down_mean": 50, "size_down_max": 50, "flags_syn": 2, "flags_ack": 2, "flags_psh": 1,
        "flags_fin": 0,
    }  # fmt: skip
    assert {k: found[k] for k in wanted} == pytest.approx(wanted)
    assert found["size_std"] == pytest.approx(np.std([40, 50, 100], ddof=1))


@pytest.mark.parametrize("layout", ["nprint", "nprint-1088", "stateful"])
def test_tables_and_captures_give_the_same(tmp_path, layout):
    captures = one(made_blocks(tmp_path, 20, 1))
    table = one(blocks_of_table(made_table(tmp_path, 20, 1, layout)))
    np.testing.assert_array_equal(captures.bits, table.bits)
    np.testing.assert_array_equal(captures.key, table.key)
    np.testing.assert_array_equal(captures.content, table.content)
    np.testing.assert_allclose(captures.features, table.features)
    assert captures.label.tolist() == table.label.tolist()
    assert bool(table.notes) == (layout != "stateful")


def test_windows_of_a_flow_join_in_any_order(tmp_path):
    packets = [(j // 1000, j % 1000 * 1000, tcp4(0x10, bytes(j))) for j in range(300)]
    reader, _, rows = read(tmp_path / "c.pcap", pcap(packets))
    whole = list(assemble_flows([rows], reader.fingerprint))
    parts = list(assemble_flows([rows], reader.fingerprint, height=16))
    block = one(blocks_of_windows(whole, "web"))
    assert len(block.bits) == MAX_PACKETS
    assert block.features[0, FEATURES.index("packets")] == 300
    assert len(block) == len(one(blocks_of_windows(parts, "web"))) == 1
    np.testing.assert_array_equal(block.features, one(blocks_of_windows(parts, "web")).features)


def test_flows_are_given_out_as_they_end(tmp_path):
    # One flow goes on through the capture, others end beside it; windows of 16 packets.
    def packet(k):
        other = tcp4(2, source=f"10.1.{k // 50}.1", sport=2000 + k // 5)
        return (k, 0, tcp4(0x10, bytes(k % 7)) if k % 2 else other)

    reader, _, rows = read(tmp_path / "c.pcap", pcap([packet(k) for k in range(1000)]))
    assembler = FlowAssembler(reader.fingerprint, height=16)
    batches = []
    for begin in range(0, len(rows), 90):
        assembler._threshold = 1  # windows as soon as there are any
        windows = assembler.add(rows[begin : begin + 90])
        batches += [windows] if windows is not None else []
    batches.append(assembler.finish())
    lists = list(complete_flows(batches))
    assert len(lists) > 5
    of_list = [{i for w in windows for i in w.flow_id} for windows in lists]
    assert sum(map(len, of_list)) == len(set().union(*of_list))
    ours = one(block for windows in lists for block in blocks_of_windows(windows, "web"))
    theirs = one(blocks_of_windows(batches, "web"))
    order = np.argsort(ours.key), np.argsort(theirs.key)
    np.testing.assert_array_equal(ours.content[order[0]], theirs.content[order[1]])
    np.testing.assert_allclose(ours.features[order[0]], theirs.features[order[1]])


def test_rows_of_a_table_in_any_order(tmp_path):
    table = made_table(tmp_path, 20, 1)
    split = made_table(tmp_path, 20, 1, height=16)
    mixed = split.take(np.random.default_rng(0).permutation(len(split)))
    ours, theirs = one(blocks_of_table(table)), one(blocks_of_table(mixed))
    order = np.argsort(ours.key), np.argsort(theirs.key)
    np.testing.assert_allclose(ours.features[order[0]], theirs.features[order[1]])
    np.testing.assert_array_equal(ours.content[order[0]], theirs.content[order[1]])


def test_a_table_of_a_layout_that_is_gone_is_refused(tmp_path):
    table = made_table(tmp_path, 2, 1)
    older = table.replace_schema_metadata({METADATA_LAYOUT: "timed"})
    with pytest.raises(NprintError, match=r"layout 'timed' is not known.*encode the capt"):
        list(blocks_of_table(older))


def test_cells_are_compared_as_they_were_drawn(tmp_path):
    table = made_table(tmp_path, 5, 1)
    layout = layout_named("stateful")
    spoilt = unpack(table["nprint"][0].as_py(), layout)
    spoilt[0, layout.columns("flow_same_gap")] ^= 1  # not in the view
    spoilt[0, layout.columns("tcp_urp")] = -1
    planes = [np.packbits(spoilt == value, axis=1).tobytes() for value in (1, -1)]
    packed = pa.array([b"".join(planes), *table["nprint"].to_pylist()[1:]], pa.binary())
    drawn = table.set_column(table.schema.get_field_index("nprint"), "nprint", packed)
    ours, theirs = one(blocks_of_table(table)), one(blocks_of_table(drawn))
    changed = np.unique(np.nonzero(ours.bits != theirs.bits)[1])
    assert changed.tolist() == VIEW.indices(["tcp_urp"]).tolist()


def test_flows_without_their_beginning_are_left_out(tmp_path):
    packets = [(j, 0, tcp4(0x10, bytes(j))) for j in range(40)]
    reader, _, rows = read(tmp_path / "c.pcap", pcap(packets))
    (windows,) = assemble_flows([rows], reader.fingerprint, height=16)
    table = pa.concat_tables(
        [
            encoded_table(windows, layout_named("stateful"), label="web", capture="c").slice(1),
            made_table(tmp_path, 5, 1, labels=("chat",)),
        ]
    )
    block = one(blocks_of_table(table))
    assert len(block) == 5
    assert block.notes == ("1 flows without their first window left out",)


def test_small_blocks_are_gathered(tmp_path):
    blocks = made_blocks(tmp_path, 5, 1)
    block = one(blocks)
    assert len(block) == 15
    np.testing.assert_array_equal(block.bits, np.concatenate([b.bits for b in blocks]))
    assert block.first[-1] == len(block.bits)


def test_an_unknown_layout_is_said(tmp_path):
    table = made_table(tmp_path, 2, 1).replace_schema_metadata({b"netdiff:layout": b"mine"})
    with pytest.raises(NprintError, match="layout 'mine' is not known; layouts are"):
        list(blocks_of_table(table))


def test_no_windows_give_no_blocks(tmp_path):
    (windows,) = made_windows(tmp_path, "web", 0, 1)
    assert list(blocks_of_windows([windows], "web")) == []


def test_flows_that_were_captured_twice_are_compared_as_captured(tmp_path):
    packets = []
    for k in range(6):
        frame = bytearray(tcp4(0x18 if k else 2, bytes(k), sport=1000 + k))
        packets.append((0, 1_000 * k, bytes(frame)))
        frame[14 + 8] -= 1
        packets.append((0, 1_000 * k + 400, bytes(frame)))
    reader, _, rows = read(tmp_path / "c.pcap", pcap(packets))
    captured = list(assemble_flows([rows], reader.fingerprint))
    alone = list(assemble_flows(without_duplicates([rows]), reader.fingerprint))
    table = pa.concat_tables(
        encoded_table(windows, layout_named("stateful"), label="web", capture="c")
        for windows in alone
    )
    assert set(table["num_packets"].to_pylist()) == {1}
    theirs = one(blocks_of_table(table))
    ours = one(blocks_of_windows(captured, "web", "c"))
    assert len(ours) == 6
    np.testing.assert_array_equal(np.diff(ours.first), 2)
    np.testing.assert_array_equal(ours.bits, theirs.bits)
    np.testing.assert_array_equal(ours.statistics, theirs.statistics)
