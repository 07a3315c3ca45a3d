"""A folder that Hugging Face's `datasets` loads: flows in Parquet, and a dataset card.

The card's metadata are those of the Hub (huggingface.co/docs/hub/datasets-cards).

Shape letters: N flows, P packets.
"""

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from netdiff_ray.export.directions import ip_bytes
from netdiff_ray.flows import Windows
from netdiff_ray.storage.shards import FLOW_SCHEMA

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"))  # fmt: skip
_COLUMNS = [f for f in FLOW_SCHEMA if not pa.types.is_map(f.type)]
_PACKET_COLUMNS = (
    ("packet_ip_bytes", pa.int32()), ("packet_direction", pa.uint8()),
    ("packet_interarrival_ns", pa.int64()),
)  # fmt: skip
SCHEMA = pa.schema([*_COLUMNS, *((name, pa.list_(kind)) for name, kind in _PACKET_COLUMNS)])
"""The index without its maps, which `datasets` has no type for, and of each packet its bytes, who
sent it (0 the client) and the time since the packet before."""


def flow_table(flows: list[dict], windows: Windows) -> pa.Table:
    """Return the N rows of SCHEMA of flows, given their rows of FLOW_SCHEMA and N windows, each a
    whole flow."""
    offsets = pa.array(windows.first.astype(np.int32))
    values = (ip_bytes(windows.rows), windows.direction, windows.interarrival_ns)
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array(column, kind))
        for column, (_, kind) in zip(values, _PACKET_COLUMNS, strict=True)
    ]
    columns = [pa.array([flow[f.name] for flow in flows], f.type) for f in _COLUMNS]
    return pa.Table.from_arrays([*columns, *lists], schema=SCHEMA)


def dataset_card(manifest: Mapping, name: str, licence: str, verdict: Mapping | None) -> str:
    """Return the README.md of the folder.

    Args:
        manifest: of the pcap dataset.
        name: of the dataset, for people.
        licence: identifier of the Hub.
        verdict: of the evaluation report of the dataset; None if there is none.
    """
    counts = manifest["counts"]
    size = next((text for most, text in _SIZES if counts["flows"] < most), "n>100M")
    head = {
        "pretty_name": name, "license": licence, "size_categories": [size],
        "task_categories": ["tabular-classification"],
        "tags": ["network-traffic", "synthetic", "netflow", "pcap"],
        "configs": [{"config_name": "default",
                     "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
    }  # fmt: skip
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    labels = "\n".join(
        f"| {label.replace('|', '')} | {of_label['flows']:,} | {of_label['packets']:,} |"
        for label, of_label in counts["labels"].items()
    )
    made = json.dumps(manifest["config"], indent=1, sort_keys=True)
    models = "".join(
        f"\n- {what} {model['name']}, sha256 {model['sha256']}"
        for what, model in manifest.get("models", {}).items()
    )
    return f"""---
{lines}
---
# {name}

Synthetic network flows, one a row: endpoints, times, sizes and label, and of each packet its bytes,
its direction and the time since the packet before. No flow was captured: a diffusion model drew
them, and repair made them valid packets (netdiff_ray {manifest["versions"]["netdiff-ray"]}).

| label | flows | packets |
|---|---|---|
{labels}

Repair had to correct a share of {counts["repair_distance"]:.4f} of the drawn bits;
{counts["quarantined"]:,} flows could not be made into packets and are left out.
Addresses are made up, from private networks unless others were asked for.

## How good it is

{_quality(verdict)}

## How it was made
{models}

```json
{made}
```
"""


def _quality(verdict: Mapping | None) -> str:
    """Return the paragraph that says what an evaluation found."""
    if verdict is None:
        return "It was not evaluated against real flows: nothing is known of its quality."
    reasons = "".join(f"\n- {r['grade']}: {r['words']}" for r in verdict["reasons"])
    return f"By `netdiff evaluate`, against real flows: {verdict['words']}\n{reasons}"
