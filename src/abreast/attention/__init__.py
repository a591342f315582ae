"""What attention needs in every room: caches of keys and values, and who sees which slot."""

from abreast.attention.cache import SlotCache

__all__ = ["SlotCache"]
