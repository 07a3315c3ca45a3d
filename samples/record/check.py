"""Measure the samples: `python check.py SAMPLES_FOLDER [--json FILE]`.

Prints the table of `samples/README.md` and the figures under it. Needs scikit-learn, and
tshark for round-trip times and retransmissions.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from labels import LABELS
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score, recall_score

from netdiff_ray.flows import assemble_flows
from netdiff_ray.header_bytes import FIN, IPPROTO_TCP, RST, TCP_FLAGS
from netdiff_ray.nprint import VACANT, encode_windows, layout_named
from netdiff_ray.nprint.layouts import DEFAULT_LAYOUT, STATE_FIELDS
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.headers import header_rows

SPLITS = ("train", "heldout")
ENDINGS = ("FIN", "RST", "time-out")
FIRST_PACKETS = 8
LAYOUT = layout_named(DEFAULT_LAYOUT)
HIDDEN = ("tcp_sprt", "tcp_dprt", "udp_sport", "udp_dport", "icmp_roh", *STATE_FIELDS)
"""Fields of the layout that the forest may not see: ports, ICMP's identifier, and what packets
do in their flow. Addresses, IPv4's identification, checksums and sequence numbers are not in the
layout at all."""
LONG_FLOW_PACKETS = 1024


@dataclass(frozen=True, kw_only=True)
class Flows:
    """The flows of one split."""

    label: np.ndarray
    """(N,) str."""
    bits: np.ndarray
    """(N, FIRST_PACKETS, B) int8: the first packets' nprint, vacant where there is none."""
    num_packets: np.ndarray
    """(N,) int64."""
    version: np.ndarray
    """(N,) uint8: 4 or 6."""
    ending: np.ndarray
    """(N,) str: FIN, RST or time-out for TCP, empty for others."""


def captures(folder: Path) -> list[Path]:
    """Return the captures under a folder, sorted."""
    return sorted([*folder.rglob("*.pcap"), *folder.rglob("*.pcap.gz")])


def read_flows(folder: Path) -> Flows:
    """Return the flows of the captures in `<folder>/<label>/`."""
    labels, bits, counts, versions, endings = [], [], [], [], []
    for path in captures(folder):
        reader = CaptureReader(path)
        chunks = (header_rows(table) for table in reader)
        for part in assemble_flows(chunks, reader.fingerprint, height=1 << 20):
            nprint = encode_windows(part, LAYOUT)
            for begin, end in zip(part.first[:-1], part.first[1:], strict=True):
                first = np.full((FIRST_PACKETS, LAYOUT.width), VACANT, np.int8)
                head = nprint[begin : min(end, begin + FIRST_PACKETS)]
                first[: len(head)] = head
                bits.append(first)
                labels.append(path.parent.name)
                counts.append(end - begin)
                versions.append(part.rows["version"][begin])
                endings.append(ending(part.rows[begin:end]))
        if reader.fault:
            raise ValueError(f"{path}: {reader.fault}")
    return Flows(
        label=np.array(labels),
        bits=np.array(bits),
        num_packets=np.array(counts),
        version=np.array(versions),
        ending=np.array(endings),
    )


def ending(rows: np.ndarray) -> str:
    """Return how the TCP connection of these header rows ends; empty if it is not TCP."""
    if rows["protocol"][0] != IPPROTO_TCP:
        return ""
    flags = np.bitwise_or.reduce(rows["transport"][:, TCP_FLAGS])
    return "RST" if flags & RST else "FIN" if flags & FIN else "time-out"


def columns(fields: list[str]) -> np.ndarray:
    """Return the layout's columns of these fields."""
    return LAYOUT.indices(fields)


def forest_predictions(train: Flows, heldout: Flows, fields: list[str], trees: int) -> np.ndarray:
    """Return the (N,) labels that a forest restricted to these fields predicts for `heldout`."""
    seen = columns(fields)
    forest = RandomForestClassifier(
        trees, max_features=0.3, n_jobs=2, random_state=0, class_weight="balanced_subsample"
    )
    forest.fit(train.bits[:, :, seen].reshape(len(train.bits), -1), train.label)
    return forest.predict(heldout.bits[:, :, seen].reshape(len(heldout.bits), -1))


def classify(train: Flows, heldout: Flows) -> dict:
    """Return the forest's balanced accuracy with all fields, by label, and with each field."""
    fields = [name for name in LAYOUT.fields if name not in HIDDEN]
    guesses = forest_predictions(train, heldout, fields, 300)
    labels = sorted(set(train.label))
    single = {
        name: balanced_accuracy_score(
            heldout.label, forest_predictions(train, heldout, [name], 100)
        )
        for name in fields
    }
    wrong = Counter(
        f"{true} as {guess}"
        for true, guess in zip(heldout.label, guesses, strict=True)
        if true != guess
    )
    return {
        "balanced_accuracy": balanced_accuracy_score(heldout.label, guesses),
        "recall": dict(
            zip(
                labels,
                recall_score(heldout.label, guesses, average=None, labels=labels),
                strict=True,
            )
        ),
        "single_field": dict(sorted(single.items(), key=lambda item: -item[1])),
        "most_confused": dict(wrong.most_common(8)),
    }


