"""What the figures of a report mean: a grade for each, and a verdict in words.

A figure is graded by how far it is from its floor, or from what real flows would score.
"""

from collections.abc import Mapping
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
    """How a figure is graded: by its distance from what is as good as real."""

    fair: float
    """Distance beyond which it is not good."""
    poor: float
    """Distance beyond which it is poor."""
    key: str = ""
    """Figure whose value counts; the graded one unless given."""
    best: float | None = None
    """Value that is as good as real, where less is worse."""
    floor: str | None = None
    """Figure that is as good as real, where more is worse."""
    least_floor: float = 0.0
    """Lowest floor that counts."""
    error: str | None = None
    """Figure that says how much of the distance may be chance, which does not count."""

    def distance(self, key: str, headline: Mapping[str, float | None]) -> float | None:
        """Return how far a figure is from its floor, None if one of them is not known."""
        value = headline.get(self.key or key)
        floor = headline.get(self.floor) if self.floor else 0.0
        if value is None or floor is None:
            return None
        chance = (headline.get(self.error) or 0.0) if self.error else 0.0
        distance = value - max(floor, self.least_floor) if self.best is None else self.best - value
        return distance - chance


_SCALES = {
    ("utility", "ratio"): _Scale(0.05, 0.15, best=1.0, error="ratio_error"),
    ("utility", "gain_10"): _Scale(0.0, 0.02, best=0.0, error="gain_10_error"),
    ("baseline", "gap_closed"): _Scale(0.5, 0.9, best=1.0),
    ("discrimination", "beyond_floor"): _Scale(0.05, 0.15),
    ("discrimination", "accuracy"): _Scale(0.05, 0.15, key="beyond_floor"),
    ("conversation", "largest_difference"): _Scale(0.02, 0.1, floor="largest_difference_floor"),
    ("conversation", "differing_shares"): _Scale(0.0, 0.0),
    ("scene", "scene_difference"): _Scale(0.1, 0.3, floor="scene_difference_floor"),
    ("dpi", "recognised_ratio"): _Scale(0.05, 0.15, best=1.0),
    ("dpi", "protocol_difference"): _Scale(0.1, 0.3),
    ("fidelity", "jsd"): _Scale(0.002, 0.01, floor="jsd_floor"),
    ("coverage", "coverage"): _Scale(0.1, 0.3, best=1.0),
    ("privacy", "mia_auc"): _Scale(0.05, 0.1, floor="mia_auc_floor", least_floor=0.5),
    ("privacy", "closer_to_train"): _Scale(
        0.05, 0.1, floor="closer_to_train_floor", least_floor=0.5
    ),
    ("privacy", "sequences"): _Scale(0.02, 0.1, floor="sequences_floor"),
    ("privacy", "attribute_gain"): _Scale(0.02, 0.1),
    ("privacy", "addresses"): _Scale(0.0, 0.0),
    ("compliance", "valid_packets"): _Scale(0.001, 0.01, best=1.0),
    ("compliance", "valid_flows"): _Scale(0.001, 0.01, best=1.0),
    ("compliance", "tshark_errors"): _Scale(0.0, 0.0),
}


def grade(name: str, key: str, headline: Mapping[str, float | None]) -> str | None:
    """Return one of GRADES for a figure of a section; None without a scale, figure or floor.

    Args:
        name: of the section.
        key: of its headline.
        headline: of the section.
    """
    scale = _SCALES.get((name, key))
    distance = scale.distance(key, headline) if scale else None
    if scale is None or distance is None:
        return None
    return GRADES[(distance > scale.fair) + (distance > scale.poor)]


_REASONS = {
    ("utility", "ratio"): lambda s: (
        f"a classifier ({s['worst']['model']}) trained on it reaches "
        f"{s['headline']['ratio']:.2f} of one trained on real flows, on {s['worst']['view']}"
    ),
    ("utility", "gain_10"): lambda s: (
        "added to 10 real flows a label, it changes the accuracy on real flows by "
        f"{s['headline']['gain_10']:+.3f} (give or take {s['headline']['gain_10_error']:.3f}), on "
        f"{s['worst']['gain_view']}"
    ),
    ("baseline", "gap_closed"): lambda s: (
        "random bits under the same plans and repair reach "
        f"{s['headline']['random_ratio']:.2f}: the model adds "
        f"{round(s['headline']['model_adds'], 2) + 0.0:+.2f}"  # + 0.0, so that none is -0.00
    ),
    ("conversation", "largest_difference"): lambda s: (
        f"{s['worst']['share']}: a share that is {s['headline']['largest_difference']:.2f} from "
        f"that of real flows of {s['worst']['label']} (floor "
        f"{s['headline']['largest_difference_floor']:.2f})"
    ),
    ("dpi", "recognised_ratio"): lambda s: (
        f"{s['tool']} recognises flows {s['headline']['recognised_ratio']:.2f} times as often as "
        "real ones, in the label where that is least"
    ),
    ("dpi", "protocol_difference"): lambda s: (
        f"tshark finds protocols in shares of a label's flows that are up to "
        f"{s['headline']['protocol_difference']:.2f} from those of real ones"
    ),
    ("discrimination", "beyond_floor"): lambda s: (
        f"a classifier ({s['worst']['judge']}) tells {s['headline']['accuracy']:.0%} of flows "
        f"rightly, {s['headline']['beyond_floor']:.2f} beyond real flows against real ones"
        + "".join(f"; {row[0]} gives it away" for row in s["tables"][1]["rows"][:1])
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
