"""Windows by kinds of hosts: the scale that they use and how large their first window is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labels.stack_builders import LINUX, PLAIN
from packet_builders import pcap, read, tcp4

from netdiff_ray.flows import assemble_flows
from netdiff_ray.header_bytes import ACK, SYN
from netdiff_ray.labels.window_kinds import (
    ANY_OCTAVE,
    MOST_OCTAVE,
    NUM_KINDS,
    UNOPENED,
    coarser_kind,
    window_kind,
    window_kinds,
    window_octave,
)

CLIENT = {"sport": 40_000, "dport": 443}
SERVER = {"source": "10.0.0.2", "target": "10.0.0.1", "sport": 443, "dport": 40_000}
SCALED_3 = bytes.fromhex("020405b401030303")
"""MSS, NOP and a scale of 3."""


@given(st.integers(0, 65_535))
def test_an_octave_is_as_many_bits(window):
    assert window_octave(window) == window.bit_length() <= MOST_OCTAVE


def test_kinds_have_numbers_of_their_own():
    kinds = {(UNOPENED, ANY_OCTAVE): 0}
    for scale in range(15):
        for octave in range(ANY_OCTAVE, MOST_OCTAVE + 1):
            kinds[scale, octave] = window_kind(scale, octave)
            assert coarser_kind(kinds[scale, octave]) == window_kind(scale, ANY_OCTAVE)
    assert sorted(kinds.values()) == list(range(NUM_KINDS))
    assert coarser_kind(0) == window_kind(UNOPENED, 7) == 0


@pytest.mark.parametrize(
    ("client", "server", "scales"),
    [
        (bytes.fromhex(LINUX), SCALED_3, (7, 3)),
        (bytes.fromhex(LINUX), bytes.fromhex(PLAIN), (0, 0)),
        (bytes.fromhex(PLAIN), bytes.fromhex(PLAIN), (0, 0)),
        (b"", b"", (0, 0)),
    ],
)
def test_the_scale_is_that_of_both_syns(tmp_path, client, server, scales):
    packets = [
        tcp4(SYN, options=client, **CLIENT), tcp4(SYN | ACK, options=server, **SERVER),
        tcp4(ACK, **CLIENT), tcp4(ACK, b"x", **SERVER),
    ]  # fmt: skip
    scale, octave = kinds_of(tmp_path, packets)
    assert scale.tolist() == [0, 0, *scales]
    assert octave.tolist() == [ANY_OCTAVE, ANY_OCTAVE, 14, 14]  # windows of 8,192


def test_hosts_without_syns_are_of_no_kind(tmp_path):
    packets = [tcp4(ACK, b"x", **CLIENT), tcp4(ACK, b"y", **SERVER)]
    scale, octave = kinds_of(tmp_path, packets)
    assert scale.tolist() == [UNOPENED] * 2
    assert octave.tolist() == [ANY_OCTAVE] * 2
    packets = [tcp4(SYN, options=SCALED_3, **CLIENT), tcp4(ACK, b"y", **SERVER)]
    assert kinds_of(tmp_path, packets)[0].tolist() == [0, UNOPENED]


def kinds_of(tmp_path, packets):
    """Return scale and octave of each packet of a flow."""
    reader, _, rows = read(tmp_path / "c.pcap", pcap(packets))
    (windows,) = assemble_flows([rows], reader.fingerprint)
    assert len(windows) == 1
    begin = np.zeros(len(rows), np.int64)
    return window_kinds(windows.rows, windows.direction, begin)
