"""Distances between distributions.

Shape letters: D outcomes of all variables side by side, V variables, A and B observations.
"""

import math

import numpy as np

MEASURES = ("jsd", "tvd", "hellinger")


def divergences(p: np.ndarray, q: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
    """Return Jensen-Shannon divergence, total variation and Hellinger distance of V variables.

    Jensen-Shannon (Lin, IEEE Trans. Inf. Theory 37(1), 1991) is in bits: base 2, the
    divergence and not its root. All three lie between 0 (the same) and 1 (disjoint).

    Args:
        p: (..., D) counts of outcomes, at least 0; variable v has those from starts[v] on.
        q: like `p`.
        starts: (V,) int64, ascending, the first 0.

    Returns:
        {"jsd", "tvd", "hellinger"}: (..., V) float64 each; NaN where a variable has no
        observation in either.
    """
    p, q = _shares(p, starts), _shares(q, starts)
    middle = (p + q) / 2
    jsd = (_entropy_terms(middle) - (_entropy_terms(p) + _entropy_terms(q)) / 2) / np.log(2)
    hellinger = np.add.reduceat((np.sqrt(p) - np.sqrt(q)) ** 2, starts, axis=-1) / 2
    return {
        "jsd": np.clip(np.add.reduceat(jsd, starts, axis=-1), 0, 1),
        "tvd": np.add.reduceat(np.abs(p - q), starts, axis=-1) / 2,
        "hellinger": np.sqrt(hellinger),
    }


def _shares(counts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return counts over the sum of their variable."""
    sums = np.add.reduceat(counts, starts, axis=-1).astype(np.float64)
    sums[sums == 0] = np.nan
    return counts / np.repeat(sums, np.diff(starts, append=counts.shape[-1]), axis=-1)


def _entropy_terms(shares: np.ndarray) -> np.ndarray:
    """Return -x ln x, 0 at 0."""
    return -shares * np.log(np.where(shares > 0, shares, 1.0))


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest distance between the empirical distribution functions of (A,) and (B,).

    NaN if either is empty (Smirnov, Ann. Math. Stat. 19(2), 1948).
    """
    if not len(a) or not len(b):
        return float("nan")
    _, ours, theirs = _distribution_functions(a, b)
    return float(np.abs(ours - theirs).max())


def earth_movers(a: np.ndarray, b: np.ndarray) -> float:
    """Return the earth mover's (first Wasserstein) distance of (A,) and (B,), in their unit.

    NaN if either is empty. In one dimension it is the area between the distribution
    functions (Vallender, Theory Probab. Appl. 18(4), 1974).
    """
    if not len(a) or not len(b):
        return float("nan")
    points, ours, theirs = _distribution_functions(a, b)
    return float((np.abs(ours - theirs)[:-1] * np.diff(points)).sum())


def _distribution_functions(
    a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all values, sorted, and both distribution functions at each."""
    points = np.sort(np.concatenate([a, b]))
    ours = np.searchsorted(np.sort(a), points, side="right") / len(a)
    theirs = np.searchsorted(np.sort(b), points, side="right") / len(b)
    return points, ours, theirs


def interval(estimate: float, replicates: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of an estimate between 0 and 1, by 1.96 standard errors.

    Args:
        estimate: between 0 and 1.
        replicates: bootstrap replicates (Efron, Ann. Statist. 7(1), 1979), whose standard
            deviation is the standard error. Replicates of a divergence lie above it, so
            that their percentiles would not do.
    """
    finite = replicates[np.isfinite(replicates)]
    error = 1.96 * float(finite.std(ddof=1)) if len(finite) > 1 else float("nan")
    return max(estimate - error, 0.0), min(estimate + error, 1.0)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` independent flows (Wilson, JASA 22, 1927)."""
    z2 = 1.96**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    spread = 1.96 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, middle - spread), min(1.0, middle + spread)
