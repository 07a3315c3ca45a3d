"""Bases: what is missing is named; SD3-like sizes; prompts."""

import gc
import json
import shutil
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, SD3ControlNetModel, SD3Transformer2DModel
from diffusers_step import CONTROL_SCALE, diffusers_step
from tiny_models import (
    LABELS,
    TOY,
    made_windows,
    quiet,
    settings,
)

from netdiff_ray.config.diffusion import BaseSettings, DrawSettings, TrainSettings
from netdiff_ray.diffusion import adapter as adapter_module
from netdiff_ray.diffusion.adapter import read_adapter, read_metadata, unpack_adapter
from netdiff_ray.diffusion.base import (
    Condition,
    check_size,
    decode_latents,
    encode_control,
    encode_rasters,
    load_base,
    velocity,
)
from netdiff_ray.diffusion.denoise import draw_batch
from netdiff_ray.diffusion.lora import load_adapter
from netdiff_ray.diffusion.prompts import embed_services, embed_texts, prompt_for, set_aside
from netdiff_ray.diffusion.train import train
from netdiff_ray.errors import ConfigError, ModelError
from netdiff_ray.labels.flow_plan import PlannedWindow
from netdiff_ray.labels.service import LabelService
from netdiff_ray.labels.statistics import describe
from netdiff_ray.pretraining.nano import build

HUB = "stabilityai/stable-diffusion-3-medium-diffusers"
COMMIT = "ea42f8cef0f178587cf766dc8129abd379c90671"


def load(directory, **chosen):
    return load_base(BaseSettings(base=str(directory), device="cpu", **chosen))


@pytest.fixture
def copy(toy_directory, tmp_path):
    """Return a copy of the toy base to spoil."""
    return shutil.copytree(toy_directory, tmp_path / "copy")


@pytest.fixture(scope="session")
def medium_directory(toy_directory, tmp_path_factory):
    """Return a base of SD3-medium's structure at toy width: an autoencoder of 8 x with 16
    channels, patches of 2, position embeddings cropped from more, no T5; and InstantX's kind of
    ControlNet."""
    directory = tmp_path_factory.mktemp("bases") / "medium"
    shutil.copytree(toy_directory, directory)
    shutil.rmtree(directory / "text_encoder_3")
    shutil.rmtree(directory / "tokenizer_3")
    sizes = {
        "sample_size": 64, "patch_size": 2, "in_channels": 16, "num_layers": 2,
        "attention_head_dim": 16, "num_attention_heads": 2, "caption_projection_dim": 32,
        "joint_attention_dim": 2 * TOY.text_width, "pooled_projection_dim": 2 * TOY.text_width,
        "pos_embed_max_size": 96, "out_channels": 16,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        transformer = SD3Transformer2DModel(**sizes)
        net = SD3ControlNetModel.from_transformer(  # changes the config of its argument
            SD3Transformer2DModel(**sizes), num_layers=1, num_extra_conditioning_channels=0
        )
        for parameter in net.parameters():
            parameter.data.normal_(std=0.1)
        vae = AutoencoderKL(
            block_out_channels=(4, 4, 4, 4), latent_channels=16, layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=4, scaling_factor=1.5305, shift_factor=0.0609,
            use_quant_conv=False, use_post_quant_conv=False,
        )  # fmt: skip
    transformer.save_pretrained(directory / "transformer")
    vae.save_pretrained(directory / "vae")
    net.save_pretrained(directory.parent / "canny")
    shutil.rmtree(directory / "controlnet")
    return directory


def test_sizes_come_from_the_configs(medium_directory, base):
    medium = load(medium_directory)
    assert (base.vae_scale, base.granule, base.latent_shape(16, 704)) == (1, 8, (1, 16, 704))
    assert (medium.vae_scale, medium.granule, medium.latent_shape(16, 704)) == (
        8, 16, (16, 2, 88),
    )  # fmt: skip
    assert medium.controlnet is None
    assert base.controlnet is not None


def test_a_base_of_sd3_mediums_structure_is_trained_and_drawn(medium_directory, tmp_path):
    windows = made_windows(3)
    canny = str(medium_directory.parent / "canny")
    base = load(medium_directory, controlnet=canny)
    directory = train(base, windows, tmp_path, settings(steps=2), quiet)
    adapter = read_adapter(directory)
    assert adapter.embeddings.empty_prompt.shape[0] == TOY.clip_tokens + 256  # zeros for T5
    load_adapter(base, adapter)
    sample = PlannedWindow(
        label="chat", service="tcp-other", index=0, window=0, height=32, length=20
    )
    chosen = DrawSettings(steps=2, batch_size=1, control_scale=0.5, guidance=2.0)
    assert draw_batch(base, adapter, [sample], chosen).shape == (1, 32, 704, 3)


def test_our_velocity_is_what_diffusers_pipeline_computes(medium_directory):
    """One Euler step of diffusers' own ControlNet pipeline, against `velocity`."""
    base = load(medium_directory, controlnet=str(medium_directory.parent / "canny"))
    step = diffusers_step(base)
    control = base.vae.encode(step.pixels).latent_dist.sample() * base.vae.config.scaling_factor
    with torch.no_grad():
        condition = Condition(step.prompt, step.pooled, control, CONTROL_SCALE)
        ours = step.latents - velocity(base, step.latents, torch.ones(1), condition)
    assert torch.allclose(ours, step.theirs, atol=1e-4)
    mode = encode_control(base, step.picture)
    assert mode.shape == control.shape


def test_the_exact_gelu_of_cpus_is_nearly_that_of_diffusers(medium_directory):
    base = load(medium_directory)
    model = diffusers.SD3Transformer2DModel.from_pretrained(medium_directory / "transformer")
    rng = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(1, 16, 4, 88, generator=rng),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 9, 32, generator=rng),
        "pooled_projections": torch.randn(1, 32, generator=rng),
    }  # fmt: skip
    with torch.no_grad():
        ours, theirs = (m(**inputs).sample for m in (base.transformer, model))
    assert torch.allclose(ours, theirs, atol=1e-2)
    assert not torch.equal(ours, theirs)


