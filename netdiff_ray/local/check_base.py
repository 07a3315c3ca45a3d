"""Whether a base's autoencoder keeps the header bits of real rasters.

Shape letters: N windows, P packets, H x W cells of a raster.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from netdiff_ray.config.check_base import CheckBaseConfig
from netdiff_ray.diffusion.adapter import DECODER_FILE, METADATA_FILE, parse_metadata
from netdiff_ray.diffusion.adapter import check_base as check_adapter_base
from netdiff_ray.encoding.windows import labelled_windows, read_parts
from netdiff_ray.errors import DatasetError, ModelError
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import Layout, height_for, layout_named
from netdiff_ray.raster import drop_vacant_tail, from_rgb, to_rgb
from netdiff_ray.storage.manifest import ENCODED_DATASET, Dataset, open_dataset
from netdiff_ray.storage.store import open_store

if TYPE_CHECKING:
    from netdiff_ray.diffusion.base import Base

_HELDOUT_EVERY = 4


class HeightResult(NamedTuple):
    """What the autoencoder did to windows of one height."""

    height: int
    """Rows of their rasters."""
    windows: int
    """Number of them."""
    bits: int
    """Header bits of their packets, cells that are not vacant."""
    wrong: int
    """Of these bits, how many came back as the other bit, or vacant."""
    invented: int
    """Vacant cells of packets that came back as bits."""
    lost: int
    """Windows that came back with fewer packets; a vacant row ends a flow."""
    worst_field: str
    """The field of most wrong bits, relative to its bits; empty if none is wrong."""
    worst_share: float
    """Share of its bits that are wrong."""

    @property
    def wrong_share(self) -> float:
        return self.wrong / self.bits if self.bits else 0.0


class BaseCheck(NamedTuple):
    """What the autoencoder of a base did, by height, low first."""

    heights: list[HeightResult]
    """With the tuned decoder, if one was tuned."""
    before: list[HeightResult] | None = None
    """The same windows with the base's own decoder; None if none was tuned."""


def check_base(
    config: CheckBaseConfig, report: Callable[[int, float], None] = lambda step, loss: None
) -> BaseCheck:
    """Encode and decode windows of a dataset, and compare; and, if the configuration says so,
    fine-tune the decoder on other windows, compare again, and add it to the adapter.

    Args:
        config: of the check.
        report: called with steps of tuning and their losses.

    Raises:
        DatasetError: there is no dataset, or it has no windows of the labels, or too few.
        ModelError: the base cannot be loaded, or memory does not suffice; or the adapter is of
            another base.
    """
    from netdiff_ray.diffusion.base import load_base
    from netdiff_ray.diffusion.decoder_tuning import decoder_file, tune_decoder

    dataset = open_dataset(open_store(config.data), ENCODED_DATASET)
    layout = layout_named(dataset.manifest["config"]["layout"])
    by_height = _windows_by_height(dataset, layout, config)
    if not config.tune_decoder:
        base = load_base(config.settings(), with_controlnet=False)
        return BaseCheck(_compared(base, by_height, layout, config))
    adapter = open_store(config.adapter)
    metadata = parse_metadata(adapter.get(METADATA_FILE), adapter.uri)
    base = load_base(config.settings(), with_controlnet=False)
    check_adapter_base(metadata, base.digest, config.base)
    learnt, heldout = _parted(by_height)
    if not heldout:
        raise DatasetError(
            f"{dataset.store.uri} has too few windows to tune a decoder and to measure it: a label "
            f"needs {_HELDOUT_EVERY} of a height"
        )
    before = _compared(base, heldout, layout, config)
    with _memory_in_words(config, max(learnt), layout):
        tune_decoder(
            base, learnt, steps=config.tune_decoder, batch_size=config.batch_size,
            learning_rate=config.learning_rate, seed=config.seed, report=report,
        )  # fmt: skip
    after = _compared(base, heldout, layout, config)
    adapter.put(DECODER_FILE, decoder_file(base))
    return BaseCheck(after, before)


def _compared(
    base: "Base",
    by_height: Mapping[int, Sequence[np.ndarray]],
    layout: Layout,
    config: CheckBaseConfig,
) -> list[HeightResult]:
    """Return what the base's autoencoder does to windows, a result a height, low first."""
    from netdiff_ray.diffusion.base import check_size

    results = []
    for height, windows in sorted(by_height.items()):
        check_size(base, height, layout.width)
        with _memory_in_words(config, height, layout):
            pairs = zip(windows, _through(base, windows, height, config.batch_size), strict=True)
            results.append(compare(height, layout, pairs))
    return results


