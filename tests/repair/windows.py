"""Real windows for the tests of repair, and the damage that a model does to them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from netdiff_ray.nprint import Layout, encode
from netdiff_ray.packets import CaptureReader, header_rows

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "samples" / "train", ROOT.parent / "shared" / "corpus" / "labelled")


@dataclass(frozen=True)
class Window:
    rows: np.ndarray
    direction: np.ndarray
    interarrival_ns: np.ndarray
    label: str

    def nprint(self, layout: Layout) -> np.ndarray:
        return encode(
            self.rows, layout, direction=self.direction, interarrival_ns=self.interarrival_ns
        )


def source() -> Path | None:
    """Where labelled captures are, if anywhere."""
    return next((path for path in SOURCES if path.is_dir()), None)


def captures(place: Path) -> list[Path]:
    return sorted(p for p in place.rglob("*.pcap*") if p.is_file())


def windows_of(capture: Path, height: int = 1024, shortest: int = 2) -> list[Window]:
    """Windows of a capture's flows: whole packets of TCP, UDP, ICMP and ICMPv6."""
    tables = [header_rows(table) for table in CaptureReader(capture)]
    rows = np.concatenate(tables) if tables else np.empty(0)
    if not len(rows):
        return []
    whole = (rows["fragment"] == 0) & np.isin(rows["protocol"], (1, 6, 17, 58))
    rows = rows[whole & (rows["transport_len"] >= 8)]
    flows: dict[tuple, list[int]] = {}
    sender: dict[tuple, tuple] = {}
    direction = np.zeros(len(rows), np.uint8)
    for i, row in enumerate(rows):
        network, transport = row["network"].tobytes(), row["transport"].tobytes()
        if row["version"] == 4:
            here, there = network[12:16], network[16:20]
        else:
            here, there = network[8:24], network[24:40]
        if row["protocol"] in (6, 17):
            here, there = here + transport[:2], there + transport[2:4]
        key = (int(row["protocol"]), *sorted((here, there)))
        flows.setdefault(key, []).append(i)
        sender.setdefault(key, here)
        direction[i] = sender[key] != here
    windows = []
    for chosen in flows.values():
        ts_ns = rows["ts_ns"][chosen]
        interarrival_ns = np.diff(ts_ns, prepend=ts_ns[0])
        for begin in range(0, len(chosen), height):
            part = slice(begin, begin + height)
            if len(chosen[part]) >= shortest:
                at = np.array(chosen[part])
                windows.append(
                    Window(rows[at], direction[at], interarrival_ns[part], capture.parent.name)
                )
    return windows


def blurred(nprint: np.ndarray, seed: int) -> np.ndarray:
    """What comes back of a raster blurred by sigma 0.6 with noise of sigma 25."""
    rng = np.random.default_rng(seed)
    colours = np.zeros((*nprint.shape, 3), np.float32)
    for channel, value in enumerate((1, 0, -1)):
        colours[..., channel] = 255.0 * (nprint == value)
    reach = np.exp(-0.5 * (np.arange(-2, 3) / 0.6) ** 2).astype(np.float32)
    reach /= reach.sum()
    for axis in (0, 1):
        pads = [(0, 0)] * 3
        pads[axis] = (2, 2)
        padded = np.pad(colours, pads, mode="edge")
        size = colours.shape[axis]
        colours = sum(
            weight * np.take(padded, range(k, k + size), axis) for k, weight in enumerate(reach)
        )
    colours += rng.normal(0, 25, colours.shape).astype(np.float32)
    return np.array([1, 0, -1], np.int8)[colours.argmax(axis=-1)]


def replaced(nprint: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The nprint with that share of its cells replaced at random."""
    rng = np.random.default_rng(seed)
    hit = rng.random(nprint.shape) < share
    return np.where(hit, rng.integers(-1, 2, nprint.shape), nprint).astype(np.int8)


def padded(nprint: np.ndarray, height: int) -> np.ndarray:
    """The nprint with vacant rows up to `height`."""
    out = np.full((height, nprint.shape[1]), -1, np.int8)
    out[: len(nprint)] = nprint
    return out


def write_pcap(path: Path, packets) -> None:
    """A nanosecond pcap of packets."""
    with path.open("wb") as file:
        np.array([0xA1B23C4D, 0x00040002, 0, 0, 262_144, 1], "<u4").tofile(file)
        for i in range(len(packets)):
            content = packets.packet(i)
            seconds, fraction = divmod(int(packets.ts_ns[i]), 1_000_000_000)
            np.array([seconds, fraction, len(content), packets.wirelen[i]], "<u4").tofile(file)
            file.write(content)
