"""What each paper's headline of this room comes to on this machine."""

from abreast.solve import claims_paths, claims_systems  # noqa: F401
