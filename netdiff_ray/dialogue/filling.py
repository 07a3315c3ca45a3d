"""Random bytes, words and frames that fill given lengths."""

import random as random_module
from bisect import bisect_right
from collections.abc import Callable
from functools import cache

from netdiff_ray.dialogue.exchange import Exchange
from netdiff_ray.dialogue.segments import segment_ends

LARGEST_DATAGRAM = (1 << 16) - 1 - 8
"""Most bytes of a datagram's payload."""
_DRAWN_BYTES = 1 << 14
"""Most bytes that are drawn; longer ones are cut out of a block of them."""
_BLOCK_BYTES = 1 << 17
_VOCABULARY = (
    "the of and a to in is it you that he was for on are with as his they be at this have from "
    "or had by not word but what some we can out other were all there when up use your how said "
    "an each she which do their time if will way about many then them write would like so these "
    "her long make thing see him two has look more day could go come did number sound no most "
    "people my over know water than call first who may down side been now find any new work part "
    "take get place made live where after back little only round man year came show every good"
)


@cache
def _noise_block() -> bytes:
    return random_module.Random(_BLOCK_BYTES).randbytes(_BLOCK_BYTES)


@cache
def _word_block() -> bytes:
    draw = random_module.Random(_BLOCK_BYTES)
    return " ".join(draw.choices(_VOCABULARY.split(), k=_BLOCK_BYTES // 4)).encode()[:_BLOCK_BYTES]


def _cut(block: bytes, start: int, length: int) -> bytes:
    """Return `length` bytes of a block from `start`, beginning again where it ends."""
    if start + length <= len(block):
        return block[start : start + length]
    return (block[start:] + block * (length // len(block) + 1))[:length]


def noise(random: random_module.Random, length: int) -> bytes:
    """Return `length` bytes of the highest entropy, as of encrypted or compressed data."""
    if length <= _DRAWN_BYTES:
        return random.randbytes(length)
    return _cut(_noise_block(), int(random.random() * _BLOCK_BYTES), length)


def words(random: random_module.Random, length: int) -> bytes:
    """Return `length` bytes of English words in ASCII, which neither begin nor end with a space."""
    block = _word_block()
    begin = block.find(b" ", int(random.random() * (_BLOCK_BYTES - 100))) + 1
    text = _cut(block, begin, length)
    return text[:-1] + b"s" if text[-1:] == b" " else text


def label(random: random_module.Random, length: int) -> bytes:
    """Return `length` lower-case letters and hyphens, which are part of a host name."""
    return words(random, length).replace(b" ", b"-")


def hex_digits(random: random_module.Random, length: int) -> bytes:
    """Return `length` lower-case hexadecimal digits in ASCII."""
    return random.randbytes((length + 1) // 2).hex()[:length].encode()


def next_of_sender(exchange: Exchange) -> list[int]:
    """Return the bytes of the sender's next message after each, 0 after its last."""
    following = [0, 0]
    ahead = []
    for side, length in zip(reversed(exchange.sides), reversed(exchange.lengths), strict=True):
        ahead.append(following[side])
        following[side] = length
    return ahead[::-1]


def answer_bytes(exchange: Exchange) -> list[int]:
    """Return the bytes of the message after each if the other side sends it, else 0."""
    sides, lengths = exchange.sides, exchange.lengths
    return [
        lengths[k + 1] if k + 1 < len(sides) and sides[k + 1] != sides[k] else 0
        for k in range(len(sides))
    ]


def fill_streams(exchange: Exchange, frame: Callable[[int, int, int], bytes]) -> list[bytes] | None:
    """Return the messages of a TCP flow, filled with frames; None if a segment's end divides the
    head of one.

    Args:
        frame: gives the bytes of a frame, at least 1, from the message's number, its side and
            how many bytes it still has room for. A frame that is longer goes on in its sender's
            next message.
    """
    pending = [b"", b""]
    messages = []
    heads = _Heads(exchange)
    for k, (side, length) in enumerate(zip(exchange.sides, exchange.lengths, strict=True)):
        data = pending[side]
        while len(data) < length:
            piece = frame(k, side, length - len(data))
            if not heads.admit(side, len(data), len(piece)):
                return None
            data += piece
        heads.sent[side] += length
        pending[side] = data[length:]
        messages.append(data[:length])
    return messages


def fill_uncut(exchange: Exchange, frame: Callable[[int, int, int], bytes]) -> list[bytes] | None:
    """Return the same, None also if a frame does not end with the message in which it begins."""
    messages = []
    heads = _Heads(exchange)
    for k, (side, length) in enumerate(zip(exchange.sides, exchange.lengths, strict=True)):
        data = b""
        while len(data) < length:
            piece = frame(k, side, length - len(data))
            if not heads.admit(side, len(data), len(piece)):
                return None
            data += piece
        if len(data) > length:
            return None
        heads.sent[side] += length
        messages.append(data)
    return messages


class _Heads:
    """The heads of the frames of a connection, none of which a segment's end may divide."""

    def __init__(self, exchange: Exchange):
        """Note where segments end."""
        self.head_bytes = exchange.head_bytes
        self.ends = segment_ends(exchange) if self.head_bytes else ([], [])
        self.sent = [0, 0]
        """Bytes of each side's messages before."""

    def admit(self, side: int, at: int, size: int) -> bool:
        """Return whether a frame of `size` bytes that begins at a byte of a side's next message has
        its head in one segment."""
        if not self.head_bytes:
            return True
        begin = self.sent[side] + at
        ends = self.ends[side]
        place = bisect_right(ends, begin)
        return place == len(ends) or ends[place] >= begin + min(self.head_bytes, size)
