"""Captures of pcapML (nprint/pcapml): pcapng whose packets have their sample's id and label as a
comment, `id,label`, as its README shows them.

The id is the flow id of the index as a decimal number; times are in nanoseconds, as the interface
says. Format of blocks and options: draft-ietf-opsawg-pcapng.

Shape letters: P packets.
"""

import io
import struct
from collections.abc import Iterator, Mapping

import numpy as np

from netdiff_ray.errors import DatasetError
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.headers import header_rows
from netdiff_ray.packets.table import PacketTable
from netdiff_ray.packets.writer import CaptureWriter
from netdiff_ray.storage.shards import FlowKey, endpoints, flow_key, row_endpoints
from netdiff_ray.storage.store import Store

_ENHANCED_PACKET, _COMMENT, _END = 6, 1, 0
_FIXED_BYTES = 32


def file_head() -> bytes:
    """Return the section header and the interface, Ethernet with times in nanoseconds."""
    sink = io.BytesIO()
    none = np.empty(0, np.int64)
    CaptureWriter(sink, "pcapng").write(np.empty(0, np.uint8), none, none, none, none, 1)
    return sink.getvalue()


def comments_of(flows: list[dict]) -> dict[FlowKey, bytes]:
    """Return the comment of each flow, rows of FLOW_SCHEMA, by its key."""
    return {
        flow_key(row["protocol"], *row_endpoints(row)): (
            f"{int(row['flow_id'][:16], 16)},{row['label']}".encode()
        )
        for row in flows
    }


def packet_blocks(store: Store, name: str, comments: Mapping[FlowKey, bytes]) -> Iterator[bytes]:
    """Yield the packets of a capture as blocks, some at a time.

    Raises:
        DatasetError: the capture is missing or damaged, or has packets of no flow.
    """
    content = store.get(name)
    if content is None:
        raise DatasetError(f"{store.uri}: {name} is missing")
    reader = CaptureReader(io.BytesIO(content), name=f"{store.uri}: {name}")
    for table in reader:
        rows = header_rows(table)
        keys = map(flow_key, rows["protocol"].tolist(), *endpoints(rows))
        try:
            of_packet = [comments[key] for key in keys]
        except KeyError as error:
            raise DatasetError(
                f"{store.uri}: {name} has packets of {error}, which its index does not list"
            ) from None
        if len(of_packet) != len(table):
            raise DatasetError(f"{store.uri}: {name} has records that are no packets")
        yield b"".join(_block(table, i, comment) for i, comment in enumerate(of_packet))
    if reader.fault is not None:
        raise DatasetError(str(reader.fault))


def _block(table: PacketTable, i: int, comment: bytes) -> bytes:
    """Return packet `i` as an enhanced packet block with a comment."""
    packet, ts_ns = table.packet(i), int(table.ts_ns[i])
    options = struct.pack("<HH", _COMMENT, len(comment)) + _padded(comment)
    options += struct.pack("<HH", _END, 0)
    data = _padded(packet)
    length = _FIXED_BYTES + len(data) + len(options)
    head = struct.pack(
        "<IIIIIII", _ENHANCED_PACKET, length, 0, ts_ns >> 32, ts_ns & 0xFFFFFFFF, len(packet),
        int(table.wirelen[i]),
    )  # fmt: skip
    return head + data + options + struct.pack("<I", length)


def _padded(content: bytes) -> bytes:
    """Return bytes, filled up to a multiple of 4."""
    return content + bytes(-len(content) % 4)
