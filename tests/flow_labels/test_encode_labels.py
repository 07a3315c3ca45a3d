"""Encoding with labels of flows."""

import pyarrow.parquet as pq
import pytest
from label_builders import S_NS, capture_of, cic_2017, made_flows, swapped_quarter

from netdiff_ray.config import EncodeConfig, LabelSettings
from netdiff_ray.encoding.collection import list_captures
from netdiff_ray.encoding.encode import UNLABELLED_UNIT, EncodeSettings, encode_part
from netdiff_ray.encoding.label_files import flow_labels_of, label_file_digests
from netdiff_ray.encoding.split import encode_bucket, read_range, split_ranges
from netdiff_ray.errors import ConfigError, DataError
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT
from netdiff_ray.storage.store import open_store

SETTINGS = EncodeSettings(layout=DEFAULT_LAYOUT, height=16, idle_timeout_s=60.0)
FLOWS = made_flows(40)
NO_ROW = f"{UNLABELLED_UNIT}no row has its endpoints"


@pytest.fixture
def place(tmp_path):
    """Return a folder with a capture of the label `day`, and labels of all but three flows."""
    (tmp_path / "day").mkdir()
    (tmp_path / "day/a.pcap").write_bytes(capture_of(FLOWS, late_share=0))
    (tmp_path / "labels.csv").write_bytes(cic_2017(swapped_quarter(FLOWS[3:])))
    return tmp_path


def labels_of(place, **settings):
    """Return (store, capture, labels of flows)."""
    store, captures, _ = list_captures(str(place / "day"))
    files = [str(place / "labels.csv")]
    labels, _ = flow_labels_of(files, LabelSettings(**settings), store, captures, SETTINGS)
    return store, captures[0], labels


def rows_of(place):
    """Return {start: label} of the flows of part 0, from first windows."""
    table = pq.read_table(place / "out/part-00000.parquet")
    rows = zip(
        *(table[name].to_pylist() for name in ("start_ts_ns", "label", "window")), strict=True
    )
    return {start: label for start, label, window in rows if window == 0}


@pytest.mark.parametrize(("unlabelled", "instead"), [("drop", None), ("keep", "day"), ("?", "?")])
def test_flows_have_the_labels_of_the_files(place, unlabelled, instead):
    store, capture, labels = labels_of(place, unlabelled=unlabelled)
    target = open_store(place / "out")
    result = encode_part(store, [capture], target, 0, SETTINGS, {}, flow_labels=labels)
    truth = {flow.start_ns: flow.label for flow in FLOWS[3:]}
    truth |= {flow.start_ns: instead for flow in FLOWS[:3] if instead}
    assert rows_of(place) == truth
    assert sum(counts["captures"] for counts in result.counts.values()) == 1
    assert sum(counts.get(NO_ROW, 0) for counts in result.counts.values()) == 3
    for label in {*truth.values()}:
        assert result.counts[label]["flows"] == [*truth.values()].count(label)


def test_buckets_of_a_split_capture_have_the_same_labels(place):
    store, capture, labels = labels_of(place)
    encode_part(store, [capture], open_store(place / "out"), 0, SETTINGS, {}, flow_labels=labels)
    whole = rows_of(place)
    pieces = [
        row
        for k, piece in enumerate(split_ranges(capture.num_bytes, capture.num_bytes // 2 + 1))
        for row in read_range(store, capture, piece, k, [0], 1)
    ]
    target = open_store(place / "out")
    encode_bucket(pieces, capture, target, 0, SETTINGS, {}, labels)
    assert rows_of(place) == whole


def test_labels_whose_clock_is_not_certain_are_refused(place):
    later = [f.__class__(**{**vars(f), "start_ns": f.start_ns + 30 * 86_400 * S_NS}) for f in FLOWS]
    (place / "labels.csv").write_bytes(cic_2017(later, "%d/%m/%Y %H:%M:%S"))
    with pytest.raises(DataError, match=r"match nothing: the best clock is .* 29 days ahead"):
        labels_of(place)
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        label_file_digests([str(place / "none.csv")])


def test_what_a_configuration_may_say_of_labels():
    with pytest.raises(ConfigError, match="unlabelled is ''; it must be drop, keep or a label"):
        LabelSettings(unlabelled="")
    config = EncodeConfig(source="a", target="b", labels=("c",))
    assert config.label_settings.unlabelled == "drop"