@contextmanager
def _memory_in_words(config: CheckBaseConfig, height: int, layout: Layout) -> Iterator[None]:
    """Turn errors of too little memory into ModelError."""
    from netdiff_ray.diffusion.optimization import is_out_of_memory

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"out of memory with {config.batch_size} rasters of {height} x {layout.width}: "
            "lower batch_size, or set slice_vae or tile_vae"
        ) from None


def _parted(
    by_height: Mapping[int, Sequence[np.ndarray]],
) -> tuple[dict[int, list[np.ndarray]], dict[int, list[np.ndarray]]]:
    """Return the windows to learn from, and every fourth of each height to measure."""
    learnt, heldout = {}, {}
    for height, windows in by_height.items():
        last = _HELDOUT_EVERY - 1
        learnt[height] = [w for k, w in enumerate(windows) if k % _HELDOUT_EVERY != last]
        if len(windows) > last:
            heldout[height] = windows[last::_HELDOUT_EVERY]
    return learnt, heldout


def _windows_by_height(
    dataset: Dataset, layout: Layout, config: CheckBaseConfig
) -> dict[int, list[np.ndarray]]:
    """Return the first windows of each label and height, by height."""
    there = dataset.manifest["counts"]["labels"]
    labels = config.labels or tuple(there)
    taken: Counter[tuple[str, int]] = Counter()
    by_height = defaultdict(list)
    for table in read_parts(dataset.part_names, dataset.store, labels):
        windows = labelled_windows(table, layout)
        for nprint, label in zip(windows.nprint, windows.label, strict=True):
            key = label, height_for(len(nprint))
            if taken[key] < config.windows:
                taken[key] += 1
                by_height[key[1]].append(nprint)
    if not by_height:
        raise DatasetError(
            f"{dataset.store.uri} has no windows of {', '.join(labels)}; it has {', '.join(there)}"
        )
    return by_height


def _through(
    base: "Base", windows: Sequence[np.ndarray], height: int, size: int
) -> Iterable[np.ndarray]:
    """Yield each window as the base's autoencoder gives it back, (H, W) int8."""
    from netdiff_ray.diffusion.base import decode_latents, encode_rasters

    for first in range(0, len(windows), size):
        rasters = np.stack([to_rgb(nprint, height) for nprint in windows[first : first + size]])
        for rgb in decode_latents(base, encode_rasters(base, rasters)):
            yield from_rgb(rgb)[0]


def compare(
    height: int, layout: Layout, pairs: Iterable[tuple[np.ndarray, np.ndarray]]
) -> HeightResult:
    """Compare real windows with what came back of them.

    Args:
        height: H of the rasters.
        layout: of W columns.
        pairs: N of a real (P, W) and a returned (H, W) int8 matrix of 1, 0 and -1.
    """
    bits, wrong = np.zeros(layout.width, np.int64), np.zeros(layout.width, np.int64)
    windows = invented = lost = 0
    for real, returned in pairs:
        rows, is_bit = returned[: len(real)], real != VACANT
        bits += is_bit.sum(0)
        wrong += (is_bit & (rows != real)).sum(0)
        invented += int((~is_bit & (rows != VACANT)).sum())
        lost += len(drop_vacant_tail(returned)) < len(real)
        windows += 1
    shares = {}
    for name in layout.fields:
        columns = layout.columns(name)
        if total := bits[columns].sum():
            shares[name] = float(wrong[columns].sum() / total)
    worst = max(shares, key=shares.get, default="")
    share = shares.get(worst, 0.0)
    return HeightResult(
        height, windows, int(bits.sum()), int(wrong.sum()), invented, lost, worst if share else "",
        share,
    )  # fmt: skip


def base_table(results: Sequence[HeightResult]) -> str:
    """Return the results as a table."""
    lines = [f"{'height':>6} {'windows':>8} {'bits':>12} {'right':>9} {'lost':>5}  worst field"]
    for result in results:
        worst = f"{result.worst_field} {1 - result.worst_share:.4f}" * bool(result.worst_field)
        lines.append(
            f"{result.height:6,} {result.windows:8,} {result.bits:12,} "
            f"{1 - result.wrong_share:9.5f} {result.lost:5,}  {worst}"
        )
    return "\n".join(lines)
