"""What a run has already written, what is missing, and the manifest that commits it.

A dataset, of captures or of encoded windows, is made of *parts*: Parquet files, each
written last of what belongs to it, whose metadata hold the run's configuration, the other
files of the part, its quarantine and its counts.
"""

import hashlib
import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

import pyarrow as pa
import pyarrow.parquet as pq

import netdiff_ray
from netdiff_ray.errors import ConfigError, DatasetError
from netdiff_ray.storage.store import Store

PCAP_DATASET = "netdiff-pcap-dataset"
ENCODED_DATASET = "netdiff-encoded-dataset"
FORMAT_VERSION = 1
MANIFESTS = {PCAP_DATASET: "manifest.json", ENCODED_DATASET: "_manifest.json"}
"""Name of the manifest, by the kind of dataset. What reads a folder of Parquet files passes over
names that begin with an underscore."""
QUARANTINES = {PCAP_DATASET: "quarantine.jsonl", ENCODED_DATASET: "_quarantine.jsonl"}
"""Name of the quarantine, by the kind of dataset."""
DRAWN_FOLDER = "drawn/"
"""Folder of a pcap dataset for what its flows were drawn as, before repair, where that is kept."""

_KEYS = ("config", "files", "quarantine", "counts")
_MOST_NAMED = 5
_MOST_CHARACTERS = 60


@dataclass(frozen=True)
class Dataset:
    """A committed dataset: its manifest, read."""

    store: Store
    manifest: dict

    @property
    def files(self) -> dict[str, dict]:
        """{name: {sha256, bytes}} of every file but the manifest."""
        return self.manifest["files"]

    @property
    def part_names(self) -> list[str]:
        """Names of the parts, in order."""
        return sorted(
            name
            for name in self.files
            if name.endswith(".parquet") and not name.startswith(DRAWN_FOLDER)
        )

    @property
    def quarantined_share(self) -> float:
        """Share of the captures of an encoded dataset, or of the flows of a pcap dataset, that
        are in the quarantine."""
        counts = self.manifest["counts"]
        if self.manifest["format"] == ENCODED_DATASET:
            total = self.manifest["collection"]["captures"]
        else:
            total = counts["flows"] + counts["quarantined"]
        return counts["quarantined"] / max(1, total)


def read_manifest(store: Store) -> bytes | None:
    """Return the content of the manifest, of either kind; None if there is none."""
    contents = (store.get(name) for name in MANIFESTS.values())
    return next((content for content in contents if content is not None), None)


def kind_of(store: Store) -> str | None:
    """Return PCAP_DATASET or ENCODED_DATASET; None if the store has no manifest of either."""
    try:
        kind = json.loads(read_manifest(store) or b"{}").get("format")
    except (ValueError, AttributeError):
        return None
    return kind if kind in MANIFESTS else None


def open_dataset(store: Store, kind: str) -> Dataset:
    """Open the dataset in a store.

    Args:
        kind: PCAP_DATASET or ENCODED_DATASET.

    Raises:
        DatasetError: there is no manifest, or it is one of another kind.
    """
    content = read_manifest(store)
    if content is None:
        raise DatasetError(
            f"{store.uri}: no {MANIFESTS[kind]}; a dataset is complete when its manifest is written"
        )
    try:
        manifest = json.loads(content)
        kind_and_version = manifest["format"], manifest["version"]
    except (ValueError, KeyError, TypeError):
        kind_and_version = None
    if kind_and_version != (kind, FORMAT_VERSION):
        raise DatasetError(
            f"{store.uri}: its manifest is not that of a {kind} of version {FORMAT_VERSION}"
        )
    return Dataset(store, manifest)


def part_metadata(
    config: dict, *, files: dict[str, dict], quarantine: list[dict], counts: dict[str, dict]
) -> dict[str, str]:
    """Return the entries that a part's Parquet metadata must have.

    Args:
        config: the run's resolved configuration.
        files: {name: {sha256, bytes}} of the part's other files.
        quarantine: a record, with its `reason`, for each quarantined capture or flow.
        counts: {label: {unit: number}}, which the manifest adds up; `repair_distance` is
            the sum over the part's flows, of which it gives the mean.
    """
    values = (config, files, quarantine, counts)
    pairs = zip(_KEYS, values, strict=True)
    return {f"netdiff:{key}": json.dumps(value, sort_keys=True) for key, value in pairs}


def read_part_metadata(file: pa.NativeFile) -> dict | None:
    """Return the entries of `part_metadata`, decoded; None if the file is no part."""
    try:
        kept = pq.ParquetFile(file).metadata.metadata or {}
        return {key: json.loads(kept[f"netdiff:{key}".encode()]) for key in _KEYS}
    except (OSError, KeyError, ValueError, pa.ArrowInvalid):
        return None


