"""Tokens of a prompt for T5: as many as set, or none, and its encoder is then not needed."""

import shutil

import numpy as np
import pytest
from tiny_models import LABELS, TOY, made_windows, quiet, settings

from netdiff_ray.config.diffusion import BaseSettings, DrawSettings, TrainSettings
from netdiff_ray.diffusion.adapter import read_adapter
from netdiff_ray.diffusion.base import load_base
from netdiff_ray.diffusion.denoise import draw_batch
from netdiff_ray.diffusion.lora import load_adapter
from netdiff_ray.diffusion.prompts import embed_texts
from netdiff_ray.diffusion.train import train
from netdiff_ray.errors import ConfigError
from netdiff_ray.labels.flow_plan import PlannedWindow


def test_the_prompt_has_as_many_tokens_as_set(base):
    most, _ = embed_texts(base, ["pixelated network data"])
    some, _ = embed_texts(base, ["pixelated network data"], 5)
    none, _ = embed_texts(base, ["pixelated network data"], "none")
    tokens = [prompt.shape[1] for prompt in (most, some, none)]
    assert tokens == [TOY.clip_tokens + TOY.t5_tokens, TOY.clip_tokens + 5, TOY.clip_tokens]
    assert np.array_equal(most[:, : TOY.clip_tokens], none)


def test_a_base_without_t5_trains_and_draws_with_clip_alone(toy_directory, tmp_path):
    directory = shutil.copytree(toy_directory, tmp_path / "copy")
    shutil.rmtree(directory / "tokenizer_3")  # its encoder is there, and refused otherwise
    chosen = settings(steps=1)
    base = load_base(BaseSettings(base=str(directory), device="cpu"))
    chosen = TrainSettings(**{**vars(chosen), "t5": "none"})
    adapter = read_adapter(train(base, made_windows(3), tmp_path / "adapter", chosen, quiet))
    assert adapter.embeddings.empty_prompt.shape[0] == TOY.clip_tokens
    load_adapter(base, adapter)
    sample = PlannedWindow(
        label=LABELS[0], service="tcp-other", index=0, window=0, height=16, length=9
    )
    rasters = draw_batch(base, adapter, [sample], DrawSettings(steps=2, batch_size=1))
    assert rasters.shape == (1, 16, 704, 3)


@pytest.mark.parametrize("wrong", [0, 513, "77", True])
def test_other_numbers_of_tokens_are_refused(wrong):
    with pytest.raises(ConfigError, match="from 1 to 512 tokens, or none"):
        TrainSettings(t5=wrong)
