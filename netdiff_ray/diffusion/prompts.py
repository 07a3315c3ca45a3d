"""Prompts of labels, and their embeddings by the base's text encoders.

Shape letters: K texts, T tokens, D their width, E the pooled width.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5TokenizerFast,
)

from netdiff_ray.diffusion.adapter import Embeddings
from netdiff_ray.diffusion.base import Base
from netdiff_ray.diffusion.fetch import directory_of
from netdiff_ray.diffusion.weight_files import (
    check_component,
    check_text_encoders,
    variant_of,
)
from netdiff_ray.errors import ConfigError, ModelError
from netdiff_ray.labels.service import LabelService
from netdiff_ray.labels.statistics import MAX_WINDOW_PROMPTS, ServiceStatistics

_FOLDERS = {
    "text_encoder": CLIPTextModelWithProjection,
    "text_encoder_2": CLIPTextModelWithProjection,
    "text_encoder_3": T5EncoderModel,
    "tokenizer": CLIPTokenizer,
    "tokenizer_2": CLIPTokenizer,
    "tokenizer_3": T5TokenizerFast,
}
LONGEST_T5 = 256
"""Tokens for T5 unless set otherwise, as in diffusers."""


def prompt_for(template: str, service: LabelService, window: int) -> str:
    """Return the prompt of a service's windows of a number, counted from 0.

    From the second window on it names the window; all from the MAX_WINDOW_PROMPTS-th on share a
    prompt.
    """
    text = template.replace("{label}", service.label).replace("{service}", service.service)
    number = min(window + 1, MAX_WINDOW_PROMPTS)
    return text if number == 1 else f"{text}, window {number}"


@torch.no_grad()
def embed_texts(
    base: Base, texts: list[str], t5: Literal["none"] | int = LONGEST_T5
) -> tuple[np.ndarray, np.ndarray]:
    """Embed texts with the base's text encoders, which are in memory meanwhile.

    The base's own models wait in the computer's memory for as long, if they are on another device,
    so that its memory has to hold the larger of both and not their sum. A base without
    `text_encoder_3` (T5) gets zeros in its place, as in diffusers.

    Args:
        base: of the encoders.
        texts: K texts.
        t5: tokens for T5, at most as many as its tokenizer takes; with `none` T is that of CLIP
            alone.

    Returns:
        (K, T, D) and (K, E) float16.

    Raises:
        ModelError: the CLIP encoders or tokenizers are missing or cannot be loaded.
    """
    device = base.device
    with set_aside([base.transformer, base.vae, base.controlnet], device):
        return _embed(_text_pipeline(base, device, with_t5=t5 != "none"), texts, t5, device)


@contextlib.contextmanager
def set_aside(models: Iterable[torch.nn.Module | None], device: torch.device) -> Iterator[None]:
    """Hold models in the computer's memory meanwhile, if the device is another one; give them and
    only them its memory again.

    Args:
        models: on the device; None is passed over.
        device: of the models.
    """
    moved = [model for model in models if model is not None and device.type != "cpu"]
    for model in moved:
        model.to("cpu")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        for model in moved:
            model.to(device)


def _embed(
    pipeline: StableDiffusion3Pipeline,
    texts: list[str],
    t5: Literal["none"] | int,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `embed_texts` does, by a pipeline on a device."""
    tokenizer = pipeline.tokenizer_3
    longest = LONGEST_T5 if t5 == "none" else t5
    if tokenizer is not None:
        longest = min(longest, tokenizer.model_max_length)
    end = pipeline.tokenizer_max_length if t5 == "none" else None
    prompts, pooled = [], []
    for text in texts:
        prompt, _, pooled_prompt, _ = pipeline.encode_prompt(
            prompt=text, prompt_2=None, prompt_3=None, device=device,
            do_classifier_free_guidance=False, max_sequence_length=longest,
        )  # fmt: skip
        prompts.append(prompt[0, :end].float().cpu().numpy().astype(np.float16))
        pooled.append(pooled_prompt[0].float().cpu().numpy().astype(np.float16))
    return np.stack(prompts), np.stack(pooled)


def _text_pipeline(base: Base, device: torch.device, *, with_t5: bool) -> StableDiffusion3Pipeline:
    """Return a pipeline that encodes prompts, its text encoders on a device."""
    settings = base.settings
    folders = [folder for folder in _FOLDERS if with_t5 or not folder.endswith("_3")]
    directory = directory_of(settings.base, settings.revision, folders, variant=settings.variant)
    check_text_encoders(directory, settings.base, with_t5=with_t5)
    encoders = {}
    for folder, kind in _FOLDERS.items():
        if folder not in folders or not (directory / folder).is_dir():
            if folder.endswith("_3"):
                encoders[folder] = None
                continue
            raise ModelError(
                f"{settings.base} has no {folder}, which makes the embeddings of prompts; use a "
                "complete SD3 directory for training (drawing needs only the adapter)"
            )
        extra = {}
        if folder.startswith("text_encoder"):
            check_component(directory / folder, settings.variant)
            variant = variant_of(directory / folder, settings.variant)
            extra = {"torch_dtype": base.dtype, "variant": variant}
        try:
            loaded = kind.from_pretrained(directory / folder, **extra)
            is_model = isinstance(loaded, torch.nn.Module)
            encoders[folder] = loaded.to(device) if is_model else loaded
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ModelError(f"{directory / folder} cannot be loaded: {reason}") from None
    return StableDiffusion3Pipeline(
        transformer=base.transformer, scheduler=base.scheduler, vae=base.vae, **encoders
    )


def embed_services(
    base: Base,
    template: str,
    services: dict[LabelService, ServiceStatistics],
    t5: Literal["none"] | int = LONGEST_T5,
) -> Embeddings:
    """Return the embeddings of every prompt of every service, and of the empty text.

    Raises:
        ConfigError: the base's tokenizers take the prompts of two services for the same.
    """
    keys = [
        (service, k)
        for service, statistics in services.items()
        for k in range(statistics.num_prompts)
    ]
    texts = [prompt_for(template, service, window) for service, window in keys]
    prompts, pooled = embed_texts(base, [*texts, ""], t5)
    owner: dict[bytes, str] = {}
    for (service, window), text, prompt in zip(keys, texts, prompts, strict=False):
        if window == 0 and (other := owner.setdefault(prompt.tobytes(), text)) != text:
            raise ConfigError(
                f"the base's tokenizers cut the prompts {other!r} and {text!r} to the same text; "
                f"give {service.label!r} a shorter name, or a shorter prompt"
            )
    return Embeddings(
        prompt=dict(zip(keys, prompts, strict=False)),
        pooled=dict(zip(keys, pooled, strict=False)),
        empty_prompt=prompts[-1],
        empty_pooled=pooled[-1],
    )
