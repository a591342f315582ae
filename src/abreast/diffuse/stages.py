"""A network cut into consecutive parts of about equal work, each of which can be run with what the earlier parts left.

A part is run by the network's own forward: modules of earlier parts return what they returned when they last ran,
later ones are not reached. So skip connections, and whatever else a forward does between its modules, need no table
for each model; what does not depend on the state (embeddings of time and prompt) is computed anew in every part.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from abreast.core import AbreastError
from abreast.diffuse.flops import Counting
from abreast.diffuse.networks import result


@dataclass(frozen=True)
class Stage:
    """units: names of its modules, in order of their calls. share: of a full evaluation's operations, what is computed
    anew in every stage included, so the shares add up to slightly more than 1."""

    units: tuple[str, ...]
    share: float


class _Cut(Exception):
    """Ends a forward once the last module of its part has run."""


@dataclass
class _Plan:
    """What this thread's forward does at a unit: return what is given, keep what is computed, stop after the last."""

    given: Mapping[str, Any]
    last: str | None
    fragile: frozenset[str]
    kept: dict[str, Any]

    def at(self, name: str, plain: Callable[..., Any], args: Any, more: Any) -> Any:
        if name in self.given:
            return _map(self.given[name], torch.clone) if name in self.fragile else self.given[name]
        out = plain(*args, **more)
        self.kept[name] = _map(out, torch.clone) if name in self.fragile else out
        if name == self.last:
            raise _Cut
        return out


class _Watch:
    """Forwards of units led through the plan of the thread that calls, while any thread has one.

    Ranks may be threads that share a module and wait inside of it, so installing is counted; nothing stays behind.
    """

    def __init__(self) -> None:
        self.lock, self.local = threading.Lock(), threading.local()
        self.installed: dict[int, tuple[int, Any]] = {}  # by id of the unit: how often, and its own forward if any

    @contextmanager
    def following(self, units: Mapping[str, nn.Module], plan: _Plan) -> Iterator[None]:
        with self.lock:
            for unit in units.values():
                count, own = self.installed.get(id(unit), (0, vars(unit).get("forward")))
                self.installed[id(unit)] = (count + 1, own)
                if not count:
                    vars(unit)["forward"] = self.through(unit, own)
        before = getattr(self.local, "plans", {})
        self.local.plans = {**before, **{id(unit): (plan, name) for name, unit in units.items()}}
        try:
            yield
        finally:
            self.local.plans = before
            with self.lock:
                for unit in units.values():
                    count, own = self.installed.pop(id(unit))
                    if count > 1:
                        self.installed[id(unit)] = (count - 1, own)
                    elif own is None:
                        del vars(unit)["forward"]
                    else:
                        vars(unit)["forward"] = own

    def through(self, unit: nn.Module, own: Callable[..., Any] | None) -> Callable[..., Any]:
        def forward(*args: Any, **more: Any) -> Any:
            plain = own or types.MethodType(type(unit).forward, unit)
            plan, name = getattr(self.local, "plans", {}).get(id(unit), (None, ""))
            return plain(*args, **more) if plan is None else plan.at(name, plain, args, more)

        return forward


_watch = _Watch()


