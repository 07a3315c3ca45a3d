"""A folder on a local disk or an object store, in which files appear whole or not at all."""

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from netdiff_ray.errors import StorageError
from netdiff_ray.storage.listing import FileEntry, Listing, is_utf8, list_local, printable

_PROBE = ".writable.partial"
_PROBE_BYTES = 4096
_MAKE_ROOM = "make room, then run the same command again"
_CHOOSE = "choose a target that can be written"
_ADVICE = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EROFS: _CHOOSE,
    errno.EACCES: _CHOOSE,
    errno.EPERM: _CHOOSE,
    errno.ENOENT: "make its folder first",
    errno.ENOTDIR: "choose a target none of whose folders is a file",
}
"""What helps, by the number of an OSError."""


@dataclass(frozen=True)
class Store:
    """A folder, with names in it relative and `/` between their parts."""

    uri: str
    """As the user named it, see `public_uri`."""
    filesystem: pafs.FileSystem
    root: str

    def path(self, name: str) -> str:
        """Return the file system's path of a name."""
        return str(PurePosixPath(self.root) / name)

    def put(self, name: str, content: bytes | memoryview | pa.Buffer) -> None:
        """Write a file; a reader finds it complete or not at all, also if the writer dies.

        On a local disk it is written under another name and renamed; an object store shows
        an object when its upload is complete.

        Raises:
            StorageError: it cannot be written (no space, no permission).
        """
        target = self.path(name)
        try:
            if isinstance(self.filesystem, pafs.LocalFileSystem):
                self.filesystem.create_dir(os.path.dirname(target), recursive=True)
                partial = f"{target}.{uuid.uuid4().hex}.partial"
                try:
                    with open(partial, "wb") as file:
                        file.write(content)
                    os.replace(partial, target)
                finally:
                    if os.path.exists(partial):
                        os.unlink(partial)
            else:
                with self.filesystem.open_output_stream(target, compression=None) as stream:
                    stream.write(content)
        except OSError as error:
            raise write_error(f"{name} in {self.uri}", error) from None

    @contextmanager
    def stream(self, name: str) -> Iterator[BinaryIO]:
        """Yield a file to be written piece by piece, for what does not fit in memory.

        On a local disk a reader finds it when the block has ended without an exception. An object
        store is asked to remove what was uploaded when a block ends with one.

        Raises:
            StorageError: it cannot be written.
        """
        target = self.path(name)
        is_local = isinstance(self.filesystem, pafs.LocalFileSystem)
        written = f"{target}.{uuid.uuid4().hex}.partial" if is_local else target
        try:
            if is_local:
                self.filesystem.create_dir(os.path.dirname(target), recursive=True)
            try:
                with self.filesystem.open_output_stream(written, compression=None) as file:
                    yield file
                if is_local:
                    os.replace(written, target)
            except BaseException:
                with suppress(OSError):
                    self.filesystem.delete_file(written)
                raise
        except OSError as error:
            raise write_error(f"{name} in {self.uri}", error) from None

    def require_writable(self) -> None:
        """Raise StorageError unless files can be written, before work that would be lost.

        Object stores are not asked: who may write objects may not always remove them.
        """
        if isinstance(self.filesystem, pafs.LocalFileSystem):
            self.put(_PROBE, bytes(_PROBE_BYTES))
            self.delete(_PROBE)

    def get(self, name: str) -> bytes | None:
        """Return a file's content, None if there is no such file."""
        try:
            path = self.path(name)
            with self.filesystem.open_input_stream(path, compression=None) as stream:
                return stream.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {name} in {self.uri}: {_reason(error)}") from None

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return the bytes of each complete file below a folder, by name; empty if there is no
        folder."""
        return {name: entry.size for name, entry in self.listing(folder).files.items()}

    def listing(self, folder: str = "") -> Listing:
        """Return the complete files below a folder, and what lies there that is no readable file;
        nothing if there is no folder."""
        root = self.path(folder).rstrip("/") or "/"
        try:
            if isinstance(self.filesystem, pafs.LocalFileSystem):
                listing = list_local(root)
            else:
                selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
                listing = Listing(
                    {
                        info.path[len(root) + 1 :]: FileEntry(info.size, info.mtime_ns or 0)
                        for info in self.filesystem.get_file_info(selector)
                        if info.type == pafs.FileType.File
                    }
                )
        except OSError as error:
            raise StorageError(f"cannot list {self.uri}: {_reason(error)}") from None
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        files = {
            prefix + name: entry
            for name, entry in listing.files.items()
            if not name.endswith(".partial")
        }
        return Listing(files, {prefix + name: why for name, why in listing.left_out.items()})

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            self.filesystem.delete_file(self.path(name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"cannot remove {name} in {self.uri}: {_reason(error)}") from None


def open_store(uri: str | os.PathLike) -> Store:
    """Return the folder that a path or URI (`s3://bucket/folder`, `gs://...`) names.

    It need not exist. The URI may carry what its file system needs, as Arrow reads it
    (`s3://bucket/folder?endpoint_override=host:port&scheme=http`).

    Raises:
        StorageError: no such kind of file system, or it cannot be reached.
    """
    uri = os.fspath(uri)
    if not is_utf8(uri):
        raise StorageError(f"{printable(uri)}: the path is not UTF-8; rename it")
    try:
        if "://" in uri:
            filesystem, root = pafs.FileSystem.from_uri(uri)
        else:
            filesystem, root = pafs.LocalFileSystem(), os.path.abspath(uri)
    except (ValueError, OSError) as error:
        raise StorageError(public_uri(f"{uri}: {error}")) from None
    return Store(public_uri(uri), filesystem, root)


def write_error(where: str, error: OSError) -> StorageError:
    """Return the error that says that a file cannot be written, why, and what helps."""
    advice = _ADVICE.get(error.errno or 0)
    return StorageError(f"cannot write {where}: {_reason(error)}" + f"; {advice}" * bool(advice))


def _reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)


def public_uri(uri: str) -> str:
    """Return a path or URI without user name and password: as it may be printed,
    and kept in what a job writes."""
    return re.sub(r"(?<=://)[^/?\s]*@", "", uri)
