"""The measures of a conversation by name, and packets as the kernels take them.

Shape letters: P packets, F flows, M measures.
"""

from typing import NamedTuple

import numpy as np

from netdiff_ray.evaluate.payload_kinds import HANDSHAKES, KINDS

TCP_MEASURES = (
    "window changes more than twofold between acknowledgements of a host",
    "right window edge moves back",
    "ACK number inside a segment",
    "data beyond the offered window",
    "server's ACK sooner than half its handshake",
    "client's ACK sooner than half its handshake",
    "server's answer sooner than half its handshake",
    "client's answer sooner than half its handshake",
    "retransmitted segment",
    "out-of-order segment",
    "duplicate ACK",
    "pure ACK updates its window alone",
    "pure ACK acknowledges 1 segment",
    "pure ACK acknowledges 2 segments",
    "pure ACK acknowledges more segments",
    "first payload from the client",
)
(
    WINDOW_JUMP, EDGE_BACK, ACK_INSIDE, BEYOND_WINDOW, SERVER_ACK_EARLY, CLIENT_ACK_EARLY,
    SERVER_ANSWER_EARLY, CLIENT_ANSWER_EARLY, RETRANSMITTED, OUT_OF_ORDER, DUPLICATE_ACK,
    WINDOW_UPDATE, ACKS_ONE, ACKS_TWO, ACKS_MORE, CLIENT_FIRST,
) = range(len(TCP_MEASURES))  # fmt: skip

RHYTHM_MEASURES = (
    "client sends 1 packet with payload in a row",
    "client sends 2 or 3 in a row",
    "client sends 4 to 9 in a row",
    "client sends 10 or more in a row",
    "server sends 1 packet with payload in a row",
    "server sends 2 or 3 in a row",
    "server sends 4 to 9 in a row",
    "server sends 10 or more in a row",
    "gap under 1 ms",
    "gap of 1 to 10 ms",
    "gap of 10 to 100 ms",
    "gap of 0.1 to 1 s",
    "gap of 1 to 10 s",
    "gap of 10 s or more",
    "burst of 1 packet",
    "burst of 2 or 3 packets",
    "burst of 4 to 9 packets",
    "burst of 10 packets or more",
    "payload of the commonest size of its sender",
    "gap in the commonest tenth of a decade of its sender",
)
RUN, GAP, BURST = len(TCP_MEASURES), len(TCP_MEASURES) + 8, len(TCP_MEASURES) + 14
COMMONEST_SIZE, COMMONEST_GAP = BURST + 4, BURST + 5
GAP_DECADES, COUNT_CLASSES = 6, 4
"""Classes of gaps (RHYTHM_MEASURES), and of runs and bursts by their packets."""

PAYLOAD_MEASURES = (
    "empty UDP datagram",
    "DNS answer to a query seen",
    "DNS answer repeats the question",
    "DNS answer holds records",
    *(f"first payload: {kind}" for kind in KINDS),
    *(f"{name} handshake complete" for name in HANDSHAKES),
)
EMPTY_UDP = COMMONEST_GAP + 1
DNS_SEEN, DNS_REPEATS, DNS_RECORDS, FIRST_KIND = (EMPTY_UDP + k for k in range(1, 5))
HANDSHAKE = FIRST_KIND + len(KINDS)

MEASURES = TCP_MEASURES + RHYTHM_MEASURES + PAYLOAD_MEASURES
"""Each is a share of steps (packets, acknowledgements, gaps, runs, flows) of which it is true."""
FORBIDDEN = frozenset(
    (WINDOW_JUMP, EDGE_BACK, ACK_INSIDE, BEYOND_WINDOW, SERVER_ACK_EARLY, CLIENT_ACK_EARLY,
     SERVER_ANSWER_EARLY, CLIENT_ANSWER_EARLY, RETRANSMITTED, OUT_OF_ORDER, DUPLICATE_ACK,
     EMPTY_UDP)
)  # fmt: skip
"""Measures that are 0 for hosts that keep the RFCs on a path that loses nothing."""


class Steps(NamedTuple):
    """Packets flow after flow, as the kernels take them: (P,) each.

    Numbers of TCP are 0 for other packets.
    """

    ts_ns: np.ndarray
    """int64."""
    side: np.ndarray
    """uint8: 0 the client's, 1 the server's."""
    is_tcp: np.ndarray
    """bool: a TCP header was captured whole but for options."""
    flags: np.ndarray
    """uint8."""
    seq: np.ndarray
    """int64."""
    ack: np.ndarray
    """int64."""
    window: np.ndarray
    """int64, not scaled."""
    scale: np.ndarray
    """int64: the window scale option, -1 without."""
    payload_bytes: np.ndarray
    """int64."""
    has_payload: np.ndarray
    """bool: data that is a step of the conversation (each datagram, each segment with data)."""
