from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from abreast.cli import claims as command
from abreast.core import Figure, Grid, at_least, at_most, catalog, claims


@pytest.fixture
def claimed(monkeypatch: pytest.MonkeyPatch):
    """Claims of two papers, one that holds and one that falls short."""

    def holds() -> Iterator[claims.Item]:
        yield at_least("tokens a call", 2.5, 1.3)
        yield Grid("table [a]", ["x"], [[1.0]])
        yield Figure("curve", "x", "y", {"one": [(1.0, 2.0)]})

    def short() -> Iterator[claims.Item]:
        yield at_most("distance", float("inf"), 0.1)

    for slug, run in (("lookahead", holds), ("medusa", short)):
        monkeypatch.setitem(claims._registry, slug, claims.Claim(slug, "exact", run))


def test_json(cli, claimed) -> None:
    result = cli("try", "lookahead", "--json")
    facts = json.loads(result.stdout)
    assert result.exit_code == 0 and facts["slug"] == "lookahead" and facts["holds"] is True
    check = {"what": "tokens a call", "measured": 2.5, "relation": "at least", "limit": 1.3, "holds": True}
    assert facts["checks"] == [check] and facts["seconds"] >= 0


def test_falling_short(cli, claimed) -> None:
    result = cli("try", "medusa")
    assert result.exit_code == 1
    assert "falls short" in result.stdout and "distance: inf" in result.stdout


def test_record_only_in_a_checkout(cli, refused, claimed, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, ...]] = []
    monkeypatch.setattr(catalog, "record", lambda *args: written.append(args))
    assert cli("try", "lookahead").exit_code == 0 and not written
    monkeypatch.setattr(command, "_in_checkout", lambda: True)
    cli("try", "lookahead", "--record")
    cli("try", "medusa", "--record")
    assert [(slug, state) for slug, state, _ in written] == [("lookahead", "holds"), ("medusa", "short")]
    monkeypatch.setattr(command, "_in_checkout", lambda: False)
    assert "checkout" in refused("try", "lookahead", "--record")


def test_refuses(refused) -> None:
    assert "lookahead" in refused("try", "lookahed")
    assert "no claim yet" in refused("try", "tensor-neat")
