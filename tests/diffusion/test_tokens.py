"""Tokens of headers that flows lack: which they are, and that the others stay what they were."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from toys import LABELS, condition_of, settings

from netdiff_ray.diffusion.base import encode_rasters
from netdiff_ray.diffusion.denoise import batches, denoise
from netdiff_ray.diffusion.facts import Sample
from netdiff_ray.diffusion.settings import DrawSettings
from netdiff_ray.diffusion.share import prepare
from netdiff_ray.diffusion.tokens import (
    ANY,
    columns_taking_part,
    only_tokens_of,
    transport_in,
    transport_of,
)
from netdiff_ray.diffusion.train import choose_batch, make_batch
from netdiff_ray.nprint.layouts import layout_named
from netdiff_ray.raster import to_rgb

LAYOUT = layout_named("timed")


def columns_of(transport):
    return columns_taking_part(LAYOUT, transport, vae_scale=1, patch_size=8)


def test_the_transport_of_headers_and_of_windows():
    assert transport_of(("ipv6", "udp")) == "udp"
    assert transport_of(()) == transport_of(("ipv4",)) == transport_of(("tcp", "udp")) == ANY
    window = np.full((4, LAYOUT.width), -1, np.int8)
    assert transport_in(window, LAYOUT) == ANY
    window[1, LAYOUT.columns_of(["icmp"])] = 0
    assert transport_in(window, LAYOUT) == "icmp"
    window[2, LAYOUT.columns_of(["tcp"])] = 1
    assert transport_in(window, LAYOUT) == ANY


@pytest.mark.parametrize(("transport", "tokens"), [("tcp", 70), ("udp", 26), ("icmp", 26)])
def test_the_columns_of_other_transports_are_left_out(transport, tokens):
    columns = columns_of(transport).numpy()
    assert columns.sum() == 8 * tokens
    assert columns[LAYOUT.columns_of(["flow", "ipv4", "ipv6", transport])].all()
    others = [name for name in ("tcp", "udp", "icmp") if name != transport]
    assert not columns[LAYOUT.columns_of(others)].any()
    # A token that has a column of the transport takes part as a whole.
    wide = columns_taking_part(LAYOUT, transport, vae_scale=1, patch_size=16).numpy()
    assert wide[columns].all()
    assert wide.sum() % 16 == 0


def test_nothing_is_left_out_where_the_transport_or_the_pixel_is_not_known():
    assert columns_of(ANY) is None
    assert columns_taking_part(LAYOUT, "udp", vae_scale=8, patch_size=2) is None


def test_tokens_that_take_part_keep_their_positions(base):
    latents = torch.randn(2, 1, 16, LAYOUT.width)
    embed = base.transformer.pos_embed
    whole = embed(latents).unflatten(1, (2, -1))

    def of(transport):
        columns = columns_of(transport)
        with only_tokens_of(base.transformer, columns):
            return columns, embed(latents[..., columns])

    # Threads draw at once; each has its own columns.
    with ThreadPoolExecutor(3) as pool:
        for columns, found in pool.map(of, ("tcp", "udp", "icmp") * 4):
            assert torch.allclose(found, whole[:, :, columns[::8]].flatten(1, 2), atol=1e-6)
    assert torch.equal(embed(latents).unflatten(1, (2, -1)), whole)


def test_the_transformer_sees_only_those_tokens_and_the_rest_comes_out_vacant(ready):
    base, adapter = ready
    seen = []
    hook = base.transformer.transformer_blocks[0].register_forward_hook(
        lambda _block, _inputs, out: seen.append(out[1].shape[1])
    )
    sample = Sample(
        label=LABELS[0], index=0, window=0, height=16, length=9, headers=("ipv4", "udp")
    )  # fmt: skip
    condition = condition_of(base, adapter, [sample])
    try:
        held = DrawSettings(steps=1, batch_size=1)
        latents = denoise(base, condition, None, [sample], LAYOUT.width, held)
        free = DrawSettings(steps=1, batch_size=1, hold_plan=False)
        denoise(base, condition, None, [sample], LAYOUT.width, free)
    finally:
        hook.remove()
    assert seen == [2 * 26, 2 * 82]
    vacant = encode_rasters(base, to_rgb(np.full((1, LAYOUT.width), -1, np.int8), 16)[None])
    left_out = ~columns_of("udp")
    assert torch.equal(latents[..., left_out], vacant[..., left_out])


def test_batches_are_of_one_height_and_transport():
    def sample(index, height, *headers):
        return Sample(
            label="a", index=index, window=0, height=height, length=height, headers=headers
        )  # fmt: skip

    asked = [
        sample(0, 32, "ipv4", "udp"), sample(1, 16, "ipv4", "tcp"), sample(2, 32, "ipv6", "udp"),
        sample(3, 32, "ipv4", "tcp"), sample(4, 32), sample(5, 32, "ipv4", "udp"),
    ]  # fmt: skip
    found = [[one.index for one in batch] for batch in batches(asked, 2)]
    assert found == [[1], [4], [3], [0, 2], [5]]


def test_windows_are_learnt_without_what_they_lack(base, windows):
    prepared = prepare(base, [windows], settings())
    assert {transport for _, transport in prepared.by_kind} == {"tcp"}
    kind, chosen = choose_batch(prepared.by_kind, 3, (0,))
    batch = make_batch(base, prepared, kind, chosen)
    assert batch.latents.shape == (3, 1, kind[0], 8 * 70)
    whole = prepared.by_kind[kind].clean[prepared.by_kind[kind].row[chosen]].float()
    assert torch.equal(batch.latents, whole[..., columns_of("tcp")])