def test_latents_are_scaled_and_shifted_back(medium_directory):
    base = load(medium_directory)
    rgb = np.random.default_rng(0).integers(0, 256, (2, 16, 704, 3), np.uint8)
    latents = encode_rasters(base, rgb)
    pixels = torch.from_numpy(rgb).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        raw = base.vae.encode(pixels).latent_dist.mode()
        decoded = base.vae.decode(raw).sample
    assert torch.allclose(latents, (raw - 0.0609) * 1.5305, atol=1e-5)
    expected = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(decode_latents(base, latents).astype(int) - expected).max() <= 1


def test_vae_slicing_and_attention_backends_change_nothing(toy_directory, base):
    rgb = np.random.default_rng(0).integers(0, 256, (3, 16, 704, 3), np.uint8)
    sliced = load(toy_directory, slice_vae=True, attention="math")
    assert torch.allclose(encode_rasters(base, rgb), encode_rasters(sliced, rgb), atol=1e-5)
    prompt, pooled = torch.ones(1, 4, 32), torch.ones(1, 32)
    latents = torch.ones(1, 1, 16, 704)
    with torch.no_grad():
        one, other = (
            velocity(b, latents, torch.ones(1), Condition(prompt, pooled)) for b in (base, sliced)
        )
    assert torch.allclose(one, other, atol=1e-4)
    with pytest.raises(ConfigError, match="'cudnn' does not work on cpu"):
        load(toy_directory, attention="cudnn")


def test_bfloat16_weights(toy_directory):
    base = load(toy_directory, dtype="bfloat16")
    assert base.transformer.dtype == base.controlnet.dtype == base.vae.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"base": "no/such/place"}, ModelError, "no such directory"),
        ({"base": HUB}, ConfigError, "can change at any time"),
        ({"base": HUB, "revision": "main"}, ConfigError, "40 hex"),
        (
            {"base": HUB, "revision": COMMIT},
            ModelError,
            "the hub cannot be reached|hf download|gated",
        ),
    ],
)
def test_a_base_that_is_not_here(settings, error, message, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(error, match=message):
        load_base(BaseSettings(**settings, device="cpu"))


@pytest.mark.parametrize("folder", ["transformer", "vae", "scheduler"])
def test_a_missing_component_is_named(copy, folder):
    shutil.rmtree(copy / folder)
    with pytest.raises(ModelError, match=f"has no {folder}/"):
        load(copy)


def test_weights_cut_short_are_named(copy):
    file = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"transformer: the weights of SD3Transformer2DModel"):
        load(copy)


def test_a_model_of_another_kind_is_refused(copy):
    path = copy / "transformer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(ModelError, match="holds a FluxTransformer2DModel"):
        load(copy)


def test_training_without_text_encoders_says_what_to_do(copy, tmp_path):
    shutil.rmtree(copy / "text_encoder_2")
    base = load(copy)
    with pytest.raises(ModelError, match=r"has no text_encoder_2.*complete SD3 directory"):
        embed_texts(base, ["x"])


def test_a_device_that_is_not_here():
    with pytest.raises(ConfigError, match="'cuda:77' cannot be used"):
        load_base(BaseSettings(base="x", device="cuda:77"))


def test_sides_that_are_no_multiple_of_a_token(base):
    check_size(base, 704, 704)
    with pytest.raises(ModelError, match="width of 1089 is not a multiple of 8"):
        check_size(base, 16, 1089)


