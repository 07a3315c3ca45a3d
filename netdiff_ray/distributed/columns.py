"""Rows between the stages of a Ray Data job, as records whose fields are the columns.

A stage takes rows of a record class and gives rows of another; a worker's error travels in two
columns, so that the driver can raise it.
"""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from netdiff_ray import errors
from netdiff_ray.errors import DataError, NetdiffError

RecordT = TypeVar("RecordT")


def record_of(kind: type[RecordT], row: Mapping[str, object]) -> RecordT:
    """Return the record, of a dataclass, that a row holds; further columns are left out.

    Raises:
        DataError: columns are missing; names them and the available ones.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    missing = [name for name in names if name not in row]
    if missing:
        raise DataError(
            f"{kind.__name__} needs the columns {', '.join(missing)}; available are "
            f"{', '.join(row) or 'none'}"
        )
    return kind(**{name: row[name] for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErrorColumns:
    """Columns of a record that say which error ends the job."""

    fault_class: str = ""
    """Name of a class of `netdiff_ray.errors`; empty if no error does."""
    fault_text: str = ""

    def raise_if_any(self) -> None:
        """Raise the error again, of its class."""
        if self.fault_class:
            kind: type[NetdiffError] = getattr(errors, self.fault_class)
            # Without __init__, which composes the text of some classes from its parts.
            raise kind.__new__(kind, self.fault_text)


def fault_of(error: NetdiffError) -> ErrorColumns:
    """Return the columns that say that `error` ends the job."""
    return ErrorColumns(fault_class=type(error).__name__, fault_text=str(error))
