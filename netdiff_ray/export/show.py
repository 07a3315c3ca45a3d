"""The flows of a dataset or a capture, and the packets of one of them, as tables and a picture.

Shape letters: P packets, H x W pixels.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from netdiff_ray.config.show import ShowConfig
from netdiff_ray.datasets.parts import shard_windows
from netdiff_ray.encoding.windows import encoded_table, labelled_windows, layout_of_table, unpack
from netdiff_ray.errors import CaptureError, ConfigError, DataError, DatasetError
from netdiff_ray.flow_state import payload_bytes
from netdiff_ray.flows import Windows, assemble_flows
from netdiff_ray.header_bytes import (
    ACK,
    ICMP_CODE,
    ICMP_TYPE,
    IPPROTO_TCP,
    IPPROTO_UDP,
    TCP_ACKN,
    TCP_FLAGS,
    TCP_HEADER_BYTES,
    TCP_SEQ,
    TCP_WSIZE,
    UDP_HEADER_BYTES,
    UDP_LEN,
    get16,
    get32,
)
from netdiff_ray.labels.counts import count_windows
from netdiff_ray.labels.window_plans import captured_plans, planned_window
from netdiff_ray.local.inspect import PROTOCOL_NAMES, aligned
from netdiff_ray.nprint.layouts import HEIGHTS, Layout, layout_named
from netdiff_ray.packets import CaptureReader, header_rows
from netdiff_ray.raster import to_rgb
from netdiff_ray.storage.manifest import PCAP_DATASET, open_dataset
from netdiff_ray.storage.shards import drawn_name, endpoints
from netdiff_ray.storage.store import Store, open_store

_FLAG_NAMES = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
_ARROWS = ("->", "<-")
_CAPTION_PIXELS, _GAP_PIXELS, _SCALE = 14, 6, 2


class ShownFlow(NamedTuple):
    """A flow with its first packets."""

    flow_id: str
    label: str
    window: Windows
    """A single window."""
    num_packets: int
    """Of the whole flow."""
    drawn: np.ndarray | None = None
    """(P, B) int8 as it was drawn, in `drawn_layout`; None where that is not kept."""
    drawn_layout: Layout | None = None


def show(config: ShowConfig) -> str:
    """Return the table that the configuration asks for, and write its picture, if any.

    Raises:
        ConfigError: a picture is asked for and no flow is named.
        DataError: no such flow, or several whose ids begin so.
        CaptureError, DatasetError: the source cannot be read.
    """
    needs_flow = ConfigError(
        "a picture shows one flow: give its id; without picture they are listed"
    )
    if os.path.isfile(config.source):
        flows = list(_flows_of_capture(config))
        if config.flow_id is None and len(flows) != 1:
            if config.picture is not None:
                raise needs_flow
            return _list_of([_summary(flow) for flow in flows], config.most)
        flow = _chosen([f for f in flows if f.flow_id.startswith(config.flow_id or "")], config)
    else:
        store = open_store(config.source)
        if config.flow_id is None:
            if config.picture is not None:
                raise needs_flow
            return _list_of(list(_index_summaries(store, config.most)), config.most)
        flow = _flow_of_dataset(store, config)
    if config.picture is not None:
        write_picture(config.picture, flow, layout_named(config.layout))
    return packet_table(flow, config.most)


def _chosen(flows: Sequence[ShownFlow], config: ShowConfig) -> ShownFlow:
    """Return the only flow; raise DataError if there is none or another."""
    if len(flows) != 1:
        what = f"{len(flows):,} flows have ids" if flows else "no flow has an id"
        raise DataError(
            f"{config.source}: {what} that begin with {config.flow_id!r}; netdiff show without "
            "an id lists them"
        )
    return flows[0]


def _flows_of_capture(config: ShowConfig) -> Iterator[ShownFlow]:
    """Yield the flows of a capture, each with its first window."""
    reader = CaptureReader(Path(config.source))
    chunks = (header_rows(table) for table in reader)
    firsts: dict[str, Windows] = {}
    counts: dict[str, int] = {}
    for batch in assemble_flows(
        chunks, reader.fingerprint, idle_timeout_s=config.idle_timeout_s, height=HEIGHTS[-1]
    ):
        for k, id in enumerate(batch.flow_id):
            counts[id] = counts.get(id, 0) + int(batch.first[k + 1] - batch.first[k])
            if batch.window[k] == 0:
                firsts[id] = _window(batch, k)
    if reader.fault is not None and not firsts:
        raise CaptureError(reader.fault.name, reader.fault.what, reader.fault.offset)
    for id, window in firsts.items():
        yield ShownFlow(id, "", window, counts[id])


def _window(windows: Windows, k: int) -> Windows:
    """Return one of some windows."""
    packets = slice(int(windows.first[k]), int(windows.first[k + 1]))
    return Windows(
        rows=windows.rows[packets], direction=windows.direction[packets],
        interarrival_ns=windows.interarrival_ns[packets], state=windows.state[packets],
        first=np.array([0, packets.stop - packets.start]), flow_id=[windows.flow_id[k]],
        window=windows.window[k : k + 1], is_last=windows.is_last[k : k + 1],
        flow_start_ns=windows.flow_start_ns[k : k + 1],
    )  # fmt: skip


def _index_summaries(store: Store, most: int) -> Iterator[tuple]:
    """Yield the first rows of the flow list of a dataset, one more than `most`."""
    left = most + 1
    for name in open_dataset(store, PCAP_DATASET).part_names:
        for row in _index(store, name).slice(0, left).to_pylist():
            left -= 1
            yield (
                row["flow_id"], row["label"], PROTOCOL_NAMES.get(row["protocol"], row["protocol"]),
                _endpoint(row["client_ip"], row["client_port"]),
                _endpoint(row["server_ip"], row["server_port"]), f"{row['num_packets']:,}",
                f"{row['duration_ns'] / 1e9:.6f}",
            )  # fmt: skip
        if not left:
            return


def _index(store: Store, name: str, columns: list[str] | None = None) -> pa.Table:
    content = store.get(name)
    if content is None:
        raise DatasetError(f"{store.uri}: {name} is missing")
    return pq.read_table(pa.BufferReader(content), columns=columns)


def _flow_of_dataset(store: Store, config: ShowConfig) -> ShownFlow:
    """Return the flow of a dataset whose id begins as asked."""
    found = []
    for name in open_dataset(store, PCAP_DATASET).part_names:
        ids = _index(store, name, ["flow_id"])["flow_id"]
        mask = pc.starts_with(ids, config.flow_id)
        if pc.any(mask).as_py():
            wanted = set(ids.filter(mask).to_pylist())
            found += _flows_of_shard(store, name, wanted)
    return _chosen(found, config)


def _flows_of_shard(store: Store, name: str, wanted: set[str]) -> Iterator[ShownFlow]:
    """Yield the flows of a shard with these ids, each with its first window."""
    for _, flows, windows in shard_windows(name, store=store, height=HEIGHTS[-1]):
        row_of = {row["flow_id"]: row for row in flows.to_pylist()}
        for k, id in enumerate(windows.flow_id):
            if id in wanted and windows.window[k] == 0:
                row = row_of[id]
                drawn, layout = _drawn(store, row)
                yield ShownFlow(
                    id, row["label"], _window(windows, k), row["num_packets"], drawn, layout
                )


def _drawn(store: Store, row: dict) -> tuple[np.ndarray | None, Layout | None]:
    """Return what was drawn for the first window of a flow, and its layout, where it is kept."""
    content = store.get(drawn_name(row["shard"]))
    if content is None:
        return None, None
    table = pq.read_table(pa.BufferReader(content))
    layout = layout_of_table(table.schema)
    rows = table.filter(
        pc.and_(pc.equal(table["flow_id"], row["flow_id"]), pc.equal(table["window"], 0))
    )
    return (unpack(rows["nprint"][0].as_py(), layout), layout) if len(rows) else (None, None)


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _summary(flow: ShownFlow) -> tuple:
    """Return a row of the list of a capture's flows."""
    rows = flow.window.rows
    ends = [ends[0] for ends in endpoints(rows[:1])]
    client, server = ends[::-1] if flow.window.direction[0] else ends
    protocol = int(rows["protocol"][0])
    return (
        flow.flow_id, flow.label or "-", PROTOCOL_NAMES.get(protocol, protocol),
        _endpoint(*client), _endpoint(*server), f"{flow.num_packets:,}",
        f"{(rows['ts_ns'][-1] - rows['ts_ns'][0]) / 1e9:.6f}",
    )  # fmt: skip


