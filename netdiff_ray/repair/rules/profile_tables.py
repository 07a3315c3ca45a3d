"""What a label's profile tells, as arrays for the kernels of the rule `profile`.

Shape letters: S states (payloads known of a place), T successions, W windows, M sizes.
"""

from dataclasses import dataclass

import numba
import numpy as np

from netdiff_ray.labels.profile import LATER, OPENING_PACKETS, Profile
from netdiff_ray.nprint.timecode import MOST_LEVEL

PLACES = LATER + 1
"""Of packets in a flow of a transport, by their numbers in a `Profile`."""


@dataclass(frozen=True)
class Tables:
    """The aggregates, by place: transport (TCP, UDP, ICMP) times PLACES plus number."""

    starts: np.ndarray
    """(3 * PLACES + 1,) int64: first state of each place."""
    states: np.ndarray
    """(S, 3) int64: side, bytes of payload, flags; those of a place ascending."""
    keys: np.ndarray
    """(S,) int64: all three in one number (see `key_of`), which ascend as well."""
    share: np.ndarray
    """(S,) float64 of its place."""
    last_share: np.ndarray
    """(S,) float64 of its flows, those that end with it."""
    follow_starts: np.ndarray
    """(3 * PLACES + 1,) int64: first succession into each place."""
    follows: np.ndarray
    """(T, 2) int64: states before and after."""
    follow_share: np.ndarray
    """(T,) float64 of what follows the state before."""
    window_starts: np.ndarray
    """(2 * OPENING_PACKETS + 1,) int64, by number and side."""
    windows: np.ndarray
    """(W,) int64."""
    window_share: np.ndarray
    """(W,) float64."""
    mss_starts: np.ndarray
    """(3,) int64, by side."""
    mss: np.ndarray
    """(M,) int64."""
    mss_share: np.ndarray
    """(M,) float64."""
    levels: np.ndarray
    """(2 * (OPENING_PACKETS + 1), 256) float64 packets, the last two of all later packets."""


def tables_of(profile: Profile) -> Tables:
    """The tables of a profile."""
    of_transport = {6: 0, 17: 1, 1: 2}
    payloads = [
        ((of_transport[transport] * PLACES + number, *state), packets, last)
        for transport, number, *state, packets, last in profile.payloads
    ]
    payloads.sort()
    position = {state: k for k, (state, *_) in enumerate(payloads)}
    place = np.array([state[0] for state, *_ in payloads], np.int64)
    share = np.array([packets for _, packets, _ in payloads], np.float64)
    last_share = np.array([last for *_, last in payloads], np.float64) / share
    share /= np.bincount(place, share, 3 * PLACES)[place]
    follows = []
    for transport, number, *states, flows in profile.successions:
        before = of_transport[transport] * PLACES + number
        pair = position[before, *states[:3]], position[before + 1, *states[3:]]
        follows.append((before + 1, *pair, flows))
    follows.sort()
    follow = np.array(follows, np.int64).reshape(-1, 4)
    follow_share = (
        follow[:, 3] / np.bincount(follow[:, 1], follow[:, 3], len(payloads))[follow[:, 1]]
    )
    windows = sorted((2 * number + side, window, n) for number, side, window, n in profile.windows)
    window = np.array(windows, np.int64).reshape(-1, 3)
    mss = np.array(sorted(profile.mss), np.int64).reshape(-1, 3)
    levels = np.zeros((2 * (OPENING_PACKETS + 1), MOST_LEVEL + 1))
    for number, side, level, packets in profile.levels:
        levels[2 * number + side, level] += packets
    states = np.array([state[1:] for state, *_ in payloads], np.int64).reshape(-1, 3)
    return Tables(
        starts=np.searchsorted(place, np.arange(3 * PLACES + 1)),
        states=states,
        keys=key_of(*states.T),
        share=share,
        last_share=last_share,
        follow_starts=np.searchsorted(follow[:, 0], np.arange(3 * PLACES + 1)),
        follows=np.ascontiguousarray(follow[:, 1:3]),
        follow_share=follow_share,
        window_starts=np.searchsorted(window[:, 0], np.arange(2 * OPENING_PACKETS + 1)),
        windows=np.ascontiguousarray(window[:, 1]),
        window_share=window[:, 2].astype(np.float64),
        mss_starts=np.searchsorted(mss[:, 0], np.arange(3)),
        mss=np.ascontiguousarray(mss[:, 1]),
        mss_share=mss[:, 2].astype(np.float64),
        levels=levels,
    )


@numba.njit(cache=True)
def key_of(side, payload, flags):
    """A number that ascends with side, payload and flags, in that order."""
    return (side << 32) + (payload + 1 << 12) + flags
