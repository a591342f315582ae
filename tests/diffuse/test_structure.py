"""Views and tiles of a large picture, and sampling by them."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import abreast
from abreast import AbreastError, World
from abreast.diffuse import Sampling
from abreast.diffuse.patches.structure import StructureGuided, enlarged
from abreast.diffuse.patches.views import blend, crop, deinterleave, interleave, tiles

from . import pictures, tiny


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_views_are_a_rearrangement(s, h, w):
    x = torch.randn(2, 3, s * h, s * w)
    views = interleave(x, s)
    assert views.shape == (s * s, 2, 3, h, w) and torch.equal(views[0], x[..., ::s, ::s])
    assert torch.equal(deinterleave(views, s), x)
    assert torch.equal(enlarged(views[0], x.shape[-2:])[..., ::s, ::s], views[0])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 16), st.floats(0, 0.8))
def test_tiles_cover(rows, columns, size, overlap):
    if size > min(rows, columns):
        with pytest.raises(AbreastError, match="does not fit"):
            tiles((rows, columns), (size, size), overlap)
        return
    corners = tiles((rows, columns), (size, size), overlap)
    x = torch.randn(1, rows, columns, dtype=torch.float64)
    again = blend([crop(x, corner, (size, size)) for corner in corners], corners, (rows, columns))
    assert torch.allclose(again, x, atol=1e-12)
    starts = sorted({top for top, _ in corners})
    assert all(b - a <= max(1, size * (1 - overlap)) for a, b in pairwise(starts))


def problem(name="DDIMScheduler", batch=2, steps=6):
    return Sampling(tiny.curve, tiny.scheduler(name), pictures.draw(batch, 1, 8, 8), steps)


@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_workers_change_nothing(name, asynchronous):
    one = abreast.run(problem(name), StructureGuided(asynchronous=asynchronous))
    for workers in (2, 3, 11):
        many = abreast.run(problem(name), StructureGuided(asynchronous=asynchronous, workers=workers))
        assert torch.equal(one.value, many.value) and many.ledger.work == one.ledger.work
    assert many.ledger.span == problem(name).length * (1 if asynchronous else 2)


def test_trained_size_is_the_plain_picture():
    found = problem()
    assert torch.equal(abreast.run(found, StructureGuided(scale=1)).value, abreast.run(found, found.reference).value)
    assert StructureGuided(scale=1).promise(found) == abreast.IDENTICAL
    assert all(ok for _, ok in abreast.laws(StructureGuided(), found))


def test_processes_give_the_same_bits(pool2):
    method = StructureGuided(workers=2)
    one = abreast.run(problem(), method).value
    assert torch.equal(one, abreast.run(problem(), method, World(pool=pool2)).value)


def test_a_mask_of_zeros_leaves_parts_alone():
    masked = abreast.run(problem(), StructureGuided(mask=torch.zeros(4, 4))).value
    assert torch.equal(masked, abreast.run(problem(), StructureGuided(weight=0.0)).value)
    assert not torch.equal(masked, abreast.run(problem(), StructureGuided(mask=torch.ones(4, 4))).value)


def test_full_weight_repeats_the_view():
    """Where w = 1, all views predict the clean picture of the view that guides them."""
    value = abreast.run(problem(steps=3), StructureGuided(structure_steps=1.0, weight=1.0, asynchronous=False)).value
    views = interleave(value, 2)
    assert torch.allclose(views, views[:1].expand_as(views), atol=0.3) and not torch.equal(views[0], views[1])


def test_literal_guidance_needs_one_start_noise():
    once = pictures.draw(1, 1, 4, 4)
    same = Sampling(tiny.curve, tiny.scheduler("DDIMScheduler"), deinterleave(torch.stack([once] * 4), 2), 6)
    value = abreast.run(same, StructureGuided(space="eps", structure_steps=1.0, asynchronous=False)).value
    views = interleave(value, 2)
    assert torch.equal(views, views[:1].expand_as(views))
    with pytest.raises(AbreastError, match="one start noise"):
        abreast.run(problem(), StructureGuided(space="eps"))


def test_bad_input_is_one_sentence():
    for match, make in (
        ("from 1 on", lambda: StructureGuided(scale=0)),
        ("space is", lambda: StructureGuided(space="v")),
        ("weight is", lambda: StructureGuided(weight="sin")),
        ("must divide", lambda: StructureGuided(scale=3)),
        ("overlap is", lambda: StructureGuided(overlap=1.0)),
        ("the mask is", lambda: StructureGuided(mask=torch.ones(8, 8))),
        ("runs on 2 ranks", lambda: StructureGuided(workers=2)),
    ):
        with pytest.raises(AbreastError, match=match):
            abreast.run(problem(), make(), World(5) if "ranks" in match else None)


def test_guidance_weakens_as_it_says():
    falls = {w: [StructureGuided(weight=w).strength(i, 10) for i in (0, 5, 10)] for w in ("cos", "cos2", 0.3)}
    assert falls["cos"] == pytest.approx([1, 0.5**0.5, 0]) and falls["cos2"] == pytest.approx([1, 0.5, 0])
    assert falls[0.3] == [0.3] * 3
