"""Measures of what synthetic flows give away of the flows that the model was trained on.

Distance to the closest record against that of held-out records (Zhao et al., CTAB-GAN,
ACML 2021; Platzer and Reutterer, Front. Big Data 4, 2021); membership inference by several
attacks, of which the strongest counts; inference of ports and addresses; sequences of sizes
and directions that training flows have; addresses of training flows.

Shape letters: N synthetic flows, T training flows, H held-out flows.
"""

import ipaddress

import numpy as np

from netdiff_ray.evaluate.distances import distances, pack
from netdiff_ray.evaluate.flow_arrays import LEAST_SEQUENCE, SEQUENCE_PACKETS
from netdiff_ray.evaluate.membership import (
    ATTACKS,
    FALSE_ALARMS,
    attack_scores,
    attribute_accuracy,
    caught,
)
from netdiff_ray.evaluate.report_section import not_available, section, table
from netdiff_ray.evaluate.summary import Sample, Summary

LEANING = ("closer_to_train", "mia_auc")
FLOORS = tuple(f"{name}_floor" for name in LEANING)
HEADLINE = (
    *LEANING, *FLOORS, "copies", "sequences", "sequences_floor", "attribute_gain", "addresses",
)  # fmt: skip
NEAR = 0.02
"""A flow with at most this share of its cells changed is a near copy."""
_QUANTILES = (0.01, 0.05, 0.25, 0.5)


def privacy(real: Summary, synthetic: Summary, train: Summary | None) -> dict:
    """Return the privacy section.

    `headline` {closer_to_train: share of synthetic flows nearer to a training flow than to
    a held-out real one, ties counting half; mia_auc: how well the attack of `membership` that
    is strongest beyond its floor tells training flows from held-out ones; both with a floor:
    what half of the training flows would score as synthetic ones of the other half, which is
    above 0.5 where the held-out flows were not recorded at the same time and place; copies:
    share of synthetic flows that are bit for bit a training flow; sequences: share of
    synthetic flows, but the short ones, of which a training flow has the same sizes and
    directions, with that of held-out flows as its floor; attribute_gain: how much more often
    an attacker guesses a port or address of training flows than of held-out ones; addresses:
    training addresses in the output}. Labels that the synthetic flows lack do not count.

    Args:
        real: real flows; those that are training flows too do not count as held out.
        train: flows that the model was trained on; None leaves the section unavailable.
    """
    if train is None:
        return not_available("the flows that the model was trained on were not given", HEADLINE)
    if not train.total_flows:
        return not_available("the training source has no flows", HEADLINE)
    drawn_labels = synthetic.labels
    ours = real.sample.take(np.flatnonzero(np.isin(real.sample.label, drawn_labels)))
    trained = train.sample.take(np.flatnonzero(np.isin(train.sample.label, drawn_labels)))
    held_out = ours.take(np.flatnonzero(~np.isin(ours.key, list(train.keys))))
    leaning, tables, notes = _leaning(ours, held_out, synthetic.sample, trained)
    sequences = _sequences(synthetic, held_out, train)
    gain, attributes = _attributes(synthetic.sample, trained, held_out)
    tables += [attributes] * bool(attributes["rows"])
    shared, address_note = shared_addresses(train, synthetic)
    num_shared = None if shared is None else len(shared)
    copied = sum(n for content, n in synthetic.contents.items() if content in train.contents)
    copies = copied / synthetic.total_flows
    tables.append(_copies(synthetic.sample, held_out if leaning else None, train,
                          copies=copies, sequences=sequences, num_shared=num_shared))  # fmt: skip
    headline = dict.fromkeys(HEADLINE) | leaning | {
        "copies": copies, "sequences": sequences[0], "sequences_floor": sequences[1],
        "attribute_gain": gain, "addresses": num_shared,
    }  # fmt: skip
    notes = [address_note] * bool(address_note) + notes
    return section({k: headline[k] for k in HEADLINE}, tables=tables, notes=notes)


