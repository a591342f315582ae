"""Whether a recurrence can be had in parallel at all, found out on its beginning.

Axes: T steps, B batch, d state entries.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from abreast.core import AbreastError, run
from abreast.solve.deer import DEER
from abreast.solve.linearize import Auto, Dense, Diagonal, Linearization, product, resolve
from abreast.solve.problem import Recurrence

SERIAL = 0.2  # sweeps by steps above which no sweep's parallelism makes up for their number
COPIES = 3.0  # a Jacobian, what it is made of, and the scan's own copy
FEW = 32  # steps that say nothing yet
NUMBERS = 1 << 22  # of Jacobians held at once while probing


def lyapunov(problem: Recurrence, states: Tensor, skip: int = 0, seed: int = 0) -> float:
    """The largest Lyapunov exponent along a solution: mean log growth, a step, of a vector pushed through the Jacobians
    (Benettin et al., 1980), over the batch's members.

    states [T, B, *state], the answer. skip: first steps that only turn the vector. -inf where the vector is lost.
    Raises AbreastError where the states are not the problem's, or skip leaves none.
    """
    if states.shape != (problem.steps, *problem.x0.shape):
        raise AbreastError(
            f"states are [T, B, *state] = {[problem.steps, *problem.x0.shape]}, not {list(states.shape)}."
        )
    if not 0 <= skip < problem.steps:
        raise AbreastError(f"skip is from 0 to {problem.steps - 1}, not {skip}.")
    before = torch.cat((problem.x0[None], states[:-1])).detach()
    v = torch.randn(problem.x0.shape, generator=torch.Generator().manual_seed(seed), dtype=problem.x0.dtype)
    v = (v / v.flatten(1).norm(dim=1).view(-1, *[1] * (v.dim() - 1))).to(states.device)
    grown = torch.zeros(len(v), dtype=torch.float64, device=states.device)
    with torch.no_grad():
        for i, push in enumerate(_pushes(problem, before)):
            v = push(v)
            size = v.flatten(1).norm(dim=1)
            if i >= skip:
                grown += size.double().log()
            v = v / size.clamp_min(torch.finfo(v.dtype).tiny).view(-1, *[1] * (v.dim() - 1))
    return float(grown.mean()) / (problem.steps - skip)


def _pushes(problem: Recurrence, before: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """What each step's Jacobian makes of a vector [B, *state]: the matrices of many steps at once where they are small,
    else products with one after the other."""
    line = resolve(Auto(), problem)
    every = NUMBERS // max(1, line.entries(problem) * before.shape[1])
    index = torch.arange(len(before), device=before.device)
    if not every:
        for i, x in zip(index.split(1), before.split(1)):
            yield lambda v, i=i, x=x: product(problem, i, x, v[None])[1][0]  # type: ignore[misc]
        return
    shape = line.shape(problem)
    for i, x in zip(index.split(every), before.split(every)):
        A_nB = line.at(problem, i, x).A
        assert A_nB is not None
        for A in A_nB:
            yield lambda v, A=A: line.family.apply(A, v.view(len(v), *shape)).view(v.shape)  # type: ignore[misc]


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found. sweeps: of DEER with each linearization on the first `probed` steps. seconds: those runs
    and the loop's on this machine. bytes: what Jacobians of all steps hold, available: free memory. linearization,
    window: what to solve with, None where nothing pays; window None is all steps."""

    steps: int
    probed: int
    lyapunov: float
    sweeps: Mapping[str, int]
    seconds: Mapping[str, float]
    bytes: Mapping[str, float]
    available: float
    linearization: Linearization | None = field(default=None)
    window: int | None = None

    @property
    def serial(self) -> bool:
        """Whether even the best linearization needs a sweep for every few steps."""
        return self.linearization is None

    @property
    def verdict(self) -> str:
        """In a sentence."""
        best = min(self.sweeps, key=lambda name: self.sweeps[name])
        ratio = f"sweeps/T = {self.sweeps[best] / self.probed:.2g}"
        if self.linearization is None and self.probed < FEW:
            return f"too short to tell: {ratio} ({best}, {self.probed} steps), LLE {self.lyapunov:+.2g}"
        if self.linearization is None:
            return f"inherently serial: LLE {self.lyapunov:+.2g}, {ratio} ({best}, {self.probed} steps)"
        name = type(self.linearization).__name__
        size = f", {self.window} states at a time to fit the memory" if self.window else ""
        gain = self.seconds["loop"] / self.seconds[name]
        return (
            f"{name} pays: {self.sweeps[name]} sweeps for {self.probed} steps (LLE {self.lyapunov:+.2g}){size}; "
            f"on this machine {gain:.2g} times the loop's speed"
        )


def diagnose(problem: Recurrence, most: int = 512, tolerance: float | None = None) -> Diagnosis:
    """Solve the first steps, `most` and fewer where Jacobians are large, with the whole Jacobian and with its
    diagonal, and measure the Lyapunov exponent beside.

    tolerance: change that is let pass, 1e-9 in float64 and 1e-5 else. Zero and Identity are not asked: they need many
    sweeps on chains that Newton solves in four. Raises AbreastError where `problem` is no explicit Recurrence.
    """
    if not isinstance(problem, Recurrence) or not problem.explicit:
        raise AbreastError(f"an explicit Recurrence is wanted, not {type(problem).__name__}.")
    tolerance = tolerance or (1e-9 if problem.x0.dtype == torch.float64 else 1e-5)
    exact = resolve(Auto(), problem)
    B, size, available = len(problem.x0), problem.x0.element_size(), memory()
    lines = {type(exact).__name__: exact}
    if not isinstance(exact, Diagonal):
        lines["Diagonal"] = Diagonal()
    numbers = {name: line.entries(problem) * B for name, line in lines.items()}
    if isinstance(exact, Dense) and COPIES * numbers["Dense"] * size > available / 2:
        del lines["Dense"]
        lines["Diagonal"] = Diagonal(probes=1)
    probed = min(problem.steps, max(FEW, min(most, NUMBERS // max(numbers[name] for name in lines))))
    head = problem.head(probed)
    with torch.no_grad():
        loop = run(head, head.reference)
        sweeps, seconds = {}, {"loop": loop.seconds}
        for name, line in lines.items():
            method = DEER(line, tolerance, 0.0)
            run(problem.head(1), method)  # compiles
            found = run(head, method)
            sweeps[name], seconds[name] = int(head.columns(found)["sweeps"]), found.seconds
        grown = lyapunov(head, loop.value, skip=probed // 4)
    bytes = {name: COPIES * count * size * problem.steps for name, count in numbers.items()}
    paying = [name for name in lines if sweeps[name] <= SERIAL * probed]
    if not paying:
        return Diagnosis(problem.steps, probed, grown, sweeps, seconds, bytes, available)
    best = min(paying, key=lambda name: seconds[name])
    window = None
    if bytes[best] > available / 2:
        window = 1 << max(0, int(available / 2 / (bytes[best] / problem.steps)).bit_length() - 1)
    return Diagnosis(problem.steps, probed, grown, sweeps, seconds, bytes, available, lines[best], window)


def memory() -> float:
    """Bytes of memory that are free for use here, as the system tells."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return 1024.0 * next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2
