"""The folder that an export writes to, and the record of what is in it."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import netdiff_ray
from netdiff_ray.errors import ConfigError
from netdiff_ray.storage.store import Store

RECORD = "export.json"
"""Lists the files of an export; written last."""
FORMAT = "netdiff-export"


class ExportTarget:
    """A folder, its files and their hashes.

    Args:
        store: the folder: new, empty, or that of an earlier export, whose files are removed.
        about: what is written, for the record: the dataset, the form, settings.
        record: name of the record.
        beside: folder of files that others write.

    Raises:
        ConfigError: it holds other files.
        StorageError: it cannot be written.
    """

    def __init__(self, store: Store, about: dict, *, record: str = RECORD, beside: str = ""):
        self._store, self._record = store, record
        self._about = {"format": FORMAT, "version": netdiff_ray.__version__, **about}
        self.files: dict[str, dict] = {}
        """{name: {sha256, bytes}} of what is written."""
        earlier = self._earlier()
        names = [n for n in store.sizes() if not (beside and n.startswith(f"{beside}/"))]
        if earlier is None and names:
            raise ConfigError(
                f"{store.uri} holds other files ({min(names)}, ...); choose an empty folder"
            )
        for name in earlier or ():
            store.delete(name)
        self._write_record(is_complete=False)

    def _earlier(self) -> list[str] | None:
        """Return the files of an earlier export in the folder; None if there was none."""
        try:
            record = json.loads(self._store.get(self._record) or b"")
            return list(record["files"]) if record["format"] == FORMAT else None
        except (ValueError, KeyError, TypeError):
            return None

    @contextmanager
    def writing(self, name: str) -> Iterator[Callable[[bytes | memoryview], None]]:
        """Yield a function that appends to a file, which is whole when the block ends."""
        digest, num_bytes = hashlib.sha256(), 0
        with self._store.stream(name) as file:

            def write(content: bytes | memoryview) -> None:
                nonlocal num_bytes
                digest.update(content)
                num_bytes += len(content)
                file.write(content)

            yield write
        self.files[name] = {"sha256": digest.hexdigest(), "bytes": num_bytes}

    def finish(self, counts: dict[str, int]) -> None:
        """Write the record."""
        self._about["counts"] = counts
        self._write_record(is_complete=True)

    def _write_record(self, *, is_complete: bool) -> None:
        record = {**self._about, "complete": is_complete, "files": dict(sorted(self.files.items()))}
        self._store.put(self._record, json.dumps(record, indent=1).encode())
