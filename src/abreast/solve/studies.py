"""Studies: what papers of this room measure rather than invent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from abreast.core import AbreastError, Check, Figure, Grid, at_least, at_most, exactly, run
from abreast.solve import serial_tasks as tasks
from abreast.solve.deer import DEER
from abreast.solve.diagnosis import lyapunov
from abreast.solve.problem import Recurrence

Part = Literal["predictability", "depth", "diffusion", "control"]
PARTS: tuple[Part, ...] = ("predictability", "depth", "diffusion", "control")
Item = Check | Grid | Figure


@dataclass(frozen=True)
class SerialScaling:
    """Which problems can trade depth for width (Liu et al., "The Serial Scaling Hypothesis", 2025).

    parts: "predictability", how many sweeps a parallel solver needs for chains of rising Lyapunov exponent (after
    Gonzalez et al., "Predictability enables parallelization of nonlinear state space models", 2025); "depth", nets of
    equal size on word problems; "diffusion", whether denoising steps add depth; "control", tasks that need none.
    groups: of the word problems; only S5's is believed beyond fixed-depth nets (it is complete for NC1, while Z2 and S3
    are in TC0: there only what such nets learn is seen). seeds: of the chains. Finite curves prove nothing about
    complexity; they are consistent with it or not. Raises AbreastError for an unknown part.
    """

    parts: tuple[Part, ...] = PARTS
    gains: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0)
    lengths: tuple[int, ...] = (128, 256, 512)
    seeds: int = 3
    groups: tuple[str, ...] = ("Z2", "S5")

    def __post_init__(self) -> None:
        unknown = set(self.parts) - set(PARTS)
        if unknown or not self.parts:
            raise AbreastError(f"the parts of this study are {', '.join(PARTS)}, not {', '.join(unknown) or 'none'}.")
        if self.seeds < 1 or len(self.lengths) < 2 or not self.gains:
            raise AbreastError("a study needs a seed, two lengths and a gain at least.")

    def run(self) -> Iterator[Item]:
        """Its checks, tables and figures."""
        for part in self.parts:
            yield from getattr(self, part)()

    def predictability(self) -> Iterator[Item]:
        """DEER's sweeps against length and Lyapunov exponent, on h' = tanh(g W h + u)."""
        rows, points = [], []
        worst = {"sweeps": 0.0, "stable": 0.0, "chaotic": float("inf"), "residual": 0.0}
        for gain in self.gains:
            for seed in range(self.seeds):
                sweeps = []
                for T in self.lengths:
                    problem = chain(gain, T, seed)
                    with torch.no_grad():
                        found = run(problem, DEER(atol=1e-9, rtol=0.0))
                    facts = problem.columns(found)
                    sweeps.append(int(facts["sweeps"]))
                    worst["residual"] = max(worst["residual"], facts["residual"])
                grown = lyapunov(problem, found.value)
                growth = sweeps[-1] / sweeps[0]
                if grown < -0.15:
                    worst["stable"] = max(worst["stable"], growth)
                elif grown > 0.02:
                    worst["chaotic"] = min(worst["chaotic"], growth)
                rows.append([gain, seed, grown, *sweeps, growth, sweeps[-1] / self.lengths[-1]])
                points.append((grown, sweeps[-1] / self.lengths[-1]))
        names = [f"sweeps, T = {T}" for T in self.lengths]
        yield Grid("chains h' = tanh(g W h + u), d = 16, change < 1e-9",
                   ["gain", "seed", "LLE", *names, "last by first", "sweeps/T"], rows)  # fmt: skip
        yield Figure(
            "sweeps by steps against the largest Lyapunov exponent", "LLE", "sweeps/T", {"DEER": sorted(points)}
        )
        span = f"sweeps({self.lengths[-1]}) / sweeps({self.lengths[0]})"
        yield at_most(f"{span} where LLE < -0.15, the largest", worst["stable"], 1.5)
        yield at_least(f"{span} where LLE > +0.02, the smallest", worst["chaotic"], 3.0)
        yield at_most("residual of what the sweeps ended with", worst["residual"], 1e-9)

    def depth(self) -> Iterator[Item]:
        """Nets of equal size, trained alike on words of length up to K, asked for words three times as long."""
        for group in self.groups:
            task = tasks.Words(group)
            K, updates, width = (12, 600, 64) if group == "S5" else (16, 300, 32 if group == "Z2" else 64)
            curves, rows = {}, []
            for name, net in tasks.nets(task, width):
                reset(net)
                tasks.fit(net, tasks.prefix_loss(net), task, K, updates, 64, seed=0)
                right = tasks.accuracy(net, task, 3 * K)
                curves[name] = [(float(k + 1), a) for k, a in enumerate(right)]
                rows.append([name, tasks.parameters(net), *(right[k - 1] for k in (2, 4, 8, K, 2 * K, 3 * K))])
            chance = 1 / task.classes
            yield Grid(f"word problem in {group}: trained to {K} symbols, chance {chance:.3g}",
                       ["net", "parameters", *(f"right at {k}" for k in (2, 4, 8, K, 2 * K, 3 * K))], rows)  # fmt: skip
            yield Figure(f"word problem in {group}: share right against serial length", "symbols", "right", curves)
            at = {name: dict(points) for name, points in curves.items()}
            fixed = [name for name in at if name.startswith("Transformer")]
            best, written = max(at[name][2 * K] for name in fixed), at["1 layer, steps written out"][2 * K]
            yield at_most(f"{group}: right at {2 * K} symbols, best Transformer of fixed depth", best, chance + 0.15)
            yield at_least(f"{group}: right at {2 * K} symbols, one layer with its steps written out", written, 0.9)
            yield at_least(f"{group}: right at {2 * K} symbols, recurrent less that best Transformer",
                           at["recurrent"][2 * K] - best, 0.15)  # fmt: skip

    def diffusion(self) -> Iterator[Item]:
        """One net denoises the final answer in 1 to 64 steps: the length that it solves stays what one step solves."""
        task, steps, lengths = tasks.Words("Z2"), (1, 4, 16, 64), (1, 2, 4, 6, 8, 12, 16)
        net = tasks.Denoiser(task.symbols, task.classes, 2, 48)
        reset(net)
        tasks.fit(net, net.loss, task, 8, 800, 64, seed=0, final=True)
        curves: dict[str, list[tuple[float, float]]] = {f"{s} steps": [] for s in steps}
        for k in lengths:
            for s in steps:
                generator = torch.Generator().manual_seed(10**6 + k)
                tokens, answers = task.draw(512, k, generator)
                said: Tensor = net.sample(tokens, s, generator)
                curves[f"{s} steps"].append((float(k), accuracy_of(said, answers[:, -1])))
        yield Figure("word problem in Z2, final answer by diffusion", "symbols", "right", curves)
        yield Grid("word problem in Z2, final answer by diffusion", ["symbols", *curves],
                   [[k, *(points[i][1] for points in curves.values())] for i, k in enumerate(lengths)])  # fmt: skip
        gains = [max(a[1] - b[1] for a, b in zip(curves[f"{s} steps"][1:], curves["1 steps"][1:])) for s in steps[1:]]
        yield at_most("what more denoising steps add to the share right, at 2 symbols and more", max(gains), 0.08)
        solved = {s: max((k for k, right in curves[f"{s} steps"] if right >= 0.9), default=0.0) for s in steps}
        yield exactly("longest word solved (0.9 right) in 64 denoising steps, as in 1", solved[64], solved[1])

    def control(self) -> Iterator[Item]:
        """Tasks that are wide and not deep: one layer does them, at lengths that defeated eight on the word problem."""
        rows, least = [], 1.0
        for name in ("majority", "max"):
            task = tasks.Words(name)
            net = tasks.Deep(task.symbols, task.classes, 1, 64)
            reset(net)
            tasks.fit(net, tasks.prefix_loss(net), task, 16, 300, 64, seed=0)
            right = tasks.accuracy(net, task, 24)
            _, answers = task.draw(256, 24, torch.Generator().manual_seed(10**6))
            commonest = answers[:, -1].bincount().max().item() / 256
            rows.append([name, right[7], right[15], right[23], commonest])
            least = min(least, right[23])
        yield Grid("one layer on tasks without an order",
                   ["task", "right at 8", "at 16", "at 24", "always the commonest answer, at 24"], rows)  # fmt: skip
        yield at_least("right at 24 symbols, majority and max, one layer", least, 0.9)


def chain(gain: float, T: int, seed: int, d: int = 16, drive: float = 0.3) -> Recurrence:
    """h' = tanh(gain W h + u_i), W ~ N(0, 1/d), u ~ N(0, drive^2) fresh for each step, h_0 = 0; float64, batch 1."""
    generator = torch.Generator().manual_seed(seed)
    W = gain * torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
    u = drive * torch.randn(T, 1, d, generator=generator, dtype=torch.float64)

    def f(i: Tensor, h: Tensor) -> Tensor:
        return torch.tanh(h @ W.T + u[i])

    def jacobian(i: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        out = f(i, h)
        return out, (1 - out * out)[..., None] * W

    return Recurrence(f, torch.zeros(1, d, dtype=torch.float64), T, bounds=(-1.0, 1.0), jacobian=jacobian)


def accuracy_of(said: Tensor, answers: Tensor) -> float:
    """The share that is right."""
    return float((said == answers).float().mean())


def reset(net: torch.nn.Module, seed: int = 0) -> None:
    """Fresh weights that depend on nothing but the seed; the caller's generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in net.modules():
            getattr(part, "reset_parameters", lambda: None)()
