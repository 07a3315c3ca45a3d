"""Control images: the picture of a flow's plan, which conditions the ControlNet.

Shape letters: N samples, H x W pixels, C x h x w latents.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from netdiff_ray.diffusion.base import Base, encode_control
from netdiff_ray.diffusion.plan_constraints import planned_cells
from netdiff_ray.labels.flow_plan import PlannedWindow
from netdiff_ray.labels.planned_cells import planned_values
from netdiff_ray.nprint.layouts import layout_of_width
from netdiff_ray.raster import BLUE, GREEN, RED

_WHITE = (255, 255, 255)
"""A cell that holds a bit of which the plan does not say which; black stands for cells of which it
says nothing. nano's autoencoder gives white the latent halfway between those of 1 and of 0."""
_LOW, _HIGH = 100, 200
"""Canny's thresholds in the examples of the ControlNet paper and of diffusers."""


def plan_pictures(samples: Sequence[PlannedWindow], width: int) -> np.ndarray:
    """Return the pictures of samples' plans: what is held while they are drawn.

    A cell that is planned 1 is red, 0 green, vacant blue, as in a raster; one that holds a bit is
    white, any other black.

    Args:
        samples: N of one height.
        width: W of the rasters.

    Returns:
        (N, H, W, 3) uint8.
    """
    layout = layout_of_width(width)
    vacant, occupied = planned_cells(samples, width)
    values = np.stack([planned_values(sample, layout) for sample in samples])
    pictures = np.zeros((*vacant.shape, 3), np.uint8)
    for cells, colour in (
        (occupied, _WHITE), (vacant, BLUE), (values == 0, GREEN), (values == 1, RED),
    ):  # fmt: skip
        pictures[cells] = colour
    return pictures


def edges(pictures: np.ndarray) -> np.ndarray:
    """Return the Canny edges of pictures, white on black, (N, H, W, 3) uint8.

    Canny, "A computational approach to edge detection", PAMI 8(6), 1986, as in OpenCV.
    """
    found = np.stack([cv2.Canny(picture, _LOW, _HIGH) for picture in pictures])
    return np.repeat(found[..., None], 3, axis=3)


def control_latents(base: Base, samples: Sequence[PlannedWindow], width: int) -> torch.Tensor:
    """Return the latents of samples' control images, (N, C, h, w) float32 on the base's device.

    Args:
        base: its settings say whether its ControlNet takes pictures of plans or their edges.
        samples: N of one height.
        width: W of the rasters.

    Raises:
        ModelError: the base has no ControlNet.
    """
    pictures = plan_pictures(samples, width)
    if base.settings.control_image == "edges":
        pictures = edges(pictures)
    return encode_control(base, pictures)
