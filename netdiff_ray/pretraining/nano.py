"""Build small SD3 bases: complete diffusers directories of random weights, without downloads.

A token of the transformer is patch_size x patch_size latents of each channel; it must not
hold more numbers than the transformer is wide, since a velocity needs them all. The
autoencoder has a single level by default: its latents have the size of the raster, and
the patches of the transformer do the shrinking. With a stride in the autoencoder, equal rows
could not be told apart.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3ControlNetPipeline,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

_WORDS = ("pixelated", "network", "data", "for", "application", "traffic", "window")
"""Words of the default prompt, which are a token each; others are spelt."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.-_"


@dataclass(frozen=True, kw_only=True)
class NanoSizes:
    """Sizes of the components."""

    width: int = 192
    """Width of the transformer, a multiple of 64 or less than 64."""
    layers: int = 4
    """Blocks of the transformer."""
    control_layers: int = 1
    """Blocks of the ControlNet."""
    patch_size: int = 8
    """Latents along a token's side."""
    latent_channels: int = 1
    """Channels of the latents."""
    vae_channels: tuple[int, ...] = (8,)
    """Channels of the autoencoder's levels, from full resolution down, multiples of 4."""
    reach: int = 88
    """Tokens along each side that have position embeddings."""
    text_width: int = 64
    """Width of each CLIP encoder; T5 and the joint attention are twice as wide."""
    clip_tokens: int = 24
    """Tokens of a prompt for CLIP."""
    t5_tokens: int = 8
    """Tokens of a prompt for T5, which gets its beginning; CLIP gets the whole."""


def build(directory: Path, sizes: NanoSizes, seed: int) -> None:
    """Write a base of random weights to `directory`.

    Args:
        directory: becomes a diffusers SD3 directory with a `controlnet` folder.
        sizes: of its components.
        seed: of the weights; the global random state stays as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = StableDiffusion3ControlNetPipeline(
            transformer=_transformer(sizes),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            vae=make_vae(sizes),
            text_encoder=_clip(sizes),
            text_encoder_2=_clip(sizes),
            text_encoder_3=_t5(sizes),
            tokenizer=_clip_tokenizer(sizes.clip_tokens),
            tokenizer_2=_clip_tokenizer(sizes.clip_tokens),
            tokenizer_3=_t5_tokenizer(sizes.t5_tokens),
            controlnet=_controlnet(sizes),
        )
        pipeline.controlnet.pos_embed = None  # the pipeline lent it the transformer's
    pipeline.save_pretrained(directory)


def _heads(width: int) -> tuple[int, int]:
    """Return the number of attention heads, and their width."""
    heads = max(width // 64, 1)
    return heads, width // heads


def _transformer(sizes: NanoSizes) -> SD3Transformer2DModel:
    heads, head_width = _heads(sizes.width)
    return SD3Transformer2DModel(
        sample_size=sizes.reach * sizes.patch_size, patch_size=sizes.patch_size,
        in_channels=sizes.latent_channels, out_channels=sizes.latent_channels,
        num_layers=sizes.layers, attention_head_dim=head_width, num_attention_heads=heads,
        joint_attention_dim=2 * sizes.text_width, caption_projection_dim=sizes.width,
        pooled_projection_dim=2 * sizes.text_width, pos_embed_max_size=sizes.reach,
        qk_norm="rms_norm",
    )  # fmt: skip


def _controlnet(sizes: NanoSizes) -> SD3ControlNetModel:
    """Make a ControlNet of SD3.5's kind: blocks without text, the transformer's positions."""
    heads, head_width = _heads(sizes.width)
    return SD3ControlNetModel(
        sample_size=sizes.reach * sizes.patch_size, patch_size=sizes.patch_size,
        in_channels=sizes.latent_channels, out_channels=sizes.latent_channels,
        num_layers=sizes.control_layers, attention_head_dim=head_width,
        num_attention_heads=heads, joint_attention_dim=None,
        caption_projection_dim=sizes.width, pooled_projection_dim=2 * sizes.text_width,
        pos_embed_max_size=sizes.reach, use_pos_embed=False,
        force_zeros_for_pooled_projection=False,
    )  # fmt: skip


def make_vae(sizes: NanoSizes) -> AutoencoderKL:
    """Make an autoencoder without attention, which would grow with the square of the height."""
    levels = len(sizes.vae_channels)
    return AutoencoderKL(
        block_out_channels=sizes.vae_channels, latent_channels=sizes.latent_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False,
        use_quant_conv=False, use_post_quant_conv=False, force_upcast=False,
        scaling_factor=1.0, shift_factor=0.0, sample_size=64,
    )  # fmt: skip


def _clip_tokenizer(tokens: int) -> CLIPTokenizer:
    """Make a tokenizer of bytes, with merges that make each of _WORDS one token."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    merges = []
    for word in _WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        merged = parts[0]
        for part in parts[1:]:
            if (merged, part) not in merges:
                merges.append((merged, part))
                vocabulary.append(merged + part)
            merged += part
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    numbers = {token: k for k, token in enumerate(dict.fromkeys(vocabulary))}
    return CLIPTokenizer(vocab=numbers, merges=merges, model_max_length=tokens)


def _clip(sizes: NanoSizes) -> CLIPTextModelWithProjection:
    tokenizer = _clip_tokenizer(sizes.clip_tokens)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=sizes.text_width,
        intermediate_size=2 * sizes.text_width, projection_dim=sizes.text_width,
        num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=sizes.clip_tokens, initializer_factor=4.0,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config)


def _t5_tokenizer(tokens: int) -> T5TokenizerFast:
    """Make a tokenizer of _WORDS and letters."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary += [(f"▁{word}", -1.0) for word in _WORDS]
    vocabulary += [(letter, -3.0) for letter in _LETTERS]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=tokens)


def _t5(sizes: NanoSizes) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(_t5_tokenizer(sizes.t5_tokens)), d_model=2 * sizes.text_width,
        d_kv=sizes.text_width, d_ff=2 * sizes.text_width, num_layers=1, num_heads=2,
    )  # fmt: skip
    return T5EncoderModel(config)
