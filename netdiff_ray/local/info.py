"""What lies at a path: a dataset, an adapter, a base or a capture."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.fs as pafs

from netdiff_ray.diffusion.adapter import METADATA_FILE, parse_metadata
from netdiff_ray.errors import CaptureError, DataError
from netdiff_ray.flows import DEFAULT_IDLE_TIMEOUT_S
from netdiff_ray.local.inspect import Inspection, aligned, inspect_capture, tables
from netdiff_ray.storage.manifest import (
    ENCODED_DATASET,
    PCAP_DATASET,
    QUARANTINES,
    kind_of,
    open_dataset,
)
from netdiff_ray.storage.store import Store, open_store

_BASE_FILE = "model_index.json"
_UNITS = ("captures", "flows", "windows", "packets", "repair_distance")


def info(path: str) -> dict:
    """The facts of what lies at a path or URI: its `kind`, and those of that kind.

    Raises:
        ConfigError: nothing lies there, or something of no kind known here.
        CaptureError: it is a file and no capture.
    """
    place = open_store(path)
    there = place.filesystem.get_file_info(place.root).type
    if there == pafs.FileType.File:
        return _capture(path)
    if kind_of(place):
        return _dataset(place)
    if (content := place.get(METADATA_FILE)) is not None:
        return _adapter(path, content)
    if (content := place.get(_BASE_FILE)) is not None:
        return {"kind": "base", "path": path, "components": json.loads(content)}
    names = place.sizes()
    if not names:
        raise DataError(f"{path}: nothing is there")
    begun = any(name.endswith(".parquet") for name in names)
    hint = "a run that was not finished; run the same command again" if begun else (
        "neither a dataset nor an adapter nor a base; for a folder of captures use netdiff inspect"
    )  # fmt: skip
    raise DataError(
        f"{path}: none of a manifest, {METADATA_FILE} and {_BASE_FILE} is there: it is {hint}"
    )


def _capture(path: str) -> dict:
    inspection = inspect_capture(Path(path), DEFAULT_IDLE_TIMEOUT_S)
    if not inspection.form:
        raise CaptureError(path, f"no capture: {inspection.faults[0]}")
    return {"kind": "capture", "path": path, **inspection.as_dict()}


def _dataset(place: Store) -> dict:
    manifest = open_dataset(place, kind_of(place)).manifest
    kept = {key: value for key, value in manifest.items() if key != "files"}
    num_bytes = sum(file["bytes"] for file in manifest["files"].values())
    facts = {"num_files": len(manifest["files"]), "num_bytes": num_bytes}
    return {"kind": manifest["format"], "path": place.uri, **facts, **kept}


def _adapter(path: str, content: bytes) -> dict:
    facts = parse_metadata(content, path)
    labels = {
        name: {
            "flows": known.num_flows,
            "windows": known.num_windows,
            "fewest_packets": known.fewest_packets,
            "most_packets": known.most_packets,
        }
        for name, known in facts.labels.items()
    }
    own = ("base", "revision", "base_digest", "layout", "max_height", "prompt", "trained",
           "version")  # fmt: skip
    return {
        "kind": "adapter",
        "path": path,
        **{name: getattr(facts, name) for name in own},
        "control_heights": facts.control_heights,
        "labels": labels,
    }


def info_text(found: dict) -> str:
    """The text that `netdiff info` prints."""
    return _TEXTS[found["kind"]](found)


def _capture_text(found: dict) -> str:
    counts = {k: Counter(v) if isinstance(v, dict) else v for k, v in found.items()}
    inspection = Inspection(**{name: counts[name] for name in Inspection.__dataclass_fields__})
    return f"{found['path']}: a capture\n\n{tables([inspection], inspection)}"


def _dataset_text(found: dict) -> str:
    what = "packets" if found["kind"] == PCAP_DATASET else "encoded windows"
    counts, config = found["counts"], found["config"]
    version = found["versions"]["netdiff-ray"]
    lines = [
        f"{found['path']}: a dataset of {what}, made by {config['job']} of netdiff {version}",
        f"{found['num_files']:,} files, {found['num_bytes']:,} bytes; "
        f"{counts['quarantined']:,} set aside in {QUARANTINES[found['kind']]}",
    ]
    if "models" in found:
        lines += [
            f"{what} {model['name']} (sha256 {model['sha256'][:12]})"
            for what, model in found["models"].items()
        ]
    units = [unit for unit in _UNITS if unit in counts]
    rows = [
        (label, *(_number(own.get(unit, 0)) for unit in units))
        for label, own in [*counts["labels"].items(), ("total", counts)]
    ]
    head = ("label", *(unit.replace("_", " ") for unit in units))
    return "\n".join([*lines, "", aligned([head, *rows])])


def _adapter_text(found: dict) -> str:
    trained = ", ".join(f"{key} {value:g}" for key, value in found["trained"].items())
    revision = f" at {found['revision']}" if found["revision"] else ""
    lines = [
        f"{found['path']}: an adapter of netdiff {found['version']}",
        f"base {found['base']}{revision} (sha256 {found['base_digest'][:12]})",
        f"layout {found['layout']}, windows of at most {found['max_height']:,} packets",
        f"prompt {found['prompt']!r}",
        f"trained: {trained or 'nothing said'}",
    ]
    head = ("label", "flows seen", "windows seen", "fewest packets", "most packets")
    rows = [(label, *map(_number, own.values())) for label, own in found["labels"].items()]
    return "\n".join([*lines, "", aligned([head, *rows])])


def _base_text(found: dict) -> str:
    named = found["components"].items()
    parts = {k: v[1] for k, v in named if isinstance(v, list) and v[1]}
    rows = [("component", "class"), *sorted(parts.items())]
    return f"{found['path']}: a base, a diffusers model directory\n\n{aligned(rows)}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


_TEXTS = {
    "capture": _capture_text,
    PCAP_DATASET: _dataset_text,
    ENCODED_DATASET: _dataset_text,
    "adapter": _adapter_text,
    "base": _base_text,
}
