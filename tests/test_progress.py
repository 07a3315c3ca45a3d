"""Progress: a plain line every few seconds in a log, a rewritten line in a terminal."""

import io
import json

import pytest

from netdiff_ray.progress import ProgressLine, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def report(stream, steps):
    """Return the text of `stream` after calls of (second, done, total, more)."""
    clock = Clock()
    progress = ProgressLine("generated", "flows", stream, clock)
    for second, *arguments in steps:
        clock.now = 100.0 + second
        progress(*arguments)
    progress.end()
    return stream.getvalue()


def test_a_log_gets_a_line_every_five_seconds_and_the_last():
    text = report(
        io.StringIO(),
        [(0, 200, 1000), (1, 210, 1000), (5, 250, 1000), (6, 260, 1000), (7, 1000, 1000, "9 kB")],
    )
    assert text.splitlines() == [
        "generated 200 of 1,000 flows",
        "generated 250 of 1,000 flows, 10.0/s, 1 min 15 s left",
        "generated 1,000 of 1,000 flows, 114/s, 9 kB",
    ]


def test_a_terminal_gets_one_line_that_is_rewritten():
    text = report(Terminal(), [(0, 0, 10), (10, 5, 10, "long words"), (20, 10, 10)])
    lines = text.removesuffix("\n").split("\r")
    assert lines[1] == "generated 0 of 10 flows"
    assert lines[2] == "generated 5 of 10 flows, 0.5/s, 10 s left, long words"
    assert lines[3].rstrip() == "generated 10 of 10 flows, 0.5/s"
    assert len(lines[3]) == len(lines[2])
    assert text.count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")]
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


def test_a_slow_rate_is_given_by_the_minute():
    text = report(io.StringIO(), [(0, 0, 4), (60, 1, 4)])
    assert text.splitlines()[-1] == "generated 1 of 4 flows, 1.0/min, 3 min 0 s left"


def test_for_programs_each_line_is_an_object():
    stream, now = Terminal(), [0.0]
    progress = ProgressLine("generated", "flows", stream, lambda: now[0], as_json=True)
    for now[0], done in ((0.0, 4), (1.0, 4), (10.0, 4), (20.0, 6), (21.0, 10)):
        progress(done, 10, "words", {"packets": 3 * done})
    progress.end()
    about = {"progress": "generated", "total": 10, "unit": "flows"}
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {**about, "done": 4, "packets": 12},
        {**about, "done": 4, "packets": 12},
        {**about, "done": 6, "packets": 18, "seconds_left": 20.0},  # since the last of 4
        {**about, "done": 10, "packets": 30, "seconds_left": 0.0},
    ]
