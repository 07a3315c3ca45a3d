"""Parts of datasets as tables of windows, rows of `encoded_schema`.

Shape letters: P packets.
"""

import io
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from netdiff_ray.encoding.windows import encoded_schema, encoded_table
from netdiff_ray.errors import DatasetError
from netdiff_ray.flow_state import packet_states
from netdiff_ray.flows import NO_IDLE_TIMEOUT_S, Windows, assemble_flows
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.duplicates import without_duplicates
from netdiff_ray.packets.headers import header_rows
from netdiff_ray.storage.manifest import read_part_metadata
from netdiff_ray.storage.shards import captures_among, endpoints, flow_key, row_endpoints
from netdiff_ray.storage.store import Store

WHOLE_FLOWS = 1 << 62
"""A height that no flow exceeds."""


def read_encoded_part(name: str, *, store: Store) -> pa.Table:
    """Return the windows of a part of an encoded dataset.

    Raises:
        DatasetError: it is missing, or no Parquet file.
    """
    try:
        return pq.read_table(pa.BufferReader(_content(store, name)))
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{store.uri}: {name} is no readable Parquet file: {error}") from None


def read_shard(index: str, *, store: Store, layout: Layout, height: int) -> pa.Table:
    """Return the windows of the flows of a shard of a pcap dataset, under the ids of its index,
    without packets that were captured before, as encoding leaves them out.

    Args:
        index: name of the shard's flow index.

    Raises:
        DatasetError: a file is missing, or packets and index do not belong together.
    """
    tables = [encoded_schema(layout).empty_table()]
    for name, flows, windows in shard_windows(index, store=store, height=height, once=True):
        label = flows["label"][0].as_py()
        tables.append(encoded_table(windows, layout, label=label, capture=name))
    return pa.concat_tables(tables)


def shard_windows(
    index: str, *, store: Store, height: int = WHOLE_FLOWS, once: bool = False
) -> Iterator[tuple[str, pa.Table, Windows]]:
    """Yield (name, rows of FLOW_SCHEMA, windows) of each capture of a shard, windows under the
    flow ids of its index.

    Args:
        index: name of the shard's flow index.
        height: most packets of a window; unless given, a flow is a window.
        once: whether packets that were captured before are left out.

    Raises:
        DatasetError: a file is missing, or packets and index do not belong together.
    """
    content = pa.BufferReader(_content(store, index))
    part = read_part_metadata(content)
    if part is None:
        raise DatasetError(f"{store.uri}: {index} is no flow index")
    table = pq.read_table(content)
    flows = table.to_pylist()
    for name in captures_among(part["files"]) if flows else ():
        reader = CaptureReader(io.BytesIO(_content(store, name)), name=f"{store.uri}: {name}")
        chunks = (header_rows(table) for table in reader)
        if once:
            chunks = without_duplicates(chunks)
        batches = list(assemble_flows(chunks, reader.fingerprint, idle_timeout_s=NO_IDLE_TIMEOUT_S))
        if reader.fault is not None:
            raise DatasetError(str(reader.fault))
        try:
            windows = _windows_of(batches, flows, height)
        except KeyError as error:
            raise DatasetError(
                f"{store.uri}: {name} has packets of {error}, which {index} does not list; "
                "verify tells what else differs"
            ) from None
        yield name, table, windows


def _windows_of(batches: Sequence[Windows], flows: Sequence[dict], height: int) -> Windows:
    """Return the windows of the flows as the index has them: all packets between two endpoints,
    where `assemble_flows` tells exchanges of ICMP apart by their identifiers.

    Args:
        batches: all windows of a capture.
        flows: rows of FLOW_SCHEMA.
        height: most packets of a window.

    Raises:
        KeyError: the flow key of packets that no row has.
    """
    number_of = {flow_key(row["protocol"], *row_endpoints(row)): k for k, row in enumerate(flows)}
    rows = np.concatenate([batch.rows for batch in batches])
    direction = np.concatenate([batch.direction for batch in batches])
    counts = np.concatenate([np.diff(batch.first) for batch in batches])
    begins = np.cumsum(counts) - counts
    sources, targets = endpoints(rows[begins])
    protocols = rows["protocol"][begins].tolist()
    keys = map(flow_key, protocols, sources, targets)
    numbers = np.array([number_of[key] for key in keys], np.int64)
    clients = [row_endpoints(flows[number])[0] for number in numbers]
    from_server = np.array([s != c for s, c in zip(sources, clients, strict=True)], np.uint8)
    direction ^= np.repeat(direction[begins] ^ from_server, counts)
    order = np.lexsort((rows["ts_ns"], np.repeat(numbers, counts)))
    num_packets = np.bincount(numbers, counts, len(flows)).astype(np.int64)
    return _cut(
        rows[order], direction[order], [row["flow_id"] for row in flows], num_packets, height
    )


def _cut(
    rows: np.ndarray, direction: np.ndarray, ids: Sequence[str], counts: np.ndarray, height: int
) -> Windows:
    """Return windows of at most `height` packets, of flows that lie one after another.

    Args:
        rows: (P,) HEADER_ROW.
        direction: (P,) uint8.
        ids: of the flows.
        counts: of the packets of each flow.
    """
    num_windows = -(-counts // height)
    flow = np.repeat(np.arange(len(counts)), num_windows)
    window = np.arange(len(flow)) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
    begins = (np.cumsum(counts) - counts)[flow]
    interarrival_ns = np.diff(rows["ts_ns"], prepend=0)
    interarrival_ns[begins] = 0
    flow_first = np.append(np.cumsum(counts) - counts, len(rows))
    return Windows(
        rows=rows,
        direction=direction,
        interarrival_ns=interarrival_ns,
        state=packet_states(rows, direction, interarrival_ns, flow_first),
        first=np.append(begins + window * height, len(rows)),
        flow_id=[ids[k] for k in flow],
        window=window.astype(np.int32),
        is_last=window == num_windows[flow] - 1,
        flow_start_ns=rows["ts_ns"][begins],
    )


def _content(store: Store, name: str) -> bytes:
    content = store.get(name)
    if content is None:
        raise DatasetError(f"{store.uri}: {name} is missing")
    return content
