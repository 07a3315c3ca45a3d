"""A ControlNet is trained on plans: it begins as diffusers' script does, learns, and is used."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from diffusers import SD3ControlNetModel
from tiny_models import LABELS, made_windows, quiet, settings

from netdiff_ray.config.diffusion import BaseSettings, DrawSettings
from netdiff_ray.diffusion.adapter import read_adapter
from netdiff_ray.diffusion.base import Condition, load_base, velocity
from netdiff_ray.diffusion.controlnet_training import load_for_training, new_controlnet
from netdiff_ray.diffusion.denoise import draw_batch
from netdiff_ray.diffusion.lora import load_for_drawing
from netdiff_ray.diffusion.train import train
from netdiff_ray.labels.flow_plan import PlannedWindow

SAMPLES = [
    PlannedWindow(
        label=LABELS[0], service="tcp-other", index=k, window=0, height=16, length=9,
        headers=("ipv4", "tcp"),
    )
    for k in range(2)
]  # fmt: skip


def settings_of(directory, **chosen):
    return BaseSettings(base=str(directory), device="cpu", **chosen)


def training(source="base", **optimization):
    return dataclasses.replace(
        settings(learning_rate=1e-2, **optimization), controlnet_from=str(source)
    )


@pytest.fixture(scope="module")
def trained(toy_directory, tmp_path_factory):
    """Return the adapter of a training that made a ControlNet of the toy base."""
    directory = tmp_path_factory.mktemp("controlnets") / "adapter"
    chosen = training()
    base = load_for_training(settings_of(toy_directory), chosen)
    return train(base, made_windows(4), directory, chosen, quiet)


def test_a_new_one_is_what_diffusers_makes_of_the_transformer(base):
    ours = new_controlnet(base.transformer)
    theirs = SD3ControlNetModel.from_transformer(
        copy.deepcopy(base.transformer), num_layers=1, num_extra_conditioning_channels=0
    )
    weights = ours.state_dict()
    for name, weight in theirs.state_dict().items():
        if "pos_embed_input" not in name and "controlnet_blocks" not in name:
            assert torch.equal(weights[name], weight), name
    assert base.transformer.config.num_layers == 2
    assert len(ours.transformer_blocks) == 1


def test_a_new_one_changes_nothing_until_it_is_trained(toy_directory):
    base = load_for_training(settings_of(toy_directory), training())
    rng = torch.Generator().manual_seed(0)
    latents, control = torch.randn(2, 1, 1, 16, 656, generator=rng).unbind(0)
    condition = Condition(torch.ones(1, 4, 32), torch.ones(1, 32))
    with torch.no_grad():
        plain = velocity(base, latents, torch.ones(1), condition)
        controlled = velocity(
            base, latents, torch.ones(1), dataclasses.replace(condition, control=control)
        )
    assert torch.equal(plain, controlled)


def test_training_it_asks_for_control_images(toy_directory):
    assert training().objective.control_scale == 1.0
    assert settings().objective.control_scale == 0.0


def test_it_is_trained_and_diffusers_loads_it(trained):
    net = SD3ControlNetModel.from_pretrained(trained / "controlnet")
    assert all(block.weight.abs().max() > 0 for block in net.controlnet_blocks)
    assert net.pos_embed_input.proj.weight.abs().max() > 0
    assert read_adapter(trained).metadata.trained["controlnet_from"] == "base"


def test_flows_are_drawn_with_it(toy_directory, trained):
    adapter = read_adapter(trained)
    chosen = DrawSettings(steps=2, batch_size=2, control_scale=1.0)
    rasters = []
    for scale in (1.0, 0.5):
        base = load_for_drawing(
            adapter, settings_of(toy_directory, controlnet=str(trained / "controlnet")), chosen
        )
        assert base.controlnet.pos_embed is not None
        drawing = dataclasses.replace(chosen, control_scale=scale)
        rasters.append(draw_batch(base, adapter, SAMPLES, drawing))
    assert not np.array_equal(*rasters)


def test_positions_of_its_own_are_those_of_the_columns_that_have_tokens(toy_directory, trained):
    """Where the columns left out do not matter, the ControlNet's residuals are the same."""
    base = load_base(settings_of(toy_directory, controlnet=str(trained / "controlnet")))
    net, seen = base.controlnet, []
    net.pos_embed.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    columns = torch.zeros(1, 656, dtype=torch.bool)
    columns[0, 64:128] = True
    latents = torch.randn(1, 1, 16, 656, generator=torch.Generator().manual_seed(0))
    whole = Condition(torch.ones(1, 4, 32), torch.ones(1, 32), latents)
    part = dataclasses.replace(whole, control=latents[..., 64:128], columns=columns)
    with torch.no_grad():
        velocity(base, latents, torch.ones(1), whole)
        velocity(base, latents[..., 64:128], torch.ones(1), part)
    everything, some = (tokens.unflatten(1, (2, -1)) for tokens in seen)
    assert torch.allclose(everything[:, :, 8:16], some, atol=1e-6)


def test_training_goes_on_from_one(toy_directory, trained, tmp_path):
    chosen = training(trained / "controlnet", steps=1)
    base = load_for_training(settings_of(toy_directory), chosen)
    before = base.controlnet.controlnet_blocks[0].weight.clone()
    assert before.abs().max() > 0
    directory = train(base, made_windows(4), tmp_path, chosen, quiet)
    after = SD3ControlNetModel.from_pretrained(directory / "controlnet")
    assert not torch.equal(after.controlnet_blocks[0].weight, before)
    assert not any(p.requires_grad for p in base.controlnet.parameters())


def test_a_base_in_bfloat16_trains_it_in_float32(toy_directory, tmp_path):
    chosen = training(steps=1)
    base = load_for_training(settings_of(toy_directory, dtype="bfloat16"), chosen)
    directory = train(base, made_windows(4), tmp_path, chosen, quiet)
    assert base.controlnet.dtype == torch.bfloat16
    net = SD3ControlNetModel.from_pretrained(directory / "controlnet")
    assert net.controlnet_blocks[0].weight.abs().max() > 0  # the first step is theirs alone
