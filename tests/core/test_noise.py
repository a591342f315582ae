"""Draws that are functions of their names."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abreast.core import AbreastError, gumbel, uniform
from abreast.core.noise import _STEP, _mix

key = st.integers(-(2**63), 2**63 - 1)


@given(key, st.lists(key, min_size=1, max_size=5), st.lists(key, min_size=1, max_size=5), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_arrays_draw_what_single_keys_draw(seed, rows, columns, n):
    whole = uniform(seed, "test", np.array(rows)[:, None], np.array(columns), n=n)
    assert whole.shape == (len(rows), len(columns), n)
    for i, r in enumerate(rows):
        for j, c in enumerate(columns):
            assert (uniform(seed, "test", r, c, n=n) == whole[i, j]).all()
            assert uniform(seed, "test", r, c) == whole[i, j, 0] == uniform(seed, "test", np.int64(r), c)
    assert (uniform(seed, "test", np.array(rows), 3) == [uniform(seed, "test", r, 3) for r in rows]).all()


def test_golden_values():
    assert [_mix(k * _STEP % 2**64) for k in (1, 2)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
    ]  # splitmix64's, of seed 0
    assert uniform(0, "x") == 0.145387995790209
    assert uniform(7, "draft", 3, -1) == 0.9512994379481942
    assert gumbel(7, "draft", 3, n=2) == pytest.approx([1.9803732311882718, 1.8145848415928212], rel=1e-14)


def test_every_name_matters():
    draws = [
        uniform(0, "a"), uniform(1, "a"), uniform(0, "b"), uniform(0, "a", 0), uniform(0, "a", 1),
        uniform(0, "a", 0, 1), uniform(0, "a", 1, 0), uniform(0, "a", 0, 0), *uniform(0, "a", n=3)[1:],
    ]  # fmt: skip
    assert len(set(draws)) == len(draws)


def kolmogorov(sample):
    """The largest distance of the empirical distribution from the uniform one, times the root of the size."""
    sample = np.sort(np.ravel(sample))
    steps = np.arange(len(sample) + 1) / len(sample)
    return max(np.max(steps[1:] - sample), np.max(sample - steps[:-1])) * len(sample) ** 0.5


N = 20_000
STREAMS = {
    "along n": lambda: uniform(1, "a", n=N),
    "along a key": lambda: uniform(1, "a", np.arange(N)),
    "along a far key": lambda: uniform(1, "a", np.arange(N) << 40),
    "along a last key": lambda: uniform(1, "a", 5, np.arange(N)),
    "along seeds": lambda: np.array([uniform(seed, "a") for seed in range(N)]),
    "along a diagonal": lambda: uniform(1, "a", np.arange(N), np.arange(N)),
}


@pytest.mark.parametrize("name", STREAMS)
def test_numbers_are_uniform_and_neighbours_independent(name):
    u = STREAMS[name]()
    assert u.min() > 0 and u.max() < 1
    assert kolmogorov(u) < 1.95  # passed by chance in 999 of 1000
    for lag in (1, 2, 64):
        counts = np.histogram2d(u[:-lag], u[lag:], bins=8, range=[[0, 1], [0, 1]])[0]
        expected = (N - lag) / 64
        assert ((counts - expected) ** 2 / expected).sum() < 64 + 5 * 128**0.5
    bits = (u * 2**32).astype(np.uint64)
    ones = np.array([((bits >> np.uint64(b)) & np.uint64(1)).mean() for b in range(32)])
    assert np.abs(ones - 0.5).max() < 5 * 0.5 / N**0.5


def test_gumbel_draws_from_log_probabilities():
    p = np.array([0.1, 0.2, 0.7])
    picks = np.argmax(np.log(p) + gumbel(3, "pick", np.arange(N), n=3), axis=1)
    assert np.abs(np.bincount(picks) / N - p).max() < 0.015
    assert isinstance(gumbel(3, "pick", 1), float)


@pytest.mark.parametrize("bad", [1.5, np.array([0.5]), "a"])
def test_keys_are_integers(bad):
    with pytest.raises(AbreastError, match="must be an integer"):
        uniform(0, "a", bad)
