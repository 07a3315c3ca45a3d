"""Drawing: the same bits whatever the batch; lengths, guidance, control, stacked LoRAs."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tiny_models import LABELS, condition_of

from netdiff_ray.config.diffusion import BaseSettings, DrawSettings, Lora
from netdiff_ray.diffusion.adapter import LORA_FILE, read_adapter
from netdiff_ray.diffusion.base import encode_rasters, load_base
from netdiff_ray.diffusion.denoise import (
    denoise,
    draw,
    draw_batch,
    kind_of,
    noise_generator,
    scheduler_for,
)
from netdiff_ray.diffusion.lora import load_adapter
from netdiff_ray.errors import ConfigError, ModelError
from netdiff_ray.fields import HEADERS
from netdiff_ray.labels.flow_plan import PlannedWindow, plan_flow
from netdiff_ray.labels.planned_cells import planned_values, syn_options
from netdiff_ray.labels.stack import FlowStack
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.raster import from_rgb, to_rgb


def settled(latents, zero, one):
    """Return where latents are at a bound, given the latents of 0 and 1 in a chequered raster."""
    margin = 0.25 * (one - zero)
    low, high = (zero - margin)[:, None], (one + margin)[:, None]
    return torch.isclose(latents, low, atol=1e-4) | torch.isclose(latents, high, atol=1e-4)


def make_samples(count=4, height=16, length=16):
    return [
        PlannedWindow(
            label=LABELS[k % 3], service="tcp-443", index=k, window=0, height=height, length=length
        )
        for k in range(count)
    ]


def make_mixed_samples():
    """Return the samples of one kind that differ in everything else."""
    headers = [("ipv4", "tcp"), ("ipv6", "tcp"), ("ipv4", "tcp", "tcp_opt"), ("ipv4", "tcp")]
    samples = [
        dataclasses.replace(sample, headers=headers[k], length=16 - 3 * k, window=k % 2)
        for k, sample in enumerate(make_samples())
    ]
    assert len({kind_of(sample) for sample in samples}) == 1
    return samples


@pytest.mark.parametrize("samples", [make_samples(), make_mixed_samples()], ids=["plain", "mixed"])
@pytest.mark.parametrize(
    "settings",
    [
        DrawSettings(steps=3, batch_size=4),
        DrawSettings(steps=3, batch_size=4, guidance=3.0, control_scale=0.7, shift=3.0),
        DrawSettings(steps=3, batch_size=4, guidance=3.0, shared_first_step=True),
        DrawSettings(steps=3, batch_size=4, scheduler="FlowMatchLCMScheduler"),
        DrawSettings(steps=2, batch_size=4, scheduler="FlowMatchHeunDiscreteScheduler"),
    ],
)
def test_a_sample_does_not_depend_on_its_batch(ready, settings, samples):
    base, adapter = ready
    base.expected.clear()
    together = draw_batch(base, adapter, samples, settings)
    base.expected.clear()
    alone = [draw_batch(base, adapter, [sample], settings)[0] for sample in samples]
    backwards = draw_batch(base, adapter, samples[::-1], settings)[::-1]
    assert np.array_equal(together, np.stack(alone))
    assert np.array_equal(together, backwards)
    assert len({raster.tobytes() for raster in together}) == len(samples)


def test_a_shared_first_step_is_taken_once_for_all_alike(ready, monkeypatch):
    base, adapter = ready
    samples = make_samples(8)
    settings = DrawSettings(steps=3, batch_size=4, shared_first_step=True)
    passes = []
    forward = base.transformer.forward
    monkeypatch.setattr(base.transformer, "forward", lambda **k: passes.append(1) or forward(**k))

    def drawn(batch_size=4, **chosen):
        changed = dataclasses.replace(settings, batch_size=batch_size, **chosen)
        batches = [samples[k : k + batch_size] for k in range(0, len(samples), batch_size)]
        rasters = [draw_batch(base, adapter, batch, changed) for batch in batches]
        return np.array([from_rgb(raster)[0] for raster in np.concatenate(rasters)])

    base.expected.clear()
    first = drawn()
    of_eight_noises = len(LABELS) * 8 // 4
    assert len(passes) == of_eight_noises + 2 * (settings.steps - 1)
    again = drawn()
    assert len(passes) == of_eight_noises + 4 * (settings.steps - 1)
    assert np.array_equal(first, again)
    base.expected.clear()
    assert (drawn(batch_size=1) == first).mean() > 0.99  # but for the last bits
    assert (drawn(shared_first_step=False) == first).mean() < 0.99
    one_step = drawn(steps=1)
    assert np.array_equal(one_step, drawn(steps=1, shared_first_step=False))


@pytest.mark.parametrize("shared", [False, True])
def test_how_many_threads_draw_changes_nothing(ready, shared):
    base, adapter = ready
    settings = DrawSettings(steps=2, batch_size=2, shared_first_step=shared)
    samples = [dataclasses.replace(s, index=9 + s.index) for s in make_mixed_samples()]
    samples += [*make_samples(7), *make_mixed_samples()]
    before = torch.get_num_threads()
    outcomes = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        base.expected.clear()
        drawn = list(draw(base, adapter, samples, settings))
        assert torch.get_num_threads() == threads
        outcomes.append(
            [
                (window.sample, window.nprint.tobytes(), window.distance.tobytes())
                for window in drawn
            ]
        )
    torch.set_num_threads(before)
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_drawing_twice_gives_the_same_and_another_seed_does_not(ready):
    base, adapter = ready
    first = draw_batch(base, adapter, make_samples(2), DrawSettings(steps=2, batch_size=2))
    again = draw_batch(base, adapter, make_samples(2), DrawSettings(steps=2, batch_size=2))
    other = draw_batch(base, adapter, make_samples(2), DrawSettings(steps=2, batch_size=2, seed=1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_noise_is_a_function_of_seed_label_index_and_window():
    sample = make_samples(1)[0]
    changed = [
        (1, sample),
        (0, dataclasses.replace(sample, label="other")),
        (0, dataclasses.replace(sample, index=1)),
        (0, dataclasses.replace(sample, window=1)),
    ]
    first = torch.randn(4, generator=noise_generator(0, sample))
    assert torch.equal(first, torch.randn(4, generator=noise_generator(0, sample)))
    for seed, other in changed:
        assert not torch.equal(first, torch.randn(4, generator=noise_generator(seed, other)))


def test_draw_takes_any_heights_and_gives_nprints(ready):
    base, adapter = ready
    samples = make_samples(3, 16) + make_samples(2, 32)
    drawn = list(draw(base, adapter, samples, DrawSettings(steps=2, batch_size=2)))
    assert {id(d.sample) for d in drawn} == {id(s) for s in samples}
    for window in drawn:
        assert window.nprint.shape == window.distance.shape == (window.sample.height, 704)
        assert window.nprint.dtype == np.int8
        assert set(np.unique(window.nprint)) <= {-1, 0, 1}


def test_rows_after_the_length_become_vacant(ready):
    base, adapter = ready
    samples = make_samples(2, height=32, length=5)
    settings = DrawSettings(steps=2, batch_size=2)
    held = denoise(base, condition_of(base, adapter, samples), None, samples, 704, settings)
    vacant = encode_rasters(base, to_rgb(np.full((1, 704), -1, np.int8), 32)[None])
    assert torch.equal(held[:, :, 5:], vacant[:, :, 5:].expand(2, -1, -1, -1))
    assert not torch.allclose(held[:, :, :5], vacant[:, :, :5])
    loose = dataclasses.replace(settings, hold_plan=False)
    free = denoise(base, condition_of(base, adapter, samples), None, samples, 704, loose)
    assert not torch.allclose(free[:, :, 5:], vacant[:, :, 5:])


def test_packets_within_the_length_have_direction_and_time(ready):
    base, adapter = ready
    samples = make_samples(2, height=32, length=5)
    settings = DrawSettings(steps=2, batch_size=2)
    held = denoise(base, condition_of(base, adapter, samples), None, samples, 704, settings)
    bits = np.full((8, 704), -1, np.int8)
    columns = layout_named("stateful").columns_of(["flow"])
    bits[::2, columns], bits[1::2, columns] = 0, 1
    zero, one = encode_rasters(base, to_rgb(bits, 16)[None])[0, :, 4:6, columns].unbind(1)
    assert settled(held[:, :, :5, columns], zero, one).all()
    loose = dataclasses.replace(settings, hold_plan=False)
    free = denoise(base, condition_of(base, adapter, samples), None, samples, 704, loose)
    assert not settled(free[:, :, :5, columns], zero, one).any()


def test_planned_values_are_drawn_as_planned(ready):
    base, adapter = ready
    options = "020405b40402080a000000000000000001030307"
    stack = FlowStack(
        "ipv4 tcp", 443, 0, -1, 64, 1, 0, options, 64_240, 57, 1, 0, options, 65_160
    )  # fmt: skip
    short = "02040550"
    stacks = [stack, stack._replace(client_options=short, server_options="", client_lifetime=128)]
    samples = [
        dataclasses.replace(sample, stack=stack, headers=("ipv4", "tcp"), length=9)
        for sample, stack in zip(make_samples(2), stacks, strict=True)
    ]
    layout = layout_named("stateful")
    columns = layout.columns_of(("flow", "ipv4", "tcp"))
    bits = np.full((8, 704), -1, np.int8)
    bits[::2, columns], bits[1::2, columns] = 0, 1
    zero, one = encode_rasters(base, to_rgb(bits, 16)[None])[0, :, 4:6].unbind(1)
    margin = 0.25 * (one - zero)
    settings = DrawSettings(steps=2, batch_size=2)
    condition = dataclasses.replace(condition_of(base, adapter, samples), columns=None)
    held = denoise(base, condition, None, samples, 704, settings)
    for sample, latents in zip(samples, held, strict=True):
        planned = planned_values(sample, layout)
        for value, level in ((0, zero - margin), (1, one + margin)):
            rows, cells = np.nonzero(planned == value)
            within = rows < len(syn_options(sample))  # others have no options beside them
            rows, cells = rows[within], cells[within]
            assert len(rows) > 50
            torch.testing.assert_close(latents[:, rows, cells], level[:, cells], atol=1e-4, rtol=0)
    for window in draw(base, adapter, samples, settings):
        for row, planned_options in enumerate(syn_options(window.sample)):
            present = window.nprint[row, layout.columns("tcp_opt")] != -1
            np.testing.assert_array_equal(present, np.arange(320) < 8 * len(planned_options))


def test_packets_have_the_planned_headers_and_no_others(ready):
    base, adapter = ready
    headers = ("ipv6", "udp")
    unplanned = make_samples(1, length=5)
    samples = [dataclasses.replace(unplanned[0], headers=headers)]
    settings = DrawSettings(steps=2, batch_size=1)
    condition = condition_of(base, adapter, samples)
    (held,) = denoise(base, condition, None, samples, 704, settings)
    whole = condition_of(base, adapter, unplanned)
    (other,) = denoise(base, whole, None, unplanned, 704, settings)
    layout = layout_named("stateful")
    here = layout.columns_of(("flow", *headers))
    vacant = encode_rasters(base, to_rgb(np.full((1, 704), -1, np.int8), 16)[None])[0]
    assert torch.equal(held[:, :, ~here], vacant[:, :, ~here])
    bits = np.full((8, 704), -1, np.int8)
    bits[::2, here], bits[1::2, here] = 0, 1
    zero, one = encode_rasters(base, to_rgb(bits, 16)[None])[0, :, 4:6][:, :, here].unbind(1)
    assert settled(held[:, :5, here], zero, one).all()
    # Where headers are not planned none are held vacant or occupied.
    assert not torch.allclose(other[:, :5, ~here], vacant[:, :5, ~here])
    free = denoise(base, whole, None, samples, 704, dataclasses.replace(settings, hold_plan=False))[
        0
    ]
    assert not torch.allclose(free[:, :5, ~here], vacant[:, :5, ~here])


@pytest.mark.parametrize("headers", [("ipv6", "udp"), ("ipv4", "tcp"), ("ipv4", "tcp", "tcp_opt")])
def test_rasters_keep_to_the_plan_whatever_the_autoencoder_does(ready, headers, monkeypatch):
    base, adapter = ready
    (planned,) = make_samples(1, length=5)
    samples = [dataclasses.replace(planned, headers=headers)]
    settings = DrawSettings(steps=2, batch_size=1)
    layout = layout_named("stateful")
    rng = torch.Generator().manual_seed(0)
    latents = 3 * torch.randn(1, *base.latent_shape(16, 704), generator=rng)
    monkeypatch.setattr("netdiff_ray.diffusion.denoise.denoise", lambda *_: latents)
    (raster,) = draw_batch(base, adapter, samples, settings)
    (free,) = draw_batch(base, adapter, samples, dataclasses.replace(settings, hold_plan=False))
    occupied = from_rgb(raster)[0] != -1
    here = layout.columns_of(("flow", *headers), options=False)
    lacked = layout.columns_of([h for h in HEADERS[1:] if h not in headers])
    assert occupied[:5, here].all()
    assert not occupied[5:].any()
    assert not occupied[:, lacked].any()
    options = occupied[:5, layout.columns("tcp_opt")]
    assert options[2:].any() == ("tcp_opt" in headers)
    assert options[:2].any() == ("tcp" in headers)
    loose = from_rgb(free)[0] != -1
    assert loose[5:].any()
    assert loose[:, lacked].any()
    assert not loose[:5, here].all()


def test_packets_after_the_handshake_have_options_if_planned(ready):
    base, adapter = ready
    layout = layout_named("stateful")
    options = layout.columns("tcp_opt")
    stamps = slice(options.start, options.start + 96)
    vacant = encode_rasters(base, to_rgb(np.full((1, 704), -1, np.int8), 16)[None])[0]
    settings = DrawSettings(steps=2, batch_size=1)

    def drawn(window, *headers):
        (planned,) = make_samples(1, length=5)
        samples = [dataclasses.replace(planned, headers=headers, window=window)]
        condition = dataclasses.replace(condition_of(base, adapter, samples), columns=None)
        return denoise(base, condition, None, samples, 704, settings)[0]

    bare = drawn(0, "ipv4", "tcp")
    assert torch.equal(bare[:, 2:, options], vacant[:, 2:, options])
    assert not torch.allclose(bare[:, :2, stamps], vacant[:, :2, stamps])
    later = drawn(1, "ipv4", "tcp")
    assert torch.equal(later[..., options], vacant[..., options])
    bits = np.full((8, 704), -1, np.int8)
    here = layout.columns_of(("flow", "ipv4", "tcp"), options=False)
    here[stamps] = True
    bits[::2, here], bits[1::2, here] = 0, 1
    zero, one = encode_rasters(base, to_rgb(bits, 16)[None])[0, :, 4:6, stamps].unbind(1)
    assert settled(drawn(0, "ipv4", "tcp", "tcp_opt")[:, :5, stamps], zero, one).all()


def test_guidance_and_control_matter_and_0_leaves_control_out(ready):
    base, adapter = ready
    base.controlnet.controlnet_blocks[0].weight.data.normal_(generator=torch.Generator())
    base.controlnet.pos_embed_input.proj.weight.data.normal_(generator=torch.Generator())

    def with_settings(**chosen):
        return draw_batch(
            base, adapter, make_samples(2), DrawSettings(steps=2, batch_size=2, **chosen)
        )

    plain = with_settings()
    assert not np.array_equal(plain, with_settings(guidance=5.0))
    assert not np.array_equal(plain, with_settings(control_scale=1.0))
    base.controlnet = None
    assert np.array_equal(plain, with_settings(control_scale=0.0))
    with pytest.raises(ModelError, match="no ControlNet"):
        with_settings(control_scale=1.0)


def test_the_adapter_changes_the_drawing(toy_directory, base, ready):
    with_lora, adapter = ready
    without = load_base(BaseSettings(base=str(toy_directory), device="cpu"))
    settings = DrawSettings(steps=2, batch_size=2)
    assert not np.array_equal(
        draw_batch(without, adapter, make_samples(2), settings),
        draw_batch(with_lora, adapter, make_samples(2), settings),
    )


def test_a_stacked_lora_of_scale_0_is_none_and_of_minus_1_undoes_its_twin(
    toy_directory, adapter_directory, tmp_path
):
    adapter = read_adapter(adapter_directory)
    settings = DrawSettings(steps=2, batch_size=2)
    shutil.copy(adapter_directory / LORA_FILE, tmp_path / "fast.safetensors")

    def drawn(*loras, adapted=True):
        base = load_base(BaseSettings(base=str(toy_directory), device="cpu"))
        if adapted:
            load_adapter(base, adapter, loras)
        return draw_batch(base, adapter, make_samples(2), settings).astype(int)

    alone = drawn()
    file = str(tmp_path / "fast.safetensors")
    assert np.array_equal(alone, drawn(Lora(source=file, scale=0.0)))
    stacked = drawn(Lora(source=file, scale=1.0))
    assert not np.array_equal(alone, stacked)
    undone = drawn(Lora(source=str(tmp_path), weight_name="fast.safetensors", scale=-1.0))
    assert np.abs(undone - drawn(adapted=False)).max() <= 1


def test_lora_weights_that_do_not_fit(base, adapter_directory, tmp_path):
    adapter = read_adapter(adapter_directory)
    weights = load_file(adapter_directory / LORA_FILE)
    wrong = {name: np.concatenate([w, w], axis=-1) for name, w in weights.items()}
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(ModelError, match="do not fit"):
        load_adapter(base, adapter, [Lora(source=str(tmp_path / "wrong.safetensors"))])
    again = load_base(BaseSettings(base=adapter.metadata.base, device="cpu"))
    with pytest.raises(ConfigError, match="revision"):
        load_adapter(again, adapter, [Lora(source="someone/fast")])


def test_unknown_names_are_refused(ready):
    base, adapter = ready
    with pytest.raises(ConfigError, match=r"FlowMatchEulerDiscreteScheduler"):
        scheduler_for(base, "DDIMScheduler", None, 4)
    stranger = PlannedWindow(label="who", service="tcp-443", index=0, window=0, height=16, length=3)
    with pytest.raises(ConfigError, match="does not know label 'who'; it knows chat"):
        draw_batch(base, adapter, [stranger], DrawSettings(steps=1, batch_size=1))


def test_a_raster_beyond_the_position_embeddings(ready):
    base, adapter = ready
    sample = dataclasses.replace(make_samples(1)[0], height=1024)
    with pytest.raises(ModelError, match=r"1024 x 704 is too large.*lower the height"):
        draw_batch(base, adapter, [sample], DrawSettings(steps=1, batch_size=1))


def test_out_of_memory_says_what_to_lower(ready, monkeypatch):
    base, adapter = ready
    monkeypatch.setattr(base.transformer, "forward", lambda **_: torch.empty(1 << 60))
    with pytest.raises(ModelError, match=r"2 rasters of 16 x 704: lower batch_size"):
        draw_batch(base, adapter, make_samples(1), DrawSettings(steps=1, batch_size=2))


def test_a_plan_is_a_function_of_seed_label_and_index(adapter_directory):
    metadata = read_adapter(adapter_directory).metadata
    plans = [plan_flow(metadata, "chat", 3, index).samples for index in range(300)]
    assert plans == [plan_flow(metadata, "chat", 3, index).samples for index in range(300)]
    assert plans != [plan_flow(metadata, "chat", 4, index).samples for index in range(300)]
    low, most = metadata.labels["chat"].fewest_packets, metadata.labels["chat"].most_packets
    for plan in plans:
        assert [sample.window for sample in plan] == list(range(len(plan)))
        assert all(sample.length == 32 == sample.height for sample in plan[:-1])
        assert low <= sum(sample.length for sample in plan) <= most
        assert all(s.height in (16, 32) and s.length <= s.height for s in plan)
    assert {len(plan) for plan in plans} == {1, 2}


def test_every_step_begins_at_a_noise_level_of_its_own(base):
    scheduler = scheduler_for(base, "FlowMatchEulerDiscreteScheduler", 3.0, 4)
    assert scheduler.sigmas.tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])
    # This one takes no levels, and has two for each step but the last.
    assert len(scheduler_for(base, "FlowMatchHeunDiscreteScheduler", 3.0, 4).timesteps) == 7