def _leaning(
    real: Sample, held_out: Sample, synthetic: Sample, train: Sample
) -> tuple[dict, list[dict], list[str]]:
    """Return the LEANING measures with their floors, their tables, and notes.

    Without held-out flows of a training label the measures are {} and a note says why.
    """
    members, others = of_equal_size(train, held_out)
    if not len(members):
        note = (
            "closer_to_train and mia_auc: not available; no real flow of a training label "
            "lies outside the training flows, and held-out ones are needed"
        )
        return {}, [], [note]
    notes = []
    if len(held_out) < len(real):
        notes.append(
            f"{len(real) - len(held_out):,} of {len(real):,} real flows are training "
            "flows too and do not count as held out"
        )
    compared = _compare(synthetic, members, others)
    floors = _between_halves(train, held_out)
    strongest = max(
        ATTACKS, key=lambda name: compared["attacks"][name][0] - (floors["attacks"][name] or 0.5)
    )
    leaning = {
        "closer_to_train": compared["closer_to_train"][0],
        "mia_auc": compared["attacks"][strongest][0],
        "closer_to_train_floor": floors["closer_to_train"],
        "mia_auc_floor": floors["attacks"][strongest],
    }
    by_measure = table(
        "Leaning towards the training flows",
        ["measure", "value", "95 % interval", "real flows of the training source",
         f"caught at {FALSE_ALARMS:.0%} false alarms"],
        [
            ["synthetic flows closer to a training than to a held-out flow",
             *compared["closer_to_train"], floors["closer_to_train"], None],
            *(
                [f"membership inference, area under the curve: {words}",
                 *compared["attacks"][name][:2], floors["attacks"][name],
                 compared["attacks"][name][2]]
                for name, words in ATTACKS.items()
            ),
        ],
        f"{len(members):,} training and as many held-out flows, label by label. The last "
        "but one column has half of the training flows in the place of the synthetic ones and "
        "the other half as training flows. The headline is the attack farthest beyond that.",
    )  # fmt: skip
    return leaning, [by_measure, compared["distances"]], notes


def _copies(synthetic: Sample, held_out: Sample | None, train: Summary, *,
            copies: float, sequences: tuple[float | None, float | None],
            num_shared: int | None) -> dict:  # fmt: skip
    """Return the table of exact and near copies, beside held-out flows where given."""
    held_out_copies, held_out_near = None, None
    if held_out is not None:
        held_out_copies = np.mean(
            [content in train.contents for content in held_out.content.tolist()]
        )
        held_out_near = _near_share(held_out, train.sample)
    return table(
        "Copies of training flows",
        ["copies", "synthetic flows", "held-out real flows"],
        [
            ["exact, share of the flows", copies, held_out_copies],
            [f"near (at most {NEAR:.0%} of cells differ), share of the flows",
             _near_share(synthetic, train.sample), held_out_near],
            [f"sizes and directions of the first {SEQUENCE_PACKETS} packets are those of a "
             f"training flow, share of the flows of {LEAST_SEQUENCE} packets or more", *sequences],
            ["training addresses in the output", num_shared, None],
        ],
        "Short flows are alike by nature: what held-out real flows show is no leak.",
    )  # fmt: skip


def _sequences(
    synthetic: Summary, held_out: Sample, train: Summary
) -> tuple[float | None, float | None]:
    """Return the share of synthetic flows whose sequence a training flow has, and of held-out
    ones; None where there is no flow that is long enough."""
    drawn = synthetic.sequences
    shared = sum(n for sequence, n in drawn.items() if sequence in train.sequences)
    of_held_out = held_out.sequence[held_out.sequence > 0].tolist()
    floor = np.mean([s in train.sequences for s in of_held_out]) if of_held_out else None
    return (shared / drawn.total() if drawn else None), floor


def _attributes(synthetic: Sample, train: Sample, held_out: Sample) -> tuple[float | None, dict]:
    """Return the largest gain of guessing an attribute of training flows, and their table."""
    rows, gains = [], []
    for words, values in (
        ("server port", lambda sample: sample.server_port),
        ("client address", lambda sample: sample.hosts[:, 0]),
        ("server address", lambda sample: sample.hosts[:, 1]),
    ):
        guessed = [
            attribute_accuracy(flows, synthetic, values(flows), values(synthetic))
            for flows in of_equal_size(train, held_out)
        ]
        if None not in guessed:
            gains.append(guessed[0] - guessed[1])
            rows.append([words, *guessed, gains[-1]])
    return max(gains, default=None), table(
        "Attributes guessed from the nearest synthetic flow",
        ["attribute", "right for training flows", "right for held-out flows", "gain"], rows,
        "An attacker has seen the packets of a flow without its ports and addresses.",
    )  # fmt: skip


def _near_share(flows: Sample, train: Sample) -> float:
    return float((nearest(flows, train) <= NEAR).mean())


def nearest(a: Sample, b: Sample) -> np.ndarray:
    """Return the (N,) float32 distances of flows of `a` to the closest of `b`."""
    return distances(pack(a), pack(b)).min(axis=1, initial=1.0)


