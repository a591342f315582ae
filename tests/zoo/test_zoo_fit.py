"""The training loop: a run that was stopped goes on as if it had not been, its moving average included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from abreast.zoo.train.fit import fit


class Stopped(Exception):
    pass


def train(folder: Path, average: float, stop: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)

    def loss(step: int) -> torch.Tensor:
        if step == stop:
            raise Stopped
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        return (module(x) - x[:, :2]).square().mean()

    fit(
        module, loss, steps=12, rate=0.05, checkpoint=folder / "checkpoint", title="tiny", warmup=2, average=average,
        save_every_s=0.0,
    )  # fmt: skip
    return module


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_stopped_and_resumed(tmp_path: Path, average: float) -> None:
    whole = train(tmp_path / "whole", average)
    with pytest.raises(Stopped):
        train(tmp_path / "parts", average, stop=7)
    resumed = train(tmp_path / "parts", average)
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole.weight, train(tmp_path / "whole", average).weight)


def test_the_average_lags_behind(tmp_path: Path) -> None:
    last, mean = (train(tmp_path / str(average), average) for average in (0.0, 0.9))
    torch.manual_seed(0)
    start = nn.Linear(3, 2)
    assert (mean.weight - start.weight).norm() < (last.weight - start.weight).norm()
