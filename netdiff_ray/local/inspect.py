"""Counts of what captures hold, in a single pass over each."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from netdiff_ray.errors import CaptureError, DataError
from netdiff_ray.flows import FlowAssembler, Windows
from netdiff_ray.header_bytes import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.container import has_capture_suffix
from netdiff_ray.packets.headers import header_rows
from netdiff_ray.packets.linklayer import LEAST_ETHER_TYPE
from netdiff_ray.packets.linktypes import ETHERNET, link_type_name
from netdiff_ray.packets.table import PacketTable, Reason
from netdiff_ray.packets.tunnels import counts_by_tunnel
from netdiff_ray.storage.listing import list_local, printable

PROTOCOL_NAMES = {
    IPPROTO_ICMP: "ICMP", IPPROTO_TCP: "TCP", IPPROTO_UDP: "UDP", IPPROTO_ICMPV6: "ICMPv6",
    2: "IGMP", 4: "IP-in-IP", 8: "EGP", 33: "DCCP", 41: "IPv6 in IP (6in4)", 46: "RSVP",
    47: "GRE", 50: "ESP", 51: "AH", 59: "no next header", 88: "EIGRP", 89: "OSPF",
    97: "EtherIP", 98: "ENCAP", 103: "PIM", 108: "IPComp", 112: "VRRP", 115: "L2TPv3",
    132: "SCTP", 133: "FC", 136: "UDP-Lite", 137: "MPLS in IP", 142: "ROHC", 143: "Ethernet",
}  # fmt: skip
"""Names of IP protocols (IANA, Assigned Internet Protocol Numbers)."""
LENGTH_BOUNDS = (64, 128, 256, 512, 1024, 1519, 9001)
_ETHER_TYPES = {0x0806: "ARP", 0x8035: "RARP", 0x888E: "EAPOL", 0x88CC: "LLDP", 0x86DD: "IPv6"}
_LENGTH_WORDS = "an IEEE 802.3 length, LLC"


@dataclass
class Inspection:
    """The counts of one capture, or of several added up."""

    name: str
    form: str = ""
    """pcap or pcapng, and the compression."""
    num_records: int = 0
    num_packets: int = 0
    """Records that give a row."""
    num_bytes: int = 0
    """Bytes on the wire of all records."""
    first_ns: int | None = None
    last_ns: int | None = None
    packets: Counter = field(default_factory=Counter)
    """By "IPv4 TCP" and the like."""
    flows: Counter = field(default_factory=Counter)
    link_types: Counter = field(default_factory=Counter)
    lengths: Counter = field(default_factory=Counter)
    """Records by upper bound of the wire length, 0 for those over the last bound."""
    skipped: Counter = field(default_factory=Counter)
    """Records that give no row, by reason."""
    tunnels: Counter = field(default_factory=Counter)
    """Records by each kind of tunnel that was followed."""
    notes: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, other: "Inspection") -> None:
        """Add the counts of another capture."""
        for name in ("num_records", "num_packets", "num_bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("packets", "flows", "link_types", "lengths", "skipped", "tunnels", "notes"):
            getattr(self, name).update(getattr(other, name))
        self.faults += other.faults

    def as_dict(self) -> dict:
        """Return the counts as plain values, for JSON."""
        values = vars(self).items()
        return {k: dict(v) if isinstance(v, Counter) else v for k, v in values}

    @property
    def duration_s(self) -> float:
        """Seconds between the earliest and the latest record."""
        return 0.0 if self.first_ns is None else (self.last_ns - self.first_ns) / 1e9


def captures_in(paths: tuple[Path, ...]) -> tuple[list[Path], list[Inspection]]:
    """Return the captures that `paths` name: files as they are, folders by suffix, sorted.

    Returns:
        (captures to inspect, the faults of what has a capture's suffix and is no file with a
        UTF-8 name).

    Raises:
        DataError: a folder holds nothing with a capture's suffix.
    """
    captures: list[Path] = []
    left_out: list[Inspection] = []
    for path in paths:
        if not path.is_dir():
            captures.append(path)
            continue
        listing = list_local(str(path))
        inside = sorted(name for name in listing.files if has_capture_suffix(name))
        odd = sorted(name for name in listing.left_out if has_capture_suffix(name))
        if not inside and not odd:
            raise DataError(f"{path}: no file in it has a capture's suffix (.pcap, .pcap.gz, ...)")
        captures += [path / name for name in inside]
        for name in odd:
            where = printable(str(path / name))
            left_out.append(Inspection(where, faults=[f"{where}: {listing.left_out[name]}"]))
    return captures, left_out


def inspect_capture(path: Path, idle_timeout_s: float, *, decapsulate: bool = False) -> Inspection:
    """Return the counts of a capture; of one that cannot be read, its fault and zeros."""
    result = Inspection(printable(str(path)))
    try:
        reader = CaptureReader(path, decapsulate=decapsulate)
    except CaptureError as error:
        result.faults.append(str(error))
        return result
    result.form = " ".join(filter(None, (reader.format, reader.compression)))
    assembler = FlowAssembler(reader.fingerprint, idle_timeout_s=idle_timeout_s)
    for table in reader:
        _count_records(result, table)
        rows = header_rows(table)
        result.packets.update(_by_protocol(rows))
        windows = assembler.add(rows)
        if windows is not None:
            _count_flows(result, windows)
    _count_flows(result, assembler.finish())
    for words, (count, _) in reader.notes.items():
        result.notes[words] += count
    if reader.fault:
        result.faults.append(str(reader.fault))
    return result


def _count_records(result: Inspection, table: PacketTable) -> None:
    result.num_records += len(table)
    result.num_packets += int((table.reason == Reason.OK).sum())
    result.num_bytes += int(table.wirelen.sum())
    earliest, latest = int(table.ts_ns.min()), int(table.ts_ns.max())
    result.first_ns = earliest if result.first_ns is None else min(result.first_ns, earliest)
    result.last_ns = latest if result.last_ns is None else max(result.last_ns, latest)
    bounds = np.append(LENGTH_BOUNDS, 0)
    bins = np.searchsorted(LENGTH_BOUNDS, table.wirelen, side="right")
    for k, count in _counts(bins):
        result.lengths[int(bounds[k])] += count
    for kind, count in _counts(table.link_type):
        result.link_types[link_type_name(kind)] += count
    result.tunnels.update(counts_by_tunnel(table.tunnels))
    _count_skipped(result, table)


def _counts(values: np.ndarray) -> list[tuple[int, int]]:
    distinct, counts = np.unique(values, return_counts=True)
    return list(zip(distinct.tolist(), counts.tolist(), strict=True))


def _by_protocol(rows: np.ndarray) -> dict[str, int]:
    codes = rows["version"].astype(np.int64) * 256 + rows["protocol"]
    return {
        f"IPv{code // 256} {_protocol_name(code % 256)}": count for code, count in _counts(codes)
    }


def _protocol_name(number: int) -> str:
    """Return the name of an IP protocol."""
    return PROTOCOL_NAMES.get(number, f"protocol {number}")


def _type_name(number: int) -> str:
    """Return the name of an EtherType, PPP protocol or address family that is not IP."""
    return _ETHER_TYPES.get(number, f"type 0x{number:04x}")


def _count_flows(result: Inspection, windows: Windows) -> None:
    result.flows.update(_by_protocol(windows.rows[windows.first[:-1][windows.is_last]]))


def _count_skipped(result: Inspection, table: PacketTable) -> None:
    skipped = table.reason != Reason.OK
    if not skipped.any():
        return
    for reason, count in _counts(table.reason[skipped]):
        words = Reason(reason).words
        chosen = table.reason == reason
        if reason == Reason.LINK_TYPE:
            for kind, n in _counts(table.link_type[chosen]):
                result.skipped[f"{words}: {link_type_name(kind)}"] += n
        elif reason == Reason.NOT_IP:
            is_ethernet = table.link_type[chosen] == ETHERNET
            for kind, n in _counts(table.ether_type[chosen][is_ethernet]):
                is_length = kind < LEAST_ETHER_TYPE
                name = _LENGTH_WORDS if is_length else _type_name(kind)
                result.skipped[f"{words}: {name}"] += n
            for kind, n in _counts(table.ether_type[chosen][~is_ethernet]):
                result.skipped[f"{words}: {_type_name(kind)}"] += n
        elif reason == Reason.PROTOCOL:
            for kind, n in _counts(table.protocol[chosen]):
                result.skipped[f"{words}: {_protocol_name(kind)}"] += n
        else:
            result.skipped[words] += count


def tables(inspections: list[Inspection], total: Inspection) -> str:
    """Return the text that `netdiff inspect` prints: a row for each capture, then the sums."""
    head = ("capture", "format", "records", "packets", "flows", "bytes", "seconds", "skipped")
    body = [_row(i) for i in inspections]
    if len(inspections) > 1:
        body.append(("total", "", *_row(total)[2:6], "", *_row(total)[7:]))
    parts = [aligned([head, *body])]
    protocols = sorted({*total.packets, *total.flows})
    rows = [(p, f"{total.packets[p]:,}", f"{total.flows[p]:,}") for p in protocols]
    if rows:
        parts.append(aligned([("protocol", "packets", "flows"), *rows]))
    details = (
        ("link type", "records", total.link_types.items()),
        ("wire length, bytes", "records", _length_rows(total)),
        ("skipped, and why", "records", total.skipped.most_common()),
        ("tunnels followed", "records", total.tunnels.most_common()),
        ("noted, and read all the same", "records", total.notes.most_common()),
    )
    for title, unit, counts in details:
        if counts:
            parts.append(aligned([(title, unit), *((k, f"{n:,}") for k, n in counts)]))
    return "\n\n".join(parts)


def _row(of: Inspection) -> tuple[str, ...]:
    fault = " (in part)" if of.faults and of.form else " (unreadable)" * bool(of.faults)
    numbers = (of.num_records, of.num_packets, sum(of.flows.values()), of.num_bytes)
    skipped = f"{of.num_records - of.num_packets:,}"
    duration = f"{of.duration_s:,.1f}"
    return of.name, of.form + fault, *(f"{n:,}" for n in numbers), duration, skipped


def _length_rows(total: Inspection) -> list[tuple[str, int]]:
    rows, least = [], 0
    for bound in (*LENGTH_BOUNDS, 0):
        name = f"{least} to {bound - 1}" if bound else f"{least} and more"
        if total.lengths[bound]:
            rows.append((name, total.lengths[bound]))
        least = bound
    return rows


def aligned(rows: list[tuple[str, ...]]) -> str:
    """Return a table as text: names aligned to the left, numbers to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    texts = [k == 0 or (k == 1 and len(widths) > 3) for k in range(len(widths))]
    lines = [
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(row, widths, texts, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
