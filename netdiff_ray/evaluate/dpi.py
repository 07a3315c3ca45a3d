"""The deep packet inspection section of a report: what other tools take the flows for.

nDPI's ndpiReader names the application of each flow; where it is not installed, tshark's
dissectors do. Both judge by payloads. Where tshark is installed, the protocols that it finds above
the transport are compared, too.
"""

import csv
import shutil
import struct
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from netdiff_ray.errors import CaptureError
from netdiff_ray.evaluate.divergence import wilson_interval
from netdiff_ray.evaluate.report_section import not_available, section, table
from netdiff_ray.evaluate.sources import Source, Unit, evenly_spaced
from netdiff_ray.flows import assemble_flows
from netdiff_ray.packets import CaptureReader, header_rows

HEADLINE = ("recognised_ratio", "protocol_difference")
DPI_CAPTURES = 200
"""Most captures of a source that are inspected."""
NDPI, TSHARK = "nDPI", "tshark"
UNKNOWN = "Unknown"
MIN_FLOWS = 5
"""Fewest flows of a label that are recognised in the real source for it to be compared."""
_RARE = 0.02
_TIMEOUT_S = 120
_PCAP_NANOSECONDS, _SNAPLEN = 0xA1B23C4D, 1 << 18
_NO_APPLICATION = ("data", "tcp.segments", "_ws.malformed", "_ws.short")
_NOTES_SHOWN, _DIFFERENCES_SHOWN = 10, 20


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """What the flows of captures were taken for."""

    by_tool: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)
    """Flows by protocol, UNKNOWN among them, by label, by NDPI or TSHARK."""
    notes: frozenset[str] = frozenset()
    """Captures that could not be inspected."""


def merge_recognised(results: Iterable[Recognised]) -> Recognised:
    """Return what the flows of several parts of a source were taken for."""
    by_tool: dict[str, dict[str, Counter[str]]] = {}
    notes: frozenset[str] = frozenset()
    for result in results:
        for tool, by_label in result.by_tool.items():
            mine = by_tool.setdefault(tool, {})
            for label, protocols in by_label.items():
                mine[label] = mine.get(label, Counter()) + protocols
        notes |= result.notes
    return Recognised(by_tool=by_tool, notes=notes)


def inspected_captures(source: Source) -> tuple[Unit, ...]:
    """Return the captures of a source that are inspected: all, or DPI_CAPTURES of them."""
    names = evenly_spaced(source.captures, DPI_CAPTURES)
    return tuple(unit for unit in source.captures if unit.name in names)


def recognise(source: Source, captures: Sequence[Unit] | None = None) -> Recognised:
    """Return what the flows of captures are taken for; nothing if no tool is installed.

    Args:
        captures: some of the source's; `inspected_captures` unless given.
    """
    tools = [tool for tool, program in _PROGRAMS.items() if shutil.which(program)]
    by_tool: dict[str, dict[str, Counter[str]]] = {tool: defaultdict(Counter) for tool in tools}
    notes = set()
    for unit in inspected_captures(source) if captures is None else captures:
        try:
            for tool, flows in _inspect(source, unit, tools).items():
                by_tool[tool][unit.label] += flows
        except (CaptureError, FileNotFoundError) as error:
            notes.add(f"not inspected: {unit.name}: {error}")
        except subprocess.TimeoutExpired as error:
            program = Path(error.cmd[0]).name
            notes.add(f"not inspected: {unit.name}: {program} takes over {_TIMEOUT_S} s")
    return Recognised(
        by_tool={tool: dict(by_label) for tool, by_label in by_tool.items()},
        notes=frozenset(notes),
    )


