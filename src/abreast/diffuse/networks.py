"""The network behind a sampler, called with a timestep and a condition for every row.

Axes: N rows, which are branches x n indices x B samples, the last fastest.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from abreast.core import AbreastError

# Arguments that all rows share, though their first axis may happen to be as long as the batch.
SHARED = {"txt_ids", "img_ids", "image_rotary_emb", "rope_interpolation_scale", "return_dict", "position_ids"}


class Network(Protocol):
    """module: what computes, where it is a torch module whose parts can be looked into; else None."""

    @property
    def module(self) -> torch.nn.Module | None: ...

    def __call__(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """Outputs [N, *] for scaled states x [N, *], timesteps t [N] and conditions of N rows."""
        ...


class Plain:
    """A function (x, t, cond) -> output."""

    module = None

    def __init__(self, function: Any):
        self.function = function

    def __call__(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return self.function(x, t, cond)


class Module:
    """A diffusers model, or any module with its face: forward(x, timestep, ...); conditions are keyword arguments.

    Put into evaluation mode, since models made from a configuration are in training mode and drop labels.
    """

    def __init__(self, module: torch.nn.Module, x: str | None = None, t: str | None = None):
        self.module = module.eval()
        names = list(inspect.signature(module.forward).parameters)
        self.x = x or names[0]
        self.t = t or next((name for name in names if name in ("timestep", "timesteps", "t")), names[1])
        self.plain = "return_dict" in names
        floats = [p.dtype for p in module.parameters() if p.is_floating_point()]
        self.dtype = getattr(module, "dtype", floats[0]) if floats else None

    def around(self, module: torch.nn.Module) -> Module:
        """The same face of a module that wraps this one."""
        twin = copy.copy(self)
        twin.module = module.eval()
        return twin

    def inputs(self, x: Tensor, t: Tensor, cond: Any) -> dict[str, Any]:
        """The keyword arguments of the module's forward."""
        if cond is not None and not isinstance(cond, Mapping):
            raise AbreastError(f"{type(self.module).__name__} takes conditions by name: pass cond={{name: tensor}}.")
        extra = {"return_dict": False} if self.plain else {}
        return {self.x: x.to(self.dtype or x.dtype), self.t: t, **(cond or {}), **extra}

    def finish(self, out: Any) -> Tensor:
        """The output in what the module's forward returned."""
        return result(out)

    def __call__(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return self.finish(self.module(**self.inputs(x, t, cond)))


def result(out: Any) -> Tensor:
    """The tensor in what a diffusers model returns."""
    if isinstance(out, Tensor):
        return out
    return out[0] if isinstance(out, (tuple, list)) else out.sample


def network(denoiser: Any) -> Network:
    """The face of a module or function. Raises AbreastError for anything else."""
    if isinstance(denoiser, torch.nn.Module):
        return Module(denoiser)
    if hasattr(denoiser, "module"):
        return denoiser
    if callable(denoiser):
        return Plain(denoiser)
    raise AbreastError(f"a denoiser is a diffusers model or a function (x, t, cond), not {type(denoiser).__name__}.")


def spread(cond: Any, n: int, batch: int) -> Any:
    """A condition of `batch` rows for n indices: what has a batch axis n times over, the rest as it is."""
    if isinstance(cond, Mapping):
        return {k: v if k in SHARED else spread(v, n, batch) for k, v in cond.items()}
    if isinstance(cond, (tuple, list)):
        return type(cond)(spread(v, n, batch) for v in cond)
    if n != 1 and batched(cond, batch):
        return cond.repeat(n, *[1] * (cond.ndim - 1))
    return cond


def batched(value: Any, batch: int) -> bool:
    """Whether the first axis is that of the samples (or of samples x frames)."""
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] > 0 and value.shape[0] % batch == 0


def join(conds: Sequence[Any], batch: int) -> Any:
    """Conditions of several branches, `batch` rows each, as one of all their rows."""
    first = conds[0]
    if len(conds) == 1:
        return first
    if isinstance(first, Mapping):
        return {k: first[k] if k in SHARED else join([c[k] for c in conds], batch) for k in first}
    if isinstance(first, (tuple, list)):
        return type(first)(join(parts, batch) for parts in zip(*conds))
    return torch.cat(list(conds)) if batched(first, batch) else first


def cut(cond: Any, start: int, stop: int, rows: int) -> Any:
    """Rows start to stop of a condition of `rows` rows; a last row stands in for those beyond the end."""
    if isinstance(cond, Mapping):
        return {k: v if k in SHARED else cut(v, start, stop, rows) for k, v in cond.items()}
    if isinstance(cond, (tuple, list)):
        return type(cond)(cut(v, start, stop, rows) for v in cond)
    if not batched(cond, rows):
        return cond
    each = cond.shape[0] // rows
    index = torch.arange(start, stop, device=cond.device).clamp(max=rows - 1)
    return cond.unflatten(0, (rows, each))[index].flatten(0, 1)
