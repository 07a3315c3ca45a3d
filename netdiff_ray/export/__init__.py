"""Pcap datasets in the forms that other tools read.

run           `netdiff export` as a function
merge         one capture in time order
zeek          conn.log, as TSV and as JSON
connections   what Zeek says of connections, from their packets
"""
