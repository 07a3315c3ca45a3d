"""Look names up with dnspython: lookup.py ADDRESS PADDED NAME..."""

import socket
import sys

import dns.message
import dns.query
import dns.resolver


def main() -> None:
    """Ask for one to three kinds of records of each name in turn, over one socket."""
    address, padded, *names = sys.argv[1:]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.setblocking(False)
        for name in names:
            for kind in ("A", "AAAA", "TXT")[: 1 + len(name) % 3]:
                padding = 128 if padded == "True" else 0
                question = dns.message.make_query(name, kind, use_edns=0, pad=padding)
                try:
                    dns.query.udp(question, address, timeout=3, sock=one)
                except dns.exception.Timeout:
                    continue


if __name__ == "__main__":
    main()
