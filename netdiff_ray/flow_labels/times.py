"""Times of label files, as text or numbers, to nanoseconds.

What a text alone does not tell, `clock` reads off the captures: which of two small numbers is the
day, and whether an hour up to 12 without AM or PM is one of the afternoon.

Shape letters: N texts.
"""

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

S_NS = 10**9
HALF_DAY_NS = 12 * 3600 * S_NS
NO_TIME = np.iinfo(np.int64).min
"""Stands for a time that cannot be read."""

_NUMBER = r"^(?P<whole>\d{1,19})(?:\.(?P<part>\d{1,9})\d*)?$"
_CALENDAR = (
    r"^(?P<a>\d{1,4})[-/.](?P<b>\d{1,2})[-/.](?P<c>\d{1,4})[ T]+"
    r"(?P<hour>\d{1,2}):(?P<minute>\d{1,2})(?::(?P<second>\d{1,2})(?:[.,](?P<part>\d{1,9})\d*)?)?"
    r" *(?P<half>[AaPp][Mm])?(?P<zone>Z|[+-]\d{2}:?\d{2})?$"
)
_UNITS = ((10**11, S_NS), (10**14, 10**6), (10**17, 10**3))
"""(bound, nanoseconds of the unit) of numbers since 1970 that are lower: seconds, milliseconds,
microseconds; larger ones are nanoseconds. Seconds reach the bound in the year 5138."""
_DAY_NS = 86_400 * S_NS


class Times(NamedTuple):
    """N times as they were read, NO_TIME where they cannot be."""

    day_first: np.ndarray
    """(N,) int64: ns since 1970, the day before the month where the year stands last."""
    month_first: np.ndarray
    """(N,) int64: the same with the month before the day."""
    precision_ns: np.ndarray
    """(N,) int64: unit of the last digit: a minute, a second, or less."""
    is_plain: np.ndarray
    """(N,) bool: whether the hour has no AM or PM and is from 1 to 12, so that the afternoon may be
    meant."""
    is_calendar: np.ndarray
    """(N,) bool: whether it is a time of day on a date, without a zone, and no number."""


def read_times(texts: pa.Array) -> Times:
    """Return the times of (N,) texts without surrounding space.

    Numbers are seconds, milliseconds, microseconds or nanoseconds since 1970, by their size.
    """
    numbers = _numbers(texts)
    calendar = _calendar(texts)
    is_number = numbers.day_first != NO_TIME
    return Times(*(np.where(is_number, n, c) for n, c in zip(numbers, calendar, strict=True)))


def _numbers(texts: pa.Array) -> Times:
    parts = pc.extract_regex(texts, _NUMBER)
    known = _known(parts)
    whole = _integers(parts, "whole")
    unit = np.full(len(whole), 1, np.int64)
    for bound, unit_ns in reversed(_UNITS):
        unit[whole < bound] = unit_ns
    fraction, digits = _fraction(parts)
    ns = whole * unit + fraction // (S_NS // unit)
    ns[~known] = NO_TIME
    precision = np.maximum(unit // 10**digits, 1)
    no = np.zeros(len(ns), np.bool_)
    return Times(ns, ns, precision, no, no)


def _calendar(texts: pa.Array) -> Times:
    parts = pc.extract_regex(texts, _CALENDAR)
    known = _known(parts)
    a, b, c, hour, minute, second = (
        _integers(parts, name) for name in ("a", "b", "c", "hour", "minute", "second")
    )
    half = np.char.upper(_texts(parts, "half").astype("U2"))
    with_half = half != ""
    known &= (hour < 24) & (minute < 60) & (second < 61) & ~(with_half & (hour > 12))
    is_plain = known & ~with_half & (hour >= 1) & (hour <= 12)
    hour = np.where(with_half, hour % 12 + 12 * (half == "PM"), hour)
    fraction, digits = _fraction(parts)
    has_second = _texts(parts, "second") != ""
    precision = np.where(has_second, S_NS // 10**digits, 60 * S_NS)
    zone = _texts(parts, "zone").astype("U6")
    of_day = ((hour * 60 + minute) * 60 + second) * S_NS + fraction - _zone_ns(zone)
    year_first = a > 31
    year = np.where(year_first, a, np.where(c < 100, c + 2000, c))
    day = np.where(year_first, c, a)
    readings = [_days(year, b, day), np.where(year_first, _days(year, b, c), _days(year, a, b))]
    day_first, month_first = (
        np.where(known & (days != NO_TIME), days * _DAY_NS + of_day, NO_TIME) for days in readings
    )
    return Times(day_first, month_first, precision, is_plain, known & (zone == ""))


def _days(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Return days since 1970, NO_TIME where there is no such date."""
    valid = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31) & (year > 1969) & (year < 2262)
    months = np.where(valid, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    dates = months.astype("datetime64[D]") + np.where(valid, day - 1, 0)
    valid &= dates.astype("datetime64[M]") == months
    return np.where(valid, dates.astype(np.int64), NO_TIME)


def _zone_ns(zones: np.ndarray) -> np.ndarray:
    """Return what zones such as +02:00 are ahead of UTC, in ns."""
    distinct, inverse = np.unique(zones, return_inverse=True)
    return np.array([zone_offset_ns(str(zone)) for zone in distinct], np.int64)[inverse]


def zone_offset_ns(zone: str) -> int:
    """Return what a zone such as +02:00, -0330 or +01:00:07 is ahead of UTC, in ns; 0 for none."""
    parts = [int(part) for part in re.findall(r"\d+", zone)]
    if len(parts) == 1:  # -0330
        parts = [parts[0] // 100, parts[0] % 100]
    seconds = sum(part * 60**k for part, k in zip(parts, (2, 1, 0), strict=False))
    return (-1 if zone.startswith("-") else 1) * seconds * S_NS


def _known(parts: pa.StructArray) -> np.ndarray:
    return parts.is_valid().to_numpy(zero_copy_only=False)


def _texts(parts: pa.StructArray, name: str) -> np.ndarray:
    column = pc.fill_null(pc.struct_field(parts, name), "")
    return column.to_numpy(zero_copy_only=False).astype("U")


def _integers(parts: pa.StructArray, name: str) -> np.ndarray:
    """Return the numbers of a group, 0 where it is empty or too large for int64."""
    column = pc.struct_field(parts, name)
    filled = pc.if_else(pc.equal(pc.fill_null(column, ""), ""), "0", column)
    fits = pc.less(pc.utf8_length(filled), 19)
    return pc.cast(pc.if_else(fits, filled, "0"), pa.int64()).to_numpy(zero_copy_only=False)


def _fraction(parts: pa.StructArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the decimals as billionths, and how many digits they have."""
    column = pc.fill_null(pc.struct_field(parts, "part"), "")
    digits = pc.utf8_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    billionths = pc.cast(pc.utf8_rpad(column, 9, padding="0"), pa.int64())
    return billionths.to_numpy(zero_copy_only=False), digits
