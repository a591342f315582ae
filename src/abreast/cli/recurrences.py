"""The recurrence that a command is asked about: a torch cell, a real one of the zoo, or the user's own."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abreast.core.errors import AbreastError, nearest

CELLS = {"gru": "GRUCell", "lstm": "LSTMCell", "rnn": "RNNCell"}
REAL = ("silero", "g2p")
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Asked:
    """The options that name a recurrence; what is None was not given."""

    cell: str | None = None
    real: str | None = None
    module: str | None = None
    width: int | None = None
    inputs: int | None = None
    steps: int | None = None
    batch: int | None = None
    gain: float | None = None
    seed: int = 0
    dtype: str | None = None


@dataclass(frozen=True)
class Described:
    """A recurrence, what it is called, and where it is from."""

    problem: Any
    name: str
    source: str

    def facts(self) -> dict[str, Any]:
        """What is saved of it."""
        from abreast.solve.forecast import cost

        x0 = self.problem.x0
        return {"name": self.name, "source": self.source, "steps": self.problem.steps, "batch": len(x0),
                "state": list(x0.shape[1:]), "cost": cost(self.problem)}  # fmt: skip

    @property
    def dtype(self) -> str:
        return str(self.problem.x0.dtype).removeprefix("torch.")


def check(asked: Asked) -> None:
    """Raise AbreastError, before torch is loaded, where the options contradict each other or name nothing."""
    given = [name for name in ("cell", "real", "module") if getattr(asked, name) is not None]
    if len(given) > 1:
        raise AbreastError(f"--{given[0]} and --{given[1]} name two recurrences: give one of them.")
    if asked.cell is not None and asked.cell not in CELLS:
        raise AbreastError(f"there is no cell {asked.cell!r}: {nearest(asked.cell, CELLS)}")
    if asked.real is not None and asked.real not in REAL:
        raise AbreastError(f"the zoo has no recurrence {asked.real!r}: {nearest(asked.real, REAL)}")
    if asked.dtype is not None and asked.dtype not in DTYPES:
        raise AbreastError(f"--dtype is {' or '.join(DTYPES)}, not {asked.dtype!r}.")
    if asked.gain is not None and not 0 <= asked.gain < float("inf"):
        raise AbreastError(f"--gain is a factor from 0 on, not {asked.gain:g}.")
    own = {"real": ("width", "inputs", "gain"), "module": ("width", "inputs", "steps", "batch", "gain", "dtype")}
    for name in own.get(given[0] if given else "", ()):
        if getattr(asked, name) is not None:
            raise AbreastError(f"--{name} is of a random cell: with --{given[0]} it has nothing to say.")


def build(asked: Asked) -> Described:
    """The recurrence. Raises AbreastError where it cannot be made."""
    check(asked)
    if asked.module is not None:
        return _own(asked.module)
    return _real(asked) if asked.real is not None else _random(asked)


def _random(asked: Asked) -> Described:
    """A torch cell with torch's own initial weights, the recurrent ones times the gain, over standard normal inputs."""
    import torch

    from abreast.solve import CellSequence

    kind = asked.cell or "gru"
    width, features = asked.width or 32, asked.inputs or 16
    dtype = getattr(torch, asked.dtype or "float32")
    torch.manual_seed(asked.seed)
    cell = getattr(torch.nn, CELLS[kind])(features, width).to(dtype)
    with torch.no_grad():
        cell.weight_hh.mul_(1.0 if asked.gain is None else asked.gain)
    inputs = torch.randn(asked.steps or 512, asked.batch or 4, features, dtype=dtype)
    said = "" if asked.gain in (None, 1.0) else f", recurrent weights times {asked.gain:g}"
    return Described(CellSequence(cell, inputs), f"{CELLS[kind]} {width}{said}", "random weights and inputs")


def _real(asked: Asked) -> Described:
    """Trained weights over real inputs: speech, or the letters of English words."""
    from abreast import zoo
    from abreast.solve import CellSequence

    dtype = asked.dtype or "float32"
    if asked.real == "silero":
        from abreast.zoo.recurrences import CHUNK, RATE

        sound = zoo.spoken() if asked.steps is None else zoo.spoken(silence=max(0.0, asked.steps * CHUNK / RATE - 9.0))
        if asked.steps is not None:
            sound = sound[: asked.steps * CHUNK]
        known = zoo.silero_lstm(sound if asked.batch is None else [sound] * asked.batch, dtype)  # type: ignore[arg-type]
    else:
        words = list(zoo.pronunciations(asked.batch or 32, asked.seed))
        known, _ = zoo.g2p_gru(words, dtype)
        if asked.steps is not None and asked.steps > len(known.inputs):
            raise AbreastError(
                f"the longest of these words has {len(known.inputs)} steps, so --steps {asked.steps} is too many."
            )
    inputs = known.inputs[: asked.steps]
    return Described(CellSequence(known.cell, inputs, known.h0), known.what, "trained weights, real inputs")


def _own(where: str) -> Described:
    """What FILE.py:NAME holds, or gives when it is called without arguments."""
    from abreast.solve import Recurrence

    file, _, name = where.rpartition(":")
    path = Path(file)
    if not file or not name.isidentifier():
        raise AbreastError(f"--module is FILE.py:NAME, not {where!r}.")
    if not path.is_file():
        raise AbreastError(f"--module names {file}, which is no file.")
    found = getattr(_imported(path), name, None)
    if found is None:
        raise AbreastError(f"{file} has nothing called {name}.")
    made = found
    if callable(found) and not isinstance(found, Recurrence) and not hasattr(found, "forward"):
        try:
            made = found()
        except Exception as error:
            raise AbreastError(
                f"{name}() in {file} raised {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
    if not isinstance(made, Recurrence):
        what = "gives" if made is not found else "is"
        raise AbreastError(
            f"{name} in {file} {what} a {type(made).__name__}, not a solve.Recurrence: "
            "solve.CellSequence(cell, inputs) makes one of a cell."
        )
    return Described(made, name, path.name)


def _imported(path: Path) -> Any:
    """The file as a module; files beside it can be imported from it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise AbreastError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise AbreastError(f"{path} raised {type(error).__name__}: {' '.join(str(error).split())}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module
