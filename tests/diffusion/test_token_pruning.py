"""Tokens of headers that flows lack are left out, and the others keep their positions."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import LABELS, condition_of, settings

from netdiff_ray.config.diffusion import DrawSettings
from netdiff_ray.diffusion.base import encode_rasters
from netdiff_ray.diffusion.denoise import batches, denoise
from netdiff_ray.diffusion.token_pruning import (
    ANY,
    columns_with_tokens,
    headers_in,
    pruned_to,
    replace_columns,
    select_columns,
    transport_of,
)
from netdiff_ray.diffusion.train import choose_batch, make_batch
from netdiff_ray.diffusion.training_set import make_training_set
from netdiff_ray.labels.flow_plan import PlannedWindow
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.raster import to_rgb

LAYOUT = layout_named("stateful")


def columns_of(transport, option_octets=24, layout=LAYOUT):
    return columns_with_tokens(layout, transport, option_octets, vae_scale=1, patch_size=8)


def test_the_headers_of_windows_and_the_transport_of_headers():
    assert transport_of(("ipv6", "udp")) == "udp"
    for headers in ((), ("ipv4",), ("udp",), ("ipv4", "tcp", "udp"), ("ipv4", "ipv6", "udp")):
        assert transport_of(headers) == ANY
    window = np.full((4, LAYOUT.width), -1, np.int8)
    window[:, LAYOUT.columns_of(["flow"])] = 0
    assert headers_in(window, LAYOUT) == ()
    window[1, LAYOUT.columns_of(["icmp"])] = 0
    window[2, LAYOUT.columns_of(["ipv6"])] = 1
    assert headers_in(window, LAYOUT) == ("ipv6", "icmp")


@pytest.mark.parametrize(("transport", "tokens"), [("tcp", 52), ("udp", 20), ("icmp", 20)])
def test_the_columns_of_headers_that_a_flow_lacks_are_left_out(transport, tokens):
    for version, columns in zip(("ipv4", "ipv6"), columns_of(transport).numpy(), strict=True):
        assert columns.sum() == 8 * tokens
        expected = LAYOUT.columns_of(["flow", version, transport])
        expected[LAYOUT.offsets["tcp_opt"] :][8 * 24 : 8 * 40] = False
        assert np.array_equal(columns, expected)


def test_tokens_have_all_columns_of_whichever_they_have_one_of():
    for transport in ("tcp", "udp"):
        wide = columns_with_tokens(LAYOUT, transport, 24, vae_scale=1, patch_size=16).numpy()
        assert wide[columns_of(transport).numpy()].all()
        assert not (wide.sum(1) % 16).any()
        assert wide[0].sum() == wide[1].sum()


def test_long_options_have_tokens_where_labels_have_them():
    at = LAYOUT.offsets["tcp_opt"]
    for octets in (0, 12, 40):
        (columns, _) = columns_of("tcp", octets).numpy()
        assert columns[at : at + 8 * octets].all()
        assert not columns[at + 8 * octets : at + 8 * 40].any()


def test_both_versions_have_tokens_where_their_headers_differ_in_size():
    layout = layout_named("nprint-1088")
    first, second = columns_of("udp", layout=layout)
    assert torch.equal(first, second)
    assert first.numpy()[layout.columns_of(["ipv4", "ipv6", "udp"])].all()
    assert not first.numpy()[layout.columns_of(["tcp", "icmp"])].any()


def test_nothing_is_left_out_where_the_transport_or_the_pixel_is_not_known():
    assert columns_of(ANY) is None
    assert columns_with_tokens(LAYOUT, "udp", 24, vae_scale=8, patch_size=2) is None


def test_columns_are_taken_out_and_put_back():
    columns = columns_of("udp")[[0, 1, 1]]
    latents = torch.randn(3, 2, 16, LAYOUT.width)
    selected = select_columns(latents, columns)
    assert selected.shape == (3, 2, 16, 8 * 20)
    for k in range(3):
        assert torch.equal(selected[k], latents[k][..., columns[k]])
    whole = torch.zeros(1, 2, 16, LAYOUT.width)
    back = replace_columns(whole, selected, columns)
    assert torch.equal(back, latents * columns[:, None, None])
    assert torch.equal(select_columns(latents[:1], columns)[2], latents[0][..., columns[2]])


def test_tokens_that_take_part_keep_their_positions(base):
    latents = torch.randn(2, 1, 16, LAYOUT.width)
    embed = base.transformer.pos_embed
    whole = embed(latents).unflatten(1, (2, -1))

    def of(transport):
        columns = columns_of(transport)
        with pruned_to(base.transformer, columns):
            return columns, embed(select_columns(latents, columns))

    # Threads that draw at the same time have different columns.
    with ThreadPoolExecutor(3) as pool:
        for columns, embedded in pool.map(of, ("tcp", "udp", "icmp") * 4):
            for k in range(2):
                expected = whole[k][:, columns[k, ::8]].flatten(0, 1)
                assert torch.allclose(embedded[k], expected, atol=1e-6)
    assert torch.equal(embed(latents).unflatten(1, (2, -1)), whole)


def test_the_transformer_sees_only_those_tokens_and_the_rest_comes_out_vacant(ready):
    base, adapter = ready
    seen = []
    hook = base.transformer.transformer_blocks[0].register_forward_hook(
        lambda _block, _inputs, out: seen.append(out[1].shape[1])
    )
    sample = PlannedWindow(
        label=LABELS[0], service="tcp-443", index=0, window=0, height=16, length=9,
        headers=("ipv4", "udp"),
    )  # fmt: skip
    condition = condition_of(base, adapter, [sample])
    everywhere = replace(condition, columns=None)
    try:
        held = DrawSettings(steps=1, batch_size=1)
        latents = denoise(base, condition, None, [sample], LAYOUT.width, held)
        free = DrawSettings(steps=1, batch_size=1, hold_plan=False)
        denoise(base, everywhere, None, [sample], LAYOUT.width, free)
    finally:
        hook.remove()
    assert seen == [2 * 20, 2 * 88]
    vacant = encode_rasters(base, to_rgb(np.full((1, LAYOUT.width), -1, np.int8), 16)[None])
    left_out = ~columns_of("udp")[0]
    assert torch.equal(latents[..., left_out], vacant[..., left_out])


def test_batches_are_of_one_height_and_transport():
    def sample(index, height, *headers):
        return PlannedWindow(
            label="a", service="tcp-443", index=index, window=0, height=height, length=height,
            headers=headers,
        )  # fmt: skip

    samples = [
        sample(0, 32, "ipv4", "udp"), sample(1, 16, "ipv4", "tcp"), sample(2, 32, "ipv6", "udp"),
        sample(3, 32, "ipv4", "tcp"), sample(4, 32), sample(5, 32, "ipv4", "udp"),
    ]  # fmt: skip
    indices = [[s.index for s in batch] for batch in batches(samples, 2)]
    assert indices == [[1], [4], [3], [0, 2], [5]]


def test_windows_are_learnt_without_what_they_lack(base, windows):
    training_set = make_training_set(base, [windows], settings())
    assert {transport for _, transport in training_set.by_kind} == {"tcp"}
    kind, chosen = choose_batch(training_set.by_kind, 3, (0,))
    batch = make_batch(base, training_set, kind, chosen)
    assert batch.columns.sum(1).tolist() == [8 * 28] * 3  # flow, IPv4 and TCP without options
    whole = training_set.by_kind[kind].clean[training_set.by_kind[kind].row[chosen]].float()
    assert torch.equal(batch.latents, select_columns(whole, batch.columns))
