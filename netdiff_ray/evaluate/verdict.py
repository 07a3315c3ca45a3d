"""What the figures of a report mean: a grade for each, and a verdict in words.

A figure is graded by how far it is from its floor, or from what real flows would score.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

GRADES = ("good", "fair", "poor")
_WORDS = {
    "good": "As good as real traffic, by every measure here.",
    "fair": "Close to real traffic, but not the same.",
    "poor": "No substitute for real traffic.",
}

Section = Mapping[str, object]
"""A section of a report."""


@dataclass(frozen=True)
class _Scale:
    """How a figure is graded."""

    distance: Callable[[Mapping[str, float]], float]
    """How far a headline is from its floor; 0 and less is as good as real."""
    fair: float
    """Distance beyond which it is not good."""
    poor: float
    """Distance beyond which it is poor."""


def _above(key: str, floor: str, least: float = 0.0) -> Callable[[Mapping[str, float]], float]:
    return lambda headline: headline[key] - max(headline[floor], least)


def _below(key: str, best: float = 1.0) -> Callable[[Mapping[str, float]], float]:
    return lambda headline: best - headline[key]


def _plain(key: str) -> Callable[[Mapping[str, float]], float]:
    return lambda headline: headline[key]


_SCALES = {
    ("utility", "ratio"): _Scale(_below("ratio"), 0.05, 0.15),
    ("utility", "gain_10"): _Scale(_below("gain_10", 0.0), 0.0, 0.02),
    ("discrimination", "beyond_floor"): _Scale(_plain("beyond_floor"), 0.05, 0.15),
    ("discrimination", "accuracy"): _Scale(_plain("beyond_floor"), 0.05, 0.15),
    ("conversation", "largest_difference"): _Scale(_plain("largest_difference"), 0.02, 0.1),
    ("fidelity", "jsd"): _Scale(_above("jsd", "jsd_floor"), 0.002, 0.01),
    ("coverage", "coverage"): _Scale(_below("coverage"), 0.1, 0.3),
    ("privacy", "mia_auc"): _Scale(_above("mia_auc", "mia_auc_floor", 0.5), 0.05, 0.1),
    ("privacy", "closer_to_train"): _Scale(
        _above("closer_to_train", "closer_to_train_floor", 0.5), 0.05, 0.1
    ),
    ("privacy", "sequences"): _Scale(_above("sequences", "sequences_floor"), 0.02, 0.1),
    ("privacy", "attribute_gain"): _Scale(_plain("attribute_gain"), 0.02, 0.1),
    ("privacy", "addresses"): _Scale(_plain("addresses"), 0.0, 0.0),
    ("compliance", "valid_packets"): _Scale(_below("valid_packets"), 0.001, 0.01),
    ("compliance", "valid_flows"): _Scale(_below("valid_flows"), 0.001, 0.01),
    ("compliance", "tshark_errors"): _Scale(_plain("tshark_errors"), 0.0, 0.0),
}


def grade(name: str, key: str, headline: Mapping[str, float | None]) -> str | None:
    """Return one of GRADES for a figure of a section, or None for one that has no scale.

    Args:
        name: of the section.
        key: of its headline.
        headline: of the section.
    """
    scale = _SCALES.get((name, key))
    if scale is None:
        return None
    try:
        distance = scale.distance(headline)
    except (KeyError, TypeError):  # the figure, or its floor, could not be computed
        return None
    return GRADES[(distance > scale.fair) + (distance > scale.poor)]


_REASONS = {
    ("utility", "ratio"): lambda s: (
        f"a {s['worst']['model']} trained on it reaches {s['headline']['ratio']:.2f} of one "
        f"trained on real flows, on {s['worst']['view']}"
    ),
    ("utility", "gain_10"): lambda s: (
        "added to 10 real flows a label, it changes the accuracy on real flows by "
        f"{s['headline']['gain_10']:+.3f}, on {s['worst']['gain_view']}"
    ),
    ("conversation", "largest_difference"): lambda s: (
        "a share of what conversations do differs by "
        f"{s['headline']['largest_difference']:.2f} from real ones"
    ),
    ("discrimination", "beyond_floor"): lambda s: (
        f"a {s['worst']['judge']}, tells {s['headline']['accuracy']:.0%} of flows rightly, "
        f"{s['headline']['beyond_floor']:.2f} beyond real flows against real ones; "
        f"{s['tables'][1]['rows'][0][0]} gives it away"
        if s["tables"][1]["rows"]
        else f"a {s['worst']['judge']}, tells {s['headline']['accuracy']:.0%} of flows rightly"
    ),
    ("fidelity", "jsd"): lambda s: (
        f"distributions of packet bits are {s['headline']['jsd']:.4f} apart; real flows "
        f"{s['headline']['jsd_floor']:.4f}"
    ),
    ("coverage", "coverage"): lambda s: (
        f"{s['headline']['coverage']:.0%} of real flows have a synthetic one near"
    ),
    ("privacy", "mia_auc"): lambda s: (
        f"the strongest attack tells training flows from held-out ones with an area of "
        f"{s['headline']['mia_auc']:.2f} under its curve (floor "
        f"{max(s['headline']['mia_auc_floor'], 0.5):.2f})"
    ),
    ("privacy", "sequences"): lambda s: (
        f"{s['headline']['sequences']:.0%} of longer flows repeat the sizes and directions of a "
        f"training flow; of held-out ones {s['headline']['sequences_floor']:.0%}"
    ),
    ("privacy", "attribute_gain"): lambda s: (
        "ports or addresses of training flows are guessed from it "
        f"{s['headline']['attribute_gain']:.2f} more often than those of held-out ones"
    ),
    ("privacy", "addresses"): lambda s: (
        f"{s['headline']['addresses']:,} addresses of training flows are in it"
    ),
    ("compliance", "valid_flows"): lambda s: (
        f"{s['headline']['valid_flows']:.1%} of its flows keep every rule"
    ),
}  # fmt: skip


def verdict(sections: Mapping[str, Section]) -> dict:
    """Return {grade, words, reasons} of a report; reasons are [{section, grade, words}].

    The grade is the worst of all figures that are reasons, which come worst first. Without a
    figure it is None.
    """
    reasons = []
    for (name, key), words in _REASONS.items():
        section = sections.get(name)
        if section is None or not section["available"]:
            continue
        of_figure = grade(name, key, section["headline"])
        if of_figure is not None:
            reasons.append({"section": name, "grade": of_figure, "words": words(section)})
    reasons.sort(key=lambda reason: -GRADES.index(reason["grade"]))
    if not reasons:
        return {"grade": None, "words": "Too little could be compared.", "reasons": []}
    worst = reasons[0]["grade"]
    return {"grade": worst, "words": _WORDS[worst], "reasons": reasons}
