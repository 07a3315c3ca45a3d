"""Comments of packets: the option opt_comment of pcapng's enhanced packet blocks.

Format: draft-ietf-opsawg-pcapng, sections 3.5 and 4.3; of pcapML's comments, the README of
github.com/nprint/pcapml.

Shape letters: P records or packets, C comments.
"""

from collections.abc import Sequence

import numpy as np

from netdiff_ray.packets.table import PacketTable
from netdiff_ray.packets.writer import Comments

_ENHANCED_PACKET = 6
_FIXED_BYTES = 28  # of an enhanced packet block, before the packet
_COMMENT, _END_OF_OPTIONS = 1, 0
_MOST_OPTIONS = 64


def sample_comment(flow_id: str, label: str) -> bytes:
    """Return the comment that pcapML has on the packets of a sample: its id, a decimal number of
    64 bits, which are the first of the flow id; and its label."""
    return f"{int(flow_id[:16], 16)},{label}".encode()


def joined_comments(comments: Sequence[bytes], of_packet: np.ndarray) -> Comments:
    """Return the comments of packets.

    Args:
        comments: C different ones.
        of_packet: (P,) int64: the comment of each packet.
    """
    first = np.cumsum([0, *map(len, comments)])
    data = np.frombuffer(b"".join(comments), np.uint8)
    return Comments(data, first.astype(np.int64), of_packet.astype(np.int64))


def packet_comments(table: PacketTable) -> list[str]:
    """Return the first comment of each record of a pcapng file, "" without one."""
    data, block = table.data, table.start - _FIXED_BYTES
    big_endian = data[block] == 0
    enhanced = _unsigned(data, block, 4, big_endian) == _ENHANCED_PACKET
    end = block + _unsigned(data, block + 4, 4, big_endian) - 4
    option = table.start + (table.caplen + 3) // 4 * 4
    begin, size = np.zeros(len(table), np.int64), np.zeros(len(table), np.int64)
    for _ in range(_MOST_OPTIONS):
        open_ = enhanced & (option + 4 <= end)
        if not open_.any():
            break
        at = np.where(open_, option, block)
        code, length = (_unsigned(data, at + k, 2, big_endian) for k in (0, 2))
        found = open_ & (code == _COMMENT) & (at + 4 + length <= end)
        begin[found], size[found] = at[found] + 4, length[found]
        enhanced = open_ & ~found & (code != _END_OF_OPTIONS)
        option = at + 4 + (length + 3) // 4 * 4
    raw = data.tobytes() if size.any() else b""
    return [
        raw[a : a + n].decode("utf-8", errors="replace").rstrip("\0")
        for a, n in zip(begin.tolist(), size.tolist(), strict=True)
    ]


def _unsigned(data: np.ndarray, at: np.ndarray, size: int, big_endian: np.ndarray) -> np.ndarray:
    """Return (P,) int64: the unsigned integers of `size` bytes at data[at]."""
    octets = [data[at + k].astype(np.int64) for k in range(size)]
    little = sum(octet << (8 * k) for k, octet in enumerate(octets))
    big = sum(octet << (8 * k) for k, octet in enumerate(reversed(octets)))
    return np.where(big_endian, big, little)