def _list_of(rows: Sequence[tuple], most: int) -> str:
    """Return the list of flows as text."""
    head = ("flow id", "label", "protocol", "client", "server", "packets", "seconds")
    text = aligned([head, *([str(cell) for cell in row] for row in rows[:most])])
    return text + "\n... and more; --most shows them" * (len(rows) > most)


def packet_table(flow: ShownFlow, most: int) -> str:
    """Return the packets of a flow as text; sequence numbers count from each side's first."""
    rows, direction = flow.window.rows, flow.window.direction
    num = min(most, len(rows))
    client, server = (_summary(flow)[k] for k in (3, 4))
    lines = [f"{flow.flow_id} {flow.label}: {_summary(flow)[2]}, {client} -> {server}", ""]
    base: dict[int, int] = {}
    table = [("", "seconds", "", "bytes", "payload", "content")]
    for i in range(num):
        side = int(direction[i])
        payload, content = _content_of(rows, i, side, base)
        seconds = (int(rows["ts_ns"][i]) - int(rows["ts_ns"][0])) / 1e9
        table.append(
            (
                str(i + 1),
                f"{seconds:.6f}",
                _ARROWS[side],
                f"{rows['wirelen'][i]:,}",
                payload,
                content,
            )
        )
    lines.append(aligned(table))
    if num < flow.num_packets:
        lines.append(f"... {flow.num_packets - num:,} more packets")
    return "\n".join(lines)


