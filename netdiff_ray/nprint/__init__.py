"""nPrint: packet headers as a matrix of bits, 1, 0 and -1 for vacant (nprint/nprint 1.2.1)."""

from netdiff_ray.fields import FIELDS, Field
from netdiff_ray.nprint.codec import VACANT, decode, encode, encode_windows
from netdiff_ray.nprint.layouts import LAYOUTS, Layout, layout_named, layout_of_width

__all__ = [
    "FIELDS",
    "LAYOUTS",
    "VACANT",
    "Field",
    "Layout",
    "decode",
    "encode",
    "encode_windows",
    "layout_named",
    "layout_of_width",
]
