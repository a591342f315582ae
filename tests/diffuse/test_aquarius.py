"""Ulysses attention, the cache over steps, decoding in strips, buckets: alone and together."""

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import abreast
from abreast import AbreastError, World
from abreast.diffuse import Sequential
from abreast.diffuse.patches.aquarius import Aquarius
from abreast.diffuse.patches.buckets import TokenBucketSampler, tokens
from abreast.diffuse.patches.decode import Decoding, StripDecode
from abreast.diffuse.patches.step_cache import StepCache, hit_rate

from . import pictures

EXACT = 1e-12
SOME = 0.5  # a tau at which the random networks hit in some steps


@pytest.mark.parametrize("kind", ["dit", "pixart"])  # two heads, and three
@pytest.mark.parametrize("split", [(8,), (2, 6), (2, 2, 4), (2, 2, 2, 2)])
@pytest.mark.parametrize("attention", ["ulysses", "gather"])
def test_the_parallel_part_is_the_plain_sample(kind, split, attention):
    problem = pictures.problem(kind, steps=2)
    method = Aquarius(len(split), attention=attention, split=split)
    run = abreast.run(problem, method, against=abreast.run(problem, Sequential()))
    assert run.distance < EXACT and method.promise(problem) == abreast.IDENTICAL


@pytest.mark.parametrize("n", [2, 4])
def test_ulysses_bytes(n):
    """4 (n-1) / n² of an activation per rank and layer, where tokens and heads divide; and the output's gather."""
    from diffusers import DiTTransformer2DModel

    from abreast.diffuse import Sampling

    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=4, in_channels=4,
        out_channels=4, num_embeds_ada_norm=10,
    )  # fmt: skip
    labels = {"class_labels": torch.tensor([1, 2])}
    problem = Sampling(net.double(), pictures.tiny.scheduler("DDIMScheduler"), pictures.draw(2, 4, 8, 8), 3, labels)
    ledger = abreast.run(problem, Aquarius(n)).ledger
    activation, output = 2 * 16 * 32 * 8, problem.noise.numel() * 8
    expected = 3 * (2 * n * 4 * (n - 1) / n**2 * activation + (n - 1) * output)
    assert ledger.bytes == ledger.total("exposed") == expected


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("together", [True, False])
def test_branches_on_teams_of_their_own(branches, together):
    problem = pictures.problem("pixart", 3, guided=True, together=together)
    run = abreast.run(problem, Aquarius(2, branches), against=abreast.run(problem, Sequential()))
    assert run.distance < EXACT
    assert run.ledger.span <= 0.7 * problem.length / branches


@pytest.mark.parametrize("kind", ["dit", "pixart"])
@pytest.mark.parametrize("guided", [False, True])
def test_a_cache_that_never_hits_changes_nothing(kind, guided):
    problem = pictures.problem(kind, 4, guided=guided)
    reference = abreast.run(problem, Sequential())
    run = abreast.run(problem, StepCache(0.0), against=reference)
    assert run.distance < EXACT and hit_rate(run) == 0
    assert run.ledger.work == pytest.approx(problem.length, rel=0.05)
    held = dict(abreast.laws(Aquarius(2, cache=StepCache(0.05)), problem))
    assert len(held) == 3 and all(held.values())


@pytest.mark.parametrize("kind", ["dit", "pixart"])
def test_hits_are_the_same_on_all_ranks(kind):
    """And what is skipped is not counted."""
    problem, n = pictures.problem(kind, 8, guided=True), SOME
    alone = abreast.run(problem, StepCache(n))
    split = abreast.run(problem, Aquarius(3, cache=StepCache(n), split=(2, 2, 4)))
    apart = abreast.run(problem, Aquarius(2, 2, StepCache(n)))
    assert 0.2 < hit_rate(alone) < 0.9 and hit_rate(alone) == hit_rate(split) == hit_rate(apart)
    assert problem.distance(split.value, alone.value) < EXACT and problem.distance(apart.value, alone.value) < EXACT
    assert problem.distance(alone.value, abreast.run(problem, Sequential()).value) > 1e-9
    computed = alone.ledger.work / problem.length
    assert 1 - hit_rate(alone) <= computed < 1 - 0.4 * hit_rate(alone)


