"""Fillers: payloads of flows whose messages are not known, which no reader takes for anything.

Flows whose protocol is known to be none of those that `dialogue` has are filled as unevenly as it
was. Of others a port has a filler, and a shortest payload that its readers accept. The tables were
measured by sending each filler at many lengths to every port for which Wireshark 4.0 has a
dissector, and noting which it accepts without complaint. Lengths are bytes.
"""

from typing import NamedTuple

import numba
import numpy as np

from netdiff_ray.dialogue import BINARY, KINDS
from netdiff_ray.dialogue import TEXT as TEXT_KIND
from netdiff_ray.header_bytes import IPPROTO_TCP

NOISE, TEXT, ZEROS, PRINTABLE, SPARSE = range(5)
"""Fillers. NOISE: random after four bytes of ones, which no reader takes for a message that it
knows. TEXT: lower-case letters and spaces. ZEROS: zeros, for readers that accept nothing else.
PRINTABLE: letters, digits and marks. SPARSE: uneven bytes, many of them zeros, after four of
ones."""

_TCP_PORTS: dict[tuple[int, int], tuple[int, ...]] = {
    (TEXT, 0): (
        13, 21, 23, 25, 42, 70, 79, 80, 110, 119, 143, 210, 513, 554, 587, 631, 1102, 1533,
        2234, 2240, 2401, 2600, 3002, 3003, 3006, 3128, 4002, 4155, 4222, 4249, 4250, 5000, 5060,
        5222, 5445, 5534, *range(6000, 6064), 6121, 6417, 7871, 8000, 8008, 8009, 8080, 8888, 9092,
        10288, 24800,
    ),
    (TEXT, 2): (5555, 6666),
    (TEXT, 4): (48049,),
    (ZEROS, 0): (500, 1861, 2404, 3452, 5094, 6667, 6668, 57000),
    (ZEROS, 2): (199,),
    (ZEROS, 4): (9956,),
    (ZEROS, 8): (4551,),
    (ZEROS, 10): (2269,),
    (ZEROS, 15): (925,),
    (ZEROS, 36): (7911,),
    (TEXT, 13): (873,),
    (NOISE, 2): (5010, 34980),
    (NOISE, 3): (2944,),
    (NOISE, 4): (37, 123, 389, 988, 1521, 3268, 4321, 4555, 9600),
    (NOISE, 5): (22, 29418),
    (NOISE, 6): (8085,),
    (NOISE, 8): (2812, 4223, 4224),
    (NOISE, 12): (3632,),
    (NOISE, 16): (548, 3357),
    (NOISE, 19): (524,),
    (NOISE, 38): (48898,),
}  # fmt: skip
_UDP_PORTS: dict[tuple[int, int], tuple[int, ...]] = {
    (TEXT, 0): (13, 443, 514, 1900, 5060, 5555, 6666, 7004, 7005, 7007, 7075, 17500, 19948),
    (TEXT, 3): (9201,),
    (TEXT, 4): (4569, 27950, 27951, 27952, 27953, 27961, 27962, 27963),
    (TEXT, 5): (17756,),
    (TEXT, 6): (27960,),
    (TEXT, 8): (6160,),
    (TEXT, 10): (27500,),
    (TEXT, 16): (10253,),
    (ZEROS, 0): (389, 500, 2949, 7000, 7255, 9202, 9203, 30030),
    (ZEROS, 2): (2222, 3250),
    (ZEROS, 3): (2345,),
    (ZEROS, 4): (3452, 4500, 4754, 9956),
    (ZEROS, 6): (49, 3671),
    (ZEROS, 8): (496, 664, 3389, 4551, 5436, 6081, 7275, 8848),
    (ZEROS, 9): (4341, 5072),
    (ZEROS, 10): (1194, 2269),
    (ZEROS, 12): (137,),
    (ZEROS, 13): (525,),
    (ZEROS, 14): (12220,),
    (ZEROS, 15): (925, 4729),
    (ZEROS, 16): (910,),
    (ZEROS, 18): (5031,),
    (ZEROS, 300): (67, 68),
    (ZEROS, 24): (3784, 4784, 4789, 6784, 7784, 11273, 44818),
    (NOISE, 2): (
        177, 319, 320, 2055, 2948, 4000, 4739, 5094, 8211, 9200, 9996, 18246, 34980,
    ),
    (NOISE, 3): (69, 1293, 2944, 4342, 8600, 12000, 12001, 12002, 12003, 12004),
    (NOISE, 4): (37, 123, 546, 547, 1001, 2048, 4555, 5001, 6343, 6970, 9901),
    (NOISE, 5): (4306, 4307, 5000),
    (NOISE, 6): (4533, 4534, 7074, 8200),
    (NOISE, 7): (524,),
    (NOISE, 8): (173, 2428, 4790, 26000),
    (NOISE, 10): (138, 1755, 12222),
    (NOISE, 12): (8755, 8767, 9877),
    (NOISE, 13): (3000,),
    (NOISE, 16): (3357, 24576, 24577),
    (NOISE, 28): (921,),
    (NOISE, 30): (213,),
}  # fmt: skip

