"""Claims hold, fall short, or are refused where they cannot fail."""

import json
import sys
from math import inf, nan
from types import ModuleType

import numpy as np
import pytest
from scripted import Letters, Speculative

from abreast.core import AbreastError, Figure, Grid, at_least, at_most, claim, compare, exactly, try_claim
from abreast.core import claims as registry


@pytest.fixture(autouse=True)
def empty_registry(monkeypatch):
    monkeypatch.setattr(registry, "_registry", {})


def test_checks():
    assert at_most("x", 1, 1).holds and not at_most("x", 1.01, 1).holds
    assert at_least("x", np.float32(2), 1).holds and not at_least("x", 0.5, 1).holds
    assert exactly("x", "same", "same").holds and not exactly("x", 1, 2).holds
    assert not at_most("x", nan, 1).holds and not at_least("x", nan, 1).holds


@pytest.mark.parametrize(
    ("make", "limit"),
    [(at_most, inf), (at_least, -inf), (at_most, nan), (exactly, None)],
)
def test_checks_that_cannot_fail_are_refused(make, limit):
    with pytest.raises(AbreastError, match="can never fail"):
        make("x", 1, limit)


def test_a_claim_and_its_result():
    @claim("medusa", real="exact")
    def medusa():
        table = compare(Letters(), [Speculative()])
        yield at_most("span", table.ratio(Speculative, lambda run: run.ledger.span), 0.5)
        yield table
        yield exactly("answers", np.int64(3), 3)
        yield Grid("widths", ["width", "span"], [[1, 2.0]])
        yield Figure("curve", "width", "span", {"medusa": [(1, nan)]})

    seen = []
    result = try_claim("medusa", on_item=seen.append)
    facts = json.loads(result.to_json())
    assert result.holds and facts["holds"] and len(seen) == 5
    assert facts["checks"][0] == {
        "what": "span",
        "measured": pytest.approx(0.28),
        "relation": "at most",
        "limit": 0.5,
        "holds": True,
    }
    assert [shown["class"] for shown in facts["shown"]] == ["Table", "Grid", "Figure"]
    assert result.measured == "span: 0.28 (at most 0.5); answers: 3 (exactly 3)"


def test_one_check_that_fails_is_enough():
    @claim("medusa", real="exact")
    def medusa():
        yield at_most("a", 1, 2)
        yield at_most("b", 3, 2)

    assert not try_claim("medusa").holds


def test_a_claim_without_checks_is_refused():
    @claim("medusa", real="exact")
    def medusa():
        yield Grid("nothing", [], [])

    with pytest.raises(AbreastError, match="yields no check"):
        try_claim("medusa")


def test_a_claim_that_yields_something_else_is_refused():
    @claim("medusa", real="exact")
    def medusa():
        yield True

    with pytest.raises(AbreastError, match="yields a bool"):
        try_claim("medusa")


def register(slug, module, real="exact", name="f"):
    def f():
        yield at_most("x", 1, 2)

    f.__module__, f.__qualname__ = module, name
    return claim(slug, real)(f)


def test_claims_must_be_in_the_catalog_and_in_their_room():
    with pytest.raises(AbreastError, match="no paper is called 'medussa': did you mean medusa"):
        register("medussa", "abreast.decode.claims")
    with pytest.raises(AbreastError, match="stands in train, but the catalog has this paper in decode"):
        register("medusa", "abreast.train.claims")
    with pytest.raises(AbreastError, match="a claim is one of real, trained, exact"):
        register("medusa", "abreast.decode.claims", real="tiny")
    register("medusa", "abreast.decode.claims")
    register("medusa", "abreast.decode.claims")
    with pytest.raises(AbreastError, match="has two claims"):
        register("medusa", "abreast.decode.claims", name="g")


def test_the_room_is_imported_when_it_is_asked(monkeypatch):
    room = ModuleType("abreast.decode.claims")
    monkeypatch.setitem(sys.modules, "abreast.decode", ModuleType("abreast.decode"))
    monkeypatch.setitem(sys.modules, "abreast.decode.claims", room)
    with pytest.raises(AbreastError, match="'medusa' has no claim yet in the room decode"):
        try_claim("medusa")
    register("medusa", "abreast.decode.claims")
    assert try_claim("medusa").holds
