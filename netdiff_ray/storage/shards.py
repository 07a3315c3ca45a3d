"""Shards: one output file of packets, with the index of its flows.

Shape letters: N flows, P packets.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, inet_ntop
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from netdiff_ray.header_bytes import (
    DPORT,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_DST,
    IPV4_HEADER_BYTES,
    IPV4_SRC,
    IPV6_DST,
    IPV6_HEADER_BYTES,
    IPV6_SRC,
    SPORT,
    words16,
)
from netdiff_ray.packets.comments import joined_comments, sample_comment
from netdiff_ray.packets.linktypes import ETHERNET
from netdiff_ray.packets.writer import (
    CaptureWriter,
    pcap_header,
    pcap_record_bytes,
    pcap_records,
)
from netdiff_ray.storage.manifest import DRAWN_FOLDER, part_metadata
from netdiff_ray.storage.store import Store

FLOW_SCHEMA = pa.schema(
    [
        ("flow_id", pa.string()),
        ("label", pa.string()),
        ("service", pa.string()),
        ("shard", pa.int32()),
        ("first_packet", pa.int64()),
        ("num_packets", pa.int64()),
        ("captured_twice", pa.bool_()),
        ("wire_bytes", pa.int64()),
        ("ip_version", pa.uint8()),
        ("protocol", pa.uint8()),
        ("client_ip", pa.string()),
        ("client_port", pa.uint16()),
        ("server_ip", pa.string()),
        ("server_port", pa.uint16()),
        ("start_ts_ns", pa.int64()),
        ("duration_ns", pa.int64()),
        ("seed", pa.uint64()),
        ("repair_distance", pa.float64()),
        ("answerable_bits", pa.int64()),
        ("corrected_bits", pa.map_(pa.string(), pa.int32())),
        ("assigned_bits", pa.map_(pa.string(), pa.int32())),
        ("rows_after_end", pa.int32()),
        ("kind", pa.string()),
        ("has_dialogue", pa.bool_()),
        ("sampled", pa.list_(pa.string())),
    ]
)
"""A row a flow. `service` is that of the plan, empty if there was none; `first_packet` counts in
the shard's capture from 0; of a flow that is `captured_twice` every packet stands twice, and
`num_packets` counts both; `wire_bytes` holds Ethernet headers; ICMP's ports are 0;
`corrected_bits` and `assigned_bits` are what repair changed, by field, those the model answers for
and those it does not; `rows_after_end` were drawn behind the flow's end and dropped; `kind` is what
the flow was to speak, empty without ports, and `has_dialogue` says whether its payloads do: where
no dialogue has the drawn order or lengths, and where the kind is opaque, they mean nothing;
`sampled` names what the layout lacks: repair drew times from the service's, and derived directions
from the ports."""

Endpoint = tuple[str, int]
"""Address, as text, and port; the port is 0 where the protocol has none."""
FlowKey = tuple[int, Endpoint, Endpoint]
"""See `flow_key`."""
PCAP, PCAPML = "pcap", "pcapml"
"""Forms of captures: nanosecond pcap; and pcapng whose packets have pcapML's comments."""
CAPTURE_SUFFIXES = {PCAP: ".pcap", PCAPML: ".pcapng"}
LABEL_FOLDER = "label="
"""Begins the name of the folder that holds a label's captures."""
LABELS_FOLDER = "labels/"
"""Folder of a pcap dataset for the labels of each shard's flows, as CSV."""
LABEL_COLUMNS = (
    "src_ip", "src_port", "dst_ip", "dst_port", "protocol", "start", "end", "label", "flow_id",
)  # fmt: skip
"""Columns of `labels_csv`; `flow_id` is that of the index, `protocol` a number of IANA's."""
TRUTH_COLUMNS = ("host", "incident")
"""What labels of a scene's flows have besides: the name of the client, and of the incident that the
flow is of, empty if it is of none."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What goes into one shard."""

    number: int
    """Position of the shard in its dataset, from 0."""
    label: str
    data: np.ndarray
    """uint8: captured bytes of all packets."""
    start: np.ndarray
    """(P,) int64: first byte of each packet in `data`, flow after flow."""
    caplen: np.ndarray
    """(P,) int64."""
    wirelen: np.ndarray
    """(P,) int64."""
    ts_ns: np.ndarray
    """(P,) int64: absolute, see `schedule_packets`."""
    order: np.ndarray
    """(P,) int64: permutation in which to write the packets."""
    first: np.ndarray
    """(N + 1,) int64: first packet of each flow, the last element P."""
    flows: pa.Table
    """N rows of FLOW_SCHEMA."""
    quarantine: list[dict] = field(default_factory=list)
    """A record for each flow that could not be made, with its `reason`."""
    truth: Mapping[str, list[str]] = field(default_factory=dict)
    """TRUTH_COLUMNS of the N flows if they are of a scene, by name."""
    drawn: pa.Table | None = None
    """What the model drew, before repair, as rows of an encoded dataset; None if that is not
    kept."""


