"""Shards of made flows, as a run would write them."""

import numpy as np
import pyarrow as pa
from packet_builders import pcap, read, tcp4, udp4

from netdiff_ray.generation.schedule import schedule_packets
from netdiff_ray.storage.shards import FLOW_SCHEMA, Shard, addresses

NAMES = ["flows/part-00000.parquet", "flows/part-00001.parquet"]
CONFIG = {"label": "web", "flows": 6, "height": 64}


def made_shard(tmp_path, number, *, label="web", order="sequential", num_flows=3):
    """Return a shard of UDP and TCP flows whose addresses and lengths depend on its number."""
    packets, counts = [], []
    for k in range(num_flows):
        size = 2 + k
        counts.append(size)
        client = f"10.0.{number}.{k + 1}"
        for j in range(size):
            if k % 2:
                packets.append((j, 0, udp4(bytes(j), source=client, sport=4000 + k)))
            else:
                packets.append((j, 0, tcp4(0x18 if j else 2, bytes(j), source=client, sport=4000)))
    _, columns, rows = read(tmp_path / "made.pcap", pcap(packets))
    data = np.frombuffer(b"".join(p for _, _, p in packets), np.uint8)
    first = np.concatenate([[0], np.cumsum(counts)])
    ts_ns, permutation = schedule_packets(
        columns["ts_ns"], first, order=order, start_ns=10**18, flows_per_second=2.0, seed=number
    )
    start = np.concatenate([[0], np.cumsum(columns["caplen"])[:-1]])
    firsts = rows[first[:-1]]
    sources, targets = addresses(firsts)
    position = np.argsort(permutation)
    columns_of = {
        "flow_id": [f"{number:04x}{k:04x}" for k in range(num_flows)],
        "label": [label] * num_flows,
        "service": ["tcp-443"] * num_flows,
        "shard": [number] * num_flows,
        "first_packet": position[first[:-1]],
        "num_packets": counts,
        "captured_twice": [False] * num_flows,
        "wire_bytes": np.add.reduceat(columns["wirelen"], first[:-1]),
        "ip_version": [4] * num_flows,
        "protocol": firsts["protocol"],
        "client_ip": sources,
        "client_port": firsts["transport"][:, 0].astype(int) * 256 + firsts["transport"][:, 1],
        "server_ip": targets,
        "server_port": firsts["transport"][:, 2].astype(int) * 256 + firsts["transport"][:, 3],
        "start_ts_ns": ts_ns[first[:-1]],
        "duration_ns": ts_ns[first[1:] - 1] - ts_ns[first[:-1]],
        "seed": np.arange(num_flows, dtype=np.uint64),
        "repair_distance": [0.0] * num_flows,
        "answerable_bits": [100] * num_flows,
        "corrected_bits": [[("tcp_doff", 1)]] * num_flows,
        "assigned_bits": [[]] * num_flows,
        "rows_after_end": [0] * num_flows,
        "kind": ["tls"] * num_flows,
        "has_dialogue": [k > 0 for k in range(num_flows)],
        "sampled": [[]] * num_flows,
    }
    return Shard(
        number=number, label=label, data=data, start=start, caplen=columns["caplen"],
        wirelen=columns["wirelen"], ts_ns=ts_ns, order=permutation, first=first,
        flows=pa.table(columns_of, schema=FLOW_SCHEMA),
        quarantine=[{"shard": number, "reason": "empty"}],
    )  # fmt: skip
