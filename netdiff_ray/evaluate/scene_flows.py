"""The flows of captures as a scene: who speaks with whom when, what was looked up, and volume.

Shape letters: N flows, Q DNS messages, A addresses in answers, P packets.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from netdiff_ray.errors import CaptureError
from netdiff_ray.evaluate.flow_blocks import complete_flows, packets_of_flows
from netdiff_ray.evaluate.scene_names import (
    NO_NAME,
    dns_message,
    hashed_rows,
    requested_name,
)
from netdiff_ray.evaluate.sources import CAPTURES, NEVER_S, Source, Unit
from netdiff_ray.flows import DEFAULT_IDLE_TIMEOUT_S, assemble_flows
from netdiff_ray.header_bytes import (
    DPORT,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV4_ADDRESS_BYTES,
    IPV4_DST,
    IPV4_SRC,
    IPV6_ADDRESS_BYTES,
    IPV6_DST,
    IPV6_SRC,
    SPORT,
    TCP_DOFF,
    TCP_HEADER_BYTES,
    UDP_HEADER_BYTES,
    words16,
)
from netdiff_ray.packets import HEADER_ROW, CaptureReader, PacketTable, header_rows

DNS_PORT, QUIC_PORT = 53, 443
_BEGINS = np.isin(np.arange(256), list(b"\x16GPHDOC"))
"""First bytes of a TLS handshake and of HTTP methods."""
_S_NS = 10**9

SCENE_ROW = np.dtype(
    [*((n, HEADER_ROW.fields[n][0]) for n in HEADER_ROW.names), ("name", "<u8")], align=True
)
"""HEADER_ROW with the hash of the name that a packet's payload requests, else NO_NAME."""


@dataclass(frozen=True, kw_only=True)
class SceneFlows:
    """Flows, lookups and volume of captures; hosts are hashed addresses."""

    capture: np.ndarray = field(default_factory=lambda: np.empty(0, np.str_))
    """(N,) text: which capture each flow is of."""
    start_ns: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    end_ns: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    client: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    server: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    is_connection: np.ndarray = field(default_factory=lambda: np.empty(0, np.bool_))
    """(N,): of TCP, or of QUIC by its port, and not to a DNS server."""
    name: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    """(N,): hash of the name that the client requests, NO_NAME if it cannot be read."""
    asked_ns: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """(Q,): when a DNS message was sent."""
    asker: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    """(Q,): the client of it."""
    asked: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    """(Q,): hash of its name."""
    told_ns: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """(A,): when an address was told."""
    told_to: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    """(A,): the client that asked."""
    told: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    """(A,): hash of the address."""
    volume: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)
    """{(capture, label): {second: bytes on the wire}}."""
    notes: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.start_ns)

    def chosen(self, is_chosen: np.ndarray) -> "SceneFlows":
        """Return the flows where (N,) bool is true, with all lookups and volume."""
        columns = ("capture", "start_ns", "end_ns", "client", "server", "is_connection", "name")
        return SceneFlows(
            **{f.name: getattr(self, f.name) for f in fields(self) if f.name not in columns},
            **{name: getattr(self, name)[is_chosen] for name in columns},
        )


def merge_scenes(parts: Iterable[SceneFlows]) -> SceneFlows:
    """Return the flows of several parts of a source."""
    parts = list(parts) or [SceneFlows()]
    columns = [f.name for f in fields(SceneFlows) if f.name not in ("volume", "notes")]
    volume: dict[tuple[str, str], dict[int, int]] = {}
    for part in parts:
        for key, seconds in part.volume.items():
            own = volume.setdefault(key, {})
            for second, num_bytes in seconds.items():
                own[second] = own.get(second, 0) + num_bytes
    return SceneFlows(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in columns},
        volume=volume, notes=frozenset().union(*(p.notes for p in parts)),
    )  # fmt: skip


def read_scene(source: Source, captures: Sequence[Unit] | None = None) -> SceneFlows:
    """Return the flows of a source's captures, or of some of them."""
    captures = source.captures if captures is None else captures
    idle_timeout_s = DEFAULT_IDLE_TIMEOUT_S if source.kind == CAPTURES else NEVER_S
    return merge_scenes(_read(source, unit, idle_timeout_s) for unit in captures)


def _read(source: Source, capture: Unit, idle_timeout_s: float) -> SceneFlows:
    store, parts = source.store, []
    lookups = _Lookups()
    volume: dict[int, int] = {}
    notes = set()
    try:
        with (
            store.filesystem.open_input_file(store.path(capture.name)) as file,
            CaptureReader(file, name=f"{store.uri}: {capture.name}") as reader,
        ):
            chunks = (_rows(table, lookups, volume) for table in reader)
            batches = assemble_flows(
                chunks, reader.fingerprint, idle_timeout_s=idle_timeout_s, row_type=SCENE_ROW
            )
            for windows in complete_flows(batches):
                parts += [_flows(p.rows, p.direction, p.first, capture.name)
                          for p in packets_of_flows(windows)]  # fmt: skip
            if reader.fault:
                notes.add(f"read in part: {reader.fault}")
    except CaptureError as error:
        notes.add(f"left out: {error}")
    except FileNotFoundError:
        notes.add(f"left out: {store.uri}: {capture.name} is missing")
    parts.append(SceneFlows(
        **lookups.columns(), volume={(capture.name, capture.label): volume},
        notes=frozenset(notes),
    ))  # fmt: skip
    return merge_scenes(parts)


