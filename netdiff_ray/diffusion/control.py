"""Control images: edges of a label's mean raster, which is nobody's flow.

Shape letters: N windows, P packets, H x W pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from netdiff_ray.raster import to_rgb

FEWEST_WINDOWS = 8
"""A mean of fewer windows is not taken; such a label gets a control image without edges."""

_LOW, _HIGH = 100, 200  # Canny's thresholds in the ControlNet paper's and diffusers' examples


def mean_raster(nprints: Sequence[np.ndarray], height: int) -> np.ndarray:
    """The mean of the rasters of windows at one height, longer ones cut and shorter ones vacant
    below.

    Args:
        nprints: N matrices (P, W) int8.
        height: H.

    Returns:
        (H, W, 3) float64, 0 to 255.
    """
    total = np.zeros((height, nprints[0].shape[1], 3))
    for nprint in nprints:
        total += to_rgb(nprint[:height], height)
    return total / len(nprints)


def edges(mean: np.ndarray) -> np.ndarray:
    """The Canny edges of a mean raster as a picture, white on black.

    Canny, "A computational approach to edge detection", PAMI 8(6), 1986; OpenCV's.

    Args:
        mean: (H, W, 3), 0 to 255.

    Returns:
        (H, W, 3) uint8, 0 or 255, of the raster's own size.
    """
    found = cv2.Canny(np.ascontiguousarray(mean.round().astype(np.uint8)), _LOW, _HIGH)
    return np.repeat(found[:, :, None], 3, axis=2)


def control_images(
    nprints: Sequence[np.ndarray], heights: Sequence[int], width: int
) -> dict[int, np.ndarray]:
    """The control image of one label at each height.

    Of the windows that fill such a raster, those of over half its height, where there are
    FEWEST_WINDOWS of them; else of all; without edges where even they are fewer.

    Args:
        nprints: the label's windows, N matrices (P, W) int8.
        heights: which rasters there are.
        width: W.

    Returns:
        height to (H, W, 3) uint8.
    """
    images = {}
    for height in heights:
        own = [n for n in nprints if height // 2 < len(n) <= height]
        chosen = own if len(own) >= FEWEST_WINDOWS else nprints
        if len(chosen) < FEWEST_WINDOWS:
            images[height] = np.zeros((height, width, 3), np.uint8)
        else:
            images[height] = edges(mean_raster(chosen, height))
    return images
