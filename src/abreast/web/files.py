"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from abreast.core.errors import AbreastError


def write(path: Path, text: str) -> Path:
    """Write text through a file beside it. Raises AbreastError where the folder cannot be written."""
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise AbreastError(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        if name is not None and os.path.exists(name):
            os.unlink(name)
    return path


def writable(folder: Path) -> None:
    """Raise AbreastError, before any long work, where nothing can be written to `folder`."""
    probe = folder / ".abreast"
    write(probe, "").unlink()


def read_json(path: Path) -> Any:
    """The values in a JSON file. Raises AbreastError where there are none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AbreastError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise AbreastError(f"{path} is not JSON: {error}.") from error


def to_json(facts: Any) -> str:
    """Strict JSON of plain values."""
    return json.dumps(facts, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
