"""What this machine does, measured: seconds of a call by its rows, flops, bandwidth."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from abreast.core.errors import AbreastError

from .machine import Curve, Machine


def calibrate(
    call: Callable[[int], object], rows: Sequence[int] = (1, 2, 4, 8, 16, 32), repeats: int = 5, warm: int = 1
) -> Curve:
    """The curve of `call(rows)`: for each number of rows the median of `repeats` seconds, after `warm` calls.

    The sizes take turns, so that a busy spell of the machine falls on all of them alike.
    """
    if repeats < 1 or not rows or min(rows) < 1:
        raise AbreastError("calibration wants at least one repeat, and numbers of rows from 1 on.")
    seconds: dict[int, list[float]] = {n: [] for n in rows}
    for turn in range(warm + repeats):
        for n in rows:
            start = time.perf_counter()
            call(n)
            if turn >= warm:
                seconds[n].append(time.perf_counter() - start)
    return tuple((float(n), statistics.median(seconds[n])) for n in sorted(seconds))


@dataclass(frozen=True)
class Calibration:
    """Curves of a model's kinds on this machine, kept in a file in the user's cache.

    model: the `fingerprint` of what was measured. curves: kind -> points (rows, seconds). flops, bandwidth: of this
    machine with this many threads. The file is found again by every field but the measured ones.
    """

    model: str
    dtype: str
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    flops: float = 0.0
    bandwidth: float = 0.0
    cpu: str = field(default_factory=lambda: cpu_name())
    threads: int = field(default_factory=lambda: _torch().get_num_threads())
    torch: str = field(default_factory=lambda: str(_torch().__version__))

    @property
    def path(self) -> Path:
        """Where its file is."""
        key = json.dumps([self.cpu, self.threads, self.torch, self.model, self.dtype])
        return cache_dir() / "calibrations" / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.json"

    def machine(self, devices: int | None = 1) -> Machine:
        """This machine, as measured."""
        source = f"measured: torch {self.torch}, {self.threads} threads, {self.dtype}"
        return Machine(self.cpu, devices, self.curves, self.flops, self.bandwidth, source=source)

    def save(self) -> Path:
        """Write the file; its path."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(asdict(self), indent=1))
        beside.replace(self.path)
        return self.path

    def load(self) -> Calibration | None:
        """What was measured before under the same key, or None."""
        if not self.path.exists():
            return None
        try:
            return Calibration(**json.loads(self.path.read_text()))
        except (TypeError, ValueError) as error:
            raise AbreastError(f"{self.path} is no calibration: remove it, and calibrate again.") from error


def measure_flops(size: int = 768, dtype: Any = None, repeats: int = 7) -> float:
    """Floating point operations a second of a matrix product [size, size] x [size, size]: the best of `repeats`."""
    torch = _torch()
    a = torch.randn(size, size).to(dtype or torch.get_default_dtype())
    return 2.0 * size**3 / _best(lambda: a @ a, repeats)


def measure_bandwidth(size: int = 1 << 28, repeats: int = 7) -> float:
    """Bytes a second that a sum reads from memory: the best of `repeats` over `size` bytes, far above the caches."""
    a = _torch().ones(size // 4)
    return size / _best(a.sum, repeats)


def fingerprint(model: Any) -> str:
    """A name for a torch module's shape: its class, and its parameters' names and shapes. Same shape, same speed."""
    shapes = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    return f"{type(model).__name__}-{hashlib.sha256(repr(shapes).encode()).hexdigest()[:12]}"


def cpu_name() -> str:
    """The processor's model name, or the architecture where the system does not say it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cache_dir() -> Path:
    """The user's cache of this package: ABREAST_CACHE, else where the system keeps caches."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("ABREAST_CACHE") or user_cache_dir("abreast"))


def _best(call: Callable[[], object], repeats: int) -> float:
    return min(seconds for _, seconds in (calibrate(lambda _: call(), rows=[1], repeats=1)[0] for _ in range(repeats)))


def _torch() -> Any:
    import torch

    return torch