def _inspect(source: Source, unit: Unit, tools: Sequence[str]) -> dict[str, Counter[str]]:
    """Return the flows of a capture by protocol, as each of some tools has it.

    Of a capture that is cut nothing is told by tshark, which reads its zeros as payload, if nDPI
    tells.
    """
    if not tools:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        copy, out = Path(folder, "whole.pcap"), Path(folder, "flows.csv")
        store = source.store
        with (
            store.filesystem.open_input_file(store.path(unit.name)) as file,
            CaptureReader(file, name=f"{store.uri}: {unit.name}") as reader,
        ):
            missing = [0]
            windows = assemble_flows(_whole(reader, copy, missing), reader.fingerprint)
            num_flows = sum(int(batch.is_last.sum()) for batch in windows)
        found = {}
        if NDPI in tools:
            flows = _by_ndpi(copy, out)  # which leaves out those that it does not recognise
            flows[UNKNOWN] += max(num_flows - flows.total(), 0)
            found[NDPI] = flows
        if TSHARK in tools and (not missing[0] or NDPI not in tools):
            found[TSHARK] = _by_tshark(copy)
        return found


def _whole(reader: CaptureReader, path: Path, missing: list[int]) -> Iterator[np.ndarray]:
    """Yield (P,) HEADER_ROW of a capture, and write it with zeros where bytes were cut off.

    NDPI passes over packets that were cut.

    Args:
        reader: of the capture.
        path: of the copy.
        missing: [bytes that were cut off], to which those of this capture are added.
    """
    link_type = None
    with open(path, "wb") as file:
        for chunk in reader:
            yield header_rows(chunk)
            for i in range(len(chunk)):
                if link_type is None:
                    link_type = int(chunk.link_type[i])
                    file.write(
                        struct.pack("<IHHiIII", _PCAP_NANOSECONDS, 2, 4, 0, 0, _SNAPLEN, link_type)
                    )
                if chunk.link_type[i] != link_type:
                    continue
                data = chunk.packet(i)
                cut = max(0, min(int(chunk.wirelen[i]), _SNAPLEN) - len(data))
                missing[0] += cut
                data += bytes(cut)
                seconds, ns = divmod(int(chunk.ts_ns[i]), 10**9)
                head = struct.pack("<IIII", seconds % (1 << 32), ns, len(data), len(data))
                file.write(head + data)


def _by_ndpi(path: Path, out: Path) -> Counter[str]:
    """Return the flows by the protocol that nDPI finds in payloads alone, without the service that
    it takes from names (`TLS` of `TLS.Google`): those of drawn flows are made up."""
    subprocess.run(
        [_PROGRAMS[NDPI], "-q", "-d", "-i", path, "-C", out],
        capture_output=True, timeout=_TIMEOUT_S, check=False,
    )  # fmt: skip
    if not out.is_file():
        return Counter()
    with open(out, newline="", errors="replace") as file:
        rows = [row for row in csv.DictReader(file) if (row.get("#flow_id") or "").isdigit()]
    # nDPI breaks a flow's line where the version of SSH in it ends; what follows is no flow
    return Counter((row.get("ndpi_proto") or UNKNOWN).partition(".")[0] for row in rows)


def _by_tshark(path: Path) -> Counter[str]:
    """Return the TCP and UDP flows by the protocol above, most of their packets'."""
    command = [_PROGRAMS[TSHARK], "-n", "-r", path, "-T", "fields"]
    for name in ("tcp.stream", "udp.stream", "frame.protocols"):
        command += ["-e", name]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
    )
    flows: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for line in done.stdout.splitlines():
        tcp, udp, protocols = line.split("\t")
        transport, stream = ("tcp", tcp) if tcp else ("udp", udp)
        if not stream:
            continue
        above = protocols.rpartition(f":{transport}")[2].strip(":").split(":")
        flows[transport, stream].update(p for p in above[:1] if p and p not in _NO_APPLICATION)
    return Counter(flow.most_common(1)[0][0] if flow else UNKNOWN for flow in flows.values())


_PROGRAMS = {NDPI: "ndpiReader", TSHARK: "tshark"}


