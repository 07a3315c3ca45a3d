"""Control images: the edges of a label's mean raster, which shows no single flow.

Shape letters: N windows, P packets, H x W pixels.
"""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from netdiff_ray.nprint.layouts import height_for

MIN_WINDOWS = 8
"""Labels of fewer windows get a control image without edges."""

_LOW, _HIGH = 100, 200
"""Canny's thresholds in the examples of the ControlNet paper and of diffusers."""

Cells = dict[int, np.ndarray]
"""The number of windows of a label that have a 1, and a 0, in each cell.

(2, H, W) int32 by height, of the windows that fill a raster of the height by more than half; and
under ALL of all windows, H being the most rows of a window.
"""

ALL = 0


def count_cells(cells: Cells, nprint: np.ndarray, max_height: int) -> None:
    """Add a window to `cells`.

    Args:
        cells: of the window's label; missing arrays are added.
        nprint: (P, W) int8, P at most `max_height`.
        max_height: most rows of a window.
    """
    height = height_for(len(nprint))
    keys = {ALL: max_height}
    if len(nprint) > height // 2:
        keys[height] = height
    for key, num_rows in keys.items():
        if key not in cells:
            cells[key] = np.zeros((2, num_rows, nprint.shape[1]), np.int32)
        cells[key][0, : len(nprint)] += nprint == 1
        cells[key][1, : len(nprint)] += nprint == 0


def column_shares(cells: Cells, rows: Mapping[int, int]) -> np.ndarray:
    """Return the shares of 1, 0 and vacant among a label's packets, (3, W) float64.

    Args:
        cells: of the label.
        rows: number of windows of the label by their rows.
    """
    packets = sum(num_rows * number for num_rows, number in rows.items())
    ones, zeros = cells[ALL].sum(axis=1) / packets
    return np.stack([ones, zeros, 1 - ones - zeros])


def mean_raster(counts: np.ndarray, num_windows: int, height: int) -> np.ndarray:
    """Return the mean of rasters at one height, longer ones cut and shorter ones vacant below.

    Args:
        counts: (2, h, W) number of rasters that have a 1, and a 0, in each cell.
        num_windows: number of rasters.
        height: H.

    Returns:
        (H, W, 3) float64, 0 to 255.
    """
    shares = np.zeros((3, height, counts.shape[2]))
    cut = counts[:, :height]
    shares[:2, : cut.shape[1]] = cut / num_windows
    shares[2] = 1 - shares[0] - shares[1]
    return 255 * shares.transpose(1, 2, 0)


def edges(mean: np.ndarray) -> np.ndarray:
    """Return the Canny edges of a mean raster, white on black.

    Canny, "A computational approach to edge detection", PAMI 8(6), 1986, as in OpenCV.

    Args:
        mean: (H, W, 3), 0 to 255.

    Returns:
        (H, W, 3) uint8, 0 or 255.
    """
    picture = cv2.Canny(np.ascontiguousarray(mean.round().astype(np.uint8)), _LOW, _HIGH)
    return np.repeat(picture[:, :, None], 3, axis=2)


def control_images(
    cells: Cells, rows: Mapping[int, int], heights: Sequence[int]
) -> dict[int, np.ndarray]:
    """Return the control image of a label at each height.

    Of the windows that fill a raster of the height by more than half, if they are MIN_WINDOWS; else
    of all windows; without edges if even those are fewer.

    Args:
        cells: of the label's windows.
        rows: number of windows of the label by their rows.
        heights: of the rasters.

    Returns:
        (H, W, 3) uint8 by height.
    """
    images = {}
    for height in heights:
        key = height
        num_windows = sum(n for num_rows, n in rows.items() if height // 2 < num_rows <= height)
        if num_windows < MIN_WINDOWS:
            key, num_windows = ALL, sum(rows.values())
        if num_windows < MIN_WINDOWS:
            images[height] = np.zeros((height, cells[ALL].shape[2], 3), np.uint8)
        else:
            images[height] = edges(mean_raster(cells[key], num_windows, height))
    return images
