"""Configuration of `netdiff evaluate`."""

from dataclasses import dataclass

from netdiff_ray.config.checks import paths_as_text, require_at_least_1
from netdiff_ray.config.content import Execution, Input


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Judge synthetic traffic against real traffic: report.json and report.html, on Ray.

    Each source is an encoded dataset, a pcap dataset, or captures (a folder of them whose
    folders name the labels, a glob, or one file); a path or a URI (s3://, gs://). Exit code
    0: all sections of the report are available; 1: some are not, with the reason; 2: none is.
    """

    real: Input[str]
    """Real flows that the model was not trained on."""
    synthetic: Input[str]
    """Generated flows."""
    out: Execution[str]
    """Folder or URI of the report."""
    train: Input[str | None] = None
    """Real flows that the model was trained on; privacy is judged against them. Captures, unlike
    most encoded datasets, hold the addresses that must not be in the output."""
    train_labels_csv: Input[str | None] = None
    """CSV with columns capture and label, for captures of train; their folders name the labels
    unless given."""
    drawn: Input[str | None] = None
    """What the model drew for the synthetic flows, before repair: an encoded dataset. What
    generate --keep-drawn has kept in the dataset unless given."""
    adapter: Input[str | None] = None
    """Folder or URI of the adapter that drew the synthetic flows: random bits under its plans are
    the baseline. The one that the dataset names unless given."""
    against: Input[str | None] = None
    """Another report.json, or a folder that holds one: its main figures are set beside those of
    this report."""
    augments: bool = False
    """Measure too what the synthetic flows add to those of train for all labels, also those that
    have no synthetic flows, as where flows were drawn of rare labels alone."""
    seeds: int = 3
    """Times that each classifier is trained; intervals are over them."""
    address: Execution[str | None] = None
    """Ray cluster to run on; a local one unless given."""
    json: Execution[bool] = False
    """Print the main figures as JSON."""

    def __post_init__(self):
        paths_as_text(self)
        require_at_least_1(self, "seeds")
