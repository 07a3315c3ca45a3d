"""Parts of datasets as tables of windows, rows of `encoded_schema`."""

import io
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from netdiff_ray.encoding.windows import encoded_schema, encoded_table
from netdiff_ray.errors import DatasetError
from netdiff_ray.flows import assemble_flows
from netdiff_ray.nprint.layouts import Layout
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.headers import header_rows
from netdiff_ray.storage.manifest import read_part_metadata
from netdiff_ray.storage.store import Store

_NEVER_S = 1e9


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
    """Return the windows of the flows of a shard of a pcap dataset.

    Their ids are those of the index: no two packets of a shard have the same time, so that the
    start of a flow tells which it is.

    Args:
        index: name of the shard's flow index.

    Raises:
        DatasetError: a file is missing, or packets and index do not belong together.
    """
    content = pa.BufferReader(_content(store, index))
    part = read_part_metadata(content)
    if part is None:
        raise DatasetError(f"{store.uri}: {index} is no flow index")
    flows = pq.read_table(content, columns=["flow_id", "start_ts_ns", "label"])
    flow_ids = dict(
        zip(flows["start_ts_ns"].to_pylist(), flows["flow_id"].to_pylist(), strict=True)
    )
    tables = [encoded_schema(layout).empty_table()]
    for name in part["files"]:
        reader = CaptureReader(io.BytesIO(_content(store, name)), name=f"{store.uri}: {name}")
        chunks = (header_rows(table) for table in reader)
        for batch in assemble_flows(
            chunks, reader.fingerprint, idle_timeout_s=_NEVER_S, height=height
        ):
            unlisted = set(batch.flow_start_ns.tolist()) - set(flow_ids)
            if unlisted:
                raise DatasetError(
                    f"{store.uri}: {name}: a flow that begins at {min(unlisted)} ns is not in "
                    f"{index}; verify tells what else differs"
                )
            named = replace(batch, flow_id=[flow_ids[t] for t in batch.flow_start_ns.tolist()])
            label = flows["label"][0].as_py()
            tables.append(encoded_table(named, layout, label=label, capture=name))
        if reader.fault is not None:
            raise DatasetError(str(reader.fault))
    return pa.concat_tables(tables)


def _content(store: Store, name: str) -> bytes:
    content = store.get(name)
    if content is None:
        raise DatasetError(f"{store.uri}: {name} is missing")
    return content
