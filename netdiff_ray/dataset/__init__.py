"""Pcap datasets on any file system: shards, their flow index, the manifest, resume, verify.

DATASET/
  label=<label>/part-NNNNN.pcap   nanosecond pcap, Ethernet; or part-NNNNN/<flow>.pcap
  flows/part-NNNNN.parquet        a row a flow of that shard; written after its pcap
  quarantine.jsonl                what could not be made into packets, and why
  manifest.json                   written last; what it does not list does not exist
"""

from netdiff_ray.dataset.arrange import arrange
from netdiff_ray.dataset.encoded import encoded_schema, encoded_table, unpack, unpack_all
from netdiff_ray.dataset.manifest import (
    ENCODED_DATASET,
    PCAP_DATASET,
    Dataset,
    commit,
    missing_parts,
    open_dataset,
)
from netdiff_ray.dataset.places import Place, open_place
from netdiff_ray.dataset.shards import FLOW_SCHEMA, Shard, index_name, write_shard
from netdiff_ray.dataset.verify import verify

__all__ = [
    "ENCODED_DATASET",
    "FLOW_SCHEMA",
    "PCAP_DATASET",
    "Dataset",
    "Place",
    "Shard",
    "arrange",
    "commit",
    "encoded_schema",
    "encoded_table",
    "index_name",
    "missing_parts",
    "open_dataset",
    "open_place",
    "unpack",
    "unpack_all",
    "verify",
    "write_shard",
]
