"""What each paper's headline of this room comes to on this machine."""

from abreast.diffuse import claims_layers, claims_patches, claims_steps  # noqa: F401
