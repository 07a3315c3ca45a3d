"""Bytes in, arrays out: reading captures, locating headers, writing captures."""

from netdiff_ray.packets.capture import CaptureReader
from netdiff_ray.packets.headers import HEADER_ROW, header_rows
from netdiff_ray.packets.linktypes import LINK_TYPES, link_type_name
from netdiff_ray.packets.table import PacketTable, Reason

__all__ = [
    "HEADER_ROW",
    "LINK_TYPES",
    "CaptureReader",
    "PacketTable",
    "Reason",
    "header_rows",
    "link_type_name",
]
