"""Tables of methods beside their reference and controls."""

from dataclasses import dataclass

import pytest
from scripted import Letters, OneByOne, Shorter, Speculative

from abreast.core import AbreastError, Method, compare
from abreast.machine import Machine
from abreast.workers import World

PROBLEMS = [Letters(n=40, seed=seed) for seed in range(3)]


def span(run):
    return run.ledger.span


def test_reference_first_then_methods_with_their_controls():
    seen = []
    table = compare(PROBLEMS, [Speculative(), Speculative(gamma=2), Shorter(3)], on_run=seen.append)
    assert [row.label for row in table] == [
        "OneByOne",
        "Speculative",
        "Shorter(n=11)",
        "Speculative(gamma=2)",
        "Shorter(n=17)",
        "Shorter(n=3)",
    ]
    assert [row.control_of for row in table] == [None, None, "Speculative", None, "Speculative(gamma=2)", None]
    assert len(seen) == 6 * len(PROBLEMS)
    assert table[Speculative()].kept is True and table[Shorter(3)].kept is None and table.reference.kept is None
    assert table.ratio(Speculative(), span) == pytest.approx(8 * 1.4 / 40)
    assert table["Speculative(gamma=2)"].sum(span) == pytest.approx(3 * 14 * 1.2)


def test_a_broken_promise_shows():
    @dataclass(frozen=True)
    class Lies(OneByOne):
        def run(self, problem, world):
            return [9] * problem.n

    table = compare(PROBLEMS[0], [Lies()])
    assert table[Lies].kept is False and table[Lies].facts()["distance"] == 40


def test_rows_are_found_by_class_method_or_label():
    table = compare(PROBLEMS[:1], [Speculative(), Speculative(gamma=2)])
    with pytest.raises(AbreastError, match=r"2 rows are Speculative: ask for one of Speculative, Spec"):
        table[Speculative]
    with pytest.raises(AbreastError, match="no row is Speculativ: did you mean Speculative"):
        table["Speculativ"]
    with pytest.raises(AbreastError, match="2 rows are Shorter"):
        table[Shorter]


def test_controls_that_are_sized_anew_share_a_row():
    table = compare([Letters(n=10), Letters(n=40)], [Speculative()])
    assert [row.label for row in table] == ["OneByOne", "Speculative", "Shorter(sized for each problem)"]
    assert [run.method for run in table[Shorter].runs] == [Shorter(3), Shorter(11)]


def test_facts_are_plain():
    facts = compare(PROBLEMS, [Speculative(wrong_every=7)], world=lambda: World(machine=Machine())).facts()
    row = facts["rows"][1]
    assert not facts["interrupted"] and row["label"] == "Speculative(wrong_every=7)" and row["kept"] is True
    assert row["quality"]["zeros"] == facts["rows"][0]["quality"]["zeros"]


@dataclass(frozen=True)
class Stops(Method):
    """Pretends that Ctrl-C was pressed in problem `at`."""

    at: int

    def run(self, problem, world):
        if problem.seed == self.at:
            raise KeyboardInterrupt
        return OneByOne().run(problem, world)


def test_an_interrupted_table_has_the_problems_that_all_rows_finished():
    table = compare(PROBLEMS, [Shorter(3), Stops(at=2), Shorter(5)])
    assert table.interrupted and [len(row.runs) for row in table] == [2, 2, 2, 2]


def test_interrupted_in_the_first_problem_it_has_the_methods_that_finished():
    table = compare(PROBLEMS, [Shorter(3), Stops(at=0), Shorter(5)])
    assert table.interrupted and [row.label for row in table] == ["OneByOne", "Shorter(n=3)"]


def test_interrupted_before_anything_it_is_raised():
    class Early(Letters):
        reference = Stops(at=0)

    with pytest.raises(KeyboardInterrupt):
        compare(Early(), [Shorter(3)])


def test_bad_arguments():
    with pytest.raises(AbreastError, match="at least one problem"):
        compare([], [OneByOne()])
    with pytest.raises(AbreastError, match="a Method is wanted, not Speculative: write"):
        compare(PROBLEMS, [Speculative])