class _Lookups:
    """The DNS messages of a capture, as they are read."""

    def __init__(self):
        self._asked: list[tuple[int, int, int]] = []
        self._told: list[tuple[int, int, int]] = []

    def add(self, ts_ns: int, payload: bytes, source: int, target: int) -> None:
        """Add a message from and to hashed addresses."""
        message = dns_message(payload)
        if message is None:
            return
        if message.is_answer:
            self._told += [(ts_ns, target, address) for address in message.addresses]
        else:
            self._asked.append((ts_ns, source, message.name))

    def columns(self) -> dict[str, np.ndarray]:
        """Return the columns of SceneFlows."""
        names = (("asked_ns", "asker", "asked"), ("told_ns", "told_to", "told"))
        columns = {}
        for (time, *hashes), rows in zip(names, (self._asked, self._told), strict=True):
            columns[time] = np.array([row[0] for row in rows], np.int64)
            for k, name in enumerate(hashes, 1):
                columns[name] = np.array([row[k] for row in rows], np.uint64)
        return columns


def _rows(table: PacketTable, lookups: _Lookups, volume: dict[int, int]) -> np.ndarray:
    """Return (P,) SCENE_ROW of a chunk; add its lookups and the bytes of each second."""
    headers = header_rows(table)
    rows = np.zeros(len(headers), SCENE_ROW)
    for name in HEADER_ROW.names:
        rows[name] = headers[name]
    seconds, inverse = np.unique(rows["ts_ns"] // _S_NS, return_inverse=True)
    of_second = np.bincount(inverse, rows["wirelen"], len(seconds))
    for second, num_bytes in zip(seconds.tolist(), of_second.tolist(), strict=True):
        volume[second] = volume.get(second, 0) + int(num_bytes)

    transport, record = rows["transport"], np.flatnonzero(table.reason == 0)
    is_tcp = (rows["protocol"] == IPPROTO_TCP) & (rows["transport_len"] >= TCP_HEADER_BYTES)
    is_udp = (rows["protocol"] == IPPROTO_UDP) & (rows["transport_len"] >= UDP_HEADER_BYTES)
    header = np.where(is_tcp, (transport[:, TCP_DOFF] >> 4).astype(np.int64) * 4, UDP_HEADER_BYTES)
    begin = table.start[record] + table.transport[record] + header
    end = table.start[record] + table.caplen[record]
    has_payload = begin < end
    first_byte = table.data[np.minimum(begin, len(table.data) - 1)]
    ports = words16(transport, SPORT), words16(transport, DPORT)
    is_dns = is_udp & has_payload & ((ports[0] == DNS_PORT) | (ports[1] == DNS_PORT))
    messages = np.flatnonzero(is_dns)
    hosts = zip(*(column.tolist() for column in _addresses(rows[messages])), strict=True)
    for k, (source, target) in zip(messages.tolist(), hosts, strict=True):
        payload = table.data[begin[k] : end[k]].tobytes()
        lookups.add(int(rows["ts_ns"][k]), payload, source, target)
    for k in np.flatnonzero(is_tcp & has_payload & _BEGINS[first_byte]).tolist():
        rows["name"][k] = requested_name(table.data[begin[k] : end[k]].tobytes())
    return rows


def _addresses(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (P,) uint64: the hashed sources and destinations of rows."""
    network, is_4 = rows["network"], rows["version"] == 4
    return tuple(
        np.where(
            is_4,
            hashed_rows(network[:, at_4 : at_4 + IPV4_ADDRESS_BYTES]),
            hashed_rows(network[:, at_6 : at_6 + IPV6_ADDRESS_BYTES]),
        )
        for at_4, at_6 in ((IPV4_SRC, IPV6_SRC), (IPV4_DST, IPV6_DST))
    )


def _flows(rows: np.ndarray, direction: np.ndarray, first: np.ndarray, capture: str) -> SceneFlows:
    """Return the flows of rows (P,), those of flow k from first[k] to first[k + 1]."""
    begins = first[:-1]
    source, target = _addresses(rows[begins])
    transport, protocol = rows["transport"][begins], rows["protocol"][begins]
    from_client = direction[begins] == 0
    port = np.where(from_client, words16(transport, DPORT), words16(transport, SPORT))
    names = np.where(direction == 0, rows["name"], NO_NAME)
    is_connection = (protocol == IPPROTO_TCP) & (port != DNS_PORT)
    is_connection |= (protocol == IPPROTO_UDP) & (port == QUIC_PORT)
    return SceneFlows(
        capture=np.full(len(begins), capture),
        start_ns=np.minimum.reduceat(rows["ts_ns"], begins).astype(np.int64),
        end_ns=np.maximum.reduceat(rows["ts_ns"], begins).astype(np.int64),
        client=np.where(from_client, source, target),
        server=np.where(from_client, target, source),
        is_connection=is_connection,
        name=np.maximum.reduceat(names.astype(np.uint64), begins),
    )
