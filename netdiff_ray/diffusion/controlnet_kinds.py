"""Kinds of SD3 ControlNets, told by their configs: which pixels they take, which bases they fit.

Loads neither torch nor diffusers.
"""

from collections.abc import Mapping
from typing import NamedTuple

from netdiff_ray.errors import ModelError

NORMALISED = "normalised"
"""Pixels from -1 to 1, as diffusers' VaeImageProcessor makes them."""
CANNY_8B = "sd3.5-large-canny"
"""Pixels from 0.5 to 128: `image * 255 * 0.5 + 0.5` of an image from 0 to 1. SD3.5 Large's Canny
ControlNet was trained on these, and its blur and depth ControlNets on normalised pixels: see
`vae_encode` in sd3_infer.py of github.com/Stability-AI/sd3.5, and the image processor on the model
card of stabilityai/stable-diffusion-3.5-large-controlnet-canny."""
PIXELS = {NORMALISED: (1 / 127.5, -1.0), CANNY_8B: (0.5, 0.5)}
"""Factor and summand that make them from 0 to 255."""


class ControlNetKind(NamedTuple):
    """A row of KINDS."""

    name: str
    config: Mapping[str, object]
    """Entries that its config has."""
    images: tuple[str, ...]
    """Control images (`BaseSettings.control_image`) that it is given."""
    pixels: str
    """One of PIXELS."""


KINDS = (
    ControlNetKind(
        "SD3.5 Large's, for edges",
        {
            "num_attention_heads": 38, "attention_head_dim": 64, "in_channels": 16,
            "joint_attention_dim": None, "use_pos_embed": False,
        },
        ("edges",), CANNY_8B,
    ),
    ControlNetKind("any other", {}, ("plan", "edges"), NORMALISED),
)  # fmt: skip
"""The first that fits is taken."""


def kind_of_controlnet(config: Mapping[str, object], image: str) -> ControlNetKind:
    """Return the kind of the ControlNet with this config that is given these control images."""
    return next(
        kind
        for kind in KINDS
        if image in kind.images
        and all(name in config and config[name] == value for name, value in kind.config.items())
    )


def pixels_of(config: Mapping[str, object], image: str, chosen: str) -> str:
    """Return which of PIXELS a ControlNet takes: the chosen ones, or with `auto` its kind's."""
    return kind_of_controlnet(config, image).pixels if chosen == "auto" else chosen


def describe_pixels(config: Mapping[str, object], image: str, chosen: str) -> str:
    """Return in words which pixels a ControlNet takes, and why."""
    pixels = pixels_of(config, image, chosen)
    factor, summand = PIXELS[pixels]
    why = "as set" if chosen != "auto" else f"kind: {kind_of_controlnet(config, image).name}"
    return (
        f"the ControlNet takes {'edges of plans' if image == 'edges' else 'pictures of plans'} as "
        f"{pixels} pixels, {summand:g} to {255 * factor + summand:g} ({why})"
    )


def check_fits(
    config: Mapping[str, object], transformer: Mapping[str, object], source: str, base: str
) -> None:
    """Raise ModelError unless a ControlNet fits a base.

    It has to have the base's width, latents, patches and embeddings of prompts, and no more blocks.

    Args:
        config: of the ControlNet.
        transformer: config of the base's transformer.
        source: of the ControlNet, for the message.
        base: its name, for the message.
    """
    pairs = {"width": tuple(map(_width, (config, transformer)))}
    for name, words in (
        ("in_channels", "latent channels"),
        ("patch_size", "patch size"),
        ("joint_attention_dim", "width of prompts"),
        ("pooled_projection_dim", "width of pooled prompts"),
    ):
        pairs[words] = config.get(name), transformer.get(name)
    wrong = [
        f"{words} {ours:,} where the base has {theirs:,}"
        for words, (ours, theirs) in pairs.items()
        if ours is not None and theirs is not None and ours != theirs
    ]
    blocks = config.get("num_layers"), transformer.get("num_layers")
    if None not in blocks and blocks[0] > blocks[1]:
        wrong.append(f"{blocks[0]} blocks where the base has {blocks[1]}")
    if wrong:
        raise ModelError(
            f"{source}: this ControlNet does not fit {base}: {'; '.join(wrong)}. Use one that was "
            "made for this base, or train one with controlnet_from"
        )
    if config.get("extra_conditioning_channels"):
        raise ModelError(
            f"{source}: this ControlNet takes a mask beside its image, for inpainting; give one "
            "for edges alone, such as InstantX/SD3-Controlnet-Canny"
        )


def _width(config: Mapping[str, object]) -> int | None:
    """Return the width of a model's tokens; None if its config does not have it."""
    heads, width = config.get("num_attention_heads"), config.get("attention_head_dim")
    return heads * width if isinstance(heads, int) and isinstance(width, int) else None
