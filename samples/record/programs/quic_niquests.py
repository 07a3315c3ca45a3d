"""Fetch over HTTP/3 with niquests: quic_niquests.py CA VISIT... (visits as in quic_client.py)."""

import sys
from urllib.parse import urlsplit

import niquests


def main() -> None:
    """Make each visit in a session that knows beforehand that its host speaks HTTP/3."""
    ca, *urls = sys.argv[1:]
    for url in urls:
        parts = urlsplit(url)
        with niquests.Session() as session:
            session.quic_cache_layer.add_domain(parts.hostname)
            for path in parts.path.lstrip("/").split(","):
                session.get(f"https://{parts.hostname}/{path}", timeout=12, verify=ca)


if __name__ == "__main__":
    main()
