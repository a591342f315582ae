"""The own forward against the library's, its kernels against its torch steps, and rows against their companions."""

from __future__ import annotations

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from abreast.decode import fused, kernels
from abreast.decode.adapter import adapt
from abreast.decode.llama import LlamaRows
from tests.decode.tiny import VOCAB, randomised, shrink

KINDS = {
    "llama": ("Llama", {}),
    "one head a group": ("Llama", {"num_key_value_heads": 4}),
    "tied, biased": ("Llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "mistral window": ("Mistral", {"sliding_window": 9}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
}
needs_numba = pytest.mark.skipif(fused.numba is None, reason="numba is not installed")


def build(kind: str, dtype=torch.float64):
    name, changes = KINDS[kind]
    config = shrink(getattr(transformers, f"{name}Config"), **changes)
    torch.manual_seed(0)
    return randomised(getattr(transformers, f"{name}ForCausalLM")(config), 3, dtype=dtype)


def chain(rows: LlamaRows, ids: torch.Tensor, cuts: list[int]) -> torch.Tensor:
    """Logits of a text given in parts."""
    cache, parts, at = rows.cache(len(ids)), [], 0
    for cut in cuts:
        place = torch.arange(at, at + cut)
        see = torch.arange(at + cut) <= place[:, None]
        parts.append(rows.forward(cache, ids[place], place, torch.zeros_like(place), see, slice(None)).logits)
        at += cut
    return torch.cat(parts)


def tree_logits(rows: LlamaRows, prefix: list[int], parents: list[int], tokens: list[int]) -> torch.Tensor:
    """Logits of a tree's nodes after a prefix; node i hangs from parents[i], -1 being the prefix's end."""
    n, size = len(prefix), len(parents)
    cache = rows.cache(n + size)
    place = torch.arange(n)
    rows.forward(cache, torch.tensor(prefix), place, torch.zeros_like(place), place <= place[:, None], slice(0, 0))
    see = torch.zeros(size, n + size, dtype=torch.bool)
    depth = torch.zeros(size, dtype=torch.long)
    for i, parent in enumerate(parents):
        see[i] = see[parent] if parent >= 0 else torch.arange(n + size) < n
        see[i, n + i] = True
        depth[i] = depth[parent] + 1 if parent >= 0 else 0
    return rows.forward(cache, torch.tensor(tokens), n + depth, torch.zeros_like(depth), see, slice(None)).logits


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_every_node_is_its_own_plain_run(kind, data):
    token = st.integers(0, VOCAB - 1)
    prefix = data.draw(st.lists(token, min_size=1, max_size=40))
    parents = [data.draw(st.integers(-1, i - 1)) for i in range(data.draw(st.integers(1, 7)))]
    tokens = [data.draw(token) for _ in parents]
    model = build(kind)
    got = tree_logits(LlamaRows(model), prefix, parents, tokens)
    for i, row in enumerate(got):
        path, node = [], i
        while node >= 0:
            path, node = [tokens[node], *path], parents[node]
        with torch.no_grad():
            want = model(input_ids=torch.tensor([prefix + path])).logits[0, -1]
        # The library norms in float32, so a difference in the last place of float64 can show as one of float32.
        assert (row - want).abs().max() <= 1e-6 * want.abs().max()


@needs_numba
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_are_as_exact_as_torch(kind, dtype, monkeypatch):
    model = build(kind, dtype)
    ids = torch.randint(VOCAB, (49,), generator=torch.Generator().manual_seed(0))
    cuts = [1, 2, 7, 1, 33, 5]
    got = chain(LlamaRows(model), ids, cuts)
    monkeypatch.setattr(fused, "numba", None)
    plain = chain(LlamaRows(model), ids, cuts)
    exact = chain(LlamaRows(model.double()), ids, cuts)
    error, usual = ((logits - exact).square().mean().sqrt() for logits in (got, plain))
    assert 0 < error <= 2 * usual <= (1e-4 if dtype == torch.float32 else 0.1) * exact.std()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["linear", "turned", "packed"])
def test_forms_are_one_product(form, dtype):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(n, 48, generator=generator).to(dtype) for n in (32, 16)]
    matrix = kernels.Matrix(parts, [torch.ones(32, dtype=dtype), None])
    if form == "packed" and not kernels.packable(matrix.weight):
        pytest.skip("oneDNN has no blocked weights of this dtype here")
    matrix.settle([form] * len(kernels.ROWS))
    for m in (1, 2, 31, 33, 64, 70):
        x = torch.randn(m, 48, generator=generator).to(dtype)
        y = matrix(x)
        want = x.double() @ torch.cat(parts).double().t() + torch.cat([torch.ones(32), torch.zeros(16)])
        assert y.is_contiguous()
        assert (y - want).abs().max() <= (1e-5 if dtype == torch.float32 else 2e-2) * want.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_steady_model_keeps_its_bits_in_any_company(dtype):
    rows = adapt(build("llama", dtype))
    if not rows.steady:
        pytest.skip("this CPU's kernels depend on the number of rows")
    ids = torch.randint(VOCAB, (120,), generator=torch.Generator().manual_seed(0))
    singly = chain(rows, ids, [1] * 120)
    for cuts in ([32, 11, 22, 31, 24], [3, 30, 7, 29, 1, 21, 29]):
        assert torch.equal(chain(rows, ids, cuts), singly)
