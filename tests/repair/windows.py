"""Real windows for the tests of repair, and the damage that a model does to them."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from netdiff_ray.flow_state import DUPLICATE, IN_ORDER
from netdiff_ray.flows import assemble_flows
from netdiff_ray.labels.profile import Profile
from netdiff_ray.labels.profile_counts import count_profile, describe_profile
from netdiff_ray.nprint import Layout, encode
from netdiff_ray.nprint.layouts import height_for
from netdiff_ray.nprint.timecode import level_of
from netdiff_ray.packets import CaptureReader, header_rows
from netdiff_ray.packets.writer import pcap_header, pcap_records
from netdiff_ray.raster import from_rgb, to_rgb
from netdiff_ray.repair import RepairContext, Repaired, repair

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT / "samples" / "train", ROOT.parent / "shared" / "corpus" / "labelled")


@dataclass(frozen=True)
class Window:
    """Packets of a flow, whole and of TCP, UDP, ICMP or ICMPv6."""

    rows: np.ndarray
    direction: np.ndarray
    interarrival_ns: np.ndarray
    label: str

    def nprint(self, layout: Layout) -> np.ndarray:
        return encode(
            self.rows, layout, direction=self.direction, interarrival_ns=self.interarrival_ns
        )

    @property
    def protocol(self) -> int:
        return int(self.rows["protocol"][0])

    @property
    def server_port(self) -> int:
        """0 where there is none."""
        if self.protocol not in (6, 17):
            return 0
        at = 2 if self.direction[0] == 0 else 0
        high, low = self.rows["transport"][0, at : at + 2]
        return int(high) << 8 | int(low)


def source() -> Path | None:
    """Return where labelled captures are, if anywhere."""
    return next((path for path in SOURCES if path.is_dir()), None)


def windows_of(capture: Path) -> list[Window]:
    """Return windows of at least two packets that repair can be asked for."""
    chunks = (header_rows(table) for table in CaptureReader(capture))
    found = []
    for windows in assemble_flows(chunks, b""):
        for begin, end in pairwise(windows.first):
            part = slice(begin, end)
            rows = windows.rows[part]
            whole = (rows["fragment"] == 0) & np.isin(rows["protocol"], (1, 6, 17, 58))
            if end - begin >= 2 and (whole & (rows["transport_len"] >= 8)).all():
                label = capture.parent.name
                gaps_ns = windows.interarrival_ns[part]
                found.append(Window(rows, windows.direction[part], gaps_ns, label))
    return found


def all_windows(place: Path) -> list[Window]:
    captures = sorted(p for p in place.rglob("*.pcap*") if p.is_file())
    return [window for capture in captures for window in windows_of(capture)]


def chosen(windows: list[Window], count: int, seed: int = 7) -> list[Window]:
    """Return about `count` windows: the rare kinds and the longest first, then at random."""
    order = np.random.default_rng(seed).permutation(len(windows))
    kinds: dict[tuple, list[int]] = {}
    for k in order:
        window = windows[k]
        length = 0 if len(window.rows) < 900 else 1
        kinds.setdefault((int(window.rows["version"][0]), window.protocol, length), []).append(k)
    share = max(count // len(kinds), 1)
    picked = [k for found in kinds.values() for k in found[:share]]
    rest = [k for k in order if k not in set(picked)]
    return [windows[k] for k in (picked + rest)[:count]]


def blurred(nprint: np.ndarray, seed: int) -> np.ndarray:
    """Return what comes back of a raster blurred by sigma 0.6 with noise of sigma 25."""
    rng = np.random.default_rng(seed)
    colours = to_rgb(nprint, len(nprint)).astype(np.float32)
    reach = np.exp(-0.5 * (np.arange(-2, 3) / 0.6) ** 2).astype(np.float32)
    reach /= reach.sum()
    for axis in (0, 1):
        pads = [(0, 0)] * 3
        pads[axis] = (2, 2)
        padding = np.pad(colours, pads, mode="edge")
        size = colours.shape[axis]
        colours = sum(
            weight * np.take(padding, range(k, k + size), axis) for k, weight in enumerate(reach)
        )
    colours += rng.normal(0, 25, colours.shape).astype(np.float32)
    return from_rgb(np.clip(np.rint(colours), 0, 255).astype(np.uint8))[0]


def replaced(nprint: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return the nprint with that share of its cells replaced at random."""
    rng = np.random.default_rng(seed)
    hit = rng.random(nprint.shape) < share
    return np.where(hit, rng.integers(-1, 2, nprint.shape), nprint).astype(np.int8)


