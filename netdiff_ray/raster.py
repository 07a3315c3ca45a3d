"""nprint to RGB picture and back: red is 1, green 0, blue vacant.

The colours are NetDiffusion's (Jiang et al., POMACS 8(1), 2024).
Shape letters: P packets, H rows, W columns (a bit each).
"""

from pathlib import Path
from typing import BinaryIO

import numba
import numpy as np
from PIL import Image, PngImagePlugin

from netdiff_ray.errors import NprintError, RasterError
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import HEIGHTS, Layout, height_for, layout_of_width

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
"""The colours of 1, 0 and vacant."""
_LAYOUT_KEY = "netdiff:layout"


def to_rgb(nprint: np.ndarray, height: int | None = None) -> np.ndarray:
    """Return the raster of an nprint.

    Args:
        nprint: (P, W) int8 of 1, 0, -1.
        height: rows of the raster, those after the P-th vacant; the smallest of HEIGHTS
            that holds P unless given.

    Returns:
        (H, W, 3) uint8.

    Raises:
        RasterError: P exceeds the height.
    """
    height = height_for(len(nprint)) if height is None else height
    if len(nprint) > height:
        raise RasterError(f"{len(nprint):,} rows do not fit a raster of {height:,}")
    rgb = np.empty((height, nprint.shape[1], 3), np.uint8)
    _paint(np.ascontiguousarray(nprint), rgb.reshape(height, -1))
    return rgb


@numba.njit(cache=True)
def _paint(nprint, channels):
    num_rows, width = nprint.shape
    for i in range(len(channels)):
        row = channels[i]
        for j in range(width):
            cell = nprint[i, j] if i < num_rows else VACANT
            row[3 * j] = np.uint8(-(cell == 1))
            row[3 * j + 1] = np.uint8(-(cell == 0))
            row[3 * j + 2] = np.uint8(-(cell == VACANT))


def from_rgb(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells nearest to the colours of a picture, and their distances.

    Nearest by Euclidean distance to (255, 0, 0), (0, 255, 0), (0, 0, 255), which is the
    largest channel; of equals, blue before green before red.

    Args:
        rgb: (H, W, 3) uint8, or (H, W, 4) with an alpha channel, which does not count.

    Returns:
        (H, W) int8 of 1, 0, -1, and (H, W) float32 distance to the colour taken, 0 (sure)
        to 442.

    Raises:
        RasterError: another shape or dtype.
    """
    rgb = np.asarray(rgb)
    if rgb.ndim != 3 or rgb.shape[2] not in (3, 4) or rgb.dtype != np.uint8:
        raise RasterError(
            f"an array of shape {rgb.shape} and type {rgb.dtype} is no picture; "
            "(height, width, 3 or 4) of uint8 is"
        )
    nprint = np.empty(rgb.shape[:2], np.int8)
    distance = np.empty(rgb.shape[:2], np.float32)
    _snap(np.ascontiguousarray(rgb[:, :, :3]).reshape(len(rgb), -1), nprint, distance)
    return nprint, distance


@numba.njit(cache=True)
def _snap(channels, nprint, distance):
    for i in range(nprint.shape[0]):
        row = channels[i]
        for j in range(nprint.shape[1]):
            red = np.int32(row[3 * j])
            green = np.int32(row[3 * j + 1])
            blue = np.int32(row[3 * j + 2])
            is_vacant = (blue >= green) & (blue >= red)
            is_zero = (not is_vacant) & (green >= red)
            nprint[i, j] = np.int8(1) - np.int8(is_zero) - np.int8(2) * np.int8(is_vacant)
            # |x - c|^2 = |x|^2 - 2 * 255 * (the channel of c) + 255^2
            most = max(red, green, blue)
            square = red * red + green * green + blue * blue - 510 * most + 65025
            distance[i, j] = np.sqrt(np.float32(square))


def drop_vacant_tail(nprint: np.ndarray) -> np.ndarray:
    """Return `nprint` (H, W) up to its first wholly vacant row, a view (P, W)."""
    vacant = (nprint == VACANT).all(axis=1)
    return nprint[: int(vacant.argmax()) if vacant.any() else len(nprint)]


def write_png(path: str | Path | BinaryIO, nprint: np.ndarray, layout: Layout) -> None:
    """Write an nprint (P, W) as a PNG whose metadata names its layout."""
    info = PngImagePlugin.PngInfo()
    info.add_text(_LAYOUT_KEY, layout.name)
    Image.fromarray(to_rgb(nprint)).save(path, format="PNG", pnginfo=info, compress_level=3)


def read_png(path: str | Path) -> tuple[np.ndarray, np.ndarray, Layout]:
    """Return the nprint of a PNG of this package or NetDiffusion.

    Returns:
        (P, W) int8 up to the first vacant row, (P, W) float32 distances (see `from_rgb`),
        and the layout, recognised by the width.

    Raises:
        RasterError: no readable picture, of no layout's width, or too high.
    """
    try:
        with Image.open(path) as image:
            if image.height > HEIGHTS[-1]:
                raise RasterError(
                    f"{path}: {image.height:,} rows; a raster has at most {HEIGHTS[-1]:,}"
                )
            rgb = np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise RasterError(f"{path}: no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RasterError(f"{path}: not a readable PNG ({error})") from None
    try:
        layout = layout_of_width(rgb.shape[1])
    except NprintError as error:
        raise RasterError(f"{path}: {error}") from None
    nprint, distance = from_rgb(rgb)
    nprint = drop_vacant_tail(nprint)
    if len(nprint) > HEIGHTS[-1]:
        raise RasterError(f"{path}: {len(nprint):,} rows; a raster has at most {HEIGHTS[-1]:,}")
    return nprint, distance[: len(nprint)], layout
