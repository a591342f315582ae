"""Recurrences in parallel over time, held against the loop.

`Recurrence` is the problem: a step function, a first state, a number of steps; `CellSequence` makes one of a recurrent
cell. Its reference is `Loop`. The engine (`engine.py`) is one loop of sweeps: evaluate the step at all old states of a
window at once, correct by one affine scan with something that stands for the Jacobian (`linearize.py`), move the window
past what has settled (`window.py`). A method is a frozen dataclass that names the three; after k sweeps the first k
states are the loop's own, whatever it names. `SplitRecurrence` is the other kind of problem: an expensive evaluation
and a cheap advance.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Recurrence": "problem",
    "CellSequence": "problem",
    "SplitRecurrence": "split",
    "Loop": "loop",
    "Newton": "newton",
    "DEER": "deer",
    "QuasiDEER": "deer",
    "ELK": "elk",
    "ODE": "ode",
    "Jacobi": "jacobi",
    "Picard": "jacobi",
    "diagnose": "diagnosis",
    "lyapunov": "diagnosis",
    "Diagnosis": "diagnosis",
    "SerialScaling": "studies",
    "TriangularSystem": "triangular",
    "AdjointChain": "adjoint",
    "InverseConvolution": "inverse_conv",
    "AntiDiagonal": "inverse_conv",
    "inverse_conv2d": "inverse_conv",
    "corner_conv2d": "inverse_conv",
    "GaussSeidel": "gauss_seidel",
    "JacobiGS": "gauss_seidel",
    "GSJacobi": "gauss_seidel",
    "Anderson": "anderson",
    "OptimizerPath": "path",
    "ScoreDistillation": "distillation",
    "Descent": "propeller",
    "Propeller": "propeller",
    "OptEx": "optex",
    "Matern": "surrogate",
    "Held": "surrogate",
    "Oracle": "surrogate",
    "associative_scan": "scan",
    "affine_scan": "scan",
    "Zero": "linearize",
    "Identity": "linearize",
    "Scalar": "linearize",
    "Diagonal": "linearize",
    "BlockDiagonal": "linearize",
    "Dense": "linearize",
    "Auto": "linearize",
    "Window": "window",
    "Hold": "window",
    "Constant": "window",
    "OneStep": "window",
    "Given": "window",
    "ReuseLast": "split",
    "ReuseOwn": "split",
    "Change": "window",
    "Sweeps": "window",
    "NoiseScaled": "window",
    "Threshold": "window",
}
METHODS = (
    "Loop", "Newton", "DEER", "QuasiDEER", "ELK", "Jacobi", "Picard", "GaussSeidel", "JacobiGS", "GSJacobi", "Anderson",
    "AntiDiagonal", "Descent", "Propeller", "OptEx",
)  # fmt: skip

__all__ = ["METHODS", *_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Loads torch only where something of this room is used."""
    if name in _HOMES:
        return getattr(import_module(f"abreast.solve.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'abreast.solve' has no attribute {name!r}")
