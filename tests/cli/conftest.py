from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from abreast.cli.app import app
from tests.cli import tiny

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in an empty folder with an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABREAST_CACHE", str(tmp_path / "cache"))
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def refused(cli: Run, tmp_path: Path) -> Callable[..., str]:
    """Run a command that must be refused: exit code 2, one sentence, nothing written; the sentence."""

    def run(*args: object) -> str:
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        result = cli(*args)
        assert result.exit_code == 2, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert result.stdout == ""
        said = result.stderr.strip()
        assert said and "\n" not in said and "Traceback" not in said
        assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
        return said

    return run
