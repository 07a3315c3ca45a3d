"""Payload bytes: valid frames, zeros or random bytes of given lengths.

Shape letters: N flows, P packets.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.repair.frames import DHCP, DNS, DNS_STREAM, MQTT, OPAQUE, QUIC, RTP, TEXT, TLS
from netdiff_ray.repair.frames import ZEROS as ZERO_KIND
from netdiff_ray.repair.splitmix import FOR_PAYLOAD, draw, mix

FRAMED, ZEROS, RANDOM, NONE = range(4)
"""Payload modes, in the order of `PAYLOAD_MODES`."""

_STEP = np.uint64(0x9E3779B97F4A7C15)
_LARGEST_FRAME = 16_384
_LEFT, _WRITTEN, _HEADER_BYTES, _FRAMES, _HEADER = range(5)
STREAM_STATE = _HEADER + 36
"""Words of a stream's state: body bytes still to come, header bytes written, header bytes, frames
begun, and the header."""


class Stream(NamedTuple):
    """How far the payload of a flow is written."""

    counts: np.ndarray
    """(2,) int64: packets with payload that each side has sent."""
    state: np.ndarray
    """(2, STREAM_STATE) int64: of each side; zeros at the flow's start."""


_DHCP_COOKIE = np.array([99, 130, 83, 99], np.uint8)
_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz      ", np.uint8)


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
def _begin_frame(kind, body, first, side, state):
    """Put the header of a frame of `body` more bytes into `state`."""
    state[_LEFT] = body
    state[_WRITTEN] = 0
    number = state[_FRAMES]
    state[_FRAMES] += 1
    header = state[_HEADER:]
    if kind == TLS:
        header[0], header[1], header[2] = 23, 3, 3
        header[3], header[4] = body >> 8, body & 255
        state[_HEADER_BYTES] = 5
    elif kind == MQTT:
        header[0] = 0x30
        left = body + 3
        k = 1
        while True:
            header[k] = (left & 127) | (128 if left > 127 else 0)
            left >>= 7
            k += 1
            if left == 0:
                break
        header[k], header[k + 1], header[k + 2] = 0, 1, 116
        state[_HEADER_BYTES] = k + 3
    else:
        _put_dns(header, 2, 32 + body, first + number, side == 1, 0, body, np.uint64(0))
        header[0], header[1] = (32 + body) >> 8, (32 + body) & 255
        state[_HEADER_BYTES] = 34


@numba.njit(cache=True)
def fill_stream(data, at, length, kind, first, side, state):
    """Write frames over random bytes: TLS application data records (RFC 8446 section 5.1), MQTT
    PUBLISH packets of quality 0 (OASIS MQTT 3.1.1 section 3.3) or DNS messages behind their length
    (RFC 1035 section 4.2.2).

    A frame that a segment cuts goes on in its sender's next segment.
    """
    end = at + length
    most_header = 34 if kind == DNS_STREAM else (5 if kind == TLS else 7)
    while at < end:
        if state[_WRITTEN] < state[_HEADER_BYTES]:
            data[at] = state[_HEADER + state[_WRITTEN]]
            state[_WRITTEN] += 1
            at += 1
        elif state[_LEFT]:
            step = min(state[_LEFT], end - at)
            at += step
            state[_LEFT] -= step
        else:
            body = end - at - most_header
            body = min(body, _LARGEST_FRAME) if body > 0 else 32
            _begin_frame(kind, body, first, side, state)


@numba.njit(cache=True)
def _put_dns(data, at, length, transaction, reply, name, padding, word):
    """Write a DNS message (RFC 1035 section 4.1) up to its padding.

    One question, its name of `name` bytes beside the root; unless `padding` is negative, an OPT
    record with that many bytes of padding, none if 0 and no room for the option (RFC 6891,
    RFC 7830). Return the position after the last byte written.
    """
    for k in range(12):
        data[at + k] = 0
    data[at] = (transaction >> 8) & 255
    data[at + 1] = transaction & 255
    data[at + 2] = 0x81 if reply else 0x01
    data[at + 3] = 0x80 if reply else 0
    data[at + 5] = 1
    data[at + 11] = padding >= 0
    j = at + 12
    if name:
        data[j] = name - 1
        for k in range(1, name):
            data[j + k] = 97 + np.int64((word >> np.uint64(4 * k)) % np.uint64(26))
        j += name
    data[j], data[j + 1], data[j + 2], data[j + 3], data[j + 4] = 0, 0, 1, 0, 1
    j += 5
    if padding < 0:
        return j
    for k in range(11):
        data[j + k] = 0
    data[j + 2], data[j + 3], data[j + 4] = 41, 4, 208
    j += 11
    option = at + length - j
    if option:
        data[j - 2], data[j - 1] = option >> 8, option & 255
        data[j], data[j + 1] = 0, 12
        data[j + 2], data[j + 3] = padding >> 8, padding & 255
        j += 4
    return j


