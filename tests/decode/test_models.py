"""The adapter on many architectures: obeyed ones decode trees exactly, the others are refused in one sentence."""

from __future__ import annotations

import pytest
import torch
import transformers

import abreast
from abreast import AbreastError, decode
from abreast.decode.adapter import adapt
from tests.decode.tiny import randomised, shrink

ATTENTION = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "mistral window": ("Mistral", {"sliding_window": 9}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 512}),
    "gpt-neox": ("GPTNeoX", {"num_key_value_heads": None}),
    "gemma2": ("Gemma2", {"sliding_window": 9, "attn_implementation": "eager"}),
    "gemma3": ("Gemma3Text", {"sliding_window": 9}),
    "phi": ("Phi", {}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "qwen3 moe": ("Qwen3Moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
}


def build(name: str, changes: dict, dtype=torch.float32):
    config_class = getattr(transformers, f"{name}Config")
    model_name = {"Gemma3Text": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel"}.get(name, f"{name}ForCausalLM")
    changes = dict(changes)
    implementation = changes.pop("attn_implementation", None)
    config = shrink(config_class, **changes)
    if implementation:
        config._attn_implementation = implementation
    torch.manual_seed(0)
    return randomised(getattr(transformers, model_name)(config), 3, dtype=dtype)


@pytest.mark.parametrize("kind", ATTENTION)
def test_trees_are_the_models_own(kind):
    model = build(*ATTENTION[kind])
    prompt = [5, 9, 14, 7, 5, 9, 14, 3, 8, 5, 9]
    problem = decode.Generation(model, prompt, max_new_tokens=24)
    reference = abreast.run(problem, problem.reference)
    plain = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
    assert reference.value[0] == plain[0, len(prompt) :].tolist()
    for method in (decode.Lookahead(window=3, ngram=3, guesses=3), decode.PromptLookup(min_ngram=1)):
        run = abreast.run(problem, method, against=reference)
        assert run.kept, (kind, run.value, reference.value)


REFUSED = {
    "bloom": ("Bloom", {"n_head": 4, "n_layer": 2}),
    "mpt": ("Mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}),
    "gpt-neo": (
        "GPTNeo",
        {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4, "window_size": 4},
    ),
    "mamba": ("Mamba", {"state_size": 4}),
    "mamba2": ("Mamba2", {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1}),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_ignore_masks_are_refused(kind):
    with pytest.raises(AbreastError) as refusal:
        adapt(build(*REFUSED[kind]))
    assert str(refusal.value).count(". ") == 0


def test_not_a_model():
    with pytest.raises(AbreastError, match="language model"):
        adapt("gpt2")


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_inside_generate(kind):
    """The library's processors, criteria, batches and streamers keep their meaning."""
    model = build(*ATTENTION[kind])
    batch = torch.tensor([[0, 0, 5, 9, 14, 5, 9], [4, 7, 5, 9, 14, 7, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    options = {"max_new_tokens": 20, "do_sample": False, "repetition_penalty": 1.2, "min_new_tokens": 5}
    plain = model.generate(batch, attention_mask=mask, **options)
    ours = model.generate(batch, attention_mask=mask, **options, custom_generate=decode.Lookahead(window=3))
    assert ours.tolist() == plain.tolist()

    class Keeper(list):
        def put(self, value):
            self.extend(value.flatten().tolist())

        def end(self):
            self.ended = True

    keeper = Keeper()
    ours = model.generate(batch[1:], **options, custom_generate=decode.Streamed(decode.Jacobi(window=4), keeper))
    assert keeper == ours[0].tolist() and keeper.ended


def test_fast_and_generic_forward_agree():
    from abreast.decode.hf import HFRows
    from abreast.decode.llama import LlamaRows

    model = build("Llama", {}, torch.float64)
    prompt = [5, 9, 14, 7, 5, 9, 14, 3]
    values = []
    for rows in (LlamaRows(model), HFRows(model)):
        problem = decode.Generation(rows, prompt, max_new_tokens=30, eos=(0,))
        values.append(abreast.run(problem, decode.Lookahead()).value)
    assert values[0] == values[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["linear", "turned", "packed"])
def test_every_form_of_a_product_is_the_same_product(form, dtype):
    from abreast.decode.adapter import _error, tolerance
    from abreast.decode.kernels import ROWS, packable
    from abreast.decode.llama import LlamaRows

    model = build("Qwen2", {}, dtype)
    rows = LlamaRows(model)
    if form == "packed" and not packable(rows.head.weight):
        pytest.skip("oneDNN has no blocked weights of this type here")
    for matrix in rows.matrices:
        matrix.settle([form] * len(ROWS))
    assert all(_error(rows, model, spare) <= tolerance(dtype) for spare in (0, 3, 14))
