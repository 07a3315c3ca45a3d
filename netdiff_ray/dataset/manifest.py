"""What a run has already written, what is missing, and the manifest that commits it."""

import hashlib
import json
import platform
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import netdiff_ray
from netdiff_ray.dataset.places import Place
from netdiff_ray.dataset.shards import (
    METADATA_CONFIG,
    METADATA_FILES,
    METADATA_QUARANTINE,
    index_name,
)
from netdiff_ray.errors import UsageError

MANIFEST = "manifest.json"
QUARANTINE = "quarantine.jsonl"
FORMAT = "netdiff-pcap-dataset"
FORMAT_VERSION = 1
_UNITS = ("flows", "packets", "wire_bytes")
_COUNTED = ["label", "num_packets", "wire_bytes", "repair_distance"]


@dataclass(frozen=True)
class Dataset:
    """A committed dataset: its manifest, read."""

    place: Place
    manifest: dict

    @property
    def files(self) -> dict[str, dict]:
        """{name: {sha256, bytes}} of every file but the manifest."""
        return self.manifest["files"]

    @property
    def index_names(self) -> list[str]:
        """Names of the flow indexes, in shard order."""
        return sorted(name for name in self.files if name.startswith("flows/"))


def open_dataset(place: Place) -> Dataset:
    """The dataset at a place.

    Raises:
        UsageError: there is no manifest, or it is no pcap dataset's.
    """
    content = place.get(MANIFEST)
    if content is None:
        raise UsageError(
            f"{place.uri}: no {MANIFEST}; a dataset is complete when its manifest is written"
        )
    try:
        manifest = json.loads(content)
        kind = manifest["format"], manifest["version"]
    except (ValueError, KeyError, TypeError):
        kind = None
    if kind != (FORMAT, FORMAT_VERSION):
        raise UsageError(
            f"{place.uri}/{MANIFEST} is not that of a {FORMAT} of version {FORMAT_VERSION}"
        )
    return Dataset(place, manifest)


def missing_shards(place: Place, config: dict, num_shards: int) -> list[int]:
    """Numbers of the shards that a run still has to write, of `num_shards`.

    A shard is there if its index is, and every capture that the index names has its size.

    Raises:
        UsageError: the place holds a run of another configuration; what differs is said.
    """
    content = place.get(MANIFEST)
    if content is not None:
        _refuse_other(place, json.loads(content).get("config"), config)
    sizes = place.sizes()
    missing = []
    for number in range(num_shards):
        name = index_name(number)
        facts = _index_facts(place, name) if name in sizes else None
        if facts is None:
            missing.append(number)
            continue
        _refuse_other(place, facts["config"], config)
        if any(sizes.get(n) != f["bytes"] for n, f in facts["files"].items()):
            missing.append(number)
    return missing


def _index_facts(place: Place, name: str) -> dict | None:
    """Configuration, files and quarantine that a flow index keeps, and its number of flows
    and packets; None if it is not a readable index."""
    try:
        with place.filesystem.open_input_file(place.path(name)) as file:
            parquet = pq.ParquetFile(file)
            kept = parquet.schema_arrow.metadata or {}
            return {
                "config": json.loads(kept[METADATA_CONFIG]),
                "files": json.loads(kept[METADATA_FILES]),
                "quarantine": json.loads(kept[METADATA_QUARANTINE]),
                "table": parquet.read(columns=_COUNTED),
            }
    except (OSError, KeyError, ValueError, pa.ArrowInvalid):
        return None


def _refuse_other(place: Place, there: dict | None, asked: dict) -> None:
    asked = json.loads(json.dumps(asked))
    if there == asked:
        return
    keys = sorted({*(there or {}), *asked})
    differing = [k for k in keys if (there or {}).get(k) != asked.get(k)]
    said = ", ".join(
        f"{k} is {json.dumps((there or {}).get(k))} there and {json.dumps(asked.get(k))} asked"
        for k in differing[:5]
    )
    raise UsageError(
        f"{place.uri} holds a run of another configuration ({said}); choose another place, or "
        "remove it"
    )


def commit(place: Place, config: dict, num_shards: int, facts: dict | None = None) -> Dataset:
    """Write the quarantine and then the manifest of a run whose shards are all there.

    Everything is found by reading the place, so that what an earlier run wrote counts too.

    Args:
        facts: further entries of the manifest (hashes of models, times).

    Raises:
        UsageError: shards are missing.
    """
    files: dict[str, dict] = {}
    quarantine: list[dict] = []
    labels: dict[str, dict[str, int]] = {}
    for number in range(num_shards):
        name = index_name(number)
        shard = _index_facts(place, name)
        content = place.get(name)
        if shard is None or content is None:
            raise UsageError(f"{place.uri}: shard {number} is missing; run the same command again")
        files.update(shard["files"])
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        quarantine += shard["quarantine"]
        table = shard["table"]
        for label in table["label"].unique().to_pylist():
            rows = table.filter(pa.compute.equal(table["label"], label))
            counts = labels.setdefault(label, dict.fromkeys(_UNITS, 0) | {"repair_distance": 0.0})
            counts["packets"] += int(np.sum(rows["num_packets"].to_numpy()))
            counts["wire_bytes"] += int(np.sum(rows["wire_bytes"].to_numpy()))
            before, own = counts["flows"], float(np.mean(rows["repair_distance"].to_numpy()))
            counts["flows"] += len(rows)
            counts["repair_distance"] += (own - counts["repair_distance"]) * (
                len(rows) / (before + len(rows))
            )
    lines = "".join(json.dumps(record, sort_keys=True) + "\n" for record in quarantine).encode()
    place.put(QUARANTINE, lines)
    files[QUARANTINE] = {"sha256": hashlib.sha256(lines).hexdigest(), "bytes": len(lines)}
    manifest = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "config": config,
        "versions": {
            "netdiff-ray": netdiff_ray.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("numpy", "pyarrow")},
        },
        "counts": {
            "shards": num_shards,
            **{unit: sum(c[unit] for c in labels.values()) for unit in _UNITS},
            "quarantined": len(quarantine),
            "labels": dict(sorted(labels.items())),
        },
        **(facts or {}),
        "files": dict(sorted(files.items())),
    }
    place.put(MANIFEST, json.dumps(manifest, indent=1).encode())
    return Dataset(place, manifest)
