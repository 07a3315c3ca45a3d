"""Pcap datasets on any file system: shards, their flow index, the manifest, resume, verify.

DATASET/
  label=<label>/part-NNNNN.pcap   nanosecond pcap, Ethernet; or part-NNNNN/<flow>.pcap; or
                                  part-NNNNN.pcapng, packets with pcapML's comments
  drawn/part-NNNNN.parquet        what was drawn for it, before repair, where that is kept
  labels/part-NNNNN.csv           5-tuple, start, end, label and id of each flow of that shard
  flows/part-NNNNN.parquet        a row a flow of that shard; written after its other files
  quarantine.jsonl                what could not be made into packets, and why
  manifest.json                   written last; what it does not list does not exist
"""
