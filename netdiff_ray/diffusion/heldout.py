"""Which windows of a training set are held out: no step learns from them, they tell when to stop.

Shape letters: N windows of all ranks.
"""

import numpy as np


def held_out(service: np.ndarray, flow: np.ndarray, share: float) -> np.ndarray:
    """Return which windows are held out, (N,) bool; whole flows are.

    Of each service the flows of the lowest hashes are, `share` of its flows rounded to a whole
    number: none of services that have no more than 0.5 / share flows.

    Args:
        service: (N,) int64 index of the window's service.
        flow: (N,) int64 hash of its flow.
        share: of the flows of a service, from 0 to below 1.
    """
    is_held_out = np.zeros(len(service), bool)
    for index in np.unique(service):
        of_service = service == index
        flows = np.unique(flow[of_service])
        chosen = flows[: round(share * len(flows))]
        is_held_out |= of_service & np.isin(flow, chosen)
    return is_held_out


def measured(service: np.ndarray, is_held_out: np.ndarray, most: int) -> np.ndarray:
    """Return which held-out windows the held-out loss is measured on, (N,) bool.

    At most `most`: the first of each service, then the second of each, and so on.

    Args:
        service: (N,) int64 index of the window's service.
        is_held_out: (N,) bool.
        most: number of windows.
    """
    place = np.flatnonzero(is_held_out)
    turn = np.zeros(len(place), np.int64)
    for index in np.unique(service[place]):
        of_service = service[place] == index
        turn[of_service] = np.arange(of_service.sum())
    chosen = place[np.argsort(turn, kind="stable")[:most]]
    return np.isin(np.arange(len(service)), chosen)
