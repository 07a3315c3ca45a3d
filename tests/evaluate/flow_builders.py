"""Flows that tests make: labels that differ in sizes, lengths and times."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from packet_builders import pcap, read, tcp4, udp4

from netdiff_ray.encoding.windows import encoded_table
from netdiff_ray.evaluate.flow_blocks import FlowBlock, blocks_of_windows
from netdiff_ray.flows import assemble_flows
from netdiff_ray.nprint import LAYOUTS

LABELS = ("chat", "video", "web")


def made_capture(label, num_flows, seed, *, network=10):
    """Return the bytes of a capture of flows between addresses of one network."""
    kind = LABELS.index(label)
    random = np.random.default_rng([seed, kind])
    packets = []
    for k in range(num_flows):
        client, server = f"{network}.{kind}.{k // 250}.{k % 250 + 1}", f"{network}.9.9.{kind + 1}"
        at_us = k * 100_000_000
        for j in range(int(random.integers(2, 5 + 2 * kind))):
            at_us += int(random.exponential(10_000 * (kind + 1)))
            size = int(random.integers(10, 40 + 300 * kind))
            ends = (client, server) if random.random() < 0.6 or j == 0 else (server, client)
            ports = {"sport": 1000, "dport": 80} if ends[0] == client else {
                "sport": 80, "dport": 1000}  # fmt: skip
            make = udp4 if kind == 1 else tcp4
            head = () if kind == 1 else (0x18 if j else 2,)
            frame = make(*head, bytes(size), source=ends[0], target=ends[1], **ports)
            packets.append((at_us // 1_000_000, at_us % 1_000_000, frame))
    return pcap(packets)


def made_windows(tmp_path, label, num_flows, seed, **options):
    """Return windows of a made capture."""
    height = options.pop("height", 1024)
    name = tmp_path / f"{label}-{seed}.pcap"
    reader, _, rows = read(name, made_capture(label, num_flows, seed, **options))
    return list(assemble_flows([rows], reader.fingerprint, height=height))


def made_blocks(tmp_path, num_flows, seed, labels=LABELS):
    """Return a block a label."""
    return [
        block
        for label in labels
        for block in blocks_of_windows(made_windows(tmp_path, label, num_flows, seed), label)
    ]


def made_table(tmp_path, num_flows, seed, layout="stateful", labels=LABELS, **options):
    """Return an encoded dataset of made flows."""
    return pa.concat_tables(
        [
            encoded_table(windows, LAYOUTS[layout], label=label, capture=f"{label}.pcap")
            for label in labels
            for windows in made_windows(tmp_path, label, num_flows, seed, **options)
        ]
    )


def chosen_flows(block: FlowBlock, chosen) -> FlowBlock:
    """Return the block of some of a block's flows."""
    return block.take(np.asarray(chosen, np.int64))


def renamed(blocks, salt):
    """Return the same flows under other ids."""
    return [replace(b, key=b.key ^ np.uint64(salt)) for b in blocks]
