"""The standing measure: the whole pipeline on captures that the project was not tuned on.

    python benchmarks/unseen.py [--samples] [--steps N] [--flows N] [--labels LABEL ...]

Captures of eight labels of ../shared/corpus; without it the benchmark says so and does nothing.
The flows of each label, at most `--most` of them, are divided 70 to 30 within their captures, at
random. nano is trained on the greater part with the demo's flags (DEMO_FLAGS of the Makefile),
though for as many steps as the pipeline takes by default, draws, and its flows are judged against
the smaller part. `--samples` takes samples/train and samples/heldout with all their labels instead.
Prints the report's main figures and its reasons, and writes benchmarks/out/unseen.json
(unseen-samples.json); the reports and captures stay beside it. A quick run: `--labels dns modbus
--most 60 --steps 20 --flows 30`.
"""

import argparse
import json
import re
import shlex
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import tyro

from netdiff_ray.config import PipelineConfig
from netdiff_ray.evaluate.report import headline_table
from netdiff_ray.header_bytes import (
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_ADDRESS_BYTES,
    IPV4_SRC,
    IPV6_ADDRESS_BYTES,
    IPV6_SRC,
    SPORT,
)
from netdiff_ray.local.inspect import captures_in
from netdiff_ray.packets import CaptureReader, header_rows
from netdiff_ray.packets.table import LATER_FRAGMENT
from netdiff_ray.packets.writer import CaptureWriter
from netdiff_ray.pipeline import run_pipeline

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "out"
CORPUS = ROOT.parent / "shared" / "corpus"
TABLES = ("baseline", "utility")
"""Sections whose tables go into the JSON whole."""
LABELS = ("dns", "http", "iot", "modbus", "quic", "skype", "voip", "whatsapp")
HELD_OUT_SHARE = 0.3
IDLE_NS = 60 * 10**9
"""Silence that ends a flow."""


