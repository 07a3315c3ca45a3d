"""Progress reports: a rewritten line in a terminal, a line every few seconds in a log."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TextIO

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_REWRITES = 0.2


class ProgressLine:
    """Reporter of how much of a job is done, how fast it goes and how long the rest will take.

    Args:
        verb: what is being done, in the past tense (`encoded`).
        unit: of what, in the plural (`flows`).
        as_json: whether each report is a line for programs, an object with `progress` (the verb),
            `done`, `total`, `unit`, and, if known, `seconds_left`.
        stream: text stream to write to; standard error unless given.
        clock: returns seconds, from any origin.
    """

    def __init__(
        self,
        verb: str,
        unit: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        as_json: bool = False,
    ):
        self._verb, self._unit, self._clock, self._as_json = verb, unit, clock, as_json
        self._stream = sys.stderr if stream is None else stream
        self._rewrites = self._stream.isatty() and not as_json
        self._begin: tuple[float, int] | None = None
        self._reported_at = float("-inf")
        self._width = 0

    def __call__(
        self,
        done: int,
        total: int,
        more: str = "",
        details: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Report that `done` of `total` are done. The first call, before the work, reports what an
        earlier run did; rates count from the last call that reports no more.

        Args:
            more: text to put at the end.
            details: what a line for programs has besides.
        """
        now = self._clock()
        if self._begin is None or done == self._begin[1]:
            self._begin = now, done
        between = _SECONDS_BETWEEN_REWRITES if self._rewrites else _SECONDS_BETWEEN_LINES
        if now - self._reported_at < between and done < total:
            return
        self._reported_at = now
        begin, before = self._begin
        rate = (done - before) / (now - begin) if done > before and now > begin else None
        if self._as_json:
            self._stream.write(self._object(done, total, rate, details) + "\n")
            self._stream.flush()
            return
        text = f"{self._verb} {done:,} of {total:,} {self._unit}"
        if rate is not None:
            text += f", {_per_time(rate)}"
            if done < total:
                text += f", {duration((total - done) / rate)} left"
        text += f", {more}" * bool(more)
        if self._rewrites:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def _object(
        self, done: int, total: int, rate: float | None, details: Mapping[str, object]
    ) -> str:
        """Return the line for programs."""
        about = {"progress": self._verb, "done": done, "total": total, "unit": self._unit}
        if rate is not None:
            about["seconds_left"] = round((total - done) / rate, 1)
        return json.dumps({**about, **details})

    def end(self) -> None:
        """End the line, so that the next output begins a new line."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0


def _per_time(rate: float) -> str:
    """Return a rate in words: a second, or a minute if slow."""
    if rate < 0.1:
        return f"{60 * rate:,.1f}/min"
    return f"{rate:,.1f}/s" if rate < 100 else f"{rate:,.0f}/s"


def duration(seconds: float) -> str:
    """Return seconds in words of at most two units: `42 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
