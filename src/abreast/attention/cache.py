"""Keys and values by slot, with rollback.

A slot holds one row: its position and its owner (the stream it belongs to). The used slots are always 0 .. length - 1:
a call appends its rows, and `keep` drops the rejected ones and closes the gap, so an extent never has holes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from abreast.core import AbreastError

BLOCK = 16  # extents are rounded up to this: kernels keep their order of summation, and masks their alignment


class SlotCache:
    """Slots on preallocated storage: tensors whose axis -2 is the slot, moved together.

    capacity: slots. The storage is appended by the model that owns the cache; everything else is done here.
    """

    def __init__(self, capacity: int, device: torch.device | str = "cpu"):
        self.capacity = -(-capacity // BLOCK) * BLOCK
        self.length = 0
        self.positions = torch.zeros(self.capacity, dtype=torch.long, device=device)
        self.owners = torch.full((self.capacity,), -1, dtype=torch.long, device=device)
        self.storage: list[torch.Tensor] = []

    @property
    def extent(self) -> int:
        """Slots that attention reads: the used ones, rounded up to a block. The rest of the block is zero or stale,
        always finite, and masked."""
        return -(-self.length // BLOCK) * BLOCK

    def append(self, positions: torch.Tensor, owners: torch.Tensor) -> slice:
        """Take the next slots for rows with these positions and owners, both [m]."""
        taken = slice(self.length, self.length + len(positions))
        if taken.stop > self.capacity:
            raise AbreastError(f"the cache holds {self.capacity} slots and {taken.stop} are needed.")
        self.positions[taken], self.owners[taken] = positions, owners
        self.length = taken.stop
        return taken

    def owned(self, owner: int) -> torch.Tensor:
        """Which of the used slots belong to `owner`: bool [length]."""
        return self.owners[: self.length] == owner

    def crop(self, length: int) -> None:
        """Drop the slots from `length` on."""
        self.length = length

    def keep(self, start: int, kept: Sequence[int]) -> None:
        """Of the slots from `start` on keep only `kept` (ascending), moved together from `start`."""
        moved = [(slot, to) for to, slot in enumerate(kept, start) if slot != to]
        if moved:
            first = moved[0][1]
            source = torch.tensor([slot for slot, _ in moved], device=self.positions.device)
            for tensor in (*self.storage, self.positions[:, None], self.owners[:, None]):
                tensor[..., first : first + len(moved), :] = tensor[..., source, :]
        self.length = start + len(kept)