class Stages:
    """`n` stages of a module, by operations counted in a trace. inputs: keyword arguments of its forward.

    Takes two evaluations to make. Raises AbreastError where there are fewer modules than stages.
    """

    def __init__(self, module: nn.Module, n: int, inputs: Mapping[str, Any]):
        self.module = module
        traced = trace(module, inputs)
        if not 1 <= n <= len(traced.flops):
            raise AbreastError(f"{type(module).__name__} has {len(traced.flops)} modules in a row: cut it into 1 to "
                               f"{len(traced.flops)} stages, not {n}.")  # fmt: skip
        self.fragile = traced.fragile
        names, flops = list(traced.flops), list(traced.flops.values())
        again = traced.total - sum(flops)
        ends = balanced(flops, n)
        starts = [0, *ends[:-1]]
        share = [(sum(flops[a:b]) + again) / max(traced.total, 1.0) for a, b in zip(starts, ends)]
        self.parts = [Stage(tuple(names[a:b]), s) for a, b, s in zip(starts, ends, share)]
        self.units = {name: module.get_submodule(name) for name in names}

    def __len__(self) -> int:
        return len(self.parts)

    def __call__(self, k: int, inputs: Mapping[str, Any], carried: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Run stage k: what its modules returned, by name, and, of the last stage, what the whole network returns
        (else None). carried: what the modules of all earlier stages returned, now or in an earlier step."""
        missing = [unit for part in self.parts[:k] for unit in part.units if unit not in carried]
        if missing:
            raise AbreastError(f"stage {k} needs what earlier stages left: {missing[0]} is missing.")
        before = {unit: carried[unit] for part in self.parts[:k] for unit in part.units}
        return self.replay(inputs, before, self.parts[k].units[-1] if k < len(self) - 1 else None)

    def replay(
        self, inputs: Mapping[str, Any], given: Mapping[str, Any], last: str | None = None
    ) -> tuple[dict[str, Any], Any]:
        """Run the forward with modules in `given` returning that; stop after module `last`. What the other modules
        returned, by name, and the network's output (None where it was stopped)."""
        plan = _Plan(given, last, self.fragile, {})
        with _watch.following(self.units, plan):
            try:
                return plan.kept, self.module(**inputs)
            except _Cut:
                return plan.kept, None

    def wire(self, k: int, inputs: Mapping[str, Any], carried: Mapping[str, Any]) -> dict[str, int]:
        """Elements that stage k and the later ones read of what earlier modules returned, by module: what has to be
        there before stage k can run. Found by one backward pass."""
        before = {unit: carried[unit] for part in self.parts[:k] for unit in part.units}
        leaves: dict[str, list[Tensor]] = {}

        def leaf(name: str) -> Callable[[Tensor], Tensor]:
            def take(t: Tensor) -> Tensor:
                if not t.is_floating_point():
                    return t
                leaves.setdefault(name, []).append(t.detach().clone().requires_grad_())
                return leaves[name][-1]

            return take

        with torch.enable_grad():
            _, out = self.replay(inputs, {name: _map(value, leaf(name)) for name, value in before.items()})
            flat = [t for ts in leaves.values() for t in ts]
            slopes = torch.autograd.grad(result(out).sum(), flat, allow_unused=True) if flat else ()
        read = iter([slope is not None for slope in slopes])
        sizes = {name: sum(t.numel() for t in ts if next(read)) for name, ts in leaves.items()}
        return {name: size for name, size in sizes.items() if size}


@dataclass(frozen=True)
class Trace:
    """flops: of the modules that carry the state, in order of their calls. total: of the whole forward. fragile: those
    whose outputs are written to after they return."""

    flops: dict[str, float]
    total: float
    fragile: frozenset[str]


def trace(module: nn.Module, inputs: Mapping[str, Any]) -> Trace:
    """Which modules are called once and return something that depends on the state (the first argument)."""
    first = _record(module, inputs)
    state = next(iter(inputs))
    shifted = {**inputs, state: inputs[state].flip(-1) + 1}
    second = _record(module, shifted)
    flops = {}
    for name, (count, out, versions, cost) in first.seen.items():
        other = second.seen.get(name)
        if count == 1 and other is not None and versions and _differs(out, other[1]):
            flops[name] = cost
    fragile = {n for n in flops if [t._version for t in _tensors(first.seen[n][1])] != first.seen[n][2]}
    return Trace(flops, first.total, frozenset(fragile))


class _Record:
    """A forward's calls by module: how many, what was returned and in which version, at what cost."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[int, Any, list[int], float]] = {}
        self.total = 0.0


def _record(module: nn.Module, inputs: Mapping[str, Any]) -> _Record:
    record, begun, handles = _Record(), dict[str, float](), []
    counter = Counting()

    def watch(name: str, unit: nn.Module) -> None:
        def before(*_: Any) -> None:
            begun[name] = counter.total

        def after(_: nn.Module, __: Any, out: Any) -> None:
            count = record.seen.pop(name, (0,))[0] + 1
            versions = [t._version for t in _tensors(out)]
            record.seen[name] = (count, out, versions, counter.total - begun[name])

        handles.extend([unit.register_forward_pre_hook(before), unit.register_forward_hook(after)])

    for name, unit in units(module):
        watch(name, unit)
    try:
        # Versions are not counted in inference mode, and a graph is not wanted.
        with torch.no_grad(), counter:
            module(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    record.total = counter.total
    return record


def units(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The modules that a forward is made of: children, those in lists one by one, and of blocks that hold lists (the
    levels of a UNet) what they are made of."""
    found = []
    for name, child in module.named_children():
        path = prefix + name
        whole = hasattr(child, "processor") or type(child).__name__ == "FeedForward"
        listed = isinstance(child, (nn.ModuleList, nn.ModuleDict))
        if listed or (not whole and any(isinstance(part, nn.ModuleList) for part in child.children())):
            found += units(child, path + ".")
        else:
            found.append((path, child))
    return found


def balanced(costs: Sequence[float], n: int) -> list[int]:
    """Where each of n consecutive runs of `costs` ends, such that the heaviest is as light as can be; none is empty."""
    m, sums = len(costs), [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    best: list[list[tuple[float, int]]] = [[(sums[j], 0) for j in range(m + 1)]]
    for k in range(1, n):
        row = [(float("inf"), 0)] * (m + 1)
        for j in range(k + 1, m + 1):
            row[j] = min((max(best[-1][i][0], sums[j] - sums[i]), i) for i in range(k, j))
        best.append(row)
    ends = [m]
    for k in range(n - 1, 0, -1):
        ends.insert(0, best[k][ends[0]][1])
    return ends


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _map(value, lambda t: found.append(t) or t)  # type: ignore[func-returns-value]
    return found


def _map(value: Any, f: Callable[[Tensor], Tensor]) -> Any:
    """f at every tensor of nested tuples, lists and mappings (those of model outputs too)."""
    if isinstance(value, Tensor):
        return f(value)
    if isinstance(value, Mapping):
        made = {key: _map(item, f) for key, item in value.items()}
        return made if type(value) is dict else type(value)(**made)
    if isinstance(value, (tuple, list)):
        return type(value)(_map(item, f) for item in value)
    return value


def _differs(a: Any, b: Any) -> bool:
    pairs = list(zip(_tensors(a), _tensors(b)))
    return any(x.shape != y.shape or not torch.equal(x, y) for x, y in pairs)
