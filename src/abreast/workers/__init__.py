"""Where methods run: a World is handed to every method, and every lane that it records on comes from there. Its ranks
(threads that take turns, in virtual time, or processes) each get a Team, whose collectives and messages record
themselves and are the same, to the bit, wherever the ranks live."""

from .pool import Pool
from .team import Handle, Team
from .world import World

__all__ = ["Handle", "Pool", "Team", "World"]
