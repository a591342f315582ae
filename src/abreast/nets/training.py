"""Training of small networks, in seconds and the same each time."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fit(model: nn.Module, data: Tensor, steps: int, batch: int = 128, lr: float = 2e-3, seed: int = 0) -> nn.Module:
    """Minimise `model.loss(rows)` by Adam with a cosine schedule; the model, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    with torch.enable_grad():
        for _ in range(steps):
            rows = data[torch.randint(len(data), (batch,), generator=generator)]
            loss = model.loss(rows)  # type: ignore[operator]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()
