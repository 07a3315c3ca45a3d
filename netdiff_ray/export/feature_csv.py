"""Features of flows as CSV, whatever tool's names the columns have.

Shape letters: N flows.
"""

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np


def csv_head(columns: Sequence[str]) -> bytes:
    """Return the line with the names of the columns."""
    return (",".join(columns) + "\n").encode()


def csv_lines(
    columns: Sequence[str], rows: Sequence[Mapping], values: Mapping[str, np.ndarray]
) -> bytes:
    """Return a line for each flow.

    Args:
        columns: names, in order.
        rows: N mappings of what is a flow's own: endpoints, label, id.
        values: (N,) of each column that `rows` do not have.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for k, row in enumerate(rows):
        writer.writerow([row[c] if c in row else _number(values[c][k]) for c in columns])
    return text.getvalue().encode()


def _number(value: float) -> str:
    """Return a number as text, without a fraction where it has none."""
    return str(int(value)) if value == int(value) else repr(float(value))
