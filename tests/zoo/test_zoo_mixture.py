"""The mixture's denoiser against the score of its density, its own samples, and diffusers' schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abreast.core.errors import AbreastError
from abreast.zoo.mixture import Mixture

F64 = torch.float64

mixtures = st.builds(
    Mixture,
    components=st.integers(1, 9),
    shape=st.sampled_from([(16,), (1, 4, 4), (2, 3, 5), (3,)]),
    radius=st.floats(0.5, 5),
    variance=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
seeds = st.integers(0, 999)


def inputs(mixture: Mixture, rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noised samples and their timesteps, so that no component is out of reach."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.randint(1000, (rows,), generator=generator)
    signal, noise = (level.view(-1, *[1] * len(mixture.shape)) for level in mixture.levels(t, rows))
    clean = mixture.data(rows, seed, F64)[0]
    return signal * clean + noise * torch.randn(clean.shape, generator=generator, dtype=F64), t


@given(mixtures, seeds, st.booleans())
def test_epsilon_is_the_score(mixture: Mixture, seed: int, conditional: bool) -> None:
    x, t = inputs(mixture, 5, seed)
    labels = torch.arange(5) % (len(mixture.means) + 1) if conditional else None
    leaf = x.clone().requires_grad_()
    mixture.log_density(leaf, t, labels).sum().backward()
    noise = mixture.levels(t, 5)[1].view(-1, *[1] * len(mixture.shape))
    assert leaf.grad is not None
    torch.testing.assert_close(mixture(x, t, class_labels=labels).sample, -noise * leaf.grad, rtol=1e-7, atol=1e-9)


@given(mixtures, seeds)
def test_the_three_predictions_agree(mixture: Mixture, seed: int) -> None:
    x, t = inputs(mixture, 4, seed)
    kinds = {}
    for kind in ("epsilon", "sample", "v_prediction"):
        kinds[kind] = Mixture(means=mixture.means, variance=mixture.variances.tolist(), prediction=kind)(x, t)[0]
    signal, noise = (level.view(-1, *[1] * len(mixture.shape)) for level in mixture.levels(t, 4))
    torch.testing.assert_close(signal * kinds["sample"] + noise * kinds["epsilon"], x)
    torch.testing.assert_close(signal * kinds["epsilon"] - noise * kinds["sample"], kinds["v_prediction"])


@given(mixtures, seeds, st.integers(1, 12), st.sampled_from([F64, torch.float32]))
def test_rows_do_not_see_each_other(mixture: Mixture, seed: int, rows: int, dtype: torch.dtype) -> None:
    x, t = inputs(mixture, rows, seed)
    together = mixture(x.to(dtype), t).sample
    alone = torch.cat([mixture(x[i : i + 1].to(dtype), t[i]).sample for i in range(rows)])
    assert together.dtype == dtype
    if dtype == F64:
        assert torch.equal(together, alone)
    torch.testing.assert_close(together, alone)


def test_the_best_guess_of_the_clean_sample() -> None:
    """The mean of x0 among many draws that were noised to nearly the same place is what the denoiser says."""
    mixture = Mixture(components=3, shape=(1,), radius=2, variance=0.3, seed=1, prediction="sample")
    clean = mixture.data(400_000, 3, F64)[0]
    signal, noise = (level.item() for level in mixture.levels(400, 1))
    x = signal * clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(4), dtype=F64)
    near = (x - 0.3).abs() < 0.02
    guess = mixture(torch.full((1, 1), 0.3, dtype=F64), 400).sample.item()
    assert clean[near].mean().item() == pytest.approx(
        guess, abs=5 * clean[near].std().item() / near.sum().item() ** 0.5
    )


def test_data_have_the_stated_moments() -> None:
    mixture = Mixture(components=4, shape=(2, 3), variance=[0.1, 0.2, 0.3, 0.4])
    assert torch.allclose(mixture.means.flatten(1).norm(dim=1), torch.tensor(4.0, dtype=F64))
    data, which = mixture.data(40_000, 1)
    for k in range(4):
        own = data[which == k].double() - mixture.means[k]
        assert own.mean().item() == pytest.approx(0, abs=0.01)
        assert own.var().item() == pytest.approx(0.1 * (k + 1), rel=0.05)


def test_diffusers_samples_the_mixture() -> None:
    diffusers: Any = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install abreast[diffuse]")
    mixture = Mixture()
    scheduler = diffusers.DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    assert torch.equal(scheduler.alphas_cumprod.double(), mixture.alphas_cumprod)
    scheduler.set_timesteps(100)
    x = torch.randn(256, 16, generator=torch.Generator().manual_seed(0), dtype=F64)
    for t in scheduler.timesteps:
        x = scheduler.step(mixture(x, t).sample, t, x).prev_sample
    distance, which = torch.cdist(x, mixture.means).min(1)
    assert (distance**2 / 16).mean().item() == pytest.approx(0.05, rel=0.15)  # DDIM of 100 steps is a little narrow
    assert torch.bincount(which, minlength=8).min() >= 16
    picture = Mixture(shape=(1, 8, 8), radius=4.0)
    pipeline = diffusers.DDPMPipeline(picture, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=5, output_type="np").images
    assert images.shape == (2, 8, 8, 1)


def test_fractional_timesteps_and_bad_arguments() -> None:
    mixture = Mixture()
    (a, b, c), _ = mixture.levels(torch.tensor([10.0, 10.5, 11.0]), 3)
    assert c < b < a and a == mixture.alphas_cumprod[10].sqrt()
    x = torch.zeros(2, 16)
    for timestep in (-1, 1000, torch.zeros(3)):
        with pytest.raises(AbreastError, match=r"imesteps?\b"):
            mixture(x, timestep)
    with pytest.raises(AbreastError, match=r"denoises \[B, 16\], not \[2, 15\]"):
        mixture(torch.zeros(2, 15), 3)
    with pytest.raises(AbreastError, match="from 0 to 8 a row"):
        mixture(x, 3, class_labels=torch.tensor([0, 9]))
    with pytest.raises(AbreastError, match="not 'noise'"):
        Mixture(prediction="noise")
    with pytest.raises(AbreastError, match="weights"):
        Mixture(weights=torch.ones(3))
