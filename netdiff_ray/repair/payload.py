"""Payload bytes that are no messages: of given lengths, zeros, random or what readers ignore."""

import numba
import numpy as np

from netdiff_ray.repair.fillers import PRINTABLE, SPARSE, TEXT
from netdiff_ray.repair.fillers import ZEROS as ZERO_FILLER
from netdiff_ray.repair.splitmix import FOR_PAYLOAD, draw, mix

DIALOGUE, ZEROS, RANDOM, NONE = range(4)
"""Payload modes, in the order of `PAYLOAD_MODES`."""

_STEP = np.uint64(0x9E3779B97F4A7C15)
_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz      ", np.uint8)
_PRINTABLE = np.frombuffer(
    b"ABCDEFGHIKLMNOPRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_ ,", np.uint8
)
_SPARSE = np.concatenate(
    [np.zeros(112), np.tile(np.arange(1, 9), 6), np.full(16, 255), np.arange(16, 96)]
).astype(np.uint8)
"""Bytes of records and small numbers, as often as they are drawn: many zeros, and 3/4 of all below
64; 256 of them."""
_CLTP_UNIT_DATA = 0x40
"""Upper half of the second byte of a datagram that makes Wireshark look for R-GOOSE over the
connectionless transport protocol (ISO 8602), whatever the port."""


@numba.njit(cache=True)
def fill_random(data, at, length, word):
    """Write `length` random bytes at data[at], from a uint64."""
    rest = at + length // 8 * 8
    words = data[at:rest].view(np.uint64)
    for k in range(len(words)):
        word += _STEP
        words[k] = mix(word)
    value = mix(word + _STEP)
    for k in range(rest, at + length):
        data[k] = value & np.uint64(255)
        value >>= np.uint64(8)


@numba.njit(cache=True)
def fill(data, at, length, mode, filler, seed, packet):
    """Write the payload of a TCP or UDP packet that is no message of a dialogue.

    Args:
        mode: DIALOGUE, ZEROS, or RANDOM.
        filler: see `fillers`, for DIALOGUE.
        packet: number of the packet in its flow.
    """
    if mode == ZEROS or (mode == DIALOGUE and filler == ZERO_FILLER):
        for k in range(at, at + length):
            data[k] = 0
        return
    fill_random(data, at, length, draw(seed, FOR_PAYLOAD, packet))
    if length > 1 and data[at + 1] & 0xF0 == _CLTP_UNIT_DATA:
        data[at + 1] ^= 0x80
    if mode == RANDOM:
        return
    if filler == TEXT:
        for k in range(at, at + length):
            data[k] = _LETTERS[data[k] & 31]
    elif filler == PRINTABLE:
        for k in range(at, at + length):
            data[k] = _PRINTABLE[data[k] & 63]
    else:
        if filler == SPARSE:
            for k in range(at, at + length):
                data[k] = _SPARSE[data[k]]
        for k in range(at, at + min(length, 4)):
            data[k] = 0xFF
