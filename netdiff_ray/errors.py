"""The exceptions that a user of netdiff_ray can meet, as one tree.

    NetdiffError
    +-- CaptureError   a capture cannot be read, or not past a byte offset
    +-- NprintError    a matrix or .nprint file is not what its layout says
    +-- RasterError    an image is not a raster of a known layout
    +-- UsageError     what was asked for cannot be done with what was given

Each message says what was wrong, where, and what would be right.
"""


class NetdiffError(Exception):
    """Base of every error that this package raises for a user's input."""


class CaptureError(NetdiffError):
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


class NprintError(NetdiffError):
    """A matrix or .nprint text that does not follow its layout."""


class RasterError(NetdiffError):
    """An image that is no raster of a known layout."""


class UsageError(NetdiffError):
    """A request that cannot be carried out with what was given."""
