from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli import tiny

PROMPT = 'def f(x): # </script><script>alert(1)</script> <!-- & \u2028 "quoted" é'


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two comparisons of a random tiny model."""
    from rich.console import Console

    from abreast.cli.compare import Contest
    from abreast.cli.inputs import Asked
    from abreast.decode import Jacobi, Lookahead, PromptLookup, Sampling
    from abreast.zoo import load

    folder = tiny.save(tmp_path_factory.mktemp("models") / "tiny")
    model, tokenizer = load(folder)
    prompts = [Asked("hostile", "code", PROMPT), Asked("plain", "chat", "return x return x return")]
    methods = [PromptLookup(), Jacobi(), Lookahead()]
    found = []
    for title in ("first", "second"):
        contest = Contest(str(folder), model, tokenizer, prompts, 24, Sampling(), title=title)
        found.append(contest.held(methods, Console(quiet=True)))
    return json.loads(json.dumps(found))


@pytest.fixture(scope="session")
def html(saved: list[dict[str, Any]]) -> str:
    from abreast.web.page import page

    return page(saved)
