"""A torch optimiser as a function: parameters, gradients and its state in, parameters and state out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from abreast.core import AbreastError

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Carry(NamedTuple):
    """What an optimiser remembers: for each parameter its state, for each group its settings."""

    states: list[dict[str, Any]]
    groups: list[dict[str, Any]]


class Stepper:
    """The user's own optimiser, its state installed before each step and taken away after it.

    make: parameters -> torch.optim.Optimizer. schedule: step -> what the learning rates are multiplied by, a function
    of the step alone, so that steps can be tried again. Raises AbreastError where `make` gives no optimiser of all
    these parameters, or one that evaluates by itself.
    """

    def __init__(
        self, make: MakeOptimizer, tensors: Sequence[Tensor], schedule: Callable[[int], float] | None = None
    ) -> None:
        self.params = [nn.Parameter(t.detach().clone()) for t in tensors]
        self.schedule = schedule
        self.optimizer = check_optimizer(make(self.params), self.params)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.begin = Carry([{} for _ in self.params], [_settings(g) for g in self.optimizer.param_groups])

    def step(
        self, i: int, values: Sequence[Tensor], grads: Sequence[Tensor], carry: Carry
    ) -> tuple[list[Tensor], Carry]:
        """Step i from these values with these gradients; nothing that is given is changed."""
        for p, value, grad in zip(self.params, values, grads):
            p.data, p.grad = value.clone(), grad
        self.optimizer.state = defaultdict(dict, {p: _copied(s) for p, s in zip(self.params, carry.states) if s})
        for group, settings in zip(self.optimizer.param_groups, carry.groups):
            group.update(_copied(settings))
        self.set_rates(i)
        self.optimizer.step()
        states = [dict(self.optimizer.state.get(p, {})) for p in self.params]
        return [p.data for p in self.params], Carry(states, [_settings(g) for g in self.optimizer.param_groups])

    def set_rates(self, i: float, factor: float = 1.0) -> None:
        """The learning rates of step i."""
        if self.schedule is not None:
            factor = factor * self.schedule(int(i))
        if self.schedule is not None or factor != 1.0:
            for group, rate in zip(self.optimizer.param_groups, self.rates):
                group["lr"] = rate * factor


def check_optimizer(optimizer: Any, params: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Raise AbreastError where this cannot be stepped from given gradients, or is not of these parameters."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise AbreastError(
            f"make_optimizer gives a torch.optim.Optimizer for the parameters it is handed, not "
            f"{type(optimizer).__name__}: lambda params: torch.optim.Adam(params, lr=0.01)."
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise AbreastError("LBFGS evaluates the loss by itself, so its steps cannot be taken from given gradients.")
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if {id(p) for p in held} != {id(p) for p in params}:
        raise AbreastError("make_optimizer must optimise exactly the parameters that it is handed.")
    return optimizer


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
