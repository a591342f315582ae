"""Claims about recurrences: on pretrained ones over speech and words, on a net that is trained here on speech, and on
random ones whose counts are known."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from abreast import zoo
from abreast.core import Check, Figure, Grid, Ledger, Method, at_least, at_most, claim, exactly, label, laws, run
from abreast.machine import MACHINES, replay
from abreast.machine.forecast import Forecast
from abreast.solve.deer import DEER, QuasiDEER
from abreast.solve.diagnosis import lyapunov
from abreast.solve.elk import ELK
from abreast.solve.forecast import cost, weigh
from abreast.solve.jacobi import Jacobi
from abreast.solve.linearize import Dense, Diagonal
from abreast.solve.loop import Loop
from abreast.solve.newton import Newton
from abreast.solve.ode import ODE, Scheme
from abreast.solve.problem import CellSequence, Recurrence
from abreast.solve.studies import SerialScaling, reset
from abreast.solve.window import Constant, OneStep

Item = Check | Grid | Figure
GPU = "A100 80GB"


@claim("deer", real="real")
def deer() -> Iterator[Item]:
    yield from _random_cells()
    yield from _speech()
    yield from _words()
    yield from _long_training()
    yield from _equation()
    small = random_gru(1.0, 3, 0, 24)
    kept = [
        holds for m in (DEER(), QuasiDEER(), ELK(), ELK(sigma2=10.0), ELK(Diagonal())) for _, holds in laws(m, small)
    ]
    yield exactly(
        "laws that do not hold (no tolerance, windows of one, no trust in the last iterate)", kept.count(False), 0
    )


def random_gru(gain: float, d: int, seed: int, T: int) -> CellSequence:
    """A GRU whose weights are N(0, gain^2 / fan-in), without biases, over two inputs N(0, 1); float64."""
    generator = torch.Generator().manual_seed(seed)
    cell = nn.GRUCell(2, d).double().requires_grad_(False)
    for weight in (cell.weight_ih, cell.weight_hh):
        drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        weight.copy_(gain * drawn / weight.shape[1] ** 0.5)
    for bias in (cell.bias_ih, cell.bias_hh):
        bias.zero_()
    return CellSequence(cell, torch.randn(T, 1, 2, generator=generator, dtype=torch.float64), bounds=(-1.0, 1.0))


def _random_cells() -> Iterator[Item]:
    """Sweeps of three linearizations, as they were counted for small and middling weights."""
    methods: list[Method] = [DEER(atol=1e-9, rtol=0), QuasiDEER(atol=1e-9, rtol=0), Jacobi(1e-9, guess=Constant())]
    counted = {(0.5, 4): (5, 15, 43), (0.5, 16): (5, 15, 45), (2.0, 4): (8, 41, 92), (2.0, 16): (8, 45, 112)}
    rows, off, wrong, names = [], 0.0, 0, ("Dense", "Diagonal", "Zero")
    for (gain, d), wanted in counted.items():
        means = []
        for method in methods:
            sweeps = []
            for seed in range(3):
                problem = random_gru(gain, d, seed, 512)
                found = run(problem, method, against=run(problem, Loop()))
                sweeps.append(problem.columns(found)["sweeps"])
                wrong += found.kept is not True
            means.append(sum(sweeps) / len(sweeps))
        off = max(off, *(abs(seen / number - 1) for seen, number in zip(means, wanted)))
        rows.append([gain, d, *means, *wanted])
    yield Grid("random GRUs, T = 512, change < 1e-9: sweeps, means of 3 seeds, and as counted before (then)",
               ["gain", "d", *names, *(f"{name} then" for name in names)], rows)  # fmt: skip
    yield exactly("random GRUs: runs whose residual is above their tolerance", wrong, 0)
    yield at_most("random GRUs: sweeps against those counted before, relative", off, 0.3)


def _solved(title: str, problem: CellSequence, methods: Sequence[Method], bad: list[str]) -> Grid:
    """Sweeps, work, distance and seconds of methods on a pretrained recurrence, beside its loop."""
    rows = []
    with torch.no_grad():
        loop = run(problem, Loop())
        grown = lyapunov(problem, loop.value)
        for method in methods:
            found = run(problem, method, against=loop)
            facts = problem.columns(found)
            if found.kept is False:
                bad.append(label(method))
            sweeps, work = facts["sweeps"], found.ledger.work / problem.steps
            rows.append([label(method), sweeps, sweeps / problem.steps, work,
                         found.distance, facts["residual"], found.seconds, loop.seconds])  # fmt: skip
    columns = ["method", "sweeps", "sweeps/T", "work/T", "distance", "residual", "seconds", "loop's seconds"]
    return Grid(f"{title}, T = {problem.steps}, LLE {grown:+.2g}", columns, rows)


def _speech() -> Iterator[Item]:
    """The LSTM of a voice activity detector, over speech and then silence."""
    sound = zoo.spoken(5.0, silence=1.5)
    given = zoo.silero_lstm(sound)
    problem = CellSequence(given.cell, given.inputs, given.h0)
    bad: list[str] = []
    yield _solved("silero-vad's LSTM, 128 units, on speech", problem,
                  [DEER(), DEER(guess=OneStep()), DEER(window=64), QuasiDEER(window=64), Newton(Dense(), sweeps=3),
                   Jacobi(1e-5)], bad)  # fmt: skip
    with torch.no_grad():
        found, loop = run(problem, DEER(window=64)), run(problem, Loop())
        said, wanted = given.read(found.value)[:, 0], given.read(loop.value)[:, 0]
    frames = torch.from_numpy(sound[: problem.steps * 512]).view(-1, 512).pow(2).mean(1)
    spoken = int(5.0 * 16000 / 512)
    loud = frames[:spoken].argsort()[-spoken // 3 :]
    sweeps = problem.columns(found)["sweeps"]
    yield exactly("silero-vad: methods whose promise is not kept", len(bad), 0)
    yield at_most("silero-vad: largest change of a probability", (said - wanted).abs().max(), 1e-3)
    yield at_least("silero-vad: probability of speech, mean over the loudest third", said[loud].mean(), 0.9)
    yield at_most("silero-vad: probability of speech, mean over the last second of silence", said[-31:].mean(), 0.05)
    yield at_least("silero-vad: steps by sweeps (its exponent is about 0, so that no method does much better)",
                   problem.steps / sweeps, 3.0)  # fmt: skip


def _words() -> Iterator[Item]:
    """The two GRUs that read and pronounce words of the dictionary."""
    known = zoo.pronunciations(200)
    _, speaker = zoo.g2p_gru(list(known))
    with torch.no_grad():
        said = speaker.read(run(CellSequence(speaker.cell, speaker.inputs, speaker.h0), Loop()).value)
    right = sum(a in ways for a, ways in zip(said, known.values())) / len(known)
    bad: list[str] = []
    few = zoo.g2p_gru(list(known)[:6])
    methods = [DEER(), QuasiDEER(), Newton(Dense(), sweeps=3)]
    for given in few:
        problem = CellSequence(given.cell, given.inputs, given.h0)
        yield _solved(f"{given.what}, 256 units, 6 words at once", problem, methods, bad)
        if given is few[1]:
            with torch.no_grad():
                parallel, loop = run(problem, DEER()), run(problem, Loop())
            other = sum(a != b for a, b in zip(given.read(parallel.value), given.read(loop.value)))
            yield exactly("g2p-en: words said otherwise by parallel states", other, 0)
    yield at_least("g2p-en: share of 200 dictionary words said as the dictionary does", right, 0.6)
    yield exactly("g2p-en: methods whose promise is not kept", len(bad), 0)
    text = zoo.g2p_gru(list(known)[:24])[0]
    letters = [text.inputs[: len(word) + 1, b] for b, word in enumerate(list(known)[:24])]
    joined = CellSequence(text.cell, torch.cat(letters)[:, None])
    yield _solved("g2p-en's GRU reading 24 words as one text", joined, [DEER(window=64)], bad)


def _long_training() -> Iterator[Item]:
    """A GRU that predicts the next of 17,000 samples of speech, trained through all of them at once."""
    T, updates = 17_000, 3
    rows: list[list[Any]] = []
    curves: dict[str, list[tuple[float, float]]] = {}
    for dtype in (torch.float32, torch.float64):
        sound = 3 * torch.from_numpy(zoo.spoken()[16_000 : 16_000 + T + 1]).to(dtype)
        x, y = sound[:-1, None, None], sound[1:]
        name = str(dtype).removeprefix("torch.")
        trained = {m: _train(x, y, m, updates) for m in (Loop(), DEER(), QuasiDEER())}
        loop, own, _ = trained.values()
        for method, got in trained.items():
            counts = [got["calls"], got["span"], got["rounds"], got["work"] / T, got["memory"] / 1e6]
            rows.append([name, label(method), *counts, got["seconds"], got["gpu"]])
        rows.append([name, "torch.nn.GRU's loop", T, 2 * T, 2 * T, 2, 0, _fused(x), None])
        curves |= {f"{label(m)}, {name}": list(enumerate(got["losses"])) for m, got in trained.items()}
        yield at_least(f"{name}: 17,000 steps by batched calls of a forward pass, worst update", T / own["calls"], 300)
        yield at_least(f"{name}: span of an update, the loop's 2 T by DEER's", 2 * T / own["span"], 300)
        yield at_least(f"{name}: the same, each round of a scan counted as a call", 2 * T / own["rounds"], 300)
        yield at_most(f"{name}: work of an update in evaluations, by the loop's 2 T", own["work"] / (2 * T), 12)
        near = 1e-8 if dtype == torch.float64 else 1e-3
        yield at_most(f"{name}: first gradient against the loop's, relative", _apart(own["grads"], loop["grads"]), near)
        yield at_most(
            f"{name}: losses of {updates} updates against the loop's", _far(own["losses"], loop["losses"]), near
        )
        yield at_least(
            f"{name}: replayed on {GPU}, an update's states, loop's seconds by DEER's", loop["gpu"] / own["gpu"], 20
        )
    yield Grid(f"a GRU of 12 units on 17,000 samples of speech: an update, worst of {updates} (rounds: scans' too)",
               ["type", "method", "calls forward", "span", "span and scan rounds", "work/T", "peak MB of Jacobians",
                "seconds here", f"seconds of the forward pass on {GPU}"], rows)  # fmt: skip
    yield Figure("next-sample loss", "update", "loss", curves)


def _train(x: Tensor, y: Tensor, method: Method, updates: int) -> dict[str, Any]:
    """Adam through a whole sequence: counts of the worst update, its best seconds, the first gradient, all losses."""
    cell, head = nn.GRUCell(1, 12).to(x.dtype), nn.Linear(12, 1).to(x.dtype)
    for seed, part in enumerate((cell, head)):
        reset(part, seed)
    parameters = [*cell.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, 1e-2)
    got: dict[str, Any] = {"losses": [], "seconds": float("inf"), "grads": None}
    T, serial = len(x), isinstance(method, Loop)
    for _ in range(updates):
        optimizer.zero_grad()
        start = time.perf_counter()
        problem = CellSequence(cell, x)
        found = run(problem, method)
        calls = found.ledger.longest("f") - (0 if serial else 1)  # one more carries the gradient
        forward = found.ledger.to_json()
        loss = (head(found.value)[:, 0, 0] - y).pow(2).mean()
        loss.backward()
        got["seconds"] = min(got["seconds"], time.perf_counter() - start)
        got["grads"] = got["grads"] or [p.grad.clone() for p in parameters if p.grad is not None]
        optimizer.step()
        # Autograd walks back through the loop step by step, and records nothing.
        span, work = (2.0 * T, 2.0 * T) if serial else (found.ledger.longest("f"), found.ledger.work)
        got["losses"].append(float(loss.detach()))
        rounds, memory = span + found.ledger.longest("scan"), max(found.ledger.peak().values())
        for name, value in (
            ("calls", calls), ("span", span), ("rounds", rounds), ("work", work), ("memory", memory),
        ):  # fmt: skip
            got[name] = max(got.get(name, 0.0), value)
    costs, ledger = cost(problem), Ledger.from_json(forward)
    weigh(ledger, costs, problem, method)
    got["gpu"] = replay(ledger, Forecast(MACHINES[GPU], costs["operations"])).makespan
    return got


def _fused(x: Tensor) -> float:
    """Seconds of torch's own loop in one module, forward and backward."""
    net = nn.GRU(1, 12).to(x.dtype)
    start = time.perf_counter()
    net(x)[0].sum().backward()
    return time.perf_counter() - start