def test_an_adapter_of_another_base_is_refused(adapter_directory, tmp_path):
    build(tmp_path / "other", TOY, seed=2)
    adapter = read_adapter(adapter_directory)
    with pytest.raises(ModelError, match=r"was trained on .*toy .*not on .*other"):
        load_adapter(load(tmp_path / "other"), adapter)


def test_the_digest_is_of_the_weights_wherever_they_lie(copy, base):
    assert load(copy).digest == base.digest


def test_an_adapter_with_files_missing(adapter_directory, tmp_path):
    with pytest.raises(ModelError, match="is not an adapter"):
        read_metadata(tmp_path)
    spoilt = shutil.copytree(adapter_directory, tmp_path / "spoilt")
    (spoilt / "prompts.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="lacks prompt embeddings"):
        read_adapter(spoilt)
    (spoilt / adapter_module.LORA_FILE).unlink()
    with pytest.raises(ModelError, match="the weights of the adapter"):
        read_adapter(spoilt)
    (spoilt / "adapter.json").write_text('{"labels": {}}')
    with pytest.raises(ModelError, match=r"not an adapter\.json of this version"):
        read_metadata(spoilt)


def test_an_adapter_of_another_version_is_refused(adapter_directory, tmp_path):
    older = shutil.copytree(adapter_directory, tmp_path / "older")
    facts = json.loads((older / "adapter.json").read_text())
    (older / "adapter.json").write_text(json.dumps({**facts, "control_heights": [16]}))
    with pytest.raises(ModelError, match=r"this version: control_heights.*Train the adapter again"):
        read_adapter(older)


def test_an_unpacked_adapter_is_deleted_when_it_is_no_longer_used(adapter_directory):
    names = adapter_module.adapter_names(
        path.relative_to(adapter_directory).as_posix() for path in adapter_directory.rglob("*.*")
    )
    adapter = unpack_adapter({name: (adapter_directory / name).read_bytes() for name in names})
    read = read_adapter(adapter_directory)
    assert adapter.metadata == read.metadata
    directory = adapter.directory
    del adapter
    gc.collect()
    assert not directory.exists()


def test_prompts_say_the_window_from_the_second_on():
    template = TrainSettings().prompt
    first = "pixelated network data for udp-8801 zoom"
    zoom = LabelService("zoom", "udp-8801")
    assert prompt_for(template, zoom, 0) == first
    assert prompt_for(template, zoom, 1) == f"{first}, window 2"
    assert prompt_for(template, zoom, 40) == f"{first}, window 8"


def test_embeddings_tell_labels_and_windows_apart(base):
    template = TrainSettings().prompt
    services = [LabelService(label, "icmp") for label in LABELS]
    texts = [prompt_for(template, service, window) for service in services for window in range(3)]
    prompts, pooled = embed_texts(base, texts)
    assert prompts.shape == (9, TOY.clip_tokens + TOY.t5_tokens, 2 * TOY.text_width)
    assert len({p.tobytes() for p in prompts}) == len({p.tobytes() for p in pooled}) == 9
    again = embed_texts(base, texts[:1])
    assert np.array_equal(prompts[:1], again[0])


def test_labels_that_the_tokenizers_cut_to_the_same_text_are_refused(base):
    statistics = describe(made_windows(per_label=1))["chat"].services["tcp-other"]
    services = {LabelService("x" * 30 + end, "icmp"): statistics for end in "ab"}
    with pytest.raises(ConfigError, match="a shorter name, or a shorter prompt"):
        embed_services(base, TrainSettings().prompt, services)


class _Elsewhere(torch.nn.Linear):
    """A model that notes where it is moved."""

    def __init__(self):
        super().__init__(1, 1)
        self.moves = []

    def to(self, device):
        self.moves.append(str(device))
        return self


def test_the_base_waits_in_memory_while_another_device_holds_the_text_encoders():
    model = _Elsewhere()
    with set_aside([model, None], torch.device("meta")):
        assert model.moves == ["cpu"]
    assert model.moves == ["cpu", "meta"]
    with set_aside([model], torch.device("cpu")):
        pass
    assert model.moves == ["cpu", "meta"]


def test_the_base_does_not_hold_text_encoders_afterwards(base):
    embed_texts(base, ["x"])
    assert not any("text" in name for name in vars(base))


@pytest.mark.parametrize(
    "module", ["config.diffusion", "labels.adapter_metadata", "diffusion.adapter"]
)
def test_metadata_and_settings_load_neither_torch_nor_diffusers(module):
    code = (
        f"import sys, netdiff_ray.{module}; "
        "print([m for m in ('ray', 'torch', 'diffusers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