def shard_name(number: int) -> str:
    """Return `part-NNNNN`."""
    return f"part-{number:05d}"


def index_name(number: int) -> str:
    """Return the name of a shard's flow index in the dataset."""
    return f"flows/{shard_name(number)}.parquet"


def capture_name(label: str, number: int, form: str = PCAP) -> str:
    """Return the name of a shard's capture in the dataset; the label is percent-encoded, as is
    usual for folders that stand for a column's value."""
    folder = f"{LABEL_FOLDER}{quote(label, safe=' ')}"
    return f"{folder}/{shard_name(number)}{CAPTURE_SUFFIXES[form]}"


def drawn_name(number: int) -> str:
    """Return the name in the dataset of what was drawn for a shard."""
    return f"{DRAWN_FOLDER}{shard_name(number)}.parquet"


def captures_among(files: Iterable[str]) -> list[str]:
    """Return the captures among the names of a dataset's files, in order."""
    return [name for name in files if name.startswith(LABEL_FOLDER)]


def labels_name(number: int) -> str:
    """Return the name of a shard's labels in the dataset."""
    return f"{LABELS_FOLDER}{shard_name(number)}.csv"


def labels_csv(
    flows: pa.Table, truth: Mapping[str, list[str]] | None = None, *, heading: bool = True
) -> bytes:
    """Return the labels of flows as CSV (RFC 4180, lines end with a line feed), a line a flow.

    The columns are LABEL_COLUMNS, then those of `truth`. Source is the client; `start` and `end`
    are the times of the flow's first and last packet in seconds since 1970-01-01 UTC, with nine
    decimals.

    Args:
        flows: rows of FLOW_SCHEMA.
        truth: further columns, by name.
        heading: whether a line with the names of the columns comes first.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    truth = truth or {}
    if heading:
        writer.writerow([*LABEL_COLUMNS, *truth])
    copied = ("client_ip", "client_port", "server_ip", "server_port", "protocol")
    start_ns = flows["start_ts_ns"].to_numpy()
    end_ns = start_ns + flows["duration_ns"].to_numpy()
    writer.writerows(
        zip(
            *(flows[name].to_pylist() for name in copied),
            map(seconds_text, start_ns.tolist()),
            map(seconds_text, end_ns.tolist()),
            flows["label"].to_pylist(),
            flows["flow_id"].to_pylist(),
            *truth.values(),
            strict=True,
        )
    )
    return text.getvalue().encode()


def seconds_text(ts_ns: int) -> str:
    """Return nanoseconds as seconds with nine decimals, exactly."""
    return f"{ts_ns // 10**9}.{ts_ns % 10**9:09d}"


class Scratch:
    """Memory that one shard after another is written from."""

    def __init__(self):
        self._buffer = np.empty(0, np.uint8)

    def room(self, num_bytes: int) -> np.ndarray:
        """Return uint8 of `num_bytes`, its content undefined."""
        if len(self._buffer) < num_bytes:
            self._buffer = np.empty(num_bytes + num_bytes // 4, np.uint8)
        return self._buffer[:num_bytes]


def write_shard(
    store: Store,
    shard: Shard,
    config: dict,
    *,
    pcap_per_flow: bool = False,
    form: str = PCAP,
    scratch: Scratch | None = None,
) -> int:
    """Write a shard's captures, drawings, labels and then its index, each whole; return the bytes.

    The same shard gives the same bytes, so that writing it again changes nothing.

    Args:
        config: the run's resolved configuration, kept in the index.
        pcap_per_flow: a capture a flow, `label=<label>/part-NNNNN/<flow_id>.pcap`.
        form: PCAP, or PCAPML, which has one capture a shard.
        scratch: to be reused from shard to shard.

    Raises:
        StorageError: the store cannot be written.
    """
    files = {}
    scratch = scratch or Scratch()
    for name, chosen in _captures(shard, pcap_per_flow, form):
        content = _pcap(shard, chosen, scratch) if form == PCAP else _pcapml(shard)
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        store.put(name, content.data)
    if shard.drawn is not None:
        name, content = drawn_name(shard.number), _parquet(shard.drawn)
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": content.size}
        store.put(name, content)
    flows = shard.flows.select(FLOW_SCHEMA.names).cast(FLOW_SCHEMA)
    name, content = labels_name(shard.number), labels_csv(flows, shard.truth)
    files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    store.put(name, content)
    metadata = part_metadata(
        config, files=files, quarantine=shard.quarantine, counts={shard.label: _counts(flows)}
    )
    index = _parquet(flows.replace_schema_metadata(metadata))
    store.put(index_name(shard.number), index)
    return sum(f["bytes"] for f in files.values()) + index.size


def _parquet(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _counts(flows: pa.Table) -> dict[str, float]:
    return {
        "flows": len(flows),
        "packets": int(flows["num_packets"].to_numpy().sum()),
        "wire_bytes": int(flows["wire_bytes"].to_numpy().sum()),
        "repair_distance": float(flows["repair_distance"].to_numpy().sum()),
    }


def _pcap(shard: Shard, chosen: np.ndarray, scratch: Scratch) -> np.ndarray:
    """Return uint8 of a pcap of packets, valid until the scratch is used again."""
    header = np.frombuffer(pcap_header(), np.uint8)
    caplen = shard.caplen[chosen]
    content = scratch.room(len(header) + pcap_record_bytes(caplen))
    content[: len(header)] = header
    pcap_records(
        shard.data, shard.start[chosen], caplen, shard.wirelen[chosen], shard.ts_ns[chosen],
        content[len(header) :],
    )  # fmt: skip
    return content


def _pcapml(shard: Shard) -> np.ndarray:
    """Return uint8 of a pcapng of all packets of a shard, with pcapML's comments."""
    flow_of = np.repeat(np.arange(len(shard.flows)), np.diff(shard.first))[shard.order]
    ids, labels = (shard.flows[name].to_pylist() for name in ("flow_id", "label"))
    comments = list(map(sample_comment, ids, labels)) or [b""]
    sink = io.BytesIO()
    packets = (column[shard.order] for column in (shard.start, shard.caplen, shard.wirelen))
    CaptureWriter(sink, "pcapng").write(
        shard.data, *packets, shard.ts_ns[shard.order], ETHERNET, joined_comments(comments, flow_of)
    )
    return np.frombuffer(sink.getbuffer(), np.uint8)


