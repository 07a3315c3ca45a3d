"""Rasters: colours, snapping, PNG files of ours and NetDiffusion's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from netdiff_ray import raster
from netdiff_ray.errors import RasterError
from netdiff_ray.nprint import LAYOUTS

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]])


def test_colours():
    rgb = raster.to_rgb(np.array([[1, 0, -1]], np.int8))
    assert rgb.shape == (16, 3, 3)
    np.testing.assert_array_equal(rgb[0], COLOURS)
    assert (rgb[1:] == COLOURS[2]).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_snapping_is_the_nearest_colour(seed):
    rgb = np.random.default_rng(seed).integers(0, 256, (8, 20, 3)).astype(np.uint8)
    nprint, distance = raster.from_rgb(rgb)
    to_each = np.linalg.norm(rgb[:, :, None].astype(float) - COLOURS, axis=3)
    np.testing.assert_allclose(distance, to_each.min(axis=2), rtol=1e-5)
    taken = np.take_along_axis(to_each, (1 - nprint)[:, :, None].astype(int), axis=2)[:, :, 0]
    np.testing.assert_allclose(taken, to_each.min(axis=2))


def test_ties_are_settled_alike():
    grey = np.array([[[9, 9, 9], [9, 9, 0], [0, 9, 9], [9, 0, 9]]], np.uint8)
    assert raster.from_rgb(grey)[0].tolist() == [[-1, 0, -1, -1]]


@pytest.fixture
def window():
    """Return a window of 20 rows in layout nprint-1088."""
    nprint = np.random.default_rng(3).integers(-1, 2, (20, 1088)).astype(np.int8)
    nprint[:, 0] = 1
    return nprint


def test_png(tmp_path, window):
    raster.write_png(tmp_path / "a.png", window, LAYOUTS["nprint-1088"])
    nprint, distance, layout = raster.read_png(tmp_path / "a.png")
    np.testing.assert_array_equal(nprint, window)
    assert layout.name == "nprint-1088"
    assert distance.max() == 0
    assert Image.open(tmp_path / "a.png").size == (1088, 32)


def test_netdiffusion_rgba_png(tmp_path, window):
    """1,024 rows, an alpha channel, colours a little off."""
    rgb = raster.to_rgb(window, 1024).astype(int)
    rgb += np.random.default_rng(4).integers(-60, 61, rgb.shape)
    alpha = np.full((*rgb.shape[:2], 1), 255)
    rgba = np.concatenate([np.clip(rgb, 0, 255), alpha], axis=2).astype(np.uint8)
    Image.fromarray(rgba, "RGBA").save(tmp_path / "drawn.png")
    nprint, distance, _ = raster.read_png(tmp_path / "drawn.png")
    np.testing.assert_array_equal(nprint, window)
    assert 0 < distance.mean() < 110


@pytest.mark.parametrize(
    ("size", "words"),
    [((1024, 1024), "no layout has 1,024 columns"), ((704, 1040), "1,040 rows; a raster has at")],
)
def test_pictures_that_are_no_rasters(tmp_path, size, words):
    Image.new("RGB", size, "red").save(tmp_path / "x.png")
    with pytest.raises(RasterError, match=words):
        raster.read_png(tmp_path / "x.png")


def test_files_that_are_no_pictures(tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    with pytest.raises(RasterError, match="not a readable PNG"):
        raster.read_png(tmp_path / "x.png")
    with pytest.raises(RasterError, match="no such file"):
        raster.read_png(tmp_path / "none.png")


def test_a_window_too_long():
    with pytest.raises(RasterError, match="17 rows do not fit a raster of 16"):
        raster.to_rgb(np.zeros((17, 4), np.int8), 16)
