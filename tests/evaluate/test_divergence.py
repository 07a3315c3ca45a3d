"""Distances between distributions, against numbers worked out by hand and against SciPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.spatial.distance import jensenshannon

from netdiff_ray.evaluate.divergence import (
    divergences,
    earth_movers,
    interval,
    kolmogorov_smirnov,
)

ONE = np.array([0])
VALUES = arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e3, 1e3))


def test_by_hand():
    # p is sure of the first outcome, q undecided: the middle is (3/4, 1/4).
    found = divergences(np.array([4, 0]), np.array([1, 1]), ONE)
    middle = 0.75 * np.log2(4 / 3) + 0.25 * np.log2(4)
    assert found["jsd"][0] == pytest.approx(middle - 0.5)
    assert found["tvd"][0] == pytest.approx(0.5)
    assert found["hellinger"][0] == pytest.approx(np.sqrt(1 - np.sqrt(0.5)))


def test_the_same_is_0_and_the_disjoint_1():
    same = divergences(np.array([1, 2, 3]), np.array([2, 4, 6]), ONE)
    apart = divergences(np.array([5, 0]), np.array([0, 1]), ONE)
    for name in ("jsd", "tvd", "hellinger"):
        assert same[name][0] == pytest.approx(0, abs=1e-12)
        assert apart[name][0] == pytest.approx(1)


def test_variables_stand_side_by_side():
    starts = np.array([0, 2, 5])
    p = np.array([[1, 1, 1, 0, 0, 7]])
    q = np.array([[1, 1, 0, 0, 2, 9]])
    np.testing.assert_allclose(divergences(p, q, starts)["tvd"], [[0, 1, 0]])


def test_what_was_never_seen_has_no_distance():
    found = divergences(np.array([0, 0, 1]), np.array([1, 0, 1]), np.array([0, 2]))
    assert np.isnan(found["jsd"][0])
    assert found["jsd"][1] == 0


@given(arrays(np.int64, (2, 6), elements=st.integers(1, 50)))
def test_as_scipy_has_it(counts):
    found = divergences(counts[0], counts[1], ONE)["jsd"][0]
    assert found == pytest.approx(jensenshannon(*counts, base=2) ** 2, abs=1e-9)


def test_continuous_by_hand():
    a, b = np.array([0.0, 1.0]), np.array([1.0, 2.0])
    assert earth_movers(a, b) == pytest.approx(1)
    assert kolmogorov_smirnov(a, b) == pytest.approx(0.5)
    assert earth_movers(a, a) == kolmogorov_smirnov(a, a) == 0
    assert np.isnan(earth_movers(a, b[:0]))
    assert np.isnan(kolmogorov_smirnov(a[:0], b))


@given(VALUES, VALUES)
def test_continuous_as_defined(a, b):
    assert earth_movers(a, b) == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-9)
    gaps = [abs((a <= x).mean() - (b <= x).mean()) for x in np.concatenate([a, b])]
    assert kolmogorov_smirnov(a, b) == pytest.approx(max(gaps))


def test_interval_holds_its_estimate():
    low, high = interval(0.1, np.array([0.11, 0.13, 0.12]))
    assert low == pytest.approx(0.1 - 1.96 * 0.01)
    assert high == pytest.approx(0.1 + 1.96 * 0.01)
    assert interval(0.0, np.zeros(5)) == (0, 0)
    assert np.isnan(interval(0.1, np.array([0.1]))).all()