def _captures(shard: Shard, pcap_per_flow: bool, form: str) -> list[tuple[str, np.ndarray]]:
    """Return (name, packets to write in order) of each capture of a shard."""
    whole = capture_name(shard.label, shard.number, form)
    if not pcap_per_flow:
        return [(whole, shard.order)]
    folder = whole.removesuffix(".pcap")
    ids = shard.flows["flow_id"].to_pylist()
    return [
        (f"{folder}/{flow_id}.pcap", np.arange(shard.first[k], shard.first[k + 1]))
        for k, flow_id in enumerate(ids)
    ]


def addresses(rows: np.ndarray) -> tuple[list[str], list[str]]:
    """Return source and destination of (P,) HEADER_ROW, as text."""
    sources, targets = [], []
    for version, header in zip(rows["version"].tolist(), rows["network"], strict=True):
        octets = header.tobytes()
        if version == 4:
            sources.append(inet_ntop(AF_INET, octets[IPV4_SRC:IPV4_DST]))
            targets.append(inet_ntop(AF_INET, octets[IPV4_DST:IPV4_HEADER_BYTES]))
        else:
            sources.append(inet_ntop(AF_INET6, octets[IPV6_SRC:IPV6_DST]))
            targets.append(inet_ntop(AF_INET6, octets[IPV6_DST:IPV6_HEADER_BYTES]))
    return sources, targets


def endpoints(rows: np.ndarray) -> tuple[list[Endpoint], list[Endpoint]]:
    """Return source and destination of (P,) HEADER_ROW."""
    has_ports = np.isin(rows["protocol"], (IPPROTO_TCP, IPPROTO_UDP))
    sources, targets = addresses(rows)
    ports = [
        np.where(has_ports, words16(rows["transport"], at), 0).tolist() for at in (SPORT, DPORT)
    ]
    return list(zip(sources, ports[0], strict=True)), list(zip(targets, ports[1], strict=True))


def flow_key(protocol: int, one: Endpoint, other: Endpoint) -> FlowKey:
    """Return what both directions of a flow share: protocol and endpoints, the lower one first."""
    return (protocol, *sorted((one, other)))


def row_endpoints(row: dict) -> tuple[Endpoint, Endpoint]:
    """Return client and server of a row of FLOW_SCHEMA."""
    return (row["client_ip"], row["client_port"]), (row["server_ip"], row["server_port"])
