"""Where methods run: a World is handed to every method, and every lane that it records on comes from there."""

from .world import World

__all__ = ["World"]
