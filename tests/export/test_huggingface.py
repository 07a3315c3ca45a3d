"""A folder for Hugging Face's `datasets`: Parquet of plain types, and a card that says what it
is."""

import json

import pyarrow.parquet as pq
import pytest
import yaml
from export.test_merge import made_dataset

from netdiff_ray.config import ExportConfig
from netdiff_ray.errors import ConfigError, DataError
from netdiff_ray.export.run import export


def exported(tmp_path, **options):
    """Return the folder of an exported dataset, and its card's metadata and text."""
    settings = {"target": str(tmp_path / "hf"), "to": "huggingface", **options}
    export(ExportConfig(dataset=str(made_dataset(tmp_path)), **settings))
    _, head, text = (tmp_path / "hf/README.md").read_text().split("---\n", 2)
    return tmp_path / "hf", yaml.safe_load(head), text


def test_flows_are_rows_with_their_packets(tmp_path):
    folder, head, text = exported(tmp_path, licence="cc0-1.0")
    (config,) = head["configs"]
    (files,) = config["data_files"]
    tables = [pq.read_table(path) for path in sorted(folder.glob(files["path"]))]
    rows = [row for table in tables for row in table.to_pylist()]
    assert len(rows) == 6
    for row in rows:
        assert len(row["packet_ip_bytes"]) == len(row["packet_direction"]) == row["num_packets"]
        assert sum(row["packet_ip_bytes"]) + 14 * row["num_packets"] == row["wire_bytes"]
        assert sum(row["packet_interarrival_ns"]) == row["duration_ns"]
    assert (head["license"], head["size_categories"]) == ("cc0-1.0", ["n<1K"])
    assert "| web | 6 | 18 |" in text
    assert "nothing is known of its quality" in text


def test_the_card_repeats_the_verdict_of_the_report(tmp_path):
    reasons = [{"section": "utility", "grade": "fair", "words": "it reaches 0.9"}]
    verdict = {"grade": "fair", "words": "Close to real traffic.", "reasons": reasons}
    (tmp_path / "report").mkdir()
    (tmp_path / "report/report.json").write_text(json.dumps({"verdict": verdict}))
    _, _, text = exported(tmp_path, report=str(tmp_path / "report"))
    assert "against real flows: Close to real traffic." in text
    assert "- fair: it reaches 0.9" in text


def test_a_report_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no report\.json of netdiff evaluate"):
        exported(tmp_path, report=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="needs to huggingface"):
        ExportConfig(dataset="d", target="t", to="zeek", report="r")
