"""Header rows as Ethernet frames that hold the headers and nothing else.

The way back from nprint: every bit that the layout keeps stands in the frame as it was,
right or wrong; repair makes packets valid. Shape letters: P packets.
"""

import numba
import numpy as np

from netdiff_ray.header_bytes import (
    IPPROTO_AH,
    IPPROTO_DSTOPTS,
    IPPROTO_FRAGMENT,
    IPPROTO_HIP,
    IPPROTO_HOPOPTS,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_MOBILITY,
    IPPROTO_ROUTING,
    IPPROTO_SHIM6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPV6_HEADER_BYTES,
    IPV6_NH,
    MAX_HEADER_BYTES,
)
from netdiff_ray.packets.table import LATER_FRAGMENT

_ETHERNET_BYTES = 14
_AH_BYTES = 12
_MAX_FRAME_BYTES = _ETHERNET_BYTES + MAX_HEADER_BYTES + _AH_BYTES + MAX_HEADER_BYTES


def header_frames(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the frames of header rows, payloads left out as a snap length would.

    Where an IPv6 header names an extension header, whose bytes nprint does not keep, an
    extension header of the least size is put before the transport header, so that reading the frame
    gives the same row.

    Args:
        rows: (P,) HEADER_ROW; those of version 0 give an empty frame.

    Returns:
        uint8 data, (P,) int64 start, (P,) int64 captured bytes, (P,) int64 wire length.
    """
    data = np.zeros((len(rows), _MAX_FRAME_BYTES), np.uint8)
    caplen = np.empty(len(rows), np.int64)
    _fill_frames(rows, data, caplen)
    start = np.arange(len(rows), dtype=np.int64) * _MAX_FRAME_BYTES
    wirelen = np.maximum(caplen, rows["wirelen"].astype(np.int64) + _ETHERNET_BYTES)
    return data.ravel(), start, caplen, np.where(caplen > 0, wirelen, 0)


@numba.njit(cache=True)
def _fill_frames(rows, data, caplen):
    """Write each row's frame into `data` (P, bytes) and its length into `caplen` (P,)."""
    for i in range(len(rows)):
        row = rows[i]
        network, transport = row.network, row.transport
        if row.version == 0:
            caplen[i] = 0
            continue
        frame = data[i]
        for j in range(6):  # locally administered addresses
            frame[j] = 0x02 if j == 0 else (2 if j == 5 else 0)
            frame[6 + j] = 0x02 if j == 0 else (1 if j == 5 else 0)
        frame[12] = 0x08 if row.version == 4 else 0x86
        frame[13] = 0x00 if row.version == 4 else 0xDD
        at = _ETHERNET_BYTES
        for j in range(row.network_len):
            frame[at + j] = network[j]
        at += row.network_len
        if row.version == 6 and row.network_len == IPV6_HEADER_BYTES:
            at = _put_extension(network[IPV6_NH], row.protocol, row.fragment, frame, at)
        for j in range(row.transport_len):
            frame[at + j] = transport[j]
        caplen[i] = at + row.transport_len


@numba.njit(cache=True, inline="always")  # a call here doubles the time of every packet
def _put_extension(extension, protocol, fragment, frame, at):
    """Write the extension header that an IPv6 header names, if it names one; return the
    position after it."""
    if protocol not in (IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMPV6):
        protocol = np.uint8(IPPROTO_TCP)
    if extension == IPPROTO_AH:  # RFC 4302: length in 4-byte units less 2, SPI, sequence, no ICV
        frame[at] = protocol
        frame[at + 1] = 1
        return at + _AH_BYTES
    if extension not in (
        IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_FRAGMENT, IPPROTO_DSTOPTS, IPPROTO_MOBILITY,
        IPPROTO_HIP, IPPROTO_SHIM6,
    ):  # fmt: skip
        return at
    frame[at] = protocol
    if extension == IPPROTO_FRAGMENT and fragment == LATER_FRAGMENT:
        frame[at + 3] = 8  # offset of one unit of 8 bytes
    elif extension == IPPROTO_HOPOPTS or extension == IPPROTO_DSTOPTS:
        frame[at + 2] = 1  # PadN of 4 bytes (RFC 8200)
        frame[at + 3] = 4
    return at + 8
