"""Pcap datasets in the forms that other tools read.

run           `netdiff export` as a function
replay        packets on a network interface, at their times
merge         one capture in time order
zeek          conn.log, as TSV and as JSON
nfstream      features of flows under NFStream's names
ipfix         IPFIX messages
pcapml        pcapng with the flow and the label of each packet
huggingface   a folder for Hugging Face's `datasets`
directions    packets, bytes, times and flags of each direction of flows
show          flows and their packets as tables and a picture
target        the folder that is written to
connections   what Zeek says of connections, from their packets
"""
