"""Checks that need no opinion: degenerate settings that must agree, and samples held against an exact law."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import AbreastError
from .problem import Method, Problem, check_kinds, run

if TYPE_CHECKING:
    from abreast.workers import World

H = TypeVar("H", bound=Hashable)


def laws(method: Method, problem: Problem[Any], world: Callable[[], World] | None = None) -> Iterator[tuple[str, bool]]:
    """Run both sides of each of the method's laws on `problem`: its name, and whether the two answers are the same up
    to the problem's rounding."""
    check_kinds(problem, method)
    for name, one, other in method.laws():
        values = [run(problem, side, world and world()).value for side in (one, other)]
        yield name, bool(problem.distance(*values) <= problem.rounding)


def same_distribution(
    sample: Callable[[int], H], law: Mapping[H, float], samples: int, alarm: float = 1e-3
) -> tuple[bool, float]:
    """G-test of sample(0), ..., sample(samples - 1) against the exact `law` (outcome -> probability).

    Returns whether it passes, and the p-value. A right sampler fails with probability `alarm`; an outcome that the law
    does not have fails outright. Cells of expectation below 5 are merged. Raises AbreastError where the law does not
    add up to 1. Negative controls must draw independently of what they are held against.
    """
    total = math.fsum(law.values())
    if abs(total - 1) > 1e-6 or min(law.values()) < 0:
        raise AbreastError(f"a law's probabilities must be from 0 on and add up to 1, not {total:g}.")
    counts = Counter(sample(seed) for seed in range(samples))
    if any(law.get(outcome, 0.0) <= 0 for outcome in counts):
        return False, 0.0
    cells = _merged([(p * samples / total, counts[outcome]) for outcome, p in law.items() if p > 0])
    g = 2 * math.fsum(seen * math.log(seen / expected) for expected, seen in cells if seen)
    p = chi_square_tail(g, len(cells) - 1)
    return p >= alarm, p


def _merged(cells: list[tuple[float, int]], least: float = 5.0) -> list[tuple[float, int]]:
    """(expected, seen) with the smallest cells pooled until each expects at least `least`."""
    pool_expected, pool_seen = 0.0, 0
    merged = []
    for expected, seen in sorted(cells):
        if pool_expected < least and (pool_expected or expected < least):
            pool_expected, pool_seen = pool_expected + expected, pool_seen + seen
        else:
            merged.append((expected, seen))
    return [(pool_expected, pool_seen), *merged] if pool_expected else merged


def chi_square_tail(x: float, freedom: int) -> float:
    """The probability that a chi-square variable with `freedom` degrees of freedom exceeds x: the regularised upper
    incomplete gamma function Q(freedom / 2, x / 2)."""
    if freedom <= 0 or x <= 0:
        return 1.0
    a, x = freedom / 2, x / 2
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    return 1 - scale * _lower_series(a, x) if x < a + 1 else scale * _upper_fraction(a, x)


def _lower_series(a: float, x: float) -> float:
    """Sum of x^k / (a (a + 1) ... (a + k)), which converges fast where x < a + 1."""
    term = total = 1 / a
    k = a
    while term > total * 1e-16:
        k += 1
        term *= x / k
        total += term
    return total


def _upper_fraction(a: float, x: float) -> float:
    """Legendre's continued fraction by Lentz's method, which converges fast where x > a + 1."""
    tiny = 1e-300
    b = x + 1 - a
    c, d = 1 / tiny, 1 / b
    value = d
    for i in range(1, 10_000):
        factor = i * (a - i)
        b += 2
        d = 1 / (factor * d + b or tiny)
        c = b + factor / c or tiny
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value
