"""Exponents of chains with known ones, and what is said of a recurrence."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch

from abreast import core, nets, solve
from abreast.solve import diagnosis
from abreast.solve.studies import SerialScaling, chain

from .conftest import cell_sequence, plain


def linear(A: torch.Tensor, T: int = 200, **facts: Any) -> Any:
    return solve.Recurrence(lambda i, x: x @ A.T + 1, torch.zeros(2, len(A), dtype=A.dtype), T, **facts)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1])
def test_exponent_of_a_linear_chain(factor: float) -> None:
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    problem = linear(factor * turn)
    assert solve.lyapunov(problem, core.run(problem, solve.Loop()).value) == pytest.approx(log(factor), abs=1e-12)


@pytest.mark.parametrize("structure", ["dense", "diagonal", "blocks"])
def test_exponent_by_matrices_and_by_products(structure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem: Any = cell_sequence("gru", 60)
    if structure != "dense":
        net = (nets.ParaGRU if structure == "diagonal" else nets.ParaLSTM)(2, 4).double()
        problem = solve.CellSequence(net, torch.randn(60, 2, 2, dtype=torch.float64))
    with torch.no_grad():
        states = core.run(problem, solve.Loop()).value
    whole = solve.lyapunov(problem, states, skip=10)
    monkeypatch.setattr(diagnosis, "NUMBERS", 1)
    assert solve.lyapunov(problem, states, skip=10) == pytest.approx(whole, abs=1e-12)


def test_verdicts() -> None:
    calm = solve.diagnose(chain(0.5, 400, 0))
    assert not calm.serial and isinstance(calm.linearization, solve.Dense) and calm.lyapunov < -0.3
    assert "Dense pays: 5 sweeps for 400 steps" in calm.verdict
    wild = solve.diagnose(chain(3.0, 400, 0))
    assert wild.serial and wild.lyapunov > 0
    assert wild.verdict.startswith("inherently serial: LLE +")
    short = solve.diagnose(chain(3.0, 12, 0))
    assert "too short to tell" in short.verdict


def test_a_window_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = chain(0.5, 2000, 0)
    monkeypatch.setattr(diagnosis, "memory", lambda: 2.0 * 3 * 256 * 8 * 100)
    found = solve.diagnose(problem)
    assert found.window == 64 and "64 states at a time" in found.verdict
    monkeypatch.setattr(diagnosis, "memory", lambda: 1000.0)
    assert "Dense" not in solve.diagnose(problem).sweeps


def test_a_residual_above_the_tolerance_is_not_left() -> None:
    """A small change says little where the linearization is not the Jacobian."""
    for seed in range(4):
        problem = chain(3.0, 60, seed)
        for method in (solve.QuasiDEER(atol=1e-3, rtol=0), solve.Jacobi(tol=1e-3)):
            found = core.run(problem, method, against=core.run(problem, solve.Loop()))
            assert found.kept and problem.columns(found)["residual"] <= 1e-3


def test_study_in_small() -> None:
    study = SerialScaling(parts=("predictability",), gains=(0.5, 3.0), lengths=(48, 192), seeds=2)
    checks = [item for item in study.run() if isinstance(item, core.Check)]
    assert len(checks) == 3 and all(check.holds for check in checks)


def test_bad_input() -> None:
    problem = plain(5)
    with pytest.raises(core.AbreastError, match="states are"):
        solve.lyapunov(problem, torch.zeros(3, 2, 3, dtype=torch.float64))
    with pytest.raises(core.AbreastError, match="skip is"):
        solve.lyapunov(problem, torch.zeros(5, 2, 3, dtype=torch.float64), skip=5)
    with pytest.raises(core.AbreastError, match="explicit Recurrence"):
        solve.diagnose(3)  # type: ignore[arg-type]
    with pytest.raises(core.AbreastError, match="parts of this study"):
        SerialScaling(parts=("width",))  # type: ignore[arg-type]
