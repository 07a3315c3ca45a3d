"""Files below a local folder, and what lies in it that is no readable file."""

import errno
import os
import stat
from dataclasses import dataclass, field

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True)
class FileEntry:
    """A file as it is stored."""

    size: int
    """In bytes."""
    mtime_ns: int
    """Time of writing, in nanoseconds of Unix time; 0 if the store does not say."""


@dataclass(frozen=True)
class Listing:
    """What lies below a folder, by name relative to it, `/` between the parts."""

    files: dict[str, FileEntry] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Printable name -> why it cannot be read by its name."""


def printable(name: str) -> str:
    """Return a file name with the bytes that are not UTF-8 as `\\xNN`."""
    return os.fsencode(name).decode(errors="backslashreplace")


def is_utf8(name: str) -> bool:
    """Return whether a file name, as Python has it, is UTF-8."""
    return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)


def list_local(root: str) -> Listing:
    """Return what lies below a folder of this machine, links followed; nothing if it does not
    exist.

    Raises:
        OSError: a folder cannot be listed.
    """
    listing = Listing()
    if not os.path.isdir(root):
        return listing
    folders = [("", ((os.stat(root).st_dev, os.stat(root).st_ino),))]
    while folders:
        folder, within = folders.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    status = entry.stat()
                except OSError as error:
                    if entry.is_symlink():
                        loops = error.errno == errno.ELOOP
                        reason = "a link that leads to itself" if loops else "a link to nothing"
                        listing.left_out[printable(name)] = reason
                    continue  # what is no link has just been removed
                folder_id = (status.st_dev, status.st_ino)
                if stat.S_ISDIR(status.st_mode):
                    if folder_id not in within:  # a link may lead back
                        folders.append((name, (*within, folder_id)))
                elif not stat.S_ISREG(status.st_mode):
                    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something")
                    listing.left_out[printable(name)] = f"{kind}, not a file"
                elif is_utf8(name):
                    listing.files[name] = FileEntry(status.st_size, status.st_mtime_ns)
                else:
                    listing.left_out[printable(name)] = "its name is not UTF-8; rename it"
    return listing
