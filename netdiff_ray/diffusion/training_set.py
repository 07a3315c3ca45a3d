"""What each rank keeps of its share of the windows, and how shares make one training set.

A window passes once: it is counted, its latents are kept, the rest is let go. A rank's memory
is the latents of its own windows (float16; 1/12 of the raster's bytes for SD3's autoencoder),
two int32 counts a cell for each label and height, and some 200 bytes a window of all ranks.

Shape letters: N windows, C x h x w latents, T text tokens, D, E their widths.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from netdiff_ray.config.diffusion import TrainSettings
from netdiff_ray.diffusion.adapter import Embeddings
from netdiff_ray.diffusion.base import Base, check_size, encode_control, encode_rasters
from netdiff_ray.diffusion.control import Cells, column_shares, control_images, count_cells
from netdiff_ray.diffusion.process_group import SINGLE_PROCESS, ProcessGroup
from netdiff_ray.diffusion.prompts import embed_texts, prompt_for
from netdiff_ray.diffusion.token_pruning import (
    Kind,
    columns_taking_part,
    headers_in,
    transport_of,
)
from netdiff_ray.errors import ModelError
from netdiff_ray.fields import HEADERS
from netdiff_ray.labels.labelled_windows import LabelledWindows, check_windows
from netdiff_ray.labels.statistics import (
    LabelStatistics,
    Tally,
    describe_tally,
    most_option_octets,
    tally,
)
from netdiff_ray.nprint.layouts import HEIGHTS, Layout, height_for, layout_named
from netdiff_ray.raster import to_rgb

_ENCODED_AT_ONCE = 8
_KEY_BYTES = 16


@dataclass(frozen=True)
class Latents:
    """All windows of one kind; all ranks have them in the same order."""

    clean: torch.Tensor
    """(n, C, h, w) float16, on the CPU: those that this rank holds."""
    row: np.ndarray
    """(N,) int64 place of a window in `clean`, -1 where another rank holds it."""
    label: np.ndarray
    """(N,) int64 index of the label."""
    prompt: np.ndarray
    """(N,) int64 index of the prompt."""
    weight: np.ndarray
    """(N,) float64 how often a window is drawn, relative to others."""
    version: np.ndarray
    """(N,) int64 index of the version of IP among `tokens.VERSIONS`."""
    columns: torch.Tensor | None = None
    """(2, w) bool, columns of the latents that have tokens in flows over each version; None:
    all (see `tokens.columns_taking_part`)."""


@dataclass(frozen=True)
class Prepared:
    """What batches are made of, on the base's device but for the latents."""

    by_kind: dict[Kind, Latents]
    """Windows of which batches are made, low ones first."""
    prompts: torch.Tensor
    """(prompts, T, D), the empty one last."""
    pooled: torch.Tensor
    """(prompts, E), likewise."""
    control: dict[int, torch.Tensor]
    """Height to (labels, C, h, w) latents of control images; empty without ControlNet."""
    labels: dict[str, LabelStatistics]
    """What there is to say of each label, sorted."""
    embeddings: Embeddings
    """Of their prompts."""
    control_images: dict[str, dict[int, np.ndarray]]
    """Label to height to (H, W, 3) uint8."""
    column_shares: dict[str, np.ndarray]
    """Label to (3, W) shares of 1, 0 and vacant among its packets."""
    heights: list[int]
    """Heights that may be drawn."""
    layout: Layout
    """Of the windows."""
    digest: str
    """Hex sha256 of the windows, in whatever order they came."""


@dataclass
class _Share:
    """What a rank keeps of the windows that passed."""

    keys: list[bytes] = field(default_factory=list)
    """A hash of each window and what belongs to it; their order is that of the training set."""
    heights: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    """Those that packets of a window have, as in `ipv4 udp`."""
    windows: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """In the latents of its height."""
    counts: Tally = field(default_factory=Counter)
    cells: dict[str, Cells] = field(default_factory=dict)
    latents: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    waiting: dict[int, list[np.ndarray]] = field(default_factory=dict)
    """Rasters by height that wait for more of them to be encoded with."""