def _content_of(rows: np.ndarray, i: int, side: int, base: dict[int, int]) -> tuple[str, str]:
    """Return the payload bytes and the words of packet `i`; `base` has each side's first sequence
    number."""
    transport, protocol = rows["transport"], int(rows["protocol"][i])
    if protocol == IPPROTO_UDP and rows["transport_len"][i] >= UDP_HEADER_BYTES:
        return f"{get16(transport, i, UDP_LEN) - UDP_HEADER_BYTES:,}", "UDP"
    if protocol != IPPROTO_TCP:
        kind, code = transport[i, ICMP_TYPE], transport[i, ICMP_CODE]
        return "", f"{PROTOCOL_NAMES.get(protocol, protocol)} type {kind} code {code}"
    if rows["transport_len"][i] < TCP_HEADER_BYTES:
        return "", "TCP, fragment or cut"
    flags, seq = int(transport[i, TCP_FLAGS]), int(get32(transport, i, TCP_SEQ))
    base.setdefault(side, seq)
    names = [name for bit, name in enumerate(_FLAG_NAMES) if flags >> bit & 1]
    words = [f"{' '.join(names) or 'no flags'}", f"seq {(seq - base[side]) % (1 << 32):,}"]
    if flags & ACK:
        ack = int(get32(transport, i, TCP_ACKN))
        words.append(f"ack {(ack - base.get(1 - side, ack)) % (1 << 32):,}")
    words.append(f"win {get16(transport, i, TCP_WSIZE):,}")
    size = payload_bytes(rows["network"], transport, int(rows["version"][i]), i)
    return f"{size:,}", ", ".join(words)


def write_picture(path: Path, flow: ShownFlow, layout: Layout) -> None:
    """Write the raster of a flow's first window, what was drawn for it, and its control image, one
    under the other, as a PNG.

    The plan is the one that generation would draw for such a flow, as the flow shows it.
    """
    from netdiff_ray.diffusion.control import plan_pictures

    table = encoded_table(flow.window, layout, label=flow.label or "flow", capture="shown")
    windows = labelled_windows(table, layout)
    plans = captured_plans(count_windows(windows, HEIGHTS[-1]))
    (key, plan), *_ = plans.items()
    sample = planned_window(key[0], plan, 0, len(windows.nprint[0]))
    panels = [(f"raster, layout {layout.name}", to_rgb(windows.nprint[0]))]
    if flow.drawn is not None:
        panels.append((f"drawn, layout {flow.drawn_layout.name}", to_rgb(flow.drawn)))
    panels.append(("control image: the plan", plan_pictures([sample], layout.width)[0]))
    _stacked(panels).save(path, format="PNG")


def _stacked(panels: Sequence[tuple[str, np.ndarray]]) -> Image.Image:
    """Return (caption, (H, W, 3) uint8) pairs, enlarged, one under the other."""
    width = _SCALE * max(pixels.shape[1] for _, pixels in panels)
    step = _CAPTION_PIXELS + _GAP_PIXELS
    height = sum(_SCALE * len(pixels) + step for _, pixels in panels)
    picture = Image.new("RGB", (width, height), "white")
    at = 0
    for caption, pixels in panels:
        ImageDraw.Draw(picture).text((2, at + 1), caption, fill="black")
        size = (_SCALE * pixels.shape[1], _SCALE * len(pixels))
        enlarged = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
        picture.paste(enlarged, (0, at + _CAPTION_PIXELS))
        at += size[1] + step
    return picture
