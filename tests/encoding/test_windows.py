"""Windows as rows: what is packed comes back, also with pyarrow alone."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packet_builders import pcap, read, tcp4, udp4

from netdiff_ray.encoding.windows import encoded_table, unpack, unpack_all
from netdiff_ray.errors import NprintError
from netdiff_ray.flows import assemble_flows
from netdiff_ray.nprint import LAYOUTS, encode_windows


@pytest.mark.parametrize("name", LAYOUTS)
def test_round_trip_through_parquet(tmp_path, name):
    layout = LAYOUTS[name]
    packets = [tcp4(2), udp4(b"abc"), tcp4(0x10), *[udp4(sport=7)] * 20]
    reader, _, rows = read(tmp_path / "c.pcap", pcap(packets))
    (windows,) = assemble_flows([rows], reader.fingerprint, height=16)
    table = encoded_table(windows, layout, label="web", capture="c.pcap")
    pq.write_table(table, tmp_path / "t.parquet")
    back = pq.read_table(tmp_path / "t.parquet")
    assert back["num_packets"].to_pylist() == [2, 1, 16, 4]
    assert back["window"].to_pylist() == [0, 0, 0, 1]
    assert back["protocol"].to_pylist() == [6, 17, 17, 17]
    nprint = encode_windows(windows, layout)
    np.testing.assert_array_equal(np.concatenate(unpack_all(back)), nprint)
    assert (
        back["interarrival_ns"].combine_chunks().flatten().to_pylist()
        == windows.interarrival_ns.tolist()
    )


@given(seed=st.integers(0, 2**32 - 1), num_rows=st.integers(0, 5))
def test_any_matrix_packs(seed, num_rows):
    nprint = np.random.default_rng(seed).integers(-1, 2, (num_rows, 704)).astype(np.int8)
    packed = np.packbits(nprint == 1).tobytes() + np.packbits(nprint == -1).tobytes()
    np.testing.assert_array_equal(unpack(packed, LAYOUTS["stateful"]), nprint)


def test_what_is_no_encoded_dataset():
    with pytest.raises(
        NprintError, match="177 packed bytes; layout stateful needs a multiple of 176"
    ):
        unpack(bytes(177), LAYOUTS["stateful"])
    with pytest.raises(NprintError, match="names no layout"):
        unpack_all(pa.table({"nprint": [b""]}))