@numba.njit(cache=True)
def fill_dns(data, at, length, word, transaction, reply):
    """Write a DNS message of exactly `length` bytes, at least 17 and not 18."""
    spare = length - 17
    name, padding = spare, -1
    if spare >= 15:
        name = 0
        if spare >= 15 + 8:
            name = min(spare - 15, 8 + np.int64(word & np.uint64(7)))
        padding = spare - name - 15
    elif spare == 11:
        name, padding = 0, 0
    written = _put_dns(data, at, length, transaction, reply, name, padding, word)
    for k in range(written, at + length):
        data[k] = 0


@numba.njit(cache=True)
def fill_dhcp(data, at, length, seed, side):
    """Write a DHCP message (RFC 2131 section 2) of at least 300 bytes: an INFORM or its ACK."""
    for k in range(at, at + length):
        data[k] = 0
    data[at], data[at + 1], data[at + 2] = 1 + side, 1, 6
    for k in range(4):
        data[at + 4 + k] = np.int64(seed >> np.uint64(8 * k)) & 255
        data[at + 30 + k] = np.int64(seed >> np.uint64(32 + 8 * k)) & 255
    data[at + 12], data[at + 15] = 10, 1
    data[at + 28] = 2
    for k in range(4):
        data[at + 236 + k] = _DHCP_COOKIE[k]
    data[at + 240], data[at + 241], data[at + 242] = 53, 1, 5 if side else 8
    data[at + 243] = 255


@numba.njit(cache=True)
def fill(data, at, length, mode, kind, seed, packet, side, stream):
    """Write the payload of one TCP or UDP packet.

    Args:
        mode: FRAMED, ZEROS, or RANDOM.
        kind: of the flow's server port.
        packet: number of the packet in its flow.
        stream: Stream of the flow; updated.
    """
    if length == 0:
        return
    if mode == ZEROS or (mode == FRAMED and kind == ZERO_KIND):
        for k in range(at, at + length):
            data[k] = 0
        return
    word = draw(seed, FOR_PAYLOAD, packet)
    fill_random(data, at, length, word)
    if length > 1 and data[at + 1] & 0xF0 == _CLTP_UNIT_DATA:
        data[at + 1] ^= 0x80
    if mode == RANDOM:
        return
    first = np.int64(draw(seed, FOR_PAYLOAD, -1) & np.uint64(0xFFFF))
    if kind in (TLS, MQTT, DNS_STREAM):
        fill_stream(data, at, length, kind, first, side, stream.state[side])
    elif kind == OPAQUE:
        for k in range(at, at + min(length, 4)):
            data[k] = 0xFF
    elif kind == TEXT:
        for k in range(at, at + length):
            data[k] = _LETTERS[data[k] & 31]
    elif kind == QUIC:
        # A short header and the 8 bytes of a connection id (RFC 9000 section 17.3), whose first
        # bit is set so that it does not begin with _CLTP_UNIT_DATA.
        data[at] = 0x40 | (data[at] & 0x3F)
        connection = draw(seed, FOR_PAYLOAD, -2 - side) | np.uint64(0x80)
        for k in range(min(8, length - 1)):
            data[at + 1 + k] = np.int64(connection >> np.uint64(8 * k)) & 255
    elif kind == DNS:
        fill_dns(data, at, length, word, first + stream.counts[side], side == 1)
    elif kind == DHCP:
        fill_dhcp(data, at, length, seed, side)
    elif kind == RTP:
        data[at], data[at + 1] = 0x80, 96
        number = stream.counts[side]
        data[at + 2], data[at + 3] = (number >> 8) & 255, number & 255
        clock = number * 960
        for k in range(4):
            data[at + 4 + k] = (clock >> (24 - 8 * k)) & 255
            data[at + 8 + k] = np.int64(seed >> np.uint64(8 * k + side)) & 255
    stream.counts[side] += 1
