"""Control images: pictures of plans, a flow's own, which only the ControlNet sees."""

import dataclasses

import numpy as np
import pytest
import torch
from labels.stack_builders import LINUX, PLAIN, stack_of
from tiny_models import LABELS, condition_of

from netdiff_ray.config.diffusion import BaseSettings, DrawSettings
from netdiff_ray.diffusion.base import encode_control, load_base
from netdiff_ray.diffusion.control import control_latents, edges, plan_pictures
from netdiff_ray.diffusion.denoise import denoise, draw_batch
from netdiff_ray.labels.flow_plan import PlannedWindow
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.raster import BLUE, GREEN, RED

STATEFUL = layout_named("stateful")
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def sample_of(**changes):
    return PlannedWindow(
        label=LABELS[0], service="tcp-443", index=0, window=0, height=16, length=9,
        headers=("ipv4", "tcp"), stack=stack_of(**changes),
    )  # fmt: skip


@pytest.fixture
def trained(ready):
    """Return the toy base, its ControlNet as if it had been trained, and its adapter."""
    base, adapter = ready
    rng = torch.Generator().manual_seed(0)
    base.controlnet.controlnet_blocks[0].weight.data.normal_(generator=rng)
    base.controlnet.pos_embed_input.proj.weight.data.normal_(generator=rng)
    return base, adapter


def test_a_picture_has_the_colours_of_what_is_planned():
    (picture,) = plan_pictures(
        [sample_of(client_lifetime=64, client_options=PLAIN)], STATEFUL.width
    )

    def colours(row, field):
        return [tuple(pixel) for pixel in picture[row, STATEFUL.columns(field)].tolist()]

    assert colours(0, "ipv4_ttl") == [GREEN, RED, *[GREEN] * 6]
    shared = [GREEN if bit == "0" else WHITE for bit in f"{64 ^ 57:08b}"]
    assert colours(5, "ipv4_ttl") == shared
    assert colours(0, "flow_interarrival") == [WHITE] * 24
    assert colours(0, "udp_len") == colours(10, "ipv4_ttl") * 2 == [BLUE] * 16
    options = colours(0, "tcp_opt")
    assert [colour == RED for colour in options[:32]] == [
        bit == "1" for bit in f"{int(PLAIN, 16):032b}"
    ]
    assert set(options[32:]) == {BLUE}
    stamped = dataclasses.replace(sample_of(), window=1, headers=("ipv4", "tcp", "tcp_opt"))
    (later,) = plan_pictures([stamped], STATEFUL.width)
    assert (later[0, STATEFUL.columns("tcp_opt")] == BLACK).all()


def test_edges_are_white_on_black_and_are_those_of_the_plan():
    pictures = plan_pictures([sample_of(), sample_of(client_options=PLAIN)], STATEFUL.width)
    found = edges(pictures)
    assert found.shape == pictures.shape
    assert set(np.unique(found)) == {0, 255}
    assert not np.array_equal(*found)


def test_a_controlnet_gets_the_picture_or_its_edges(toy_directory):
    samples = [sample_of(), sample_of(client_options=LINUX)]
    pictures = plan_pictures(samples, STATEFUL.width)
    for kind, expected in (("plan", pictures), ("edges", edges(pictures))):
        base = load_base(BaseSettings(base=str(toy_directory), device="cpu", control_image=kind))
        latents = control_latents(base, samples, STATEFUL.width)
        assert torch.equal(latents, encode_control(base, expected))


def test_where_nothing_is_held_the_plan_acts_through_the_controlnet(trained):
    base, adapter = trained
    samples = [sample_of(), sample_of(server_lifetime=250, client_options=PLAIN)]
    condition = dataclasses.replace(condition_of(base, adapter, samples), columns=None)
    control = control_latents(base, samples, STATEFUL.width)
    settings = DrawSettings(steps=1, batch_size=2, hold_plan=False)

    def drawn(control):
        condition_now = dataclasses.replace(condition, control=control, control_scale=1.0)
        return denoise(base, condition_now, None, samples, STATEFUL.width, settings)

    assert torch.equal(*drawn(None))
    assert not torch.allclose(*drawn(control))
    assert torch.equal(*drawn(control[:1].expand_as(control)))


def test_a_first_step_with_control_is_not_shared(trained):
    base, adapter = trained
    settings = DrawSettings(steps=2, batch_size=2, shared_first_step=True, control_scale=1.0)
    with_control = draw_batch(base, adapter, [sample_of()], settings)
    assert not base.expected
    alone = dataclasses.replace(settings, shared_first_step=False)
    assert np.array_equal(with_control, draw_batch(base, adapter, [sample_of()], alone))
    draw_batch(base, adapter, [sample_of()], dataclasses.replace(settings, control_scale=0.0))
    assert base.expected