def _apart(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The largest difference, by the largest entry of `others`."""
    scale = max(float(b.abs().max()) for b in others)
    return max(float((a - b).abs().max()) for a, b in zip(some, others)) / scale


def _far(some: Sequence[float], others: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(some, others))


def _equation() -> Iterator[Item]:
    """A damped and driven pendulum: DEER's own step and Runge and Kutta's against a fine solution."""

    def pendulum(t: Tensor, y: Tensor) -> Tensor:
        angle, speed = y.unbind(-1)
        return torch.stack((speed, -torch.sin(angle) - 0.5 * speed + 0.8 * torch.sin(2 * t[..., 0])), -1)

    y0, rows, most = torch.tensor([[1.0, 0.0]], dtype=torch.float64), [], 0.0
    schemes: tuple[tuple[Scheme, int], ...] = (("rk4", 10), ("exponential", 3))
    for step, least in schemes:
        errors = []
        for T in (250, 500):
            problem = ODE(pendulum, torch.linspace(0, 20, T + 1, dtype=torch.float64), y0, step)
            fine = ODE(pendulum, torch.linspace(0, 20, 16 * T + 1, dtype=torch.float64), y0)
            found = run(problem, DEER(atol=1e-11, rtol=0))
            facts = problem.columns(found)
            errors.append(float((found.value - run(fine, Loop()).value[15::16]).abs().max()))
            rows.append([step, T, facts["sweeps"], errors[-1], facts["residual"], facts["status"]])
            most = max(most, facts["sweeps"] / T, facts["residual"])
        yield at_least(f"pendulum, {step}: error falls by, where intervals are halved", errors[0] / errors[1], least)
        yield at_most(f"pendulum, {step}: error with 500 intervals", errors[1], 1e-2)
    yield Grid("a damped and driven pendulum by DEER, to t = 20",
               ["step", "T", "sweeps", "error against 16 times finer", "residual", "status"], rows)  # fmt: skip
    yield at_most("pendulum: largest of sweeps by steps, and of residuals", most, 0.1)


@claim("serial-scaling", real="exact")
def serial_scaling() -> Iterator[Item]:
    yield from SerialScaling().run()
    yield from _real_chains()


def _real_chains() -> Iterator[Item]:
    """Where a pretrained recurrence stands among the chains."""
    given = zoo.silero_lstm(zoo.spoken(10.0))
    rows = []
    for T in (64, 128, 256):
        problem: Recurrence = CellSequence(given.cell, given.inputs[:T], given.h0)
        with torch.no_grad():
            found = run(problem, DEER(window=64))
        rows.append([T, lyapunov(problem, found.value), problem.columns(found)["sweeps"]])
    yield Grid("silero-vad's LSTM on speech", ["T", "LLE", "sweeps"], rows)
    yield at_least("silero-vad, exponent about 0: sweeps(256) / sweeps(64), serial as far as it was followed",
                   rows[-1][2] / rows[0][2], 3.0)  # fmt: skip
