"""Text the embedded models are trained on and evaluated on: the Python standard library's own sources.

Whole modules are held out, together with their tests, so that evaluation code was never seen in training.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

HELD_OUT = (
    "heapq", "textwrap", "statistics", "configparser", "shlex", "csv", "queue", "fractions", "calendar", "difflib",
    "colorsys", "cmd", "sched", "graphlib", "netrc", "string", "timeit", "bisect", "copy", "fnmatch",
)  # fmt: skip
_SKIP = {"site-packages", "__pycache__", "lib2to3", "idlelib", "turtledemo", "pydoc_data", "encodings", "ensurepip"}


def stdlib() -> Path:
    """The folder that holds the standard library of the running interpreter."""
    return Path(sysconfig.get_paths()["stdlib"])


def held_out(path: Path) -> bool:
    """Whether a file belongs to a held-out module: the module itself or its test."""
    stem = path.stem.removeprefix("test_").removesuffix("_tests")
    return stem in HELD_OUT


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def training_files() -> list[str]:
    """Every usable source file that is not held out, in a fixed order."""
    files = sorted(p for p in stdlib().rglob("*.py") if not _SKIP & set(p.parts) and not held_out(p))
    texts = (_read(p) for p in files)
    return [text for text in texts if 200 < len(text) < 400_000]


def held_out_modules() -> dict[str, str]:
    """Name to source text of the held-out modules that this interpreter has."""
    paths = {name: stdlib() / f"{name}.py" for name in HELD_OUT}
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path.exists()}
