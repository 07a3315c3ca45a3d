"""Made traffic whose labels are known, and label files of it in the forms of public datasets."""

import datetime
from dataclasses import dataclass, replace

import numpy as np
from packet_builders import ETHERNET_IPV4, ipv4, pcap, tcp4, udp4

from netdiff_ray.flow_labels.clock import estimate_clock, spans_of_labels
from netdiff_ray.flow_labels.match import Outcome, match_flows
from netdiff_ray.flow_labels.read import read_labels
from netdiff_ray.flow_labels.spans import flow_spans
from netdiff_ray.packets import CaptureReader, header_rows

S_NS = 10**9
DAY = datetime.datetime(2017, 7, 5, tzinfo=datetime.UTC)
"""A Wednesday; its month and day can be taken for each other."""
LABELS = ("BENIGN", "DoS Hulk", "Web Attack \u2013 XSS")


@dataclass(frozen=True)
class MadeFlow:
    """A flow of three or four packets."""

    src: str
    dst: str
    sport: int
    dport: int
    protocol: int
    start_ns: int
    duration_ns: int
    label: str

    def swapped(self):
        """Return the flow with its endpoints named in the other order."""
        return replace(self, src=self.dst, dst=self.src, sport=self.dport, dport=self.sport)

    def packets(self):
        """Return (ns, frame) of each packet."""
        times = self.start_ns + np.linspace(0, self.duration_ns, 4).astype(np.int64)
        ends = {"source": self.src, "target": self.dst}
        ports = {"sport": self.sport, "dport": self.dport}
        back = {"source": self.dst, "target": self.src, "sport": self.dport, "dport": self.sport}
        if self.protocol == 6:
            frames = [tcp4(2, **ends, **ports), tcp4(0x12, **back), tcp4(0x10, **ends, **ports)]
            frames.append(tcp4(0x18, b"x" * 10, **back))
        elif self.protocol == 17:
            frames = [udp4(b"q" * 9, **ends, **ports), udp4(b"a" * 30, **back)] * 2
        else:
            echo = bytes([8, 0, 0, 0, 0, 7, 0, 1]) + b"ping"
            frames = [ETHERNET_IPV4 + ipv4(echo, 1, self.src, self.dst)] * 4
        return list(zip(times.tolist(), frames, strict=True))


def made_flows(count, seed=0, hours=8, first_hour=12, again=10):
    """Return flows of a working day, in UTC from `first_hour` on; one in `again` comes again under
    the same ports an hour later, with another label."""
    draw = np.random.default_rng(seed)
    flows = []
    begin = int(DAY.timestamp()) * S_NS + first_hour * 3600 * S_NS
    span = (hours - 1.1) * 3600 * S_NS
    for k in range(count):
        protocol = (6, 6, 17, 1)[k % 4]
        ports = (0, 0) if protocol == 1 else (int(draw.integers(1024, 65000)), (80, 443, 53)[k % 3])
        flow = MadeFlow(
            f"192.168.{k // 200}.{k % 200 + 1}", f"10.0.0.{draw.integers(1, 20)}", *ports, protocol,
            begin + int(draw.random() * span), int(draw.random() * 20 * S_NS),
            LABELS[int(draw.integers(3))],
        )  # fmt: skip
        flows.append(flow)
        if k % again == again - 1:
            other = LABELS[(LABELS.index(flow.label) + 1) % 3]
            flows.append(replace(flow, start_ns=flow.start_ns + 3600 * S_NS, label=other))
    return flows


def capture_of(flows, seed=0, late_share=0.05):
    """Return a nanosecond pcap of the flows, some packets a little too late in the file."""
    packets = sorted(packet for flow in flows for packet in flow.packets())
    draw = np.random.default_rng(seed)
    late = np.arange(len(packets)) + np.where(draw.random(len(packets)) < late_share, 3.5, 0)
    packets = [packets[k] for k in np.argsort(late, kind="stable")]
    records = [(ns // S_NS, ns % S_NS, frame) for ns, frame in packets]
    return pcap(records, magic=0xA1B23C4D)


def swapped_quarter(flows, seed=0):
    """Return the flows, the endpoints of a quarter in the other order."""
    draw = np.random.default_rng(seed)
    return [flow.swapped() if draw.random() < 0.25 else flow for flow in flows]


def clock_text(ns, pattern, hours_ahead=0):
    """Return a time as local text: `%I` is an hour up to 12, and `{f}` is microseconds."""
    moment = datetime.datetime.fromtimestamp(ns // S_NS, datetime.UTC)
    moment += datetime.timedelta(hours=hours_ahead)
    return moment.strftime(pattern).replace("{f}", f"{ns % S_NS // 1000:06}")


def cic_2017(flows, pattern="%-d/%-m/%Y %-I:%M", hours_ahead=-3):
    """Return the flows as a table of CIC-IDS2017: Windows-1252, a clock of 12 hours, microseconds
    of duration, spaces before names."""
    rows = ["Flow ID, Source IP, Source Port, Destination IP, Destination Port, Protocol,"
            " Timestamp, Flow Duration, Total Fwd Packets, Label"]  # fmt: skip
    rows += [
        f"{f.src}-{f.dst}-{f.sport}-{f.dport}-{f.protocol},{f.src},{f.sport},{f.dst},{f.dport},"
        f"{f.protocol},{clock_text(f.start_ns, pattern, hours_ahead)},{f.duration_ns // 1000},2,"
        f"{f.label}"
        for f in flows
    ]
    return ("\r\n".join(rows) + "\r\n").encode("cp1252")


def spans_in(path):
    """Return the flows of a capture."""
    with CaptureReader(path) as reader:
        chunks = (header_rows(table) for table in reader)
        return flow_spans(chunks, reader.fingerprint, idle_timeout_s=60.0)


def right_share(place, flows, content, name="labels.csv", **options):
    """Return the share of flows with the right label, and the choice of the clock; the other flows
    must be ambiguous."""
    (place / "day").mkdir(exist_ok=True)
    (place / "day/a.pcap").write_bytes(capture_of(flows))
    (place / name).write_bytes(content)
    return right_share_in(place / "day/a.pcap", flows, read_labels([str(place / name)], **options))


def right_share_in(capture, flows, table, unit_ns=1):
    """Return what `right_share` does, of a capture whose times are cut off to units."""
    spans = spans_in(capture)
    choice = estimate_clock(spans, table)
    matches = match_flows(spans, spans_of_labels(table, choice.clock))
    truth = {flow.start_ns // unit_ns * unit_ns: flow.label for flow in flows}
    right = np.array([
        code >= 0 and table.labels[code] == truth[start]
        for code, start in zip(matches.label.tolist(), spans.start_ns.tolist(), strict=True)
    ])  # fmt: skip
    assert (matches.outcome[~right] == Outcome.AMBIGUOUS).all()
    assert len(right) == len(flows)
    return right.mean(), choice
