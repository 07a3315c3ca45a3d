"""Whether a base's autoencoder keeps the header bits of real rasters.

Shape letters: N windows, P packets, H x W cells of a raster.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from netdiff_ray.config.check_base import CheckBaseConfig
from netdiff_ray.encoding.windows import labelled_windows, read_parts
from netdiff_ray.errors import DatasetError, ModelError
from netdiff_ray.nprint.codec import VACANT
from netdiff_ray.nprint.layouts import Layout, height_for, layout_named
from netdiff_ray.raster import drop_vacant_tail, from_rgb, to_rgb
from netdiff_ray.storage.manifest import ENCODED_DATASET, Dataset, open_dataset
from netdiff_ray.storage.store import open_store


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


def check_base(config: CheckBaseConfig) -> list[HeightResult]:
    """Encode and decode windows of a dataset, and compare; return a result a height, low first.

    Raises:
        DatasetError: there is no dataset, or it has no windows of the labels.
        ModelError: the base cannot be loaded, or memory does not suffice.
    """
    from netdiff_ray.diffusion.base import check_size, load_base
    from netdiff_ray.diffusion.optimization import is_out_of_memory

    dataset = open_dataset(open_store(config.data), ENCODED_DATASET)
    layout = layout_named(dataset.manifest["config"]["layout"])
    by_height = _windows_by_height(dataset, layout, config)
    base = load_base(config.settings(), with_controlnet=False)
    results = []
    for height, windows in sorted(by_height.items()):
        check_size(base, height, layout.width)
        try:
            pairs = zip(windows, _through(base, windows, height, config.batch_size), strict=True)
            results.append(compare(height, layout, pairs))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(
                f"out of memory with {config.batch_size} rasters of {height} x {layout.width}: "
                "lower batch_size, or set slice_vae or tile_vae"
            ) from None
    return results


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


def _through(base, windows: Sequence[np.ndarray], height: int, size: int) -> Iterable[np.ndarray]:
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
