"""The pictures of a report, as data URIs that a page embeds.

Charts are drawn small, so that a phone shows their text at its own size.

Shape letters: L labels, H rows, W columns.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from netdiff_ray.evaluate.flow_statistics import FEATURES
from netdiff_ray.evaluate.flow_view import VIEW
from netdiff_ray.evaluate.summary import SAMPLE_PACKETS, Sample
from netdiff_ray.fields import FIELD_NAMED
from netdiff_ray.raster import to_rgb

REAL, SYNTHETIC = "#1f6f8b", "#d1603d"
OVERLAID = {
    "packets": "packets of a flow", "bytes": "bytes of a flow", "duration_s": "duration, s",
    "iat_mean_s": "mean inter-arrival time, s", "size_up_mean": "mean packet size up, bytes",
    "size_down_mean": "mean packet size down, bytes",
}  # fmt: skip
_FLOWS_SHOWN = 3
_GAP_ROWS = 2
_TELLING_SHOWN = 15
_VOLUMES_NAMED = 8
_STYLE = {
    "font.family": "sans-serif", "font.size": 8, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": "#888888", "svg.fonttype": "none",
    "svg.hashsalt": "netdiff",
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """One picture of a report."""

    section: str
    """The section that it belongs to."""
    title: str
    alt: str
    """What it shows, for readers who cannot see it."""
    uri: str
    """data:image/..."""
    is_raster: bool = False
    folded: str = ""
    """Heading that it is folded under; empty for a picture that is shown at once."""


def rasters(real: Sample, synthetic: Sample) -> list[Picture]:
    """Return rasters of some real flows, then of as many synthetic ones, of each label of both.

    If no label is in both, those of all labels.
    """
    pictures = []
    labels = np.intersect1d(real.label, synthetic.label)
    if not len(labels):
        labels = np.union1d(real.label, synthetic.label)
    for label in labels.tolist():
        for words, sample in (("real", real), ("synthetic", synthetic)):
            chosen = np.flatnonzero(sample.label == label)[:_FLOWS_SHOWN]
            if not len(chosen):
                continue
            alt = (
                f"{len(chosen)} {words} flows of {label} as rasters, a row a packet and a column "
                "a header bit: red 1, green 0, blue vacant"
            )
            uri = _png(_stack(sample.take(chosen)))
            pictures.append(Picture("rasters", f"{label}, {words}", alt, uri, is_raster=True))
    return pictures


def _stack(flows: Sample) -> np.ndarray:
    """Return (H, W, 3) uint8: flows below each other, with white rows between."""
    gap = np.full((_GAP_ROWS, VIEW.width, 3), 255, np.uint8)
    bands = []
    for begin, end in zip(flows.first[:-1], flows.first[1:], strict=True):
        bands += [to_rgb(flows.bits[begin:end], SAMPLE_PACKETS), gap]
    return np.concatenate(bands[:-1])


def header_spans() -> list[tuple[str, float]]:
    """Return (header, share of the width) of the rasters' headers, from left to right."""
    widths: dict[str, int] = {}
    for name in VIEW.fields:
        field = FIELD_NAMED[name]
        widths[field.header] = widths.get(field.header, 0) + field.width
    return [(header, width / VIEW.width) for header, width in widths.items()]


def overlays(real: Sample, synthetic: Sample) -> list[Picture]:
    """Draw distribution functions of the main features, real and synthetic over each other.

    Every label that both have counts the same.
    """
    pictures = []
    shared = np.intersect1d(real.label, synthetic.label)
    for name, words in OVERLAID.items():
        figure, axes = _figure(3.3, 2.1)
        _overlay(axes, name, [(s, _even_weights(s, shared)) for s in (real, synthetic)])
        axes.set_xlabel(words)
        axes.set_ylabel("share of flows up to")
        axes.legend(frameon=False, loc="lower right", fontsize=8)
        alt = f"Distribution functions of {words}, real and synthetic flows over each other"
        pictures.append(Picture("fidelity", words, alt, _svg(figure)))
    return pictures


def overlays_by_label(
    real: Sample, synthetic: Sample, distances: Mapping[str, Mapping]
) -> list[Picture]:
    """Draw the same for each label that both have, a picture a label.

    Args:
        distances: of the features by label, as `fidelity` finds them.
    """
    pictures = []
    for label, found in distances.items():
        figure, grid = _figure(3.3, 4.2, rows=3, columns=2)
        for axes, (name, words) in zip(grid.ravel(), OVERLAID.items(), strict=True):
            _overlay(axes, name, [(s, s.label == label) for s in (real, synthetic)])
            axes.set_title(words, fontsize=6)
            axes.tick_params(labelsize=6)
        farthest = max(OVERLAID, key=lambda name: found["features"][name]["ks"])
        ks = found["features"][farthest]["ks"]
        alt = (
            f"Distribution functions of {', '.join(OVERLAID.values())}, {found['real_flows']} real "
            f"(solid) and {found['synthetic_flows']} synthetic (dashed) flows of {label}; farthest "
            f"apart, by {ks:.2f}, in {OVERLAID[farthest]}"
        )
        title = f"{label}: farthest in {OVERLAID[farthest]} ({ks:.2f})"
        folded = "Distributions by label (real solid, synthetic dashed)"
        pictures.append(Picture("fidelity", title, alt, _svg(figure), folded=folded))
    return pictures


def _even_weights(sample: Sample, labels: np.ndarray) -> np.ndarray:
    """Return (N,) weights of flows, 0 for those of other labels, such that labels count the
    same."""
    _, inverse, counts = np.unique(sample.label, return_inverse=True, return_counts=True)
    return np.isin(sample.label, labels) / counts[inverse]


