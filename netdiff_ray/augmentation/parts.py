"""Parts of an encoded dataset that holds real windows and drawn ones.

Each part is one of the real dataset or one shard of drawn flows, with the column `synthetic`, and
`_labels/part-NNNNN.csv`, which says of each flow of the part what it is.
"""

import csv
import hashlib
import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from netdiff_ray.datasets.parts import read_encoded_part, read_shard
from netdiff_ray.encoding.encode import encoded_part_name
from netdiff_ray.encoding.windows import METADATA_LAYOUT
from netdiff_ray.errors import DatasetError
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.storage.manifest import part_metadata, stored_metadata
from netdiff_ray.storage.shards import seconds_text
from netdiff_ray.storage.store import Store

SYNTHETIC = "synthetic"
"""Column that says which windows are drawn; as a unit of counts, flows that are."""
LABELS_FOLDER = "_labels/"
"""What reads a folder of Parquet files passes over names that begin with an underscore."""
LABEL_COLUMNS = ("flow_id", "label", SYNTHETIC, "capture", "start")


@dataclass(frozen=True, kw_only=True)
class PartTask:
    """A part to write."""

    number: int
    name: str
    """Of the part of the real dataset, or of the index of drawn flows."""
    synthetic: bool


@dataclass(frozen=True, kw_only=True)
class PartSources:
    """Where parts come from and go to."""

    real: Store
    """An encoded dataset."""
    drawn: Store
    """A pcap dataset."""
    target: Store
    layout: Layout
    """Of the real dataset, in which drawn packets are encoded."""
    height: int
    """Most packets of a window of them."""
    identity: dict
    """Of the run, kept in each part."""

    def write(self, task: PartTask) -> int:
        """Write a part, whole or not at all; return its windows."""
        table, counts, quarantine = self._drawn(task) if task.synthetic else self._real(task)
        marks = pa.array(np.full(len(table), task.synthetic))
        table = table.append_column(SYNTHETIC, marks)
        content = labels_csv(table)
        name = f"{LABELS_FOLDER}part-{task.number:05d}.csv"
        self.target.put(name, content)
        files = {name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}}
        metadata = part_metadata(self.identity, files=files, quarantine=quarantine, counts=counts)
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
            writer.write_table(table)
            writer.add_key_value_metadata(metadata)
        self.target.put(encoded_part_name(task.number), sink.getvalue())
        return len(table)

    def _real(self, task: PartTask) -> tuple[pa.Table, dict, list]:
        """Return windows, counts and quarantine of a part of the real dataset."""
        table = read_encoded_part(task.name, store=self.real)
        stored = stored_metadata(self.real, task.name)
        if stored is None:
            raise DatasetError(f"{self.real.uri}: {task.name} is no part of an encoded dataset")
        counts = {label: {**units, SYNTHETIC: 0} for label, units in stored["counts"].items()}
        table = table.replace_schema_metadata({METADATA_LAYOUT: self.layout.name})
        return table, counts, stored["quarantine"]

    def _drawn(self, task: PartTask) -> tuple[pa.Table, dict, list]:
        """Return windows and counts of a shard of drawn flows, whose quarantine is in its own
        dataset."""
        table = read_shard(task.name, store=self.drawn, layout=self.layout, height=self.height)
        counts = {}
        for label in sorted(set(table["label"].to_pylist())):
            rows = table.filter(pc.equal(table["label"], label))
            flows = len(rows["flow_id"].unique())
            counts[label] = {
                "captures": len(rows["capture"].unique()), "windows": len(rows), "flows": flows,
                "packets": int(rows["num_packets"].to_numpy().sum()), SYNTHETIC: flows,
            }  # fmt: skip
        return table, counts, []


def labels_csv(table: pa.Table) -> bytes:
    """Return LABEL_COLUMNS of the flows of windows as CSV, a line a flow: `synthetic` is 0 or 1,
    `start` in seconds since 1970-01-01 UTC."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(LABEL_COLUMNS)
    of_flows = table.filter(pc.equal(table["window"], 0))
    writer.writerows(
        zip(
            of_flows["flow_id"].to_pylist(), of_flows["label"].to_pylist(),
            of_flows[SYNTHETIC].cast(pa.uint8()).to_pylist(), of_flows["capture"].to_pylist(),
            map(seconds_text, of_flows["start_ts_ns"].to_pylist()), strict=True,
        )
    )  # fmt: skip
    return text.getvalue().encode()
