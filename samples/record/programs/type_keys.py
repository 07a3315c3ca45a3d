"""Type into a program on a terminal of its own: type_keys.py KEYS_JSON ARGV...

KEYS_JSON holds [pause in s, text] pairs; typing begins when the program has said something.
"""

import json
import os
import pty
import select
import sys
import time
from pathlib import Path


def listen(terminal: int, until_s: float) -> bool:
    """Read the program's output until that time; return whether it still runs."""
    while True:
        wait_s = until_s - time.monotonic()
        if wait_s <= 0:
            return True
        if select.select([terminal], [], [], wait_s)[0]:
            try:
                if not os.read(terminal, 65536):
                    return False
            except OSError:
                return False


def main() -> None:
    """Run the program and type the keys."""
    keys = json.loads(Path(sys.argv[1]).read_text())
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(sys.argv[2], sys.argv[2:])
    select.select([terminal], [], [], 8)
    for pause_s, text in keys:
        if not listen(terminal, time.monotonic() + pause_s):
            break
        os.write(terminal, text.encode())
    listen(terminal, time.monotonic() + 5)


if __name__ == "__main__":
    main()
