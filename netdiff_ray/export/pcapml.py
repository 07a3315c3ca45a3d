"""Captures of pcapML (nprint/pcapml): pcapng whose packets have their sample's id and label as a
comment, `id,label`, as its README shows them.

Times are in nanoseconds, as the interface says.
"""

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from netdiff_ray.errors import DatasetError
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.comments import joined_comments, sample_comment
from netdiff_ray.packets.headers import header_rows
from netdiff_ray.packets.linktypes import ETHERNET
from netdiff_ray.packets.writer import CaptureWriter
from netdiff_ray.storage.shards import endpoints, flow_key, row_endpoints
from netdiff_ray.storage.store import Store


class _Sink(NamedTuple):
    """A file to write to."""

    write: Callable[[bytes | memoryview], None]


def pcapml_writer(write: Callable[[bytes | memoryview], None]) -> CaptureWriter:
    """Return the writer of a file that has its section header and its interface, Ethernet."""
    writer, none = CaptureWriter(_Sink(write), "pcapng"), np.empty(0, np.int64)
    writer.write(np.empty(0, np.uint8), none, none, none, none, ETHERNET)
    return writer


def add_capture(writer: CaptureWriter, store: Store, name: str, flows: Sequence[dict]) -> None:
    """Append the packets of a capture of a dataset.

    Args:
        flows: rows of FLOW_SCHEMA of its shard.

    Raises:
        DatasetError: the capture is missing or damaged, or has packets of no flow.
    """
    comments = [sample_comment(row["flow_id"], row["label"]) for row in flows]
    number_of = {flow_key(row["protocol"], *row_endpoints(row)): k for k, row in enumerate(flows)}
    content = store.get(name)
    if content is None:
        raise DatasetError(f"{store.uri}: {name} is missing")
    reader = CaptureReader(io.BytesIO(content), name=f"{store.uri}: {name}")
    for table in reader:
        rows = header_rows(table)
        keys = map(flow_key, rows["protocol"].tolist(), *endpoints(rows))
        try:
            of_packet = np.array([number_of[key] for key in keys], np.int64)
        except KeyError as error:
            raise DatasetError(
                f"{store.uri}: {name} has packets of {error}, which its index does not list"
            ) from None
        if len(of_packet) != len(table):
            raise DatasetError(f"{store.uri}: {name} has records that are no packets")
        writer.write(
            table.data, table.start, table.caplen, table.wirelen, table.ts_ns, ETHERNET,
            joined_comments(comments, of_packet),
        )  # fmt: skip
    if reader.fault is not None:
        raise DatasetError(str(reader.fault))