def test_a_wide_open_cache_hits_between_the_first_and_last_steps():
    problem = pictures.problem("dit", 6)
    run = abreast.run(problem, StepCache(1e9, warmup=2))
    assert run.ledger.series("cache") == ["miss", "miss", "hit", "hit", "hit", "miss"]
    assert StepCache(1e9, warmup=6).promise(problem) == abreast.IDENTICAL != StepCache(0.1).promise(problem)
    assert StepCache(polynomial=(2.0, 1.0, 0.5)).change(3.0) == 2 * 9 + 3 + 0.5


def test_processes_give_the_same_bits(pool2):
    problem = pictures.problem("pixart", 4)
    method = Aquarius(2, cache=StepCache(SOME), split=(2, 6))
    one, two = abreast.run(problem, method), abreast.run(problem, method, World(pool=pool2))
    assert torch.equal(one.value, two.value) and one.ledger.bytes == two.ledger.bytes
    assert hit_rate(one) == hit_rate(two)


@cache
def vae():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).double()  # fmt: skip


@pytest.mark.parametrize("split", [(8,), (3, 5), (1, 2, 5), (2, 2, 2, 2)])
def test_strips_decode_to_the_whole_picture(split):
    problem = Decoding(vae(), pictures.draw(2, 4, 8, 8))
    reference = abreast.run(problem, problem.reference)
    assert torch.equal(reference.value, vae().decode(problem.latents).sample.detach())
    run = abreast.run(problem, StripDecode(len(split), split=split), against=reference)
    assert run.kept and run.distance < EXACT
    assert max(split) / 8.1 < run.ledger.span < max(split) / 7.9 and run.ledger.work == pytest.approx(1)


def test_blended_tiles_come_near():
    problem = Decoding(vae(), pictures.draw(1, 4, 16, 8))
    table = abreast.compare(problem, [StripDecode(2, "blended")])
    far = {str(row.method): row.runs[0].distance for row in table if row.runs[0].distance is not None}
    whole = abreast.run(problem, StripDecode(2, "blended", overlap=1.0), against=table.reference.runs[0])
    assert whole.distance < EXACT  # each tile is then the picture
    assert 1e-6 < far[str(StripDecode(2, "blended"))] <= far[str(StripDecode(2, "blended", overlap=0.0))] < 1
    assert all(ok for _, ok in abreast.laws(StripDecode(2), problem))


@given(
    st.lists(st.tuples(st.sampled_from([1, 8, 16]), st.integers(16, 64), st.integers(16, 64)), max_size=60),
    st.integers(0, 3),
)
def test_buckets_hold_everything_once(shapes, seed):
    sampler = TokenBucketSampler(shapes, budget=20_000, seed=seed)
    batches = list(sampler)
    assert sorted(i for batch in batches for i in batch) == list(range(len(shapes)))
    assert len(batches) == len(sampler) and all(sampler.padded(batch) <= 20_000 for batch in batches)
    assert all(len({shapes[i][0] for i in batch}) == 1 for batch in batches)
    assert sampler.waste() <= 0.12 and list(sampler) == batches


def test_bad_input_is_one_sentence():
    dit, unet = pictures.problem("dit"), pictures.problem("unet")
    for match, problem, make in (
        ("tau is", dit, lambda: StepCache(-1.0)),
        ("needs a transformer", unet, lambda: StepCache()),
        ("of a transformer", unet, lambda: Aquarius()),
        ("an attn1, not SD3", pictures.problem("sd3"), lambda: StepCache(1e9, 1)),
        ("attention is", dit, lambda: Aquarius(attention="ring")),
        ("without add_k_proj", pictures.problem("sd3"), lambda: Aquarius(2)),
        ("has none", dit, lambda: Decoding(pictures.network("dit"), dit.noise)),
        ("tiles are", dit, lambda: StripDecode(tiles="round")),
    ):
        with pytest.raises(AbreastError, match=match):
            abreast.run(problem, make())
    with pytest.raises(AbreastError, match="at most 8 strips"):
        abreast.run(Decoding(vae(), pictures.draw(1, 4, 8, 8)), StripDecode(9))
    with pytest.raises(AbreastError, match="the budget is"):
        TokenBucketSampler([(1, 64, 64)], budget=100)
    assert tokens((2, 5, 4)) == 2 * 3 * 2