def dpi_section(real: Recognised | str, synthetic: Recognised | str) -> dict:
    """Return the section.

    Args:
        real: what the real flows are taken for, or why that is unknown.
        synthetic: the same of the synthetic ones.
    """
    reasons = [source for source in (real, synthetic) if isinstance(source, str)]
    if reasons:
        return not_available("; ".join(reasons), HEADLINE)
    tool = next((t for t in _PROGRAMS if t in real.by_tool and t in synthetic.by_tool), None)
    if tool is None:
        reason = "neither ndpiReader (nDPI) nor tshark is installed where captures were read"
        return not_available(reason, HEADLINE)
    notes = sorted(real.notes | synthetic.notes)[:_NOTES_SHOWN]
    ours, theirs = real.by_tool[tool], synthetic.by_tool[tool]
    shares = {
        label: _share(ours[label], theirs[label]) for label in sorted(set(ours) & set(theirs))
    }
    ratios = [s["ratio"] for s in shares.values() if s["ratio"] is not None]
    if not ratios:
        why = f"{tool} recognises {MIN_FLOWS} real flows of no label that both sources have"
        return not_available("; ".join([why, *notes]), HEADLINE)
    rows = [
        [label, ", ".join(s["protocols"]) or None, s["real"], s["real_interval"], s["synthetic"],
         s["synthetic_interval"], s["ratio"], s["real_flows"], s["synthetic_flows"]]
        for label, s in shares.items()
    ]  # fmt: skip
    differences = _differences(real.by_tool.get(TSHARK, {}), synthetic.by_tool.get(TSHARK, {}))
    return section(
        {
            "recognised_ratio": min(ratios),
            "protocol_difference": max((d[-1] for d in differences), default=None),
        },
        notes=notes,
        tables=[
            table(
                f"What {tool} takes the flows for",
                ["label", "real flows' protocols", "real", "95 % interval", "synthetic",
                 "95 % interval", "ratio", "real flows", "synthetic flows"],
                rows,
                "The share of a label's flows that are recognised as one of the protocols that "
                f"its real flows are recognised as (in {_RARE:.0%} of them or more). The main "
                "figure is the smallest ratio over labels.",
            ),
            table(
                "Protocols that tshark finds",
                ["label", "protocol", "real", "synthetic", "difference"],
                differences[:_DIFFERENCES_SHOWN],
                "The share of a label's flows over TCP and UDP by the protocol that tshark finds "
                "above the transport in most of their packets; captures that are cut are left out. "
                f"Labels with {MIN_FLOWS} such flows in both sources, the largest differences "
                "first.",
            ),
        ],
        tool=tool,
        shares=shares,
        flows={
            "real": {label: dict(c.most_common()) for label, c in sorted(ours.items())},
            "synthetic": {label: dict(c.most_common()) for label, c in sorted(theirs.items())},
        },
    )  # fmt: skip


def _differences(
    real: Mapping[str, Counter[str]], synthetic: Mapping[str, Counter[str]]
) -> list[list]:
    """Return [label, protocol, share of the real flows, of the synthetic ones, difference], the
    largest first."""
    rows = []
    for label in set(real) & set(synthetic):
        totals = [flows[label].total() for flows in (real, synthetic)]
        if min(totals) < MIN_FLOWS:
            continue
        for protocol in set(real[label]) | set(synthetic[label]):
            shares = [
                flows[label][protocol] / total
                for flows, total in zip((real, synthetic), totals, strict=True)
            ]
            rows.append([label, protocol, *shares, abs(shares[0] - shares[1])])
    return sorted(rows, key=lambda row: (-row[-1], *row[:2]))


def _share(real: Counter[str], synthetic: Counter[str]) -> dict:
    """Return the recognised shares of a label's flows, None where they cannot be compared."""
    known = Counter({name: n for name, n in real.items() if name != UNKNOWN})
    protocols = [name for name, n in known.most_common() if n >= _RARE * known.total()]
    values: dict = {"protocols": protocols}
    for name, flows in (("real", real), ("synthetic", synthetic)):
        total, recognised = flows.total(), sum(flows[p] for p in protocols)
        values[f"{name}_flows"] = total
        values[name] = recognised / total if total else None
        values[f"{name}_interval"] = wilson_interval(values[name], total) if total else None
    is_compared = known.total() >= MIN_FLOWS and values["synthetic"] is not None
    values["ratio"] = values["synthetic"] / values["real"] if is_compared else None
    return values