def of_equal_size(train: Sample, held_out: Sample) -> tuple[Sample, Sample]:
    """Return as many flows of each label from both, so that neither is nearer by number."""
    chosen: tuple[list, list] = ([], [])
    for label in np.unique(train.label):
        members = [np.flatnonzero(sample.label == label) for sample in (train, held_out)]
        least = min(map(len, members))
        for into, some in zip(chosen, members, strict=True):
            into.append(some[:least])
    a, b = (np.concatenate([np.empty(0, np.int64), *some]) for some in chosen)
    return train.take(a), held_out.take(b)


def _between_halves(train: Sample, held_out: Sample) -> dict:
    """Return {closer_to_train, attacks} with half of the training flows as the synthetic ones.

    The other half are the training flows. None if it has no label of the held-out flows.
    """
    order = np.lexsort((train.key, train.label))
    stand_in, rest = (train.take(np.sort(order[k::2])) for k in (0, 1))
    members, others = of_equal_size(rest, held_out)
    if not len(members):
        return {"closer_to_train": None, "attacks": dict.fromkeys(ATTACKS)}
    compared = _compare(stand_in, members, others)
    return {
        "closer_to_train": compared["closer_to_train"][0],
        "attacks": {name: attack[0] for name, attack in compared["attacks"].items()},
    }


def _compare(synthetic: Sample, members: Sample, others: Sample) -> dict:
    drawn, ours, theirs = pack(synthetic), pack(members), pack(others)
    to_members, to_others = distances(drawn, ours), distances(drawn, theirs)
    near_member, near_other = to_members.min(axis=1), to_others.min(axis=1)
    closer = closer_share(near_member, near_other)
    error = 1.96 * np.sqrt(closer * (1 - closer) / len(drawn))
    rows = []
    between = distances(theirs, ours).min(axis=1)
    for words, values in (
        ("synthetic to training", near_member),
        ("synthetic to held-out", near_other),
        ("held-out to training", between),
    ):
        rows.append([words, *np.quantile(values, _QUANTILES), values.mean()])
    return {
        "closer_to_train": [closer, (max(closer - error, 0.0), min(closer + error, 1.0))],
        "attacks": {
            name: [*auc(*scores), caught(scores)]
            for name, scores in attack_scores(synthetic, members, others).items()
        },
        "distances": table(
            "Distance to the closest flow",
            ["from and to", *(f"{q:.0%} quantile" for q in _QUANTILES[:-1]), "median", "mean"],
            rows,
            "Share of cells that differ; 0 is a copy.",
        ),
    }


def closer_share(to_train: np.ndarray, to_held_out: np.ndarray) -> float:
    """Return the share of (N,) flows nearer to the training flows; ties count half."""
    return float((to_train < to_held_out).mean() + (to_train == to_held_out).mean() / 2)


def auc(members: np.ndarray, others: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the chance that a member scores above another flow, and its 95 % interval.

    Ties count half. The interval is that of DeLong et al., Biometrics 44(3), 1988.

    Args:
        members: (T,) scores.
        others: (H,) scores.
    """
    above = _share_below(others, members)
    below = 1 - _share_below(members, others)
    area = float(above.mean())
    variance = sum(v.var(ddof=1) / len(v) for v in (above, below) if len(v) > 1)
    error = 1.96 * float(np.sqrt(variance))
    return area, (max(area - error, 0.0), min(area + error, 1.0))


def _share_below(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the share of `values` under each point, those equal to it counting half."""
    values = np.sort(values)
    low, high = (np.searchsorted(values, points, side=side) for side in ("left", "right"))
    return (low + high) / (2 * len(values))


def shared_addresses(train: Summary, synthetic: Summary) -> tuple[list[str] | None, str]:
    """Return addresses of training flows that synthetic flows hold, as text, or None and why.

    Multicast, broadcast, loopback and unspecified addresses identify nobody.
    """
    for words, summary in (("training", train), ("synthetic", synthetic)):
        if not summary.has_addresses:
            return None, f"addresses: not available; the {words} source is encoded without them"
    shared = [ipaddress.ip_address(a) for a in train.addresses & synthetic.addresses]
    everybody = ipaddress.ip_address("255.255.255.255")
    identifying = [
        a for a in shared
        if not (a.is_multicast or a.is_loopback or a.is_unspecified or a == everybody)
    ]  # fmt: skip
    return sorted(map(str, identifying)), ""
