"""Two reports side by side: the main figures of each, and what changed."""

import json
import os

from netdiff_ray.errors import DatasetError
from netdiff_ray.evaluate.report import FORMAT
from netdiff_ray.evaluate.verdict import GRADES, grade
from netdiff_ray.storage.store import open_store


def read_other(path: str | os.PathLike) -> bytes:
    """Return the report.json at a path or URI, or in a folder.

    Raises:
        DatasetError: there is none, or it is no report.
    """
    path = os.fspath(path)
    folder, _, name = path.rpartition("/")
    is_file = name.endswith(".json")
    store = open_store(folder or ("/" if path.startswith("/") else ".")) if is_file else None
    content = store.get(name) if store else open_store(path).get("report.json")
    if content is None:
        raise DatasetError(f"{path}: no report.json, which netdiff evaluate writes")
    try:
        is_report = json.loads(content).get("format") == FORMAT
    except (ValueError, AttributeError):
        is_report = False
    if not is_report:
        raise DatasetError(f"{path}: not a report of netdiff evaluate")
    return content


def compare(sections: dict[str, dict], other: dict, name: str) -> dict:
    """Return {report, made, rows} of sections against another report.

    Args:
        sections: of this report.
        other: the content of the other report.json.
        name: where the other was read from.

    Returns:
        rows of [section, figure, this, other, difference, what changed], where a figure has
        numbers in both; what changed is better, worse or "" by their grades.
    """
    rows = []
    for section, content in sections.items():
        theirs = other.get(section, {}).get("headline", {})
        for key, value in content["headline"].items():
            before = theirs.get(key)
            if value is not None and before is not None:
                change = _change(section, key, content["headline"], theirs)
                rows.append([section, key, value, before, float(f"{value - before:.6g}"), change])
    return {"report": name, "made": other.get("made", {}), "rows": rows}


def _change(section: str, key: str, ours: dict, theirs: dict) -> str:
    """Return whether a figure's grade is better or worse than in the other report."""
    grades = [grade(section, key, headline) for headline in (ours, theirs)]
    if None in grades:
        return ""
    now, before = map(GRADES.index, grades)
    return "better" if now < before else "worse" if now > before else ""
