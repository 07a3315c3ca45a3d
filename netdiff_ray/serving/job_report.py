"""What the endpoint says of a job: its state, how far it is, and what it waits for."""

import json

_PROGRESS_BEGINS = '{"progress": "generated"'
_REASON_BEGINS = "netdiff: "


def job_report(state: str, message: str, log: str) -> dict:
    """Return what is known of a job of `netdiff generate --json`.

    Args:
        state: Ray's, in lower case: pending, running, stopped, succeeded or failed.
        message: what Ray says of it.
        log: what the job has printed so far.

    Returns:
        `state`: Ray's, or waiting, if the job runs but the cluster has no room for its work.
        `reason`: what it waits for, if pending or waiting.
        `reasons`: what it complained of, if it has ended.
        `progress`: flows asked for, drawn and repaired, packets, and, once known, seconds left.
    """
    lines = log.splitlines()
    progress = _last_progress(lines)
    report: dict = {"state": state}
    if state == "pending":
        report["reason"] = message
    elif state == "running" and progress.get("waits_for"):
        report |= {"state": "waiting", "reason": progress["waits_for"]}
    elif state != "running":
        report["reasons"] = [
            line.removeprefix(_REASON_BEGINS) for line in lines if line.startswith(_REASON_BEGINS)
        ]
    if progress:
        report["progress"] = {
            "flows": progress["total"],
            "flows_drawn": progress["done"],
            "flows_repaired": progress["flows_repaired"],
            "packets": progress["packets"],
        }
        if "seconds_left" in progress:
            report["progress"]["seconds_left"] = progress["seconds_left"]
    return report


def _last_progress(lines: list[str]) -> dict:
    """Return the last whole line of progress, see `progress.Progress`; empty if there is none."""
    for line in reversed(lines):
        if line.startswith(_PROGRESS_BEGINS):
            try:
                return json.loads(line)
            except ValueError:  # it is being written
                continue
    return {}
