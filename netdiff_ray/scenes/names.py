"""Names of a scene's servers, as long as the label's lookups have them."""

from dataclasses import replace
from random import Random
from typing import NamedTuple

import numpy as np

from netdiff_ray.dialogue.dns import wire_name
from netdiff_ray.dialogue.filling import label as letters
from netdiff_ray.header_bytes import IPPROTO_UDP
from netdiff_ray.labels.adapter_metadata import AdapterMetadata, service_statistics
from netdiff_ray.labels.flow_plan import seed_of
from netdiff_ray.labels.profile import PayloadCount, Profile
from netdiff_ray.scenes.tables import SceneTables

_AROUND_NAME = 16
"""Bytes of a question's message beside the name: header, type and class (RFC 1035 section 4.1)."""
_SUFFIXES = (b"example.com", b"example.net", b"example.org")
"""Domains that nobody has (RFC 2606)."""
_SUFFIX_BYTES = len(wire_name(_SUFFIXES[0]))
_FEWEST_LETTERS, _MOST_LETTERS = 5, 60
_DIGITS = b"0123456789abcdefghijklmnopqrstuvwxyz"
_UNKNOWN_LETTERS = 9


class QuestionSizes(NamedTuple):
    """Bytes of the first question of lookups that names of servers fit."""

    sizes: tuple[int, ...]
    """Empty if none is known."""
    ends: tuple[int, ...]
    """Cumulated flows."""


def question_sizes(metadata: AdapterMetadata, tables: SceneTables) -> list[QuestionSizes]:
    """Return the sizes of the lookups that ask for the servers of each service: those of its
    label, or else those that begin connections."""
    chosen = []
    for key in tables.services:
        own = tables.of_label(key.label) & tables.is_lookup
        at = int(np.flatnonzero(own)[0]) if own.any() else tables.lookup
        rows: list[PayloadCount] = []
        if at >= 0:
            profile = service_statistics(metadata, *tables.services[at]).profile
            rows = [row for row in profile.payloads if _is_question(row)]
        ends = np.cumsum([row.flows for row in rows]).tolist()
        chosen.append(QuestionSizes(tuple(row.payload_bytes for row in rows), tuple(ends)))
    return chosen


def _is_question(row: PayloadCount) -> bool:
    """Return whether a state is that of a first question that names of servers fit."""
    room = row.payload_bytes - _AROUND_NAME - _SUFFIX_BYTES - 1
    is_first = (row.transport, row.packet, row.side) == (IPPROTO_UDP, 0, 0)
    return is_first and _FEWEST_LETTERS <= room <= _MOST_LETTERS


def question_bytes(sizes: QuestionSizes, seed: int, server: int) -> int:
    """Return the bytes of a question for a server's name; 0 if sizes are not known."""
    if not sizes.sizes:
        return 0
    draw = seed_of(seed, "", server, "name bytes") % sizes.ends[-1]
    return sizes.sizes[int(np.searchsorted(sizes.ends, draw, side="right"))]


def server_name(seed: int, server: int, question: int) -> bytes:
    """Return the name of a server, which no other has.

    Args:
        seed: of the run.
        server: its number.
        question: bytes of a message that asks for it; 0 for any.
    """
    random = Random(seed_of(seed, "", server, "name"))
    suffix = random.choice(_SUFFIXES)
    room = question - _AROUND_NAME - _SUFFIX_BYTES - 1 if question else _UNKNOWN_LETTERS
    number = _in_letters(server)
    words = letters(random, room - len(number)).rstrip(b"-") if room > len(number) else b""
    return words.ljust(room - len(number), b"x") + number + b"." + suffix


def _in_letters(number: int) -> bytes:
    """Return a number in base 36, with a digit in front that says how many follow."""
    digits = b""
    while number or not digits:
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit : digit + 1] + digits
    return _DIGITS[len(digits) : len(digits) + 1] + digits


def with_question(profile: Profile, question: int) -> Profile:
    """Return a profile of the flows whose first question has so many bytes; as it is if none
    has."""

    def differs(transport: int, packet: int, side: int, payload_bytes: int) -> bool:
        is_first = (transport, packet, side) == (IPPROTO_UDP, 0, 0)
        return is_first and payload_bytes != question

    left = [row for row in profile.payloads if not differs(*row[:4])]
    if not any(row[:4] == (IPPROTO_UDP, 0, 0, question) for row in left):
        return profile
    follows = [row for row in profile.successions if not differs(*row[:4])]
    return replace(profile, payloads=left, successions=follows)
