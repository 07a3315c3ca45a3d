"""Reasons counted by kind; no credentials in the log."""

import logging
import queue
from logging.handlers import QueueHandler

import pytest

from netdiff_ray.distributed import metrics
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


def test_what_is_observed_has_the_tags_of_its_metric():
    run = "s3://key:secret@bucket/set?endpoint_override=x"
    metrics.observe_stage(run, "draw", 0.5)
    metrics.count_flows(run, "write", "wëb", flows=3, packets=30)
    metrics.observe_drawing(run, 0.5, [1.0, 0.25])
    metrics.observe_repair(run, "web", [0.01])
    metrics.count_quarantined(run, "write", ["drawing failed"])
    metrics.observe_shard(run, "write", 1000)
    metrics.set_dataset_time(run)
    with metrics.RunProgress(run, "generate", done=1, planned=3) as progress:
        progress.set(2)
    metrics.set_queue_length("denoiser", 2)
    metrics.observe_request("/v1/flows", "ok", 0.5)
    metrics.set_streams_open(1)
    with pytest.raises(ValueError, match="Missing value"):
        metrics._set(metrics.DATASET_TIME, 1.0, {})
