"""The user's cache folder: where fetched and converted files live, and how they get there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_dir

from abreast.core.errors import AbreastError

_ABANDONED_AFTER_S = 24 * 3600.0


def cache_folder() -> Path:
    """`$ABREAST_CACHE` if it is set, else the platform's cache folder for abreast; it need not exist yet."""
    return Path(os.environ.get("ABREAST_CACHE") or user_cache_dir("abreast", appauthor=False)).expanduser()


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def staged(target: Path, valid: Callable[[], bool]) -> Iterator[Path]:
    """Yields an empty folder that becomes `target`, in one rename, when the block ends well, and else vanishes.

    `valid` says whether what lies at `target` is good: then it stays, as another process was faster.
    Raises AbreastError where the cache cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".part-{target.name}-", dir=target.parent))
    except OSError as error:
        raise AbreastError(
            f"{target.parent} cannot be written ({error.strerror}): set ABREAST_CACHE to a folder that can."
        ) from error
    for left in target.parent.glob(f".part-{target.name}-*"):
        if time.time() - left.stat().st_mtime > _ABANDONED_AFTER_S:
            shutil.rmtree(left, ignore_errors=True)
    try:
        yield folder
        folder.chmod(0o755)
        if not valid():
            shutil.rmtree(target, ignore_errors=True)
        try:
            folder.rename(target)
        except OSError:
            if not valid():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
