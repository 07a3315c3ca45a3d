"""Look names up with dnspython: lookup.py ADDRESS PADDED NAME..."""

import sys

import dns.message
import dns.query
import dns.resolver


def main() -> None:
    """Ask for A and TXT records of each name in turn."""
    address, padded, *names = sys.argv[1:]
    for name in names:
        for kind in ("A", "TXT"):
            question = dns.message.make_query(name, kind, use_edns=0, payload=1400,
                                              pad=128 if padded == "True" else 0)
            try:
                dns.query.udp(question, address, timeout=3)
            except dns.exception.Timeout:
                continue


if __name__ == "__main__":
    main()
