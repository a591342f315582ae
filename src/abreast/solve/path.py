"""The path of an optimiser: parameters that each step makes from those before, its state and a gradient.

Axes: T steps, n of them at once, P parameter entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from abreast.core import AbreastError, Lane, Method, Problem, Run
from abreast.core.problem import exhaust
from abreast.solve.engine import Solved, iterate
from abreast.solve.optimizer import Carry, MakeOptimizer, Stepper
from abreast.solve.split import SplitRecurrence, SplitRule
from abreast.solve.window import Stop, Window

if TYPE_CHECKING:
    from abreast.workers import World

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class OptimizerPath(SplitRecurrence, Problem[Tensor]):
    """Minimise a loss by the steps of an optimiser; the answer is the parameters after each step, [T, P].

    loss: (params, seed) -> scalar; random in nothing but the seed. params: where it starts; a tensor, a mapping of
    tensors, or a module, in whose case the loss is handed a function that calls the module with the parameters in
    question (buffers that a call changes are no part of the path). make_optimizer: parameters -> torch.optim.Optimizer.
    seeds: the step i's is seeds + i; or one for each step. data: seed -> tensors that the loss is handed in the
    seed's place. schedule: step -> factor of the learning rates. batched: a window's gradients in one call of
    torch.func.vmap, whose rounding may differ from one by one; needs data. objective: params -> what is reported of an
    answer, lower is better.

    Source: Zhou et al., "DreamPropeller", 2024, for the view as a recurrence. Raises AbreastError where the loss gives
    no finite scalar at the start, or the optimiser is none.
    """

    loss: Loss = field(repr=False, compare=False)
    params: Any = field(repr=False, compare=False)
    make_optimizer: MakeOptimizer = field(repr=False, compare=False)
    steps: int
    seeds: int | Sequence[int] = 0
    data: Callable[[int], Any] | None = field(default=None, repr=False, compare=False)
    schedule: Callable[[int], float] | None = field(default=None, repr=False, compare=False)
    batched: bool = False
    objective: Callable[[Any], Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise AbreastError(f"a path has at least one step, not {self.steps}.")
        if not isinstance(self.seeds, int) and len(self.seeds) < self.steps:
            raise AbreastError(f"{self.steps} steps have a seed each, not {len(self.seeds)}; or give the first.")
        if self.batched and self.data is None:
            raise AbreastError("batched=True needs data (seed -> tensors), which vmap can stack; a seed it cannot.")
        tensors = _tensors(self.params)
        self._set("_shapes", [t.shape for t in tensors])
        self._set("x0", torch.cat([t.detach().flatten() for t in tensors])[None])
        self._set("T", self.steps)
        self._set("_stepper", Stepper(self.make_optimizer, tensors, self.schedule))
        self._set("carry0", self._stepper.begin)
        with torch.no_grad():
            self.evaluate(torch.zeros(1, dtype=torch.long), self.x0[None], torch.zeros(1, dtype=torch.long))

    _stepper: Stepper = field(init=False, repr=False, compare=False)
    _shapes: list[torch.Size] = field(init=False, repr=False, compare=False)
    x0: Tensor = field(init=False, repr=False, compare=False)
    T: int = field(init=False, repr=False, compare=False)
    carry0: Carry = field(init=False, repr=False, compare=False)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def reference(self) -> Method:
        from abreast.solve.loop import Loop

        return Loop()

    @property
    def rounding(self) -> float:  # type: ignore[override]
        """Reordered sums are forgiven some thousand units of the type's precision."""
        return 1e4 * torch.finfo(self.x0.dtype).eps

    def distance(self, value: Tensor, reference: Tensor) -> float:
        """Root mean square difference of the final parameters, by the reference's largest entry where above 1."""
        scale = max(1.0, float(reference[-1].abs().max()))
        return float((value[-1] - reference[-1]).double().pow(2).mean().sqrt()) / scale

    def quality(self, value: Tensor) -> Mapping[str, float]:
        """minus the objective of the final parameters."""
        return {} if self.objective is None else {"minus objective": -self.score(value[-1])}

    def score(self, x: Tensor) -> float:
        """The objective of parameters x [P]."""
        if self.objective is None:
            raise AbreastError("this path has no objective: give it one, a function of the parameters.")
        with torch.no_grad():
            return float(self.objective(self.packed(self.split(x))))

    def columns(self, run: Run[Tensor]) -> Mapping[str, Any]:
        """rounds of gradients, and steps made for each of them."""
        rounds = run.ledger.longest("f")
        return {"rounds": rounds, "steps_by_rounds": self.steps / rounds if rounds else 0.0}

    def seed(self, k: int) -> int:
        """The k-th seed."""
        return self.seeds + k if isinstance(self.seeds, int) else int(self.seeds[k % len(self.seeds)])

    def split(self, x: Tensor) -> list[Tensor]:
        """Parameters [P] as tensors of their own."""
        sizes = [shape.numel() for shape in self._shapes]
        return [part.view(shape).clone() for part, shape in zip(x.split(sizes), self._shapes)]

    def packed(self, tensors: Sequence[Tensor]) -> Any:
        """Tensors as the loss takes them."""
        if isinstance(self.params, nn.Module):
            named = dict(zip([name for name, _ in self.params.named_parameters()], tensors))
            return partial(_call, self.params, named)
        if isinstance(self.params, Mapping):
            return dict(zip(self.params, tensors))
        return tensors[0]

    def given(self, seed: int) -> Any:
        """What the loss is handed beside the parameters."""
        return seed if self.data is None else self.data(seed)

    def gradients(self, seeds: Sequence[int], x: Tensor) -> Tensor:
        """[n, P] at parameters x [n, P], each for its own seed."""
        if self.batched:
            return self._mapped(seeds, x)
        return torch.stack([self._gradient(seed, row) for seed, row in zip(seeds, x)])

    def losses(self, seeds: Sequence[int], x: Tensor) -> Tensor:
        """[n] at parameters x [n, P]."""
        with torch.no_grad():
            return torch.stack([self.loss(self.packed(self.split(row)), self.given(s)) for s, row in zip(seeds, x)])

    def evaluate(self, i: Tensor, x: Tensor, ages: Tensor) -> Tensor:
        return self.gradients([self.seed(k) for k in i.tolist()], x[:, 0])[:, None]

    def advance(self, i: int, x: Tensor, g: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        values, carry = self._stepper.step(i, self.split(x[0]), self.split(g[0]), carry)
        return torch.cat([v.flatten() for v in values])[None], carry

    def unroll(self, lane: Lane) -> Tensor:
        """The plain loop of an optimiser: gradient, step, and again."""
        return self.descend(lane, self.steps)

    def descend(self, lane: Lane, rounds: int, batch: int = 1, lr: float = 1.0) -> Tensor:
        """[rounds, P]: the plain loop with the mean gradient of `batch` seeds and the learning rate times lr; a
        schedule is gone through in as many rounds."""
        fresh = Stepper(self.make_optimizer, self.split(self.x0[0]), self.schedule)
        states = []
        for i in range(rounds):
            x = torch.cat([p.detach().flatten() for p in fresh.params])
            with lane.measure("f", batch):
                g = self.gradients([self.seed(batch * i + k) for k in range(batch)], x.expand(batch, -1))
            for p, grad in zip(fresh.params, self.split(g[0] if batch == 1 else g.mean(0))):
                p.grad = grad
            fresh.set_rates(i * self.steps / rounds, lr)
            fresh.optimizer.step()
            states.append(torch.cat([p.detach().flatten() for p in fresh.params]))
        return torch.stack(states)

    def _gradient(self, seed: int, x: Tensor) -> Tensor:
        leaves = [t.requires_grad_() for t in self.split(x)]
        with torch.enable_grad():
            value = _scalar(self.loss(self.packed(leaves), self.given(seed)))
            if not value.requires_grad:
                raise AbreastError("the loss does not depend on the parameters that it is handed.")
            grads = torch.autograd.grad(value, leaves, materialize_grads=True)
        return torch.cat([g.flatten() for g in grads])

    def _mapped(self, seeds: Sequence[int], x: Tensor) -> Tensor:
        given = tree_map(lambda *rows: torch.stack(rows), *[self.given(seed) for seed in seeds])

        def one(flat: Tensor, given: Any) -> Tensor:
            parts = flat.split([shape.numel() for shape in self._shapes])
            return _scalar(self.loss(self.packed([p.view(s) for p, s in zip(parts, self._shapes)]), given))

        try:
            return torch.func.vmap(torch.func.grad(one))(x, given)
        except RuntimeError as error:
            raise AbreastError(f"vmap cannot batch this loss, give batched=False: {error}") from error


def follow(problem: Any, world: World, rule: Callable[[Lane, Any], SplitRule], window: Window, stop: Stop) -> Tensor:
    """The path [T, P] by the engine's sweeps, each window's gradients spread over the world's ranks."""
    if not isinstance(problem, OptimizerPath):
        raise AbreastError(f"an OptimizerPath is wanted, not a {type(problem).__name__}.")

    def solve(lane: Lane, team: Any) -> Solved:
        with torch.no_grad():
            return exhaust(iterate(rule(lane, team), window, stop, lane))

    if world.size > 1:
        return world.map(lambda team: solve(team.lane, team))[0].states[:, 0]
    return solve(world.lane(), None).states[:, 0]


def _tensors(params: Any) -> list[Tensor]:
    if isinstance(params, nn.Module):
        params = dict(params.named_parameters())
    tensors = list(params.values()) if isinstance(params, Mapping) else [params]
    if not tensors or not all(isinstance(t, Tensor) and t.is_floating_point() for t in tensors):
        raise AbreastError("params are a floating-point tensor, a mapping of them, or a module that has some.")
    if len({(t.dtype, t.device) for t in tensors}) > 1:
        raise AbreastError("all parameters of a path have one dtype and live on one device.")
    return tensors


def _call(module: nn.Module, named: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    return torch.func.functional_call(module, named, args, kwargs)


def _scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.dim():
        found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise AbreastError(f"a loss is a scalar tensor, not {found}.")
    return value
