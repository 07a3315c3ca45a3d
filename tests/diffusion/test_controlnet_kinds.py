"""ControlNets: which pixels each kind takes, and those that do not fit a base."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import SD3ControlNetModel
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from netdiff_ray.config.diffusion import BaseSettings
from netdiff_ray.diffusion.base import encode_control, load_base
from netdiff_ray.diffusion.controlnet_kinds import CANNY_8B, NORMALISED, pixels_of
from netdiff_ray.diffusion.source_checks import check_controlnet_files
from netdiff_ray.errors import ModelError

LARGE = {  # stabilityai/stable-diffusion-3.5-large-controlnet-canny
    "attention_head_dim": 64, "caption_projection_dim": 2048, "in_channels": 16,
    "joint_attention_dim": None, "num_attention_heads": 38, "num_layers": 19, "patch_size": 2,
    "pooled_projection_dim": 2048, "use_pos_embed": False,
}  # fmt: skip
MEDIUM = {  # InstantX/SD3-Controlnet-Canny
    **LARGE, "joint_attention_dim": 4096, "num_attention_heads": 24, "num_layers": 12,
    "use_pos_embed": True,
}  # fmt: skip


def settings_of(base, **chosen):
    return BaseSettings(base=str(base), device="cpu", **chosen)


@pytest.fixture
def changed(toy_directory, tmp_path):
    """Return a function that writes the toy's ControlNet with another config, random weights."""

    def write(**sizes):
        config = json.loads((toy_directory / "controlnet" / "config.json").read_text())
        config = {name: value for name, value in config.items() if name[0] != "_"}
        with torch.random.fork_rng():
            SD3ControlNetModel(**{**config, **sizes}).save_pretrained(tmp_path / "net")
        return tmp_path / "net"

    return write


@pytest.mark.parametrize(
    ("config", "image", "chosen", "pixels"),
    [
        (LARGE, "edges", "auto", CANNY_8B),
        (LARGE, "plan", "auto", NORMALISED),
        (LARGE, "edges", NORMALISED, NORMALISED),
        (MEDIUM, "edges", "auto", NORMALISED),
        (MEDIUM, "edges", CANNY_8B, CANNY_8B),
    ],
)
def test_pixels_are_those_of_the_kind_unless_set(config, image, chosen, pixels):
    assert pixels_of(config, image, chosen) == pixels


def test_the_pixels_of_sd3_5_larges_canny_are_those_of_its_model_card(toy_directory):
    base = load_base(settings_of(toy_directory, control_pixels=CANNY_8B))
    picture = np.random.default_rng(0).integers(0, 256, (1, 16, 656, 3), np.uint8)
    theirs = VaeImageProcessor(vae_scale_factor=1, do_normalize=False).preprocess(
        Image.fromarray(picture[0])
    )
    with torch.no_grad():
        latents = base.vae.encode(theirs * 255 * 0.5 + 0.5).latent_dist.mode()
    assert torch.allclose(encode_control(base, picture), latents, rtol=1e-5, atol=1e-3)
    normalised = load_base(settings_of(toy_directory))
    assert not torch.allclose(encode_control(normalised, picture), latents, atol=1)


def test_which_pixels_were_taken_is_said(toy_directory):
    line = check_controlnet_files(settings_of(toy_directory))
    assert line == (
        "the ControlNet takes pictures of plans as normalised pixels, -1 to 1 (kind: any other)"
    )
    line = check_controlnet_files(
        settings_of(toy_directory, control_pixels=CANNY_8B, control_image="edges")
    )
    assert line.endswith("edges of plans as sd3.5-large-canny pixels, 0.5 to 128 (as set)")


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"num_attention_heads": 2, "attention_head_dim": 32}, "width 64 where the base has 32"),
        ({"num_layers": 3}, "3 blocks where the base has 2"),
        ({"patch_size": 4}, "patch size 4 where the base has 8"),
        ({"in_channels": 4}, "latent channels 4 where the base has 1"),
        ({"pooled_projection_dim": 8}, "width of pooled prompts 8 where the base has 32"),
        ({"extra_conditioning_channels": 1}, "takes a mask beside its image"),
    ],
)
def test_a_controlnet_that_does_not_fit_is_refused_before_loading(
    toy_directory, changed, sizes, words
):
    settings = settings_of(toy_directory, controlnet=str(changed(**sizes)))
    for refuse in (load_base, check_controlnet_files):
        with pytest.raises(ModelError, match=words):
            refuse(settings)


def test_one_that_fits_is_not_refused(toy_directory, changed):
    settings = settings_of(toy_directory, controlnet=str(changed(num_layers=2)))
    assert check_controlnet_files(settings)
    assert len(load_base(settings).controlnet.transformer_blocks) == 2


def test_a_base_without_controlnet_has_nothing_to_say(toy_directory, tmp_path):
    base = shutil.copytree(toy_directory, tmp_path / "base")
    shutil.rmtree(base / "controlnet")
    assert check_controlnet_files(settings_of(base)) == ""
