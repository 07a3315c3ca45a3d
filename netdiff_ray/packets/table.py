"""The columnar view of a run of capture records.

Shape letters: P records.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np


class Reason(IntEnum):
    """Why a record gives no row; OK where it gives one."""

    OK = 0
    EMPTY = 1
    BAD_INTERFACE = 2
    LINK_TYPE = 3
    LINK_CUT = 4
    NOT_IP = 5
    VERSION = 6
    NETWORK_CUT = 7
    HEADER_LENGTH = 8
    EXTENSION_CUT = 9
    PROTOCOL = 10

    @property
    def words(self) -> str:
        """The reason as a user reads it."""
        return REASON_WORDS[self]


REASON_WORDS = {
    Reason.OK: "read",
    Reason.EMPTY: "record of no bytes",
    Reason.BAD_INTERFACE: "names an interface that its section lacks",
    Reason.LINK_TYPE: "link type not read",
    Reason.LINK_CUT: "cut inside the link header",
    Reason.NOT_IP: "not IP",
    Reason.VERSION: "IP version is not what the link header says",
    Reason.NETWORK_CUT: "cut inside the IP header",
    Reason.HEADER_LENGTH: "IPv4 header length under 20 bytes",
    Reason.EXTENSION_CUT: "cut inside an IPv6 extension header",
    Reason.PROTOCOL: "protocol other than TCP, UDP, ICMP, ICMPv6",
}

WHOLE, FIRST_FRAGMENT, LATER_FRAGMENT = 0, 1, 2
"""Values of a `fragment` column."""


class RecordColumns(NamedTuple):
    """The columns of a `PacketTable`, as kernels take them."""

    start: np.ndarray
    caplen: np.ndarray
    wirelen: np.ndarray
    offset: np.ndarray
    ts_ns: np.ndarray
    link_type: np.ndarray
    network: np.ndarray
    transport: np.ndarray
    version: np.ndarray
    protocol: np.ndarray
    fragment: np.ndarray
    fragment_id: np.ndarray
    ether_type: np.ndarray
    reason: np.ndarray
    tunnels: np.ndarray

    @classmethod
    def empty(cls, num_records: int) -> "RecordColumns":
        """Return columns with room for `num_records`, values undefined."""
        return cls(**{name: np.empty(num_records, kind) for name, kind in _TYPES.items()})

    def first(self, num_records: int) -> "RecordColumns":
        """Return the columns of the first `num_records` records, sharing memory."""
        return RecordColumns(*(column[:num_records] for column in self))


_TYPES = {
    "start": np.int64, "caplen": np.int64, "wirelen": np.int64, "offset": np.int64,
    "ts_ns": np.int64, "link_type": np.uint16, "network": np.int32, "transport": np.int32,
    "version": np.uint8, "protocol": np.uint8, "fragment": np.uint8,
    "fragment_id": np.uint32, "ether_type": np.uint16, "reason": np.uint8, "tunnels": np.uint8,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PacketTable:
    """A chunk of consecutive records of one capture, one array element a record.

    `data` and every column are buffers that the reader fills anew for the next
    chunk: copy what must outlive the iteration.
    """

    data: np.ndarray
    """(bytes,) uint8: the chunk of the capture that the records lie in."""
    start: np.ndarray
    """(P,) int64: index in `data` of the packet's first captured byte."""
    caplen: np.ndarray
    """(P,) int64: captured bytes."""
    wirelen: np.ndarray
    """(P,) int64: bytes on the wire, as the record says."""
    offset: np.ndarray
    """(P,) int64: byte offset of the record in the (decompressed) capture."""
    ts_ns: np.ndarray
    """(P,) int64: nanoseconds since 1970-01-01 UTC."""
    link_type: np.ndarray
    """(P,) uint16: LINKTYPE_ number."""
    network: np.ndarray
    """(P,) int32: bytes from the packet's first to its IP header, -1 without it."""
    transport: np.ndarray
    """(P,) int32: bytes to the transport header, -1 without it (as in later fragments)."""
    version: np.ndarray
    """(P,) uint8: 4, 6, or 0."""
    protocol: np.ndarray
    """(P,) uint8: IP protocol number after the extension headers; meaningless without `version`."""
    fragment: np.ndarray
    """(P,) uint8: WHOLE, FIRST_FRAGMENT or LATER_FRAGMENT."""
    fragment_id: np.ndarray
    """(P,) uint32: the identification that ties fragments together, 0 for whole packets."""
    ether_type: np.ndarray
    """(P,) uint16: EtherType (or PPP protocol) of what is no IP packet, else 0."""
    reason: np.ndarray
    """(P,) uint8: a `Reason`; 0 where the record gives a row."""
    tunnels: np.ndarray
    """(P,) uint8: the tunnels that were followed to the packet, bits of `tunnels.TUNNELS`."""

    def __len__(self) -> int:
        return len(self.start)

    @property
    def columns(self) -> RecordColumns:
        """Every column, sharing memory."""
        return RecordColumns(*(getattr(self, name) for name in RecordColumns._fields))

    def packet(self, i: int) -> bytes:
        """Return the captured bytes of record `i`."""
        begin = int(self.start[i])
        return self.data[begin : begin + int(self.caplen[i])].tobytes()

    def first(self, num_records: int) -> "PacketTable":
        """Return the table of the first `num_records` records, sharing memory."""
        return PacketTable(data=self.data, **self.columns.first(num_records)._asdict())
