"""Running a method, promises, and how a method is named."""

from dataclasses import dataclass, field
from math import nan

import pytest
from scripted import Letters, OneByOne, Shorter, Speculative

from abreast.core import BOUNDED, IDENTICAL, MEASURED, AbreastError, Method, Problem, label, nearest, run, settings


class Number(Problem[float]):
    reference = OneByOne()
    rounding = 1e-6

    def distance(self, value, reference):
        return abs(value - reference)


@dataclass(frozen=True)
class Says(Method):
    value: float
    guarantee: object = IDENTICAL

    def promise(self, problem):
        return self.guarantee

    def run(self, problem, world):
        return self.value


@pytest.mark.parametrize(
    ("value", "guarantee", "kept"),
    [(1.0, IDENTICAL, True), (1 + 1e-7, IDENTICAL, True), (1.1, IDENTICAL, False), (1.1, BOUNDED(0.2), True),
     (1.3, BOUNDED(0.2), False), (1.1, MEASURED, None), (nan, IDENTICAL, False)],
)  # fmt: skip
def test_promises_are_checked(value, guarantee, kept):
    against = run(Number(), Says(1.0))
    held = run(Number(), Says(value, guarantee), against=against)
    assert held.kept is kept
    assert against.distance is None and against.kept is None


def test_steps_are_shown_as_they_are_committed():
    seen = []
    problem = Letters(n=5)
    shown = run(problem, OneByOne(), on_step=seen.append)
    assert seen == shown.value == run(problem, OneByOne()).value and len(seen) == 5


def test_run_closes_the_lanes():
    @dataclass(frozen=True)
    class Leaves(Method):
        def run(self, problem, world):
            lane = world.lane()
            lane.wait(world.lane("helper").add("x"))

    assert [e.kind for e in run(Letters(), Leaves()).ledger.events] == ["x", "end"]


def test_wrong_arguments_get_one_sentence():
    with pytest.raises(AbreastError, match=r"a Method is wanted, not OneByOne: write OneByOne\(\.\.\.\)"):
        run(Letters(), OneByOne)
    with pytest.raises(AbreastError, match="a Problem is wanted, not OneByOne"):
        run(OneByOne(), OneByOne())
    with pytest.raises(NotImplementedError, match="neither run nor steps"):
        run(Letters(), Method())
    with pytest.raises(AbreastError, match="a bound must be a number from 0 on"):
        BOUNDED(nan)


@dataclass(frozen=True)
class Outer(Method):
    inner: Method = Letters.reference
    rates: tuple[float, ...] = (0.1,)
    flag: bool = False
    names: dict = field(default_factory=dict)
    model: object = field(default=None, repr=False, compare=False)


def test_labels_name_what_is_not_at_its_default():
    assert label(Speculative()) == label(Speculative(weights=object())) == "Speculative"
    assert label(Speculative(gamma=8, cost=0.25)) == "Speculative(gamma=8, cost=0.25)"
    assert label(Shorter(7)) == "Shorter(n=7)"
    assert (
        label(Outer(Speculative(gamma=2), (0.5, 1.0), True))
        == "Outer(inner=Speculative(gamma=2), rates=(0.5, 1), flag=True)"
    )
    assert label(Outer(model=object(), names={"a": 1})) == "Outer(names={'a': 1})"


def test_settings_are_plain():
    assert settings(Outer(Shorter(3), names={1: len}, model=object())) == {
        "class": "Outer",
        "inner": {"class": "Shorter", "n": 3},
        "rates": [0.1],
        "flag": False,
        "names": {"1": "len"},
    }


def test_nearest_names():
    assert nearest("medsua", ["medusa", "lookahead"]) == "did you mean medusa?"
    assert nearest("zzz", ["b", "a"]) == "there are a, b."
    assert nearest("zzz", [str(i) for i in range(100)]) == ""
