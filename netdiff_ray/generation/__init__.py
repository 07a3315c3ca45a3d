"""Plans to the shards of a pcap dataset."""