_STRICT_TCP = (
    13, 21, 23, 42, 70, 110, 123, 199, 210, 389, 427, 500, 513, 524, 547, 873, 925, 1099, 1102,
    1533, 1861, 1883, 1935, 2000, 2123, 2152, 2234, 2240, 2269, 2401, 2404, 2600, 2944, 3002, 3003,
    3006, 3246, 3247, 3268, 3288, 3386, 3452, 3860, 4002, 4155, 4189, 4222, 4224, 4249, 4250, 4369,
    4551, 5000, 5060, 5094, 5253, 5445, 5534, 5555, 5683, *range(6000, 6064), 6121, 6346, 6417,
    6666, 6667, 6668, 7871, 7911, 8009, 8010, 9092, 9956, 10288, 20256, 21064, 22222, 24800, 30098,
    30191, 34980, 48049, 57000,
)  # fmt: skip
_STRICT_UDP = (
    13, 49, 67, 68, 69, 88, 123, 137, 138, 173, 177, 213, 269, 319, 320, 389, 496, 500, 514, 524,
    525, 546, 547, 623, 631, 664, 910, 921, 925, 1001, 1044, 1069, 1091, 1101, 1194, 1293, 1700,
    1701, 1755, 1812, 2048, 2055, 2067, 2123, 2152, 2222, 2268, 2269, 2345, 2428, 2944, 2948, 2949,
    3000, 3250, 3357, 3386, 3389, 3452, 3483, 3622, 3671, 3784, 4000, 4306, 4307, 4341, 4342, 4500,
    4533, 4534, 4551, 4555, 4556, 4569, 4729, 4739, 4754, 4784, 4789, 4790, 5000, 5001, 5031, 5060,
    5072, 5094, 5436, 5555, 5678, 6073, 6081, 6160, 6343, 6543, 6666, 6784, 6970,
    *range(7000, 7010), 7021, 7074, 7075, 7255, 7275, 7784, 8200, 8211, 8600, 8611, 8612, 8613,
    8614, 8767, 8848, 9200, 9201, 9202, 9203, 9877, 9901, 9956, 9996, 10253, 11273, 12000, 12001,
    12002, 12003, 12004, 12220, 12222, 17500, 17756, 18246, 19948, 22222, 24576, 24577, 26000,
    27500, 27950, 27951, 27952, 27953, 27960, 27961, 27962, 27963, 30030, 34980, 44818,
)  # fmt: skip
"""Ports whose readers refuse NOISE, PRINTABLE or SPARSE at some length: what is spoken there is
filled as the port wants it, whatever is known of it. Of those of DNS and XMPP none is here: their
readers refuse all but their own protocol, which is not what was captured."""

UNFILLED_TCP = (
    161, 162, 639, 862, 1153, 1723, 1998, 2321, 2322, 2571, 3671, 3863, 4556, 6160, 6417, 7000,
    8023, 9300, 13400,
)  # fmt: skip
UNFILLED_UDP = (
    427, 434, 464, 513, 520, 521, 701, 854, 1113, 1153, 1628, 1629, 1718, 1719, 1745, 2246, 2313,
    2945, 3130, 3343, 3455, 3544, 3804, 3863, 4791, 4991, 5246, 5247, 5683, 6118, 6635, 8805, 9214,
    9875, 9899, 12223, 13400, 17220, 17755, 19132, 23272, 25826, 27910, 34962, 37008, 41170, 47000,
    54328,
)  # fmt: skip
"""Ports whose Wireshark dissector takes no filler at every length: their packets are sound, but
it may call the payload malformed. (At TCP 6417 it searches all that was sent for its frames' marks,
again with every segment.)"""


def _tables(ports_of: dict[tuple[int, int], tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Return (65536,) uint8 filler and (65536,) int64 shortest payload of each port."""
    fillers = np.full(65_536, NOISE, np.uint8)
    shortest = np.zeros(65_536, np.int64)
    for (filler, length), ports in ports_of.items():
        fillers[list(ports)] = filler
        shortest[list(ports)] = length
    return fillers, shortest


class PortFillers(NamedTuple):
    """Filler and shortest payload by port, for kernels; each (65536,)."""

    tcp: np.ndarray
    """uint8."""
    tcp_shortest: np.ndarray
    """int64."""
    udp: np.ndarray
    """uint8."""
    udp_shortest: np.ndarray
    """int64."""
    tcp_strict: np.ndarray
    """bool: whether the port's filler stands, whatever is known of a flow."""
    udp_strict: np.ndarray
    """bool."""
    of_kind: np.ndarray
    """(K,) uint8 of each of `dialogue.KINDS`: how flows that are known to be of it are filled where
    they have no dialogue."""


FILLERS = PortFillers(
    *_tables(_TCP_PORTS), *_tables(_UDP_PORTS),
    *(np.isin(np.arange(65_536), ports) for ports in (_STRICT_TCP, _STRICT_UDP)),
    np.array([{TEXT_KIND: PRINTABLE, BINARY: SPARSE}.get(k.name, NOISE) for k in KINDS], np.uint8),
)  # fmt: skip


@numba.njit(cache=True)
def filler_of(fillers, protocol, port, kind, is_known):
    """Return the filler of a flow without a dialogue: of its kind if captures showed that and the
    readers of its server port accept it, else of the port."""
    is_tcp = protocol == IPPROTO_TCP
    if is_known and not (fillers.tcp_strict[port] if is_tcp else fillers.udp_strict[port]):
        return fillers.of_kind[kind]
    return fillers.tcp[port] if is_tcp else fillers.udp[port]
