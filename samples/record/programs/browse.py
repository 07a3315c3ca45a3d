"""Fetch pages with httpx and read them: browse.py CA HTTP2 PAUSE_S URL..."""

import sys
import time

import httpx


def main() -> None:
    """Fetch the pages over one client, with a pause after each."""
    ca, http2, pause_s, *urls = sys.argv[1:]
    with httpx.Client(verify=ca, http2=http2 == "True", timeout=15) as client:
        for url in urls:
            client.get(url)
            time.sleep(float(pause_s))


if __name__ == "__main__":
    main()
