"""What torch keeps for each thread, carried into a rank's thread; and random streams, so that each rank has its own."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

MT19937_BYTES = 624 * 4 + 4


class Surroundings:
    """The caller's grad mode, inference mode, autocast and default device, to be entered on another thread. Modes of
    the dispatcher and hooks for saved tensors stay with the caller's thread."""

    def __init__(self) -> None:
        import torch

        self.grad, self.inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        self.cache, self.device = torch.is_autocast_cache_enabled(), torch.get_default_device()
        kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        self.autocast = [(k, torch.get_autocast_dtype(k)) for k in kinds if torch.is_autocast_enabled(k)]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The same state on this thread. A backward stays on it, too: hooks may wait for other ranks there."""
        import torch

        with ExitStack() as stack:
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))
            if self.inference:
                stack.enter_context(torch.inference_mode())
            stack.enter_context(torch.set_grad_enabled(self.grad))
            for kind, dtype in self.autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype, cache_enabled=self.cache))
            if self.device.type != "cpu":
                stack.enter_context(self.device)
            yield


class Streams:
    """The default random streams of Python, numpy and torch at one moment, as plain values: they travel to processes.

    The streams belong to the process, so ranks that take turns in one process swap them at every hand-over (`swap`).
    """

    __slots__ = ("cuda", "numpy", "python", "torch")

    def __init__(self, before: Streams | None = None):
        """Read the streams. before: what they were set to last; saves reading numpy's again where it was not used."""
        import torch

        self.python, self.torch = random.getstate(), torch.get_rng_state()
        self.numpy: Any = _read_numpy(None if before is None else before.numpy)
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def set(self, current: Streams | None = None) -> None:
        """Go on from here. current: what the streams are now, where that is known."""
        import torch

        random.setstate(self.python)
        torch.set_rng_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)
        if current is None or current.numpy is not self.numpy:
            import numpy.random

            numpy.random.set_state(self.numpy[0])

    def __getstate__(self) -> dict[str, Any]:
        """As numbers, text and tensors: what travels without code. numpy's stream only where it is its usual one."""
        state, _ = self.numpy
        numpy = None
        if state["bit_generator"] == "MT19937":
            inner = {"key": [int(k) for k in state["state"]["key"]], "pos": int(state["state"]["pos"])}
            numpy = {"inner": inner, "has_gauss": int(state["has_gauss"]), "gauss": float(state["gauss"])}
        return {"python": self.python, "torch": self.torch, "numpy": numpy}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.python, self.torch, self.cuda = state["python"], state["torch"], None
        numpy = state["numpy"]
        if numpy is None:
            self.numpy = _read_numpy(None)
        else:
            import numpy as np

            inner = {"key": np.array(numpy["inner"]["key"], dtype=np.uint32), "pos": numpy["inner"]["pos"]}
            facts = {"has_gauss": numpy["has_gauss"], "gauss": numpy["gauss"]}
            self.numpy = {"bit_generator": "MT19937", "state": inner, **facts}, b""


def _read_numpy(before: Any) -> Any:
    """(state, its raw bytes) of numpy's default stream: `before` itself where nothing was drawn since.

    Reading and setting the state takes 60 us, looking at its memory one. The memory does not show the second number of
    a pair of normal ones, so a state that holds one is always read again.
    """
    import numpy.random

    generator: Any = numpy.random.get_bit_generator()  # type: ignore[attr-defined]
    seen = b""
    if type(generator).__name__ == "MT19937":
        seen = ctypes.string_at(generator.ctypes.state_address, MT19937_BYTES)
        if before is not None and before[1] == seen and not before[0]["has_gauss"]:
            return before
    return numpy.random.get_state(legacy=False), seen
