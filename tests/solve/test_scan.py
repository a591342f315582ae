"""Scans against the plain loop."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from abreast import solve
from abreast.solve.operators import DENSE, DIAGONAL, IDENTITY, ZERO


def loop(family, A, b, start):  # type: ignore[no-untyped-def]
    out, d = [], start
    for i in range(len(b)):
        d = b[i] + (family.apply(A[i], d) if A is not None else family.through(d))
        out.append(d)
    return torch.stack(out)


@given(st.integers(1, 40), st.sampled_from(["dense", "blocks", "diagonal", "identity", "zero"]),
       st.booleans(), st.booleans(), st.integers(0, 10**6))  # fmt: skip
def test_affine_scan_is_the_loop(n: int, kind: str, parallel: bool, reverse: bool, seed: int) -> None:
    torch.manual_seed(seed)
    b = torch.randn(n, 2, 4, 3, dtype=torch.float64)
    family = {"dense": DENSE, "blocks": DENSE, "diagonal": DIAGONAL, "identity": IDENTITY, "zero": ZERO}[kind]
    A = None
    if kind == "dense":
        b = b.flatten(2)
        A = torch.randn(n, 2, 12, 12, dtype=torch.float64) / 4
    elif kind == "blocks":
        A = torch.randn(n, 2, 4, 3, 3, dtype=torch.float64) / 2
    elif kind == "diagonal":
        A = torch.randn_like(b)
    start = torch.randn_like(b[0])
    wanted = loop(family, A, b, start)
    if reverse:
        flipped = None if A is None else A.flip(0)
        got = solve.affine_scan(family, flipped, b.flip(0), start, reverse=True, parallel=parallel).flip(0)
    else:
        got = solve.affine_scan(family, A, b, start, parallel=parallel)
    assert torch.allclose(got, wanted, atol=1e-10)


@given(st.integers(1, 33), st.booleans())
def test_associative_scan_on_trees(n: int, reverse: bool) -> None:
    elems = {"a": torch.randn(2, n, dtype=torch.float64), "b": (torch.randn(2, n, 3, dtype=torch.float64),)}

    def combine(first, second):  # type: ignore[no-untyped-def]
        return {"a": first["a"] * second["a"], "b": (second["a"][..., None] * first["b"][0] + second["b"][0],)}

    got = solve.associative_scan(combine, elems, dim=1, reverse=reverse)
    order = range(n - 1, -1, -1) if reverse else range(n)
    total = None
    for i in order:
        one = {"a": elems["a"][:, i], "b": (elems["b"][0][:, i],)}
        total = one if total is None else combine(total, one)
        assert torch.allclose(got["a"][:, i], total["a"], atol=1e-12)
        assert torch.allclose(got["b"][0][:, i], total["b"][0], atol=1e-12)


def test_scan_is_differentiable_and_agrees_with_torchs() -> None:
    from torch._higher_order_ops.associative_scan import associative_scan as torchs

    a = torch.rand(17, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(17, 3, dtype=torch.float64, requires_grad=True)

    def combine(p, q):  # type: ignore[no-untyped-def]
        return p[0] * q[0], q[0] * p[1] + q[1]

    assert torch.autograd.gradcheck(lambda a, b: solve.associative_scan(combine, (a, b))[1], (a, b))
    theirs = torchs(combine, (a.detach(), b.detach()), dim=0, combine_mode="generic")
    assert torch.allclose(solve.associative_scan(combine, (a, b))[1].detach(), theirs[1])


def test_leaves_of_different_lengths() -> None:
    with pytest.raises(Exception, match="same length"):
        solve.associative_scan(lambda p, q: p, (torch.zeros(3), torch.zeros(4)))


TRITON = """
import torch
from abreast.solve import kernels
from abreast.solve.operators import DENSE, DIAGONAL
kernels.CHUNK = 8
assert kernels.forced()
for n in (1, 3, 8, 29):
    torch.manual_seed(n)
    for family, A, b in (
        (DIAGONAL, torch.rand(n, 3, 2), torch.randn(n, 3, 2)),
        (DENSE, torch.randn(n, 3, 4, 2, 2) / 2, torch.randn(n, 3, 4, 2)),
    ):
        got, d = family.serial(A, b), torch.zeros_like(b[0])
        for i in range(n):
            d = family.apply(A[i], d) + b[i]
            assert torch.allclose(got[i], d, atol=1e-5), (family.name, n, i)
print("same")
"""


def test_triton_programs_in_their_interpreter() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", TRITON], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "same", done.stderr
