"""Payload bytes: what fills the drawn lengths.

Shape letters: N flows, P packets.
"""

import numba
import numpy as np

from netdiff_ray.repair.bits import FOR_PAYLOAD, draw, mix
from netdiff_ray.repair.frames import DNS, OPAQUE, QUIC, RTP, TEXT, TLS
from netdiff_ray.repair.frames import ZEROS as ZERO_KIND

FRAMED, ZEROS, RANDOM, NONE = range(4)
"""Payload modes, in the order of `PAYLOAD_MODES`."""

_STEP = np.uint64(0x9E3779B97F4A7C15)
_LARGEST_RECORD = 16_384
_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz      ", np.uint8)


@numba.njit(cache=True)
def fill_random(data, at, length, word):
    """Write `length` random bytes at data[at], from a uint64."""
    end = at + length
    while at + 8 <= end:
        word += _STEP
        value = mix(word)
        data[at] = value & np.uint64(255)
        data[at + 1] = (value >> np.uint64(8)) & np.uint64(255)
        data[at + 2] = (value >> np.uint64(16)) & np.uint64(255)
        data[at + 3] = (value >> np.uint64(24)) & np.uint64(255)
        data[at + 4] = (value >> np.uint64(32)) & np.uint64(255)
        data[at + 5] = (value >> np.uint64(40)) & np.uint64(255)
        data[at + 6] = (value >> np.uint64(48)) & np.uint64(255)
        data[at + 7] = (value >> np.uint64(56)) & np.uint64(255)
        at += 8
    value = mix(word + _STEP)
    while at < end:
        data[at] = value & np.uint64(255)
        value >>= np.uint64(8)
        at += 1


@numba.njit(cache=True)
def fill_tls(data, at, length, state):
    """Write TLS application data records (RFC 8446 section 5.1) over random bytes.

    `state` is (body bytes of the record still to come, header bytes written, its length): a
    record goes on in its sender's next segment where a segment ends inside it.
    """
    end = at + length
    while at < end:
        if state[0]:
            step = min(state[0], end - at)
            at += step
            state[0] -= step
            continue
        if state[1] == 0:
            rest = end - at - 5
            state[2] = min(rest, _LARGEST_RECORD) if rest > 0 else 32
        if state[1] == 0:
            data[at] = 23
        elif state[1] <= 2:
            data[at] = 3
        else:
            data[at] = (state[2] >> (8 * (4 - state[1]))) & 255
        at += 1
        state[1] += 1
        if state[1] == 5:
            state[0], state[1] = state[2], 0


@numba.njit(cache=True)
def fill_dns(data, at, length, word, transaction, reply):
    """Write a DNS message (RFC 1035) of exactly `length` bytes, at least 17: one
    question, and an OPT record with padding (RFC 6891, RFC 7830) where there is room."""
    for k in range(12):
        data[at + k] = 0
    data[at] = (transaction >> 8) & 255
    data[at + 1] = transaction & 255
    data[at + 2] = 0x81 if reply else 0x01
    data[at + 3] = 0x80 if reply else 0
    data[at + 5] = 1
    spare = length - 17
    name, padding = spare, -1
    if spare >= 15:
        name = 0
        if spare >= 15 + 8:
            name = min(spare - 15, 8 + np.int64(word & np.uint64(7)))
        padding = spare - name - 15
    elif spare == 11:
        name, padding = 0, 0
    j = at + 12
    if name:
        data[j] = name - 1
        for k in range(1, name):
            data[j + k] = 97 + np.int64((word >> np.uint64(4 * k)) % np.uint64(26))
        j += name
    data[j] = 0
    data[j + 1], data[j + 2] = 0, 1
    data[j + 3], data[j + 4] = 0, 1
    j += 5
    if spare == 11 or spare >= 15:
        data[at + 11] = 1
        data[j] = 0
        data[j + 1], data[j + 2] = 0, 41
        data[j + 3], data[j + 4] = 4, 208
        for k in range(5, 11):
            data[j + k] = 0
        j += 11
        if spare >= 15:
            data[j - 2], data[j - 1] = (padding + 4) >> 8, (padding + 4) & 255
            data[j], data[j + 1] = 0, 12
            data[j + 2], data[j + 3] = padding >> 8, padding & 255
            for k in range(j + 4, at + length):
                data[k] = 0


@numba.njit(cache=True)
def fill(data, at, length, mode, kind, seed, packet, side, counts, state):
    """Write the payload of one TCP or UDP packet.

    Args:
        mode: FRAMED, ZEROS, or RANDOM.
        kind: of the flow's server port.
        packet: number of the packet in its flow.
        counts: (2,) packets with payload that each side has sent before this one.
        state: (2, 4) int64, where each side's stream stands; zeros at the flow's start.
    """
    if length == 0:
        return
    if mode == ZEROS or (mode == FRAMED and kind == ZERO_KIND):
        for k in range(at, at + length):
            data[k] = 0
        return
    word = draw(seed, FOR_PAYLOAD, packet)
    fill_random(data, at, length, word)
    if mode == RANDOM:
        return
    if kind == TLS:
        fill_tls(data, at, length, state[side])
    elif kind == OPAQUE:
        for k in range(at, at + min(length, 4)):
            data[k] = 0xFF
    elif kind == TEXT:
        for k in range(at, at + length):
            data[k] = _LETTERS[data[k] & 31]
    elif kind == QUIC:
        data[at] = 0x40 | (data[at] & 0x3F)
    elif kind == DNS:
        first = np.int64(draw(seed, FOR_PAYLOAD, -1) & np.uint64(0xFFFF))
        fill_dns(data, at, length, word, first + counts[side], side == 1)
    elif kind == RTP:
        data[at], data[at + 1] = 0x80, 96
        number = counts[side]
        data[at + 2], data[at + 3] = (number >> 8) & 255, number & 255
        clock = number * 960
        for k in range(4):
            data[at + 4 + k] = (clock >> (24 - 8 * k)) & 255
            data[at + 8 + k] = np.int64(seed >> np.uint64(8 * k + side)) & 255
    counts[side] += 1
