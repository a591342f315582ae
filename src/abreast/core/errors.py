"""The one exception that this package raises on purpose."""

import difflib
from collections.abc import Iterable


class AbreastError(ValueError):
    """What was wrong with the input, and what would be right, in one sentence."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Text to end an "unknown name" sentence with: the closest of `names`, or all of them where few, or nothing."""
    names = sorted(set(names))
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are {', '.join(names)}." if 0 < len(names) <= 20 else ""
