"""What each paper's headline of this room comes to on this machine."""

from abreast.solve import claims_nets, claims_paths, claims_recurrences, claims_systems  # noqa: F401
