"""The columnar view of a run of capture records.

Shape letters: P records.
"""

from dataclasses import dataclass, fields

import numpy as np


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
    """(P,) int32: bytes from the packet's first to its IP header, -1 where there is none."""
    transport: np.ndarray
    """(P,) int32: bytes to the transport header, -1 where there is none (later fragments too)."""
    version: np.ndarray
    """(P,) uint8: 4, 6, or 0."""
    protocol: np.ndarray
    """(P,) uint8: IP protocol number after the extension headers; meaningless without `version`."""
    fragment: np.ndarray
    """(P,) uint8: 0 whole, 1 first fragment, 2 later fragment."""
    fragment_id: np.ndarray
    """(P,) uint32: the identification that ties fragments together, 0 for whole packets."""
    ether_type: np.ndarray
    """(P,) uint16: EtherType (or PPP protocol) of what is no IP packet, else 0."""
    reason: np.ndarray
    """(P,) uint8: a `Reason`; 0 where the record gives a row."""

    def __len__(self) -> int:
        return len(self.start)

    def packet(self, i: int) -> bytes:
        """The captured bytes of record `i`."""
        begin = int(self.start[i])
        return self.data[begin : begin + int(self.caplen[i])].tobytes()

    def first(self, num_records: int) -> "PacketTable":
        """The table of the first `num_records` records, sharing memory."""
        columns = {
            f.name: getattr(self, f.name)[:num_records] for f in fields(self) if f.name != "data"
        }
        return PacketTable(data=self.data, **columns)
