"""The form of a section of a report: plain values that become JSON and a page."""

import math


def section(
    headline: dict, *, tables: list[dict], notes: list[str] | None = None, **details
) -> dict:
    """Return a section that could be computed.

    Args:
        headline: plain numbers by name, None for what could not be computed.
        tables: from `table`.
        notes: what a reader should know, in words.
        details: further plain values, which only the JSON shows.
    """
    return {
        "available": True,
        "reason": None,
        "headline": plain(headline),
        "notes": list(notes or ()),
        "tables": plain(tables),
        **plain(details),
    }


def not_available(reason: str, headline: tuple[str, ...]) -> dict:
    """Return a section that could not be computed, with the reason."""
    return {
        "available": False,
        "reason": reason,
        "headline": dict.fromkeys(headline),
        "notes": [],
        "tables": [],
    }


def table(title: str, columns: list[str], rows: list[list], note: str = "") -> dict:
    """Return a table of a section; cells are text, numbers, (low, high) intervals, or None."""
    return {"title": title, "columns": columns, "rows": rows, "note": note}


def plain(value):
    """Return `value` with NumPy numbers as Python's, floats to six digits, NaN as None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
