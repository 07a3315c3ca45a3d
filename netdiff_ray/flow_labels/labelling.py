"""Labels of the flows of a capture from label files, as encoding takes them."""

from collections import Counter
from dataclasses import dataclass

from netdiff_ray.config.labels import DROP, KEEP
from netdiff_ray.flow_labels.match import LabelSpans, match_flows
from netdiff_ray.flow_labels.outcome import Outcome
from netdiff_ray.flow_labels.spans import FlowSpans


@dataclass(frozen=True, kw_only=True)
class FlowLabels:
    """The rows of label files, on the captures' clock."""

    spans: LabelSpans
    unlabelled: str
    """DROP, KEEP or a label, as `LabelSettings` has it."""

    def of_flows(
        self, flows: FlowSpans, capture_label: str
    ) -> tuple[dict[str, str], dict[str, int]]:
        """Return the label of each flow by its id, without those that are left out; and how many
        have none in the files, by reason.

        Args:
            flows: of a capture.
            capture_label: what KEEP gives them.
        """
        matches = match_flows(flows, self.spans)
        instead = {DROP: None, KEEP: capture_label}.get(self.unlabelled, self.unlabelled)
        labels = {}
        for flow_id, code in zip(flows.flow_id, matches.label.tolist(), strict=True):
            label = self.spans.labels[code] if code >= 0 else instead
            if label is not None:
                labels[flow_id] = label
        outcomes = Counter(matches.outcome.tolist())
        del outcomes[Outcome.LABELLED]
        return labels, {Outcome(k).words: n for k, n in sorted(outcomes.items())}
