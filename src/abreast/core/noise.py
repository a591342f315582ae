"""Random numbers that are functions of their names.

A draw is keyed by (seed, purpose, keys): who it is for and where it is used, never by when it is asked for. So it does
not depend on order, batch, lane or worker, and a method can draw exactly what its reference draws.
"""

from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np

from .errors import AbreastError

_WORD = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_ONE, _TWO = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _mix(z: int) -> int:
    """The finaliser of splitmix64, on Python integers."""
    z = ((z ^ (z >> 30)) * _ONE) & _WORD
    z = ((z ^ (z >> 27)) * _TWO) & _WORD
    return z ^ (z >> 31)


def _mix_array(z: np.ndarray) -> np.ndarray:
    """The same bits, on an array of uint64, in place."""
    spare = z >> np.uint64(30)
    for shift, factor in ((27, _ONE), (31, _TWO)):
        z ^= spare
        z *= np.uint64(factor)
        np.right_shift(z, np.uint64(shift), out=spare)
    z ^= spare
    return z


@lru_cache(maxsize=4096)
def _begin(seed: int, purpose: str) -> int:
    return _mix(_mix((seed + _STEP) & _WORD) ^ crc32(purpose.encode()))


@lru_cache(maxsize=64)
def _steps(n: int) -> np.ndarray:
    steps = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_STEP)
    steps.flags.writeable = False
    return steps


def uniform(seed: int, purpose: str, *keys: Any, n: int | None = None) -> Any:
    """Numbers in the open interval (0, 1), float64, 52 bits each.

    keys: integers or integer arrays, which are broadcast. n: how many numbers for every combination of keys, along a
    new last axis; None is one number and no axis. The first of `n` numbers is the one that `n=None` gives.
    Returns a float where every key is a number and n is None, else an array of shape [*broadcast, n].
    """
    state: Any = _begin(int(seed), purpose)
    for key in keys:
        if not isinstance(key, int):
            key = _words(key)
        if isinstance(key, int) and isinstance(state, int):
            state = _mix(state ^ (key & _WORD))
        else:
            state = _mix_array(_words(state) ^ _words(key))
    if n is None and isinstance(state, int):
        return ((_mix((state + _STEP) & _WORD) >> 12) + 0.5) * 2.0**-52
    bits = _mix_array(np.expand_dims(_words(state), -1) + _steps(1 if n is None else n))
    numbers = ((bits >> np.uint64(12)) + 0.5) * 2.0**-52
    if n is not None:
        return numbers
    return numbers[..., 0] if numbers.ndim > 1 else float(numbers[0])


def gumbel(seed: int, purpose: str, *keys: Any, n: int | None = None) -> Any:
    """Standard Gumbel numbers: -log(-log(u)) of `uniform` with the same arguments. The argmax of log-probabilities
    plus these is a draw from them."""
    return -np.log(-np.log(uniform(seed, purpose, *keys, n=n)))


def _words(key: Any) -> Any:
    """An integer as a uint64 scalar, negative numbers wrapped; an integer array as uint64, one of no axes as int."""
    if isinstance(key, int):
        return np.uint64(key & _WORD)
    array = np.asarray(key)
    if array.dtype.kind not in "iub":
        raise AbreastError(f"a key of a draw must be an integer or an array of integers, not {array.dtype}.")
    return array.astype(np.uint64) if array.ndim else int(array)
