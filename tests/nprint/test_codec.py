"""Layouts, the time code, and what `stateful` leaves out."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packet_builders import pcap, read, tcp4, udp4

from netdiff_ray.errors import ConfigError, NprintError
from netdiff_ray.flow_state import AFTER_HOLE, AGAIN, NUM_ACK_LEVELS, PACKET_STATE
from netdiff_ray.nprint import FIELDS, LAYOUTS, decode, encode, layout_named, layout_of_width
from netdiff_ray.nprint.codec import pack
from netdiff_ray.nprint.layouts import STATE_FIELDS, height_for
from netdiff_ray.nprint.statecode import FLOW_BYTES, fill_state_bytes, read_state_bytes
from netdiff_ray.nprint.timecode import CODE_BYTES, level_of, level_of_bytes, nanoseconds_of


def test_widths():
    assert {name: layout.width for name, layout in LAYOUTS.items()} == {
        "nprint": 1408, "nprint-1088": 1088, "stateful": 704,
    }  # fmt: skip
    assert sum(field.width for field in FIELDS) == 1408 + 80


def test_lookups():
    assert layout_of_width(1088) is layout_named("nprint-1088")
    with pytest.raises(NprintError, match=r"no layout has 1,024 columns; widths are 1,408 \(npr"):
        layout_of_width(1024)
    with pytest.raises(ConfigError, match="layout 'x' is not known"):
        layout_named("x")
    assert [height_for(n) for n in (1, 16, 17, 1024)] == [16, 16, 32, 1024]
    with pytest.raises(NprintError, match="1,025 rows do not fit"):
        height_for(1025)


def test_stateful_zeroes_what_only_repair_sets(tmp_path):
    options = b"\x01\x01\x08\x0a" + struct.pack("!II", 0xDEADBEEF, 0xFEEDFACE)
    out = tcp4(0x18, sport=50000, dport=443, options=options)
    back = tcp4(0x18, sport=443, dport=50000, options=options)
    both_low = tcp4(0x18, sport=123, dport=123)
    _, _, rows = read(tmp_path / "c", pcap([out, back, both_low]))
    layout = LAYOUTS["stateful"]
    nprint = encode(
        rows, layout, direction=np.array([0, 1, 0], np.uint8), interarrival_ns=np.zeros(3, np.int64)
    )
    header, direction, _ = decode(nprint, layout)
    ports = [struct.unpack("!HH", t[:4].tobytes()) for t in header["transport"]]
    assert ports == [(0, 443), (443, 0), (123, 123)]
    assert direction.tolist() == [0, 1, 0]
    assert header["transport"][0, 20:32].tobytes() == b"\x01\x01\x08\x0a" + bytes(8)


def test_state_stands_in_columns_at_both_ends(tmp_path):
    _, _, rows = read(tmp_path / "c", pcap([tcp4(0x18), udp4(), tcp4(0x10)]))
    layout = LAYOUTS["stateful"]
    flow = {"direction": np.array([0, 1, 0], np.uint8), "interarrival_ns": np.full(3, 10**6)}
    state = np.array([(AGAIN, 9, 1, 0, 1), (0, 0, 1, 0, 0), (AFTER_HOLE, 1, 0, 1, 0)], PACKET_STATE)
    nprint = encode(rows, layout, **flow, state=state)
    assert {*layout.fields[:3], *layout.fields[-3:]} == set(STATE_FIELDS)
    unlike = encode(rows, layout, **flow, state=np.zeros(3, PACKET_STATE))
    np.testing.assert_array_equal(nprint[:, 24:-24], unlike[:, 24:-24])
    level_9 = [1] * 8 + [0] * 4 + [1] * 4  # 1101 in Gray code
    assert nprint[0, :24].tolist() == [1] * 4 + [0] * 4 + level_9
    assert nprint[2, :24].tolist() == [0] * 4 + [1] * 4 + [0] * 12 + [1] * 4
    assert (nprint[1, :24] == -1).all()
    after = nprint[:, -24:].reshape(3, 3, 8)
    assert (after == after[:, :, :1]).all()
    assert after[:, :, 0].tolist() == [[1, 0, 1], [1, -1, 0], [0, 1, 0]]


def test_a_wrong_cell_of_a_state_is_no_error():
    octets = np.zeros(FLOW_BYTES, np.uint8)
    for level in range(NUM_ACK_LEVELS):
        state = np.array([(level % 3, level, level % 2, 1, 0)], PACKET_STATE)
        fill_state_bytes(octets, state[0])
        for cell in range(8 * FLOW_BYTES):
            wrong = octets.copy()
            wrong[cell // 8] ^= 128 >> cell % 8
            back = np.zeros(1, PACKET_STATE)
            read_state_bytes(wrong, back[0])
            assert back[0] == state[0]


def test_time_levels():
    assert [level_of(ns) for ns in (-5, 0, 999, 1000, 2000, 10**18)] == [0, 0, 0, 1, 9, 255]
    levels = np.arange(256)
    middle = nanoseconds_of(levels)
    assert [level_of(ns) for ns in middle] == levels.tolist()
    assert [level_of(ns) for ns in nanoseconds_of(levels, 0.0)] == levels.tolist()
    assert [level_of(ns) for ns in nanoseconds_of(levels, 0.99)] == levels.tolist()
    assert [level_of_bytes(*code) for code in CODE_BYTES] == levels.tolist()


@settings(deadline=None)
@given(ns=st.integers(1_000, 3_600 * 10**9))
def test_time_is_kept_within_five_per_cent(ns):
    assert nanoseconds_of(np.array(level_of(ns))) == pytest.approx(ns, rel=0.05)


@settings(deadline=None)
@given(level=st.integers(0, 255), bit=st.integers(0, 23))
def test_one_wrong_pixel_is_no_error(level, bit):
    code = int.from_bytes(CODE_BYTES[level].tobytes()) ^ (1 << bit)
    assert level_of_bytes(*code.to_bytes(3)) == level


def test_neighbouring_levels_differ_in_three_columns():
    bits = np.unpackbits(CODE_BYTES, axis=1)
    assert (np.abs(np.diff(bits.astype(int), axis=0)).sum(axis=1) == 3).all()


def test_encode_writes_into_the_buffer_it_is_given(tmp_path):
    _, _, rows = read(tmp_path / "c", pcap([tcp4(0x02)] * 3))
    layout = LAYOUTS["nprint"]
    buffer = np.full((5, layout.width), 9, np.int8)
    nprint = encode(rows, layout, out=buffer)
    assert nprint.base is buffer
    assert (buffer[3:] == 9).all()
    np.testing.assert_array_equal(nprint, encode(rows, layout))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_packed_words_hold_the_cells(layout, tmp_path):
    packets = [tcp4(0x02), tcp4(0x18, b"data", options=bytes([1, 1, 8, 10]) + b"12345678"), udp4()]
    _, _, rows = read(tmp_path / "c", pcap(packets))
    flow = {"direction": np.array([0, 1, 0], np.uint8), "interarrival_ns": np.array([0, 9000, 7])}
    nprint = encode(rows, layout, **flow)
    words = pack(rows, layout, **flow)
    np.testing.assert_array_equal(words & 255, np.packbits(nprint == 1, axis=1))
    np.testing.assert_array_equal(words >> 8, np.packbits(nprint == -1, axis=1))
