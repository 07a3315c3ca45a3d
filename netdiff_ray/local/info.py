"""What a path or URI is: a dataset, an adapter, a base, a report, a pipeline's or a capture."""

import json
import os
from collections import Counter
from pathlib import Path

import pyarrow.fs as pafs

from netdiff_ray.config.diffusion import EMBEDDED_BASE
from netdiff_ray.config.pipeline import PIPELINE_FOLDERS, folder_in
from netdiff_ray.diffusion.adapter import METADATA_FILE, parse_metadata
from netdiff_ray.diffusion.fetch import embedded_base
from netdiff_ray.encoding.encode import DUPLICATE_UNIT, TUNNEL_UNIT
from netdiff_ray.errors import CaptureError, DataError
from netdiff_ray.evaluate.report import FORMAT, SECTIONS, headline_table
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
_REPORT_FILE = "report.json"
_MADE = {
    "encoded": "_manifest.json",
    "adapter": METADATA_FILE,
    "dataset": "manifest.json",
    "report": _REPORT_FILE,
}
"""What each folder of a pipeline holds when it is finished."""
_UNITS = ("captures", "flows", "windows", "packets", "repair_distance")


def info(path: str) -> dict:
    """Return a description of a path or URI, or of the embedded base by its name: its `kind`,
    and what that kind has.

    Raises:
        DataError: nothing exists there, or nothing of these kinds.
        CaptureError: it is a file and no capture.
    """
    if path == EMBEDDED_BASE and not os.path.exists(path):
        path = str(embedded_base())
    store = open_store(path)
    if store.filesystem.get_file_info(store.root).type == pafs.FileType.File:
        return _capture(path)
    if kind_of(store):
        return _dataset(store)
    if (content := store.get(METADATA_FILE)) is not None:
        return _adapter(path, content)
    if (content := store.get(_BASE_FILE)) is not None:
        return {"kind": "base", "path": path, "components": json.loads(content)}
    if (content := store.get(_REPORT_FILE)) is not None and (report := _report(path, content)):
        return report
    made = {name: store.get(f"{name}/{file}") is not None for name, file in _MADE.items()}
    if any(made.values()):
        return _pipeline(path, made)
    names = store.sizes()
    if not names:
        raise DataError(f"{path}: no such file, or an empty folder")
    begun = any(name.endswith(".parquet") for name in names)
    hint = "a run that was not finished; run the same command again" if begun else (
        "neither a dataset nor an adapter nor a base; for a folder of captures use netdiff inspect"
    )  # fmt: skip
    raise DataError(f"{path}: it has no manifest, {METADATA_FILE} or {_BASE_FILE}: it is {hint}")


def _capture(path: str) -> dict:
    inspection = inspect_capture(Path(path), DEFAULT_IDLE_TIMEOUT_S)
    if not inspection.form:
        raise CaptureError(path, f"no capture: {inspection.faults[0]}")
    return {"kind": "capture", "path": path, **inspection.as_dict()}


def _dataset(store: Store) -> dict:
    manifest = open_dataset(store, kind_of(store)).manifest
    return {
        "kind": manifest["format"],
        "path": store.uri,
        "num_files": len(manifest["files"]),
        "num_bytes": sum(file["bytes"] for file in manifest["files"].values()),
        **{key: value for key, value in manifest.items() if key != "files"},
    }


def _report(path: str, content: bytes) -> dict | None:
    """Return the description of a report; None for a report.json of something else."""
    values = json.loads(content)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        return None
    sections = {name: values[name] for name in SECTIONS if name in values}
    copied = ("netdiff_ray", "settings", "sides", "notes")
    headlines = {
        name: {key: section[key] for key in ("available", "headline")}
        for name, section in sections.items()
    }
    return {
        "kind": "report", "path": path, **{key: values[key] for key in copied},
        "sections": headlines,
    }  # fmt: skip


def _pipeline(path: str, made: dict[str, bool]) -> dict:
    folders = {
        name: info(folder_in(path, name)) if made[name] else None for name in PIPELINE_FOLDERS
    }
    return {"kind": "pipeline", "path": path, "folders": folders}


