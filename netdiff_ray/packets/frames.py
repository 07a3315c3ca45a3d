"""Header rows as Ethernet frames that hold the headers and nothing else.

The way back from nprint: every bit that the layout keeps stands in the frame as it was,
right or wrong; making packets valid is repair's work. Shape letters: P packets.
"""

import numba
import numpy as np

_ETHERNET_BYTES = 14
_MAX_FRAME_BYTES = _ETHERNET_BYTES + 60 + 12 + 60


def header_frames(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The frames of header rows, payloads left out as a snap length would.

    Where an IPv6 header names an extension header, whose bytes nprint does not keep, one
    of the least size is put between it and the transport header, so that reading the frame
    gives the same row.

    Args:
        rows: (P,) HEADER_ROW; those of version 0 give an empty frame.

    Returns:
        uint8 data, (P,) int64 start, (P,) int64 captured bytes, (P,) int64 wire length.
    """
    data = np.zeros((len(rows), _MAX_FRAME_BYTES), np.uint8)
    caplen = np.empty(len(rows), np.int64)
    _fill_frames(
        rows["network"], rows["network_len"], rows["transport"], rows["transport_len"],
        rows["version"], rows["protocol"], rows["fragment"], data, caplen,
    )  # fmt: skip
    start = np.arange(len(rows), dtype=np.int64) * _MAX_FRAME_BYTES
    wirelen = np.maximum(caplen, rows["wirelen"].astype(np.int64) + _ETHERNET_BYTES)
    return data.ravel(), start, caplen, np.where(caplen > 0, wirelen, 0)


@numba.njit(cache=True)
def _fill_frames(
    network, network_len, transport, transport_len, version, protocol, fragment, data, caplen
):
    for i in range(len(version)):
        if version[i] == 0:
            caplen[i] = 0
            continue
        frame = data[i]
        for j in range(6):  # locally administered addresses
            frame[j] = 0x02 if j == 0 else (2 if j == 5 else 0)
            frame[6 + j] = 0x02 if j == 0 else (1 if j == 5 else 0)
        frame[12] = 0x08 if version[i] == 4 else 0x86
        frame[13] = 0x00 if version[i] == 4 else 0xDD
        at = _ETHERNET_BYTES
        for j in range(network_len[i]):
            frame[at + j] = network[i, j]
        at += network_len[i]
        inner = protocol[i] if protocol[i] in (1, 6, 17, 58) else np.uint8(6)
        if version[i] == 6 and network_len[i] == 40:
            extension = network[i, 6]
            if extension == 51:  # RFC 4302: length in 4-byte units less 2, SPI, sequence, no ICV
                frame[at] = inner
                frame[at + 1] = 1
                at += 12
            elif extension in (0, 43, 44, 60, 135, 139, 140):
                frame[at] = inner
                if extension == 44 and fragment[i] == 2:
                    frame[at + 3] = 8  # offset of one unit of 8 bytes
                elif extension in (0, 60):
                    frame[at + 2] = 1  # PadN of 4 bytes (RFC 8200)
                    frame[at + 3] = 4
                at += 8
        for j in range(transport_len[i]):
            frame[at + j] = transport[i, j]
        caplen[i] = at + transport_len[i]