DAMAGE = {
    "none": lambda nprint, seed: nprint,
    "blur": blurred,
    "2 %": lambda nprint, seed: replaced(nprint, 0.02, seed),
    "5 %": lambda nprint, seed: replaced(nprint, 0.05, seed),
    "20 %": lambda nprint, seed: replaced(nprint, 0.20, seed),
}


def padded(nprint: np.ndarray) -> np.ndarray:
    """Return the nprint with vacant rows up to its raster's height."""
    out = np.full((height_for(len(nprint)), nprint.shape[1]), -1, np.int8)
    out[: len(nprint)] = nprint
    return out


def profile_of(windows: list[Window]) -> Profile:
    """Return what windows begin and end with, each a whole flow."""
    levels = [[level_of(gap) for gap in window.interarrival_ns] for window in windows]
    counts = count_profile(
        np.concatenate([window.rows for window in windows]),
        np.concatenate([window.direction for window in windows]),
        np.concatenate(levels),
        np.repeat(np.arange(len(windows)), [len(window.rows) for window in windows]),
        *[np.ones(sum(map(len, levels)), bool)] * 2,
    )
    return describe_profile(counts)


def repaired(
    windows: list[Window], layout: Layout, damage: str = "none", *, profiles: bool = False
) -> list[Repaired]:
    """Damage windows and repair them label by label with what an adapter knows, the label's profile
    too if `profiles`."""
    results = []
    for label in sorted({window.label for window in windows}):
        held = [k for k, window in enumerate(windows) if window.label == label]
        ports = {windows[k].server_port for k in held} - {0}
        drawn = [DAMAGE[damage](padded(windows[k].nprint(layout)), k) for k in held]
        profile = profile_of([windows[k] for k in held]) if profiles else Profile()
        context = RepairContext(label=label, server_ports=tuple(sorted(ports)), profile=profile)
        numbers = np.array(held, np.uint64)
        results.append(repair(drawn, layout, context, numbers + np.uint64(1000), numbers))
    return results


def split(result: Repaired, layout: Layout) -> list[np.ndarray]:
    """Return the nprint of each repaired flow."""
    return np.split(result.nprint(layout), result.batch.flows.starts[1:-1])


def write_pcap(path: Path, results: list[Repaired]) -> set[int]:
    """Write a pcap of repaired flows, one after another in time.

    Return the numbers, from 1, of the frames of flows that are drawn with losses.
    """
    now = 1_700_000_000_000_000_000
    lossy, count = set(), 0
    with path.open("wb") as file:
        file.write(pcap_header())
        for result in results:
            packets, starts = result.packets, result.batch.flows.starts
            ts_ns = packets.ts_ns.copy()
            state = result.batch.packets.state
            is_lossy = (state["sequence"] != IN_ORDER) | (state["acknowledged"] == DUPLICATE)
            for begin, end in pairwise(starts):
                if is_lossy[begin:end].any():
                    lossy.update(range(count + begin + 1, count + end + 1))
                ts_ns[begin:end] += now - ts_ns[begin]
                now = ts_ns[end - 1] + 1_000_000
            caplen = np.diff(packets.starts)
            records = pcap_records(
                packets.data, packets.starts[:-1], caplen, packets.wirelen, ts_ns
            )
            file.write(records.data)
            count += len(packets.ts_ns)
    return lossy
