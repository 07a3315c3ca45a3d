"""What is said of jobs, from what Ray and their logs say."""

import io

import pytest

from netdiff_ray.progress import ProgressLine
from netdiff_ray.serving.job_report import job_report

SHORT = "needs 1 CPU; the cluster has 2 CPUs, all taken"


def log_of(*reports):
    """Return the log of a `generate --json` that reports (second, drawn, flows repaired, what it
    waits for) of 7 flows of two packets each."""
    stream, now = io.StringIO("netdiff: not of Ray\n"), [0.0]
    stream.seek(0, io.SEEK_END)
    progress = ProgressLine("generated", "flows", stream, lambda: now[0], as_json=True)
    for second, drawn, repaired, waits_for in reports:
        now[0] = float(second)
        details = {"flows_repaired": repaired, "packets": 2 * repaired, "waits_for": waits_for}
        progress(drawn, 7, "", details)
    return stream.getvalue()


def test_a_job_that_has_no_room_waits_and_says_for_what():
    report = job_report("running", "", log_of((0, 0, 0, ""), (6, 0, 0, SHORT)))
    assert report == {
        "state": "waiting",
        "reason": SHORT,
        "progress": {"flows": 7, "flows_drawn": 0, "flows_repaired": 0, "packets": 0},
    }


def test_a_job_that_has_not_begun_says_what_ray_says():
    assert job_report("pending", "no node yet", "") == {"state": "pending", "reason": "no node yet"}


def test_a_running_job_says_how_far_it_is_and_the_seconds_left():
    log = log_of((0, 0, 0, ""), (600, 0, 0, SHORT), (606, 2, 0, ""), (612, 4, 3, ""))
    # 4 of 7 in the 12 s since it waited: 9 s for the other 3.
    expected = {
        "state": "running",
        "progress": {
            "flows": 7, "flows_drawn": 4, "flows_repaired": 3, "packets": 6, "seconds_left": 9.0,
        },
    }  # fmt: skip
    assert job_report("running", "", log) == expected
    assert job_report("running", "", log + '{"progress": "generated", "done": 5, "tot') == expected


def test_a_job_without_a_line_of_progress_runs():
    assert job_report("running", "", "starting\n") == {"state": "running"}


@pytest.mark.parametrize("state", ["failed", "stopped", "succeeded"])
def test_a_job_that_has_ended_says_what_it_complained_of(state):
    log = log_of((0, 3, 3, SHORT)) + "netdiff: no space left\nother\n"
    report = job_report(state, "driver exited", log)
    assert report["state"] == state
    assert report["reasons"] == ["not of Ray", "no space left"]
    assert report["progress"]["flows_drawn"] == 3
    assert "reason" not in report