def prepare(
    base: Base,
    parts: Iterable[LabelledWindows],
    settings: TrainSettings,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> Prepared:
    """The training set that the windows of all ranks make.

    The same whichever rank has which windows, in whatever order. A window of a label that
    has n of them has weight n ** (balance - 1), so that the label as a whole has
    n ** balance.

    Args:
        base: encodes.
        parts: this rank's windows, all of one layout; each part is let go once it has passed.
        settings: of the training.
        process_group: who else takes part.

    Raises:
        ModelError: windows, settings and base do not go together, or there are too few.
    """
    share = _Share()
    name = ""
    for windows in parts:
        check_windows(windows, settings.max_height)
        name = windows.layout.name
        _take(base, share, windows, settings.max_height)
    for height in share.waiting:
        _encode_waiting(base, share, height)
    layout = layout_named(max(process_group.all_gather(name)))
    width = layout.width
    counts: Tally = Counter()
    for own in process_group.all_gather(share.counts):
        counts.update(own)
    labels = describe_tally(counts)
    num_windows = sum(facts.num_windows for facts in labels.values())
    if num_windows < settings.loop.batch_size:
        raise ModelError(
            f"{num_windows} windows are fewer than a batch of {settings.loop.batch_size}: lower "
            "batch_size, or encode more captures"
        )
    heights = _heights_to_draw(base, labels, width, settings.max_height)
    rows = {label: _rows_of(counts, label) for label in labels}
    cells = _cells_of_all(share, list(labels), width, settings.max_height, process_group)
    own = embed_labels(base, settings.prompt, labels) if process_group.rank == 0 else None
    embeddings = process_group.all_gather(own)[0]
    images = {label: control_images(cells[label], rows[label], heights) for label in labels}
    keys, by_kind = _by_kind(base, share, labels, embeddings, settings, layout, process_group)
    control = {}
    if settings.objective.control_scale:
        for height in sorted({height for height, _ in by_kind}):
            of_labels = np.stack([images[label][height] for label in labels])
            control[height] = encode_control(base, of_labels)
    prompts = [*embeddings.prompt.values(), embeddings.empty_prompt]
    pooled = [*embeddings.pooled.values(), embeddings.empty_pooled]
    return Prepared(
        by_kind=by_kind,
        prompts=torch.from_numpy(np.stack(prompts)).to(base.device).float(),
        pooled=torch.from_numpy(np.stack(pooled)).to(base.device).float(),
        control=control,
        labels=labels,
        embeddings=embeddings,
        control_images=images,
        column_shares={label: column_shares(cells[label], rows[label]) for label in labels},
        heights=heights,
        layout=layout,
        digest=hashlib.sha256(b"".join(keys)).hexdigest(),
    )


def _take(base: Base, share: _Share, windows: LabelledWindows, max_height: int) -> None:
    """Count windows and encode them, eight of a height at a time."""
    share.counts.update(tally(windows, max_height))
    columns = zip(windows.nprint, windows.label, windows.flow, windows.window, strict=True)
    for nprint, label, flow, window in columns:
        count_cells(share.cells.setdefault(str(label), {}), nprint, max_height)
        height = height_for(len(nprint))
        waiting = share.waiting.setdefault(height, [])
        share.keys.append(_key(nprint, label, flow, window))
        share.heights.append(height)
        share.labels.append(str(label))
        share.headers.append(" ".join(headers_in(nprint, windows.layout)))
        share.windows.append(int(window))
        encoded = len(share.latents.setdefault(height, [])) * _ENCODED_AT_ONCE
        share.places.append(encoded + len(waiting))
        waiting.append(to_rgb(nprint, height))
        if len(waiting) == _ENCODED_AT_ONCE:
            _encode_waiting(base, share, height)


def _key(nprint: np.ndarray, label: str, flow: str, window: int) -> bytes:
    key = hashlib.blake2b(f"{label}\x1f{flow}\x1f{window}\x1f".encode(), digest_size=_KEY_BYTES)
    key.update(np.ascontiguousarray(nprint, np.int8).tobytes())
    return key.digest()


def _encode_waiting(base: Base, share: _Share, height: int) -> None:
    """Encode the rasters that wait, always so many at once that a window's latents do not
    depend on which others it came with."""
    waiting = share.waiting[height]
    if waiting:
        filled = waiting + [waiting[-1]] * (_ENCODED_AT_ONCE - len(waiting))
        latents = encode_rasters(base, np.stack(filled))[: len(waiting)]
        share.latents[height].append(latents.half().cpu())
        waiting.clear()


def _heights_to_draw(
    base: Base, labels: dict[str, LabelStatistics], width: int, max_height: int
) -> list[int]:
    """The heights that may be drawn.

    Raises:
        ModelError: the base cannot draw one of them.
    """
    most = max(facts.most_packets for facts in labels.values())
    highest = height_for(min(most, max_height))
    heights = [height for height in HEIGHTS if height <= highest]
    for height in heights:
        check_size(base, height, width)
    return heights


def _rows_of(counts: Tally, label: str) -> dict[int, int]:
    return {
        value: number
        for (of, what, value), number in counts.items()
        if what == "rows" and of == label
    }


def _cells_of_all(
    share: _Share, labels: list[str], width: int, max_height: int, process_group: ProcessGroup
) -> dict[str, Cells]:
    """The sums of the ranks' cells."""
    own = {(label, key) for label, cells in share.cells.items() for key in cells}
    everywhere = sorted(set().union(*process_group.all_gather(own)))
    summed: dict[str, Cells] = {label: {} for label in labels}
    for label, key in everywhere:
        cells = share.cells.get(label, {}).get(key)
        if cells is None:
            cells = np.zeros((2, key or max_height, width), np.int32)
        summed[label][key] = process_group.all_reduce(torch.from_numpy(cells)).numpy()
    return summed


def embed_labels(base: Base, template: str, labels: dict[str, LabelStatistics]) -> Embeddings:
    """The embeddings of every prompt of every label, and of the empty text."""
    keys = [(label, k) for label, facts in labels.items() for k in range(facts.num_prompts)]
    texts = [prompt_for(template, label, window) for label, window in keys]
    prompts, pooled = embed_texts(base, [*texts, ""])
    return Embeddings(
        prompt=dict(zip(keys, prompts, strict=False)),
        pooled=dict(zip(keys, pooled, strict=False)),
        empty_prompt=prompts[-1],
        empty_pooled=pooled[-1],
    )


def _by_kind(
    base: Base,
    share: _Share,
    labels: dict[str, LabelStatistics],
    embeddings: Embeddings,
    settings: TrainSettings,
    layout: Layout,
    process_group: ProcessGroup,
) -> tuple[list[bytes], dict[Kind, Latents]]:
    """The keys of all windows in order, and the windows by kind, in that order."""
    label_number = {label: k for k, label in enumerate(labels)}
    prompt_number = {key: k for k, key in enumerate(embeddings.prompt)}
    own = (
        share.keys,
        np.array(share.heights, np.int64),
        np.array([label_number[label] for label in share.labels], np.int64),
        np.array(
            [
                prompt_number[label, min(window, labels[label].num_prompts - 1)]
                for label, window in zip(share.labels, share.windows, strict=True)
            ],
            np.int64,
        ),
        np.array(share.places, np.int64),
        np.array(share.headers, f"U{len(' '.join(HEADERS))}"),
    )
    of_ranks = process_group.all_gather(own)
    rank = np.repeat(np.arange(process_group.size), [len(of_rank[0]) for of_rank in of_ranks])
    keys = [key for of_rank in of_ranks for key in of_rank[0]]
    height, label, prompt, place, headers = (
        np.concatenate([of_rank[column] for of_rank in of_ranks]) for column in range(1, 6)
    )
    transport = np.array([transport_of(own.split()) for own in headers])
    version = np.array(["ipv6" in own.split() for own in headers], np.int64)
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    patch_size = base.transformer.config.patch_size
    num_windows = np.array([facts.num_windows for facts in labels.values()], np.float64)
    own_latents = {}
    for one in set(height.tolist()):
        empty = torch.empty((0, *base.latent_shape(one, layout.width)), dtype=torch.float16)
        own_latents[one] = torch.cat([empty, *share.latents.get(one, [])])
    by_kind = {}
    for one, own_transport in sorted(set(zip(height.tolist(), transport.tolist(), strict=True))):
        chosen = order[(height[order] == one) & (transport[order] == own_transport)]
        by_kind[one, own_transport] = Latents(
            clean=own_latents[one],
            row=np.where(rank[chosen] == process_group.rank, place[chosen], -1),
            label=label[chosen],
            prompt=prompt[chosen],
            weight=num_windows[label[chosen]] ** (settings.balance - 1),
            version=version[chosen],
            columns=columns_taking_part(
                layout, own_transport, most_option_octets(labels), base.vae_scale, patch_size
            ),
        )
    return sorted(keys), by_kind
