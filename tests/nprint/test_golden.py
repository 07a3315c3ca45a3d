"""The strict reading is nPrint 1.2.1's, bit for bit."""

import csv
import gzip

import numpy as np

from netdiff_ray.nprint import LAYOUTS, encode
from netdiff_ray.nprint.text import NprintWriter, read_nprint
from netdiff_ray.packets import CaptureReader, header_rows


def first_rows(path, num_records):
    """Return header rows of the first records of a capture, read strictly."""
    parts = []
    for table in CaptureReader(path, strict=True):
        parts.append(header_rows(table.first(num_records)))
        num_records -= len(parts[-1]) if num_records > len(table) else num_records
        if num_records <= 0:
            break
    return np.concatenate(parts)


def test_golden_encodings_are_equal(golden, tmp_path):
    layout = LAYOUTS["nprint"]
    num_files = num_rows = 0
    with open(golden / "index.csv", newline="") as file:
        for entry in csv.DictReader(file):
            text = gzip.decompress((golden / entry["golden"]).read_bytes())
            path = tmp_path / "golden.nprint"
            path.write_bytes(text)
            read_layout, blocks, _ = read_nprint(path)
            assert read_layout is layout
            expected = [*blocks]
            rows = first_rows(golden.parent / entry["capture"], int(entry["packets_read"]))
            nprint = encode(rows, layout)
            if expected:
                np.testing.assert_array_equal(nprint, np.concatenate(expected))
            assert len(nprint) == int(entry["rows"])
            with open(tmp_path / "ours.nprint", "wb") as ours:
                NprintWriter(ours, layout).write(nprint, rows)
            assert (tmp_path / "ours.nprint").read_bytes() == text
            num_files += 1
            num_rows += len(nprint)
    assert num_files == 64
    assert num_rows > 5000
