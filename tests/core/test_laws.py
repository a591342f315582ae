"""Laws, and samples held against exact distributions."""

from math import exp

import pytest
from scripted import Letters, OneByOne, Speculative

from abreast.core import AbreastError, laws, run, same_distribution, uniform
from abreast.core.laws import chi_square_tail


def test_laws_run_both_sides():
    assert list(laws(Speculative(), Letters())) == [("nothing drafted is one letter at a time", True)]

    class Broken(Speculative):
        def laws(self):
            yield "one seed is another", OneByOne(), Off()

    class Off(OneByOne):
        def run(self, problem, world):
            return OneByOne().run(Letters(seed=problem.seed + 1), world)

    assert list(laws(Broken(), Letters())) == [("one seed is another", False)]


@pytest.mark.parametrize(
    ("x", "freedom", "tail"),
    [(3.841458820694124, 1, 0.05), (6.634896601021213, 1, 0.01), (9.487729036781154, 4, 0.05), (0.0, 3, 1.0),
     (18.307038053275146, 10, 0.05), (124.34211340400407, 100, 0.05), (2.0, 2, exp(-1)), (200.0, 2, exp(-100)),
     (0.0157907740934312, 1, 0.9), (7.0, 4, 4.5 * exp(-3.5))],
)  # fmt: skip
def test_chi_square_tail(x, freedom, tail):
    assert chi_square_tail(x, freedom) == pytest.approx(tail, rel=1e-6)


LAW = {"a": 0.5, "b": 0.3, "c": 0.1999, "d": 0.0001}


def sampler(*edges):
    def sample(seed):
        u = uniform(seed, "letter")
        return "abcd"[sum(u >= edge for edge in edges)]

    return sample


def test_right_samples_pass_and_wrong_ones_fail():
    passes, p = same_distribution(sampler(0.5, 0.8, 0.9999), LAW, 4000)
    assert passes and p > 0.01
    passes, p = same_distribution(sampler(0.55, 0.8, 0.9999), LAW, 4000)
    assert not passes and p < 1e-4


def test_false_alarms_come_as_often_as_they_may():
    right = sampler(0.5, 0.8, 0.9999)
    trials = [same_distribution(lambda s, t=t: right(1000 * t + s), LAW, 400)[1] for t in range(200)]
    assert 2 <= sum(p < 0.05 for p in trials) <= 20


def test_an_outcome_outside_the_law_fails():
    assert same_distribution(lambda seed: "e", LAW, 10) == (False, 0.0)


def test_a_law_adds_up():
    with pytest.raises(AbreastError, match=r"add up to 1, not 0\.5"):
        same_distribution(lambda seed: 0, {0: 0.5}, 10)


def test_a_problem_with_a_law():
    problem = Letters(n=1)
    assert same_distribution(lambda seed: tuple(run(Letters(1, seed), Speculative()).value), problem.law(), 500)[0]