def reason_kind(record: Mapping) -> str:
    """Return the reason of a quarantine record without particulars: names in front, numbers, and
    what follows a colon, semicolon, comma or bracket; at most 60 characters. For counting."""
    reason = record["reason"].removeprefix(f"{record.get('capture')}: ")
    return re.sub(r"[\d,]*\d", "N", re.split(r"[:;(\[]|, | at byte ", reason)[0])[:60].strip()


def missing_parts(store: Store, config: dict, names: Sequence[str]) -> list[int]:
    """Return the positions in `names` of the parts that a run still has to write.

    A part is there if it can be read and every file that it names has its size.

    Raises:
        ConfigError: the store holds another run; says what differs.
    """
    content = read_manifest(store)
    if content is not None:
        refuse_other(store, json.loads(content).get("config"), config)
    sizes = store.sizes()
    missing = []
    for position, name in enumerate(names):
        entries = stored_metadata(store, name) if name in sizes else None
        if entries is None:
            missing.append(position)
            continue
        refuse_other(store, entries["config"], config)
        if any(sizes.get(n) != f["bytes"] for n, f in entries["files"].items()):
            missing.append(position)
    return missing


def stored_metadata(store: Store, name: str) -> dict | None:
    """Return the entries of a part in a store; None if it is not there, or is no part."""
    try:
        with store.filesystem.open_input_file(store.path(name)) as file:
            return read_part_metadata(file)
    except OSError:
        return None


def refuse_other(store: Store, existing: dict | None, requested: dict) -> None:
    """Raise ConfigError unless the run in a store is the requested one.

    Args:
        existing: identity of the run in the store, None where it is unknown.
        requested: identity of the requested run, see `run_identity`.
    """
    existing, requested = (dict(_leaves(run or {})) for run in (existing, requested))
    missing = object()
    differing = [
        name
        for name in sorted({*existing, *requested})
        if existing.get(name, missing) != requested.get(name, missing)
    ]
    if not differing:
        return
    words = [
        f"{name} is {_text(existing.get(name))} there and {_text(requested.get(name))} requested"
        for name in differing[:_MOST_NAMED]
    ]
    if len(differing) > _MOST_NAMED:
        words.append(f"{len(differing) - _MOST_NAMED} more differ")
    raise ConfigError(
        f"{store.uri} holds another run: {', '.join(words)}; choose another target, or remove it"
    )


def _leaves(values: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield (dotted name, value as JSON gives it back) of the innermost values of a record."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, json.loads(json.dumps(value))


def _text(value: object) -> str:
    """Return a setting's value as JSON, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def commit(
    store: Store, kind: str, config: dict, names: Sequence[str], entries: dict | None = None
) -> Dataset:
    """Write the quarantine and then the manifest of a run whose parts are all there.

    Everything is read from the store, so that what an earlier run wrote counts too.

    Args:
        kind: PCAP_DATASET or ENCODED_DATASET.
        names: of all parts.
        entries: further entries of the manifest (hashes of models, times).

    Raises:
        DatasetError: parts are missing.
    """
    files: dict[str, dict] = {}
    quarantine: list[dict] = []
    labels: dict[str, dict[str, float]] = {}
    for name in names:
        content = store.get(name)
        part = read_part_metadata(pa.BufferReader(content)) if content is not None else None
        if part is None:
            raise DatasetError(f"{store.uri}: {name} is missing; run the same command again")
        files.update(part["files"])
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        quarantine += part["quarantine"]
        for label, counts in part["counts"].items():
            sums = labels.setdefault(label, {})
            for unit, number in counts.items():
                sums[unit] = sums.get(unit, 0) + number
    lines = "".join(json.dumps(record, sort_keys=True) + "\n" for record in quarantine).encode()
    store.put(QUARANTINES[kind], lines)
    files[QUARANTINES[kind]] = {"sha256": hashlib.sha256(lines).hexdigest(), "bytes": len(lines)}
    units = sorted({unit for sums in labels.values() for unit in sums})
    totals = {unit: sum(sums.get(unit, 0) for sums in labels.values()) for unit in units}
    manifest = {
        "format": kind,
        "version": FORMAT_VERSION,
        "config": config,
        "versions": {
            "netdiff-ray": netdiff_ray.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("numpy", "pyarrow")},
        },
        "counts": {
            "parts": len(names),
            "quarantined": len(quarantine),
            **_with_mean_distance(totals),
            "labels": {label: _with_mean_distance(labels[label]) for label in sorted(labels)},
        },
        **(entries or {}),
        "files": dict(sorted(files.items())),
    }
    store.put(MANIFESTS[kind], json.dumps(manifest, indent=1).encode())
    return Dataset(store, manifest)


def _with_mean_distance(sums: dict[str, float]) -> dict[str, float]:
    if "repair_distance" not in sums:
        return sums
    return {**sums, "repair_distance": sums["repair_distance"] / max(1, sums["flows"])}
