"""Labels of pcapML: pcapng captures whose packets' comments hold a sample id and a label.

Source: github.com/nprint/pcapml, whose comments are `ID,label`, or `s=ID,proc=label` with further
pairs.
"""

import numpy as np

from netdiff_ray.errors import CaptureError, DataError
from netdiff_ray.flow_keys import KEY_WORDS
from netdiff_ray.flow_labels.keys import KeyParts, keys_of_flows
from netdiff_ray.flow_labels.tables import TableBuilder, why_no_label
from netdiff_ray.flows import keys_and_starts
from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.comments import packet_comments
from netdiff_ray.packets.headers import header_rows
from netdiff_ray.packets.table import LATER_FRAGMENT, PacketTable, Reason
from netdiff_ray.storage.store import Store

PCAPML = "pcapml"
MAGIC = b"\x0a\x0d\x0d\x0a"
_PARTS = KeyParts(ports=True, protocol=True)


def add_pcapml(builder: TableBuilder, store: Store, name: str) -> None:
    """Add the labelled packets of a capture, a row each.

    Raises:
        DataError: the capture cannot be read, or no packet has a comment.
    """
    number, labelled = 0, 0
    try:
        with (
            store.filesystem.open_input_file(store.path(name)) as file,
            CaptureReader(file, name=name) as reader,
        ):
            for table in reader:
                labelled += _add(builder, name, table, number)
                number += len(table)
            if reader.fault is not None:
                builder.note(name, f"packets from here on cannot be read: {reader.fault}", number)
    except CaptureError as error:
        raise DataError(str(error)) from None
    if not labelled:
        raise DataError(f"{name}: no packet has a comment with a label, as pcapML writes them")


def label_of(comment: str) -> str:
    """Return the label that a comment of pcapML names, "" if none."""
    pairs = [part.partition("=") for part in comment.split(",")]
    named = {key: value for key, equals, value in pairs if equals}
    positional = [key for key, equals, _ in pairs if not equals]
    label = named.get("proc") or named.get("label")
    if label is None and len(positional) > 1 and "s" not in named:
        label = comment.split(",", maxsplit=1)[1]
    return (label or "").strip()


def _add(builder: TableBuilder, name: str, table: PacketTable, number: int) -> int:
    """Add the labelled packets of a chunk; return how many there are."""
    comments = packet_comments(table)
    read = np.flatnonzero(table.reason == Reason.OK)
    rows = header_rows(table)
    codes = {comment: _code(builder, name, comment, number) for comment in set(comments)}
    label = np.array([codes[comments[k]] for k in read.tolist()], np.int32)
    # Later fragments have no ports; the first of their datagram stands for them.
    chosen = np.flatnonzero((label >= 0) & (rows["fragment"] != LATER_FRAGMENT))
    keys = keys_and_starts(rows, chosen, np.ones(len(chosen), np.int64))
    nothing = np.zeros(len(chosen), np.int64)
    builder.batches.append((
        keys_of_flows(keys[:, :KEY_WORDS], _PARTS), rows["ts_ns"][chosen], nothing, label[chosen],
        (number + 1 + read[chosen]).astype(np.int32),
    ))  # fmt: skip
    builder.month_first.append(None)
    builder.is_plain = False
    return len(chosen)


def _code(builder: TableBuilder, name: str, comment: str, number: int) -> int:
    """Return the number of a comment's label, -1 without one that can be one."""
    label = label_of(comment)
    wrong = why_no_label(label)
    if wrong:
        builder.note(name, f"the label {label[:60]!r} {wrong}", number + 1)
    return builder.labels.setdefault(label, len(builder.labels)) if label and not wrong else -1