def tcp_timing(folder: Path) -> tuple[np.ndarray, float]:
    """Return the TCP flows' initial round-trip times (ms) and the share with a retransmission.

    Handshakes with a repeated SYN are left out of the times, which hold the timer's wait, and
    those whose last segment has data: the acknowledgement before it was lost, and the time
    holds the program's wait.
    """
    rtt_ms, num_streams, num_resent = [], 0, 0
    for path in captures(folder):
        argv = [
            "tshark",
            "-n",
            "-r",
            str(path),
            "-Y",
            "tcp",
            "-T",
            "fields",
            "-e",
            "tcp.stream",
            "-e",
            "tcp.analysis.initial_rtt",
            "-e",
            "tcp.analysis.retransmission",
            "-e",
            "tcp.flags.syn",
            "-e",
            "tcp.len",
        ]
        text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        rtts: dict[str, float] = {}
        streams, resent, late = set(), set(), set()
        for line in text.splitlines():
            stream, rtt_s, again, syn, num_bytes = line.split("\t")
            streams.add(stream)
            if rtt_s and stream not in rtts:
                rtts[stream] = float(rtt_s) * 1e3
                if num_bytes != "0":
                    late.add(stream)
            if again:
                resent.add(stream)
                if syn in ("1", "True"):
                    late.add(stream)
        rtt_ms += [value for stream, value in rtts.items() if stream not in late]
        num_streams += len(streams)
        num_resent += len(resent)
    return np.array(rtt_ms), num_resent / max(1, num_streams)


def table(folder: Path, split: str, flows: Flows) -> list[dict]:
    """Return a row for each label: flows, packets, IPv6 share, long flows, endings, bytes."""
    rows = []
    for label in sorted(set(flows.label)):
        mine = flows.label == label
        rows.append(
            {
                "split": split,
                "label": label,
                "flows": int(mine.sum()),
                "packets": int(flows.num_packets[mine].sum()),
                "ipv6_share": float((flows.version[mine] == 6).mean()),
                "long_flows": int((flows.num_packets[mine] > LONG_FLOW_PACKETS).sum()),
                "one_packet_flows": int((flows.num_packets[mine] == 1).sum()),
                "endings": dict(Counter(flows.ending[mine].tolist())),
                "bytes": sum(path.stat().st_size for path in captures(folder / split / label)),
            }
        )
    return rows


def print_table(rows: list[dict]) -> None:
    """Print the rows as Markdown, a line for each label, the splits' figures joined by a plus."""
    print(
        "| label | what | flows | packets | IPv6 | over 1,024 packets | FIN / RST / time-out | kB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for label in sorted({row["label"] for row in rows}):
        mine = [row for row in rows if row["label"] == label]
        ends = [
            " / ".join(str(row["endings"].get(name, 0)) for name in ENDINGS)
            for row in mine
            if "" not in row["endings"] or len(row["endings"]) > 1
        ]
        cells = [
            label,
            LABELS[label].__doc__.splitlines()[0].rstrip("."),
            " + ".join(f"{row['flows']:,}" for row in mine),
            " + ".join(f"{row['packets']:,}" for row in mine),
            " + ".join(f"{row['ipv6_share']:.0%}" for row in mine),
            " + ".join(str(row["long_flows"]) for row in mine),
            " + ".join(ends),
            " + ".join(f"{row['bytes'] / 1e3:,.0f}" for row in mine),
        ]
        print(f"| {' | '.join(cells)} |")


def main(argv: list[str] | None = None) -> int:
    """Print the figures and return the exit status, 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder that holds train/ and heldout/")
    parser.add_argument("--json", type=Path, help="write all figures to this file too")
    args = parser.parse_args(argv)
    flows = {split: read_flows(args.folder / split) for split in SPLITS}
    rows = [row for split in SPLITS for row in table(args.folder, split, flows[split])]
    print_table(rows)
    figures = {"table": rows, "bytes": sum(row["bytes"] for row in rows)}
    print(f"together {figures['bytes'] / 1e6:.2f} MB, {sum(r['packets'] for r in rows):,} packets")
    for split in SPLITS:
        rtt_ms, share = tcp_timing(args.folder / split)
        low, middle, high = np.percentile(rtt_ms, (0, 50, 100))
        figures[split] = {"rtt_ms": [low, middle, high], "retransmission_share": share}
        print(
            f"{split}: round-trip time {low:.1f} / {middle:.1f} / {high:.1f} ms (least, median,"
            f" most), {share:.1%} of the TCP flows have a retransmission"
        )
    figures["forest"] = classify(flows["train"], flows["heldout"])
    print(
        f"forest on the first {FIRST_PACKETS} packets: balanced accuracy"
        f" {figures['forest']['balanced_accuracy']:.3f}"
    )
    for label, recall in figures["forest"]["recall"].items():
        print(f"  {label}: {recall:.3f}")
    print("most confused:", figures["forest"]["most_confused"])
    print("each field alone:")
    for name, score in list(figures["forest"]["single_field"].items())[:10]:
        print(f"  {name}: {score:.3f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1, default=float) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
