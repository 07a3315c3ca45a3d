"""Measures of synthetic traffic against real traffic, and their report."""

from netdiff_ray.evaluate.evaluation import SALTS, evaluate
from netdiff_ray.evaluate.report import Report
from netdiff_ray.evaluate.sources import Source, open_source, source_blocks, unit_blocks
from netdiff_ray.evaluate.summary import Summary, merge, summarise

__all__ = [
    "SALTS",
    "Report",
    "Source",
    "Summary",
    "evaluate",
    "merge",
    "open_source",
    "source_blocks",
    "summarise",
    "unit_blocks",
]
