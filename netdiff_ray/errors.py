"""The exceptions that a user of netdiff_ray can meet, by what a program can do about each.

    NetdiffError
    +-- ConfigError        change the request: an option, or two that contradict each other
    +-- DataError          mend or leave out the input
    |   +-- CaptureError   a capture cannot be read, or not past a byte offset
    |   +-- NprintError    a matrix or .nprint file does not follow its layout
    |   +-- RasterError    an image is no raster of a known layout
    |   +-- DatasetError   a dataset is incomplete, of another kind, or lacks what is asked of it
    +-- ModelError         choose another base, adapter or ControlNet, or less memory
    +-- StorageError       make room, give permission, or wait: a store cannot be read or written
    +-- ClusterError       start Ray, add machines, or run the same command again

Each message says what is wrong, where, and what would be right.
"""


class NetdiffError(Exception):
    """Base of every error that this package raises for a user's input or surroundings."""


class ConfigError(NetdiffError):
    """A request that cannot be carried out, whatever the data and the machines."""


class DataError(NetdiffError):
    """Input data that is not what it should be."""


class CaptureError(DataError):
    """A capture that cannot be read, or cannot be read past `offset`.

    Args:
        name: the capture, as the user named it.
        what: what stands there and what was expected, in words.
        offset: byte offset in the (decompressed) capture, None where there is none.
    """

    def __init__(self, name: str, what: str, offset: int | None = None):
        self.name = name
        self.what = what
        self.offset = offset
        where = "" if offset is None else f" at byte {offset:,}"
        super().__init__(f"{name}: {what}{where}")

    def __reduce__(self) -> tuple:
        return type(self), (self.name, self.what, self.offset)


class NprintError(DataError):
    """A matrix or .nprint text that does not follow its layout."""


class RasterError(DataError):
    """An image that is no raster of a known layout."""


class DatasetError(DataError):
    """A dataset that is incomplete, of another kind, or lacks what is asked of it."""


class ModelError(NetdiffError):
    """A base, adapter or ControlNet that cannot be loaded, trained or drawn with."""


class StorageError(NetdiffError):
    """A file system or object store that cannot be read, listed or written."""


class ClusterError(NetdiffError):
    """A Ray cluster that cannot be reached, is too small, or lost the workers of a job."""
