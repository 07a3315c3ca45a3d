"""Collections of captures: which there are, and what each is labelled."""

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath
from urllib.parse import unquote

import pyarrow.fs as pafs

from netdiff_ray.errors import DataError
from netdiff_ray.packets.container import has_capture_suffix
from netdiff_ray.storage.store import Store, open_store

_WILD = "*?["
_HOST_KEY_BYTES = 1 << 16


@dataclass(frozen=True)
class Capture:
    """A capture of a collection."""

    name: str
    """Path in its collection, `/` between the parts."""
    label: str
    num_bytes: int
    """Size of the file, as stored."""
    mtime_ns: int = 0
    """When it was written, in nanoseconds of Unix time."""


def list_captures(
    source: str, labels_csv: str | None = None
) -> tuple[Store, list[Capture], list[dict]]:
    """Return the captures that a source names, sorted by name.

    Args:
        source: a folder, a glob, or one capture; a path or a URI.
        labels_csv: a CSV with columns `capture` (a name in the collection, or a file name) and
            `label`. Unless given, a label is the innermost folder called `label=<label>`,
            else the parent folder's name.

    Returns:
        The collection's store, its captures, and a quarantine record for each capture that
        has no label or is no file with a UTF-8 name (a FIFO, a link to nothing).

    Raises:
        DataError: there is nothing, or the CSV cannot be read.
    """
    store, pattern = _collection(source)
    listing = store.listing()
    infos = {name: entry for name, entry in listing.files.items() if _wanted(name, pattern)}
    left_out = [
        {"capture": name, "reason": reason}
        for name, reason in sorted(listing.left_out.items())
        if _wanted(name, pattern)
    ]
    if not infos:
        but = "".join(f"; {record['capture']}: {record['reason']}" for record in left_out[:3])
        raise DataError(
            f"{source}: no captures there (files ending in .pcap, .pcapng, .cap, with or without "
            f".gz, .zst, .xz, .bz2){but}"
        )
    labels = _read_labels(labels_csv) if labels_csv is not None else None
    labelled, without = [], left_out
    for name, info in sorted(infos.items()):
        label = (
            _label(store, name) if labels is None else labels.get(name) or labels.get(_file(name))
        )
        if label:
            labelled.append(Capture(name, label, info.size, info.mtime_ns))
        else:
            without.append({"capture": name, "reason": f"has no label in {labels_csv}"})
    return store, labelled, without


def host_key(store: Store, captures: Sequence[Capture]) -> bytes:
    """Return the key that turns addresses in a collection into numbers of hosts.

    It is a hash of the content of the first capture, so that hosts are the same in all captures,
    and who has no capture cannot guess the addresses.
    """
    if not captures:
        return b""
    try:
        path = store.path(captures[0].name)
        with store.filesystem.open_input_stream(path, compression=None) as stream:
            content = stream.read(_HOST_KEY_BYTES)
    except OSError:  # encoding says why it cannot be read
        content = b""
    return hashlib.blake2b(content, digest_size=16, person=b"hosts").digest()


def _collection(source: str) -> tuple[Store, str | None]:
    """Return the folder to list, and the pattern that names in it must match, if any."""
    head, question, query = source.partition("?") if "://" in source else (source, "", "")
    parts = PurePosixPath(head).parts if "://" not in head else tuple(head.split("/"))
    wild = next((k for k, part in enumerate(parts) if any(c in part for c in _WILD)), None)
    if wild is not None:
        folder = "/".join(parts[:wild]).replace("//", "/", "://" not in head) or "."
        return open_store(folder + question + query), "/".join(parts[wild:])
    store = open_store(source)
    info = store.filesystem.get_file_info(store.root)
    if info.type == pafs.FileType.File:
        parent = PurePosixPath(store.root).parent
        return Store(source, store.filesystem, str(parent)), PurePosixPath(store.root).name
    if info.type == pafs.FileType.Unknown:
        raise DataError(f"{source}: not a file or folder; write its content to a file first")
    return store, None


def _wanted(name: str, pattern: str | None) -> bool:
    return has_capture_suffix(name) if pattern is None else fnmatch(name, pattern)


def _file(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _label(store: Store, name: str) -> str:
    folders = [*PurePosixPath(store.root).parts, *name.split("/")[:-1]]
    named = [unquote(f.removeprefix("label=")) for f in folders if f.startswith("label=")]
    return named[-1] if named else folders[-1]


def _read_labels(path: str) -> dict[str, str]:
    folder, _, name = path.rpartition("/")
    content = open_store(folder or ".").get(name)
    if content is None:
        raise DataError(f"{path}: no such file")
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        return {row["capture"]: row["label"] for row in rows}
    except (KeyError, UnicodeDecodeError, csv.Error):
        raise DataError(
            f"{path}: a CSV of labels has columns capture and label in its first line"
        ) from None