def demo_flags() -> list[str]:
    """Return the flags of `make demo`."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    return shlex.split(re.search(r"^DEMO_FLAGS \?= (.*)$", makefile, re.MULTILINE)[1])


def flow_numbers(path: Path) -> list[int]:
    """Return the number in its capture of the flow of each record, -1 for records of no flow.

    A flow is a bidirectional 5-tuple without 60 s of silence. Later fragments, which have no
    ports, are in none.
    """
    numbers: list[int] = []
    live: dict[tuple, tuple[int, int]] = {}
    count = 0
    with CaptureReader(path) as reader:
        for table in reader:
            of_record = np.full(len(table), -1)
            places = np.flatnonzero(table.reason == 0)
            for place, row in zip(places, header_rows(table), strict=True):
                if row["fragment"] == LATER_FRAGMENT:
                    continue
                key, ts_ns = flow_key(row), int(row["ts_ns"])
                number, last_ns = live.get(key, (-1, -IDLE_NS))
                if number < 0 or ts_ns - last_ns > IDLE_NS:
                    number, count = count, count + 1
                live[key] = number, ts_ns
                of_record[place] = number
            numbers += of_record.tolist()
    return numbers


def flow_key(row: np.void) -> tuple:
    """Return the bidirectional 5-tuple of a header row; without ports, that of the hosts."""
    at, size = (
        (IPV4_SRC, IPV4_ADDRESS_BYTES) if row["version"] == 4 else (IPV6_SRC, IPV6_ADDRESS_BYTES)
    )
    network, transport = row["network"].tobytes(), row["transport"].tobytes()
    hosts = network[at : at + size], network[at + size : at + 2 * size]
    ports = (b"", b"")
    if row["protocol"] in (IPPROTO_TCP, IPPROTO_UDP):
        ports = transport[SPORT : SPORT + 2], transport[SPORT + 2 : SPORT + 4]
    return int(row["protocol"]), *sorted(zip(hosts, ports, strict=True))


def split_label(captures: list[Path], label: str, out: Path, most: int, seed: int) -> None:
    """Write the flows of a label's captures to out/train and out/heldout.

    Args:
        captures: of the label.
        label: name of the folders.
        out: where train/LABEL and heldout/LABEL are made.
        most: flows of the label.
        seed: of the choice.
    """
    random = np.random.default_rng(seed)
    numbers = {path: np.array(flow_numbers(path), np.int64) for path in captures}
    flows = [
        (path, number)
        for path, of_record in numbers.items()
        for number in np.flatnonzero(np.bincount(of_record[of_record >= 0]) > 1).tolist()
    ]
    chosen = [flows[k] for k in random.permutation(len(flows))[:most]]
    num_held_out = round(HELD_OUT_SHARE * len(chosen))
    parts: dict[tuple[str, Path], list[int]] = defaultdict(list)
    for k, (path, number) in enumerate(chosen):
        parts["heldout" if k < num_held_out else "train", path].append(number)
    for (part, path), of_part in parts.items():
        folder = out / part / label
        folder.mkdir(parents=True, exist_ok=True)
        write_records(path, np.isin(numbers[path], of_part), folder / f"{path.name}.pcapng")


def write_records(source: Path, wanted: np.ndarray, target: Path) -> None:
    """Write the records of a capture for which (records,) bool `wanted` is set."""
    at = 0
    with CaptureReader(source) as reader, open(target, "wb") as file:
        writer = CaptureWriter(file, "pcapng")
        for table in reader:
            places = np.flatnonzero(wanted[at : at + len(table)])
            at += len(table)
            for link_type in np.unique(table.link_type[places]).tolist():
                some = places[table.link_type[places] == link_type]
                writer.write(
                    table.data, table.start[some], table.caplen[some], table.wirelen[some],
                    table.ts_ns[some], link_type,
                )  # fmt: skip
        writer.finish()


def split_corpus(labels: list[str], out: Path, most: int, seed: int) -> None:
    """Write the flows of labels of the corpus to out/train and out/heldout."""
    shutil.rmtree(out, ignore_errors=True)
    for label in labels:
        folders = [CORPUS / part / label for part in ("labelled", "labelled_more")]
        folders = [folder for folder in folders if folder.is_dir()]
        if not folders:
            raise SystemExit(f"{label}: {CORPUS} has no captures of it")
        captures, _ = captures_in(tuple(folders))
        split_label(captures, label, out, most, seed)


def main() -> None:
    """Divide the captures, run the pipeline, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", action="store_true", help="the project's samples instead")
    parser.add_argument("--labels", nargs="+", help="some of the labels (default: all)")
    steps = PipelineConfig.train_steps
    parser.add_argument("--steps", type=int, default=steps, help=f"of training (default: {steps})")
    parser.add_argument("--flows", type=int, help="to draw of a label (default: the demo's)")
    parser.add_argument("--most", type=int, default=400, help="real flows of a label")
    parser.add_argument("--seed", type=int, default=7, help="of the division")
    options = parser.parse_args()
    if not options.samples and not CORPUS.is_dir():
        print(f"skipped: needs {CORPUS}, a capture collection")
        return
    name = "unseen-samples" if options.samples else "unseen"
    out = OUT / name
    out.mkdir(parents=True, exist_ok=True)
    captures = ROOT / "samples" if options.samples else out / "captures"
    if not options.samples:
        split_corpus(options.labels or list(LABELS), captures, options.most, options.seed)
    shutil.rmtree(out / "pipeline", ignore_errors=True)
    flags = demo_flags()
    for flag, value in (("--train-steps", options.steps), ("--flows", options.flows)):
        if value is not None:
            flags[flags.index(flag) + 1] = str(value)
    if options.labels:
        flags += ["--labels", *options.labels]
    command = [str(captures / "train"), str(out / "pipeline")]
    command += ["--heldout", str(captures / "heldout"), *flags]
    result = run_pipeline(tyro.cli(PipelineConfig, args=command))
    if result.report is None:
        print(f"stopped after {result.stopped_after}: too much was quarantined")
        return
    sections = result.report.sections
    print(headline_table(sections))
    for reason in result.report.verdict["reasons"]:
        print(f"{reason['grade']}: {reason['section']}: {reason['words']}")
    figures = {
        "flags": flags,
        "sides": result.report.as_dict()["sides"],
        "headlines": {name: section["headline"] for name, section in sections.items()},
        "reasons": {k: v["reason"] for k, v in sections.items() if not v["available"]},
        "worst": {k: v["worst"] for k, v in sections.items() if "worst" in v},
        "verdict": result.report.verdict,
        "tables": {name: sections[name]["tables"] for name in TABLES if name in sections},
    }
    (OUT / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
