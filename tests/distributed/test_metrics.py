"""Reasons counted by kind; no credentials in the log."""

import logging
import queue
from logging.handlers import QueueHandler

import pytest

from netdiff_ray.distributed.metrics import log_event
from netdiff_ray.storage.manifest import reason_kind


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (
            "web/07.pcap: the file ends inside a record at byte 1,234",
            "the file ends inside a record",
        ),
        ("drawing failed: RuntimeError: no", "drawing failed"),
        ("row 3, column tcp_opt_17 holds 5; a cell is 1, 0 or -1", "row N"),
        ("the zstd stream is damaged or cut (frame 12)", "the zstd stream is damaged or cut"),
        ("version 7 of 12 is unknown", "version N of N is unknown"),
    ],
)
def test_reasons_of_a_kind_are_one(reason, kind):
    assert reason_kind({"capture": "web/07.pcap", "reason": reason}) == kind


def test_the_log_keeps_keys_of_object_stores_to_itself():
    records = queue.SimpleQueue()
    logger, handler = logging.getLogger("netdiff_ray"), QueueHandler(records)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        log_event("shard written", run="s3://key:secret@bucket/set?endpoint_override=x", shard=3)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    record = records.get_nowait()
    assert records.empty()
    assert (record.run, record.shard) == ("s3://bucket/set", 3)
    assert not hasattr(record, "flow_id")