def _adapter(path: str, content: bytes) -> dict:
    metadata = parse_metadata(content, path)
    labels = {
        name: {
            "flows": statistics.num_flows,
            "windows": statistics.num_windows,
            "fewest_packets": statistics.fewest_packets,
            "most_packets": statistics.most_packets,
            "services": {name: service.num_flows for name, service in statistics.services.items()},
        }
        for name, statistics in metadata.labels.items()
    }
    copied = ("base", "revision", "base_digest", "layout", "max_height", "prompt", "trained",
              "version")  # fmt: skip
    return {
        "kind": "adapter",
        "path": path,
        **{name: getattr(metadata, name) for name in copied},
        "labels": labels,
    }


def info_text(description: dict) -> str:
    """Return the text that `netdiff info` prints for what `info` returned."""
    return _TEXTS[description["kind"]](description)


def _capture_text(description: dict) -> str:
    counts = {k: Counter(v) if isinstance(v, dict) else v for k, v in description.items()}
    inspection = Inspection(**{name: counts[name] for name in Inspection.__dataclass_fields__})
    return f"{description['path']}: a capture\n\n{tables([inspection], inspection)}"


def _dataset_text(description: dict) -> str:
    what = "packets" if description["kind"] == PCAP_DATASET else "encoded windows"
    counts, config = description["counts"], description["config"]
    version = description["versions"]["netdiff-ray"]
    lines = [
        f"{description['path']}: a dataset of {what}, made by {config['job']} of netdiff {version}",
        f"{description['num_files']:,} files, {description['num_bytes']:,} bytes; "
        f"{counts['quarantined']:,} quarantined, see {QUARANTINES[description['kind']]}",
    ]
    if "models" in description:
        lines += [
            f"{what} {model['name']} (sha256 {model['sha256'][:12]})"
            for what, model in description["models"].items()
        ]
    units = [unit for unit in _UNITS if unit in counts]
    units += sorted(u for u in counts if u == DUPLICATE_UNIT or u.startswith(TUNNEL_UNIT))
    rows = [
        (label, *(_number(of_label.get(unit, 0)) for unit in units))
        for label, of_label in [*counts["labels"].items(), ("total", counts)]
    ]
    head = ("label", *(unit.replace("_", " ") for unit in units))
    return "\n".join([*lines, "", aligned([head, *rows])])


def _adapter_text(description: dict) -> str:
    trained = ", ".join(
        f"{key} {value}" if isinstance(value, str) else f"{key} {value:g}"
        for key, value in description["trained"].items()
    )
    revision = f" at {description['revision']}" if description["revision"] else ""
    lines = [
        f"{description['path']}: an adapter of netdiff {description['version']}",
        f"base {description['base']}{revision} (sha256 {description['base_digest'][:12]})",
        f"layout {description['layout']}, windows of at most {description['max_height']:,} packets",
        f"prompt {description['prompt']!r}",
        f"trained: {trained or 'not recorded'}",
    ]
    head = ("label", "flows seen", "windows seen", "fewest packets", "most packets", "services")
    rows = [
        (
            label,
            *(_number(number) for name, number in counts.items() if name != "services"),
            ", ".join(f"{name} {flows:,}" for name, flows in counts["services"].items()),
        )
        for label, counts in description["labels"].items()
    ]
    return "\n".join([*lines, "", aligned([head, *rows])])


def _base_text(description: dict) -> str:
    named = description["components"].items()
    parts = {k: v[1] for k, v in named if isinstance(v, list) and v[1]}
    rows = [("component", "class"), *sorted(parts.items())]
    return f"{description['path']}: a base, a diffusers model directory\n\n{aligned(rows)}"


def _report_text(description: dict) -> str:
    sides = (f"{name} {side['source']}" for name, side in description["sides"].items())
    head = f"{description['path']}: a report of netdiff {description['netdiff_ray']}"
    return "\n".join([head, *sides, "", headline_table(description["sections"])])


def _pipeline_text(description: dict) -> str:
    parts = [f"{description['path']}: what a pipeline has made"]
    for name, folder in description["folders"].items():
        if folder is not None:
            parts.append(info_text(folder))
        elif name == "report":
            parts.append(f"{name}: none, as without held-out captures, or not finished")
        else:
            parts.append(f"{name}: not finished; run the same command again")
    return "\n\n".join(parts)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


_TEXTS = {
    "capture": _capture_text,
    PCAP_DATASET: _dataset_text,
    ENCODED_DATASET: _dataset_text,
    "adapter": _adapter_text,
    "base": _base_text,
    "report": _report_text,
    "pipeline": _pipeline_text,
}
