"""Pretraining: the stages' losses, the construction of a base, the command, its resuming."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import TOY, made_rows, made_windows, quiet

from netdiff_ray.config.diffusion import BaseSettings, OptimizationSettings
from netdiff_ray.diffusion.base import load_base
from netdiff_ray.diffusion.objective import TrainingBatch
from netdiff_ray.errors import ConfigError, DatasetError, ModelError
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.packets.frames import header_frames
from netdiff_ray.packets.linktypes import ETHERNET
from netdiff_ray.packets.writer import CaptureWriter
from netdiff_ray.pretraining.config import STAGES, PretrainConfig
from netdiff_ray.pretraining.losses import (
    autoencoder_loss,
    distillation_loss,
    header_accuracy,
    latent_code,
    normalise_latents,
)
from netdiff_ray.pretraining.nano import NanoSizes, build
from netdiff_ray.pretraining.pretrain import pretrain, save_half
from netdiff_ray.pretraining.windows import read_windows
from netdiff_ray.raster import to_rgb


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    """Return a folder of captures of two labels, and of a label to leave out."""
    folder = tmp_path_factory.mktemp("captures")
    rng = np.random.default_rng(0)
    for number, label in enumerate(("chat", "mail", "new")):
        (folder / label).mkdir()
        rows, _, times = made_rows(20, 443 + number, 50, rng)
        rows["ts_ns"] = np.cumsum(times)
        with (folder / label / "one.pcap").open("wb") as file:
            writer = CaptureWriter(file, "pcap")
            writer.write(*header_frames(rows), rows["ts_ns"], ETHERNET)
            writer.finish()
    return folder


def config(captures, out, **chosen):
    short = OptimizationSettings(
        steps=2, batch_size=2, warmup_steps=1, checkpoint_every=1, report_every=1
    )
    return PretrainConfig(
        data=captures, heldout=captures, out=out, sizes=TOY, leave_out=("new",), device="cpu",
        autoencoder=short, denoiser=short, controlnet=short, distill=short, **chosen,
    )  # fmt: skip


def tensors(directory):
    by_name = {}
    for path in sorted(directory.rglob("*.safetensors")):
        for name, value in load_file(path).items():
            by_name[f"{path.parent.name}/{name}"] = value
    return by_name


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_all_stages_and_a_broken_run_ends_as_an_unbroken_one(captures, tmp_path, capsys):
    every = {"stages": STAGES}
    whole = pretrain(config(captures, tmp_path / "whole", **every))
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert reports[0]["labels"] == ["chat", "mail"]
    assert any("header_bits" in report for report in reports)
    again = tensors(whole)
    pretrain(config(captures, tmp_path / "whole", **every))
    assert len(capsys.readouterr().out.splitlines()) == 2  # nothing was left to do
    assert equal(again, tensors(whole))

    class Killed(Exception):
        pass

    def killed_in(stage, step):
        def report(progress):
            if progress.get("stage") == stage and progress.get("step") == step:
                raise Killed

        return report

    for stage in STAGES:
        with pytest.raises(Killed):
            pretrain(config(captures, tmp_path / "broken", **every), killed_in(stage, 1))
    broken = pretrain(config(captures, tmp_path / "broken", **every), quiet)
    assert equal(tensors(whole), tensors(broken))


def test_the_result_is_a_base_as_any_other(captures, tmp_path):
    pretrain(config(captures, tmp_path / "nano", stages=("autoencoder", "denoiser")))
    base = load_base(BaseSettings(base=str(tmp_path / "nano"), device="cpu"))
    assert base.controlnet is not None
    assert base.vae.config.scaling_factor != 1.0
    weights = tensors(tmp_path / "nano")
    halves = [v.dtype for k, v in weights.items() if not k.startswith("text")]
    assert set(halves) == {torch.float16}


def test_a_decoder_that_learns_on_leaves_latents_as_they_were(captures, tmp_path):
    out = tmp_path / "nano"
    before = tensors(pretrain(config(captures, out, stages=("autoencoder",))))
    vae = json.loads((out / "vae" / "config.json").read_text())
    pretrain(config(captures, out, stages=("decoder",)))
    after = tensors(out)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("vae/decoder.") for name in changed)
    assert json.loads((out / "vae" / "config.json").read_text()) == vae


def test_another_run_in_the_same_place_is_refused(captures, tmp_path):
    pretrain(config(captures, tmp_path / "nano", stages=("autoencoder",)))
    with pytest.raises(ConfigError, match="another run"):
        pretrain(config(captures, tmp_path / "nano", stages=("autoencoder",), seed=1))


def test_a_folder_without_labels(tmp_path):
    with pytest.raises(DatasetError, match="holds no folder of captures"):
        pretrain(config(tmp_path, tmp_path / "nano"))


def test_a_token_holds_no_more_numbers_than_the_width_and_weights_are_small(tmp_path):
    sizes = NanoSizes()
    assert sizes.latent_channels * sizes.patch_size**2 <= sizes.width
    build(tmp_path / "nano", sizes, seed=0)
    base = load_base(BaseSettings(base=str(tmp_path / "nano"), device="cpu"))
    for name in ("transformer", "controlnet", "vae"):
        save_half(getattr(base, name), tmp_path / "nano" / name)
    weights = sum(p.stat().st_size for p in (tmp_path / "nano").rglob("*.safetensors"))
    assert weights <= 20e6


def test_a_seed_makes_the_same_base(tmp_path):
    for name in "ab":
        torch.manual_seed(ord(name))
        build(tmp_path / name, TOY, seed=4)
    assert equal(tensors(tmp_path / "a"), tensors(tmp_path / "b"))


def test_an_autoencoder_learns_and_its_latents_are_normal(base):
    windows = made_windows(6)
    vae = base.vae.requires_grad_(True).train()
    optimiser = torch.optim.Adam(vae.parameters(), lr=5e-3)
    rng = np.random.default_rng(0)
    before = header_accuracy(base, windows.nprint[:4])["header_bits"]
    for step in range(60):
        chosen = rng.choice(len(windows), 1)
        rgb = np.stack([to_rgb(windows.nprint[i][:16], 16) for i in chosen])
        loss = autoencoder_loss(vae, rgb, 0.25, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    vae.requires_grad_(False).eval()
    normalise_latents(base, windows.nprint)
    accuracy = header_accuracy(base, windows.nprint[:4])
    assert accuracy["header_bits"] > max(before, 0.8)
    assert 0 <= accuracy["exact"] <= 1


@pytest.mark.parametrize(("channels", "scale"), [(1, 1), (2, 1), (4, 2), (16, 4)])
def test_a_latent_code_tells_all_colours_and_pixels_apart(channels, scale):
    colours = torch.tensor(
        [[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1], [-1, -1, -1]], dtype=torch.float32
    )
    flat = colours[:, :, None, None].expand(-1, -1, 8, 8)
    code = latent_code(flat, channels, scale)
    assert code.shape == (5, channels, 8 // scale, 8 // scale)
    apart = torch.cdist(code.flatten(1), code.flatten(1)) / 8
    assert (apart + torch.eye(5)).min() >= 0.5
    changed = flat[:1].clone()
    changed[0, :, 3, 5] = flat[1, :, 0, 0]
    differs = (latent_code(changed, channels, scale) != code[:1]).any(dim=1)
    assert differs.nonzero().tolist() == [[0, 3 // scale, 5 // scale]]


def test_channels_that_would_lose_bits_are_refused():
    with pytest.raises(ModelError, match=r"8 latent channels for 4 x 4 pixels.*16 or 32"):
        latent_code(torch.zeros(1, 3, 8, 8), 8, 4)


def test_a_student_that_is_its_teacher_and_takes_one_substep_has_nothing_to_learn(base):
    rng = torch.Generator().manual_seed(0)
    batch = TrainingBatch(
        latents=torch.randn(2, 1, 16, 704, generator=rng),
        prompt=torch.randn(2, 5, 32, generator=rng),
        pooled=torch.randn(2, 32, generator=rng), empty_prompt=torch.zeros(5, 32),
        empty_pooled=torch.zeros(32),
    )  # fmt: skip
    with torch.no_grad():
        one, four = (
            distillation_loss(base, base.transformer, batch, 4, k, torch.Generator().manual_seed(1))
            for k in (1, 4)
        )
    assert one < 1e-9
    assert four > one


def test_read_windows_keeps_at_most_so_many_flows(captures):
    windows = read_windows(captures, layout_named("stateful"), 256, per_label=1, leave_out=("new",))
    assert windows.label == ["chat", "mail"]
    assert all(n.shape[1] == 704 for n in windows.nprint)
