"""The training loop that every recipe of the zoo shares: AdamW, warm-up and cosine, resumable, with a progress bar."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import nn

Averages = dict[str, torch.Tensor]


def _save(
    path: Path, module: nn.Module, optimiser: torch.optim.AdamW, step: int, names: list[str], averages: Averages
) -> None:
    tensors = {f"average.{k}": v for k, v in averages.items()}
    tensors |= {f"model.{k}": v.detach().contiguous().clone() for k, v in module.named_parameters() if v.requires_grad}
    for name, group in zip(names, optimiser.state.values()):
        tensors |= {f"first.{name}": group["exp_avg"], f"second.{name}": group["exp_avg_sq"]}
    partial = path.with_suffix(".part")
    save_file(tensors, partial, metadata={"step": str(step)})
    partial.replace(path)


def _restore(path: Path, module: nn.Module, optimiser: torch.optim.AdamW, names: list[str], averages: Averages) -> int:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
    tensors = load_file(path)
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name in names:
            parameters[name].copy_(tensors[f"model.{name}"])
            optimiser.state[parameters[name]] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"first.{name}"],
                "exp_avg_sq": tensors[f"second.{name}"],
            }
    for name in averages:
        averages[name] = tensors[f"average.{name}"]
    return step


def fit(
    module: nn.Module,
    loss: Callable[[int], torch.Tensor],
    *,
    steps: int,
    rate: float,
    checkpoint: Path,
    title: str,
    warmup: int = 50,
    decay: float = 0.1,
    clip: float = 1.0,
    evaluate: Callable[[], float] | None = None,
    average: float = 0.0,
    save_every_s: float = 60.0,
) -> None:
    """Minimises `loss(step)` over the module's trainable parameters, in place.

    `loss` must depend on the step number and the parameters only: then a run that was stopped and started again from
    `checkpoint` (written once a minute) takes the same steps as one that was not. `evaluate` is shown now and then.
    With `average` the module ends with the moving average of its parameters over the steps, of that decay, instead of
    the last ones.
    """
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=decay, fused=True)
    own = dict(module.named_parameters())
    averages = {name: own[name].detach().clone() for name in names} if average else {}
    step = _restore(checkpoint, module, optimiser, names, averages) if checkpoint.exists() else 0
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    saved = time.monotonic()
    shown = math.nan
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TextColumn("{task.fields[note]}"), TimeRemainingColumn()) as bar:
        task = bar.add_task(title, total=steps, completed=step, note="")
        while step < steps:
            factor = min((step + 1) / warmup, 1.0) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            value = loss(step)
            value.backward()
            torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            step += 1
            for name, mean in averages.items():
                # A young average forgets its random start quickly.
                mean.lerp_(own[name].detach(), 1 - min(average, step / (step + 10)))
            shown = value.item() if math.isnan(shown) else 0.98 * shown + 0.02 * value.item()
            bar.update(task, completed=step, note=f"loss {shown:.3f}")
            if evaluate is not None and step % 250 == 0:
                bar.console.print(f"{title}: step {step}, loss {shown:.3f}, held out {evaluate():.4f}")
            if time.monotonic() - saved > save_every_s or step == steps:
                _save(checkpoint, module, optimiser, step, names, averages)
                saved = time.monotonic()
    with torch.no_grad():
        for name, mean in averages.items():
            own[name].copy_(mean)