def _overlay(axes, name: str, sources: Sequence[tuple[Sample, np.ndarray]]) -> None:
    """Draw the distribution functions of a feature of real and of synthetic flows.

    Args:
        name: of the feature.
        sources: real and synthetic flows, with their (N,) weights.
    """
    looks = ((REAL, "-", "real"), (SYNTHETIC, "--", "synthetic"))
    for (sample, weights), (color, style, legend) in zip(sources, looks, strict=True):
        values = sample.features[weights > 0, FEATURES.index(name)]
        order = np.argsort(values)
        share = np.cumsum(weights[weights > 0][order] / weights.sum())
        axes.step(values[order], share, style, color=color, where="post", label=legend, lw=1.5)
    axes.set_xscale("symlog", linthresh=1e-4 if name.endswith("_s") else 1)
    axes.set_xlim(left=0)
    axes.locator_params(axis="y", nbins=5)
    ticks = [0, 1e-4, 1e-2, 1, 100] if name.endswith("_s") else None
    if ticks:
        axes.set_xticks(ticks)
    axes.set_ylim(0, 1.02)


def divergence_map(field_divergence: dict) -> Picture:
    """Draw fields by labels, darker where they lie further apart."""
    labels, fields = field_divergence["labels"], field_divergence["fields"]
    values = np.array(field_divergence["jsd"], np.float64).T
    figure, axes = _figure(2.0 + 0.22 * len(labels), 0.9 + 0.145 * len(fields))
    image = axes.imshow(values, cmap="YlOrBr", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(fields)), fields, fontsize=7)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7)
    worst = np.unravel_index(np.nanargmax(values), values.shape)
    alt = (
        f"Jensen-Shannon divergence of {len(fields)} fields by {len(labels)} labels; the largest, "
        f"{values[worst]:.2f}, is that of {fields[worst[0]]} in {labels[worst[1]]}"
    )
    return Picture("fidelity", "Jensen-Shannon divergence, field by label", alt, _svg(figure))


def confusion_matrices(confusion: dict) -> list[Picture]:
    """Draw the confusion matrices of models trained on real and on synthetic flows."""
    pictures = []
    labels = confusion["labels"]
    for key, words in (("trtr", "real"), ("tstr", "synthetic")):
        counts = np.array(confusion[key], np.float64)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        inches = 1.4 + 0.2 * len(labels)
        figure, axes = _figure(inches, inches)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.argwhere(shares >= 0.005):
            color = "white" if shares[i, j] > 0.6 else "#222222"
            text = f"{100 * shares[i, j]:.0f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=6, color=color)
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel("taken for")
        axes.set_ylabel("real flows of")
        recognised = ", ".join(f"{label} {shares[k, k]:.0%}" for k, label in enumerate(labels))
        alt = f"Confusion matrix on real flows, trained on {words} flows; recognised: {recognised}"
        title = f"Trained on {words}, tested on real (% of a row)"
        pictures.append(Picture("utility", title, alt, _svg(figure)))
    return pictures


def volumes(volume: Mapping[str, Mapping]) -> list[Picture]:
    """Draw bytes over time by label, of the real and of the synthetic flows.

    Args:
        volume: by source, as `scene.volume_shown` returns it.
    """
    pictures = []
    for words, shown in volume.items():
        series = shown["labels"]
        total = {label: sum(bins) for label, bins in series.items()}
        labels = sorted(series, key=lambda label: -total[label])
        figure, axes = _figure(3.6, 2.1)
        minutes = np.arange(len(series[labels[0]])) * shown["seconds"] / 60
        rates = [np.array(series[label]) / shown["seconds"] / 1000 for label in labels]
        axes.stackplot(minutes, rates, labels=labels[:_VOLUMES_NAMED], step="post", lw=0)
        axes.set_xlabel("minutes")
        axes.set_ylabel("kB/s")
        axes.legend(frameon=False, loc="upper right", fontsize=6)
        shares = ", ".join(f"{n} {total[n] / max(sum(total.values()), 1):.0%}" for n in labels)
        alt = f"Bytes over time of the {words} recording with most flows, by label: {shares}"
        title = f"Volume over time, {words}"
        pictures.append(Picture("scene", title, alt, _svg(figure)))
    return pictures


def telling_fields(rows: list[list]) -> Picture:
    """Draw bars of how well single fields tell synthetic from real, from floor to accuracy.

    Args:
        rows: [name, accuracy, interval, floor, accuracy beyond it], farthest beyond first.
    """
    shown = rows[:_TELLING_SHOWN]
    figure, axes = _figure(3.6, 0.7 + 0.17 * len(shown))
    names = [row[0] for row in shown]
    floors, beyond = (np.array([row[k] for row in shown]) for k in (3, 4))
    axes.barh(range(len(shown)), floors - 0.5, left=0.5, color="#bbbbbb", height=0.65)
    axes.barh(range(len(shown)), beyond, left=floors, color=SYNTHETIC, height=0.65)
    axes.set_yticks(range(len(shown)), names)
    axes.invert_yaxis()
    axes.axvline(0.5, color="#888888", lw=0.8)
    axes.set_xlim(min([0.5, *(floors + beyond)]) - 0.005, 1)
    axes.set_xlabel("accuracy by it alone (grey: up to its floor)")
    axes.tick_params(axis="y", length=0)
    alt = "Farthest beyond the floor: " + ", ".join(f"{row[0]} {row[4]:.2f}" for row in shown[:5])
    return Picture("discrimination", "What gives it away", alt, _svg(figure))


def _figure(width: float, height: float, rows: int = 1, columns: int = 1):
    """Return (figure, axes) of that many inches, without any global state.

    The axes are an array of them where there are several.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns)


def _svg(figure) -> str:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
