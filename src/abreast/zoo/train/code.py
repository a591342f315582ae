"""The embedded code model and its one-layer draft: Llama architecture, byte-level BPE, trained on Python's sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from abreast.zoo.train.corpus import held_out_modules, training_files
from abreast.zoo.train.fit import fit

VOCABULARY, LENGTH, BATCH = 4096, 512, 16


def train_tokenizer(folder: Path) -> Any:
    """A byte-level BPE of 4,096 entries; `<|end|>` (0) separates files and ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    path = folder / "tokenizer.json"
    if not path.exists():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<|end|>"], initial_alphabet=alphabet)
        tokenizer.train_from_iterator(training_files(), trainer)
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
        fast.save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def encode(tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """One stream of ids, files ended by 0: int16 [N]."""
    rows = tokenizer.backend_tokenizer.encode_batch(texts)
    return torch.cat([torch.tensor([*row.ids, 0], dtype=torch.int16) for row in rows])


def _batch(stream: torch.Tensor, step: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    starts = torch.randint(len(stream) - LENGTH - 1, (BATCH,), generator=generator)
    return torch.stack([stream[s : s + LENGTH + 1] for s in starts.tolist()]).long()


def _next_token_loss(model: torch.nn.Module, tokens_BT: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits_BTV = model(input_ids=tokens_BT[:, :-1], use_cache=False).logits
    return cross_entropy(logits_BTV.float().flatten(0, 1), tokens_BT[:, 1:].flatten())


def held_out_loss(model: torch.nn.Module, tokenizer: Any) -> float:
    """Mean nats a token over the held-out modules, in windows of 512."""
    stream = encode(tokenizer, list(held_out_modules().values()))
    windows = stream[: (len(stream) - 1) // LENGTH * LENGTH + 1].unfold(0, LENGTH + 1, LENGTH).long()
    with torch.no_grad():
        losses = [_next_token_loss(model, part).item() * len(part) for part in windows.split(8)]
    return sum(losses) / len(windows)


def _llama(layers: int, seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=2048,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0, initializer_range=0.02,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def train_code(folder: Path, steps: int = 2500, seed: int = 1) -> None:
    """About 5.5 M parameters, 6 layers of width 256; writes weights in bfloat16 and the tokenizer to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(folder)
    stream = encode(tokenizer, training_files())
    model = _llama(6, seed)
    fit(
        model,
        lambda step: _next_token_loss(model, _batch(stream, step, seed)),
        steps=steps, rate=3e-3, warmup=200, checkpoint=folder / "checkpoint.safetensors", title="code model",
        evaluate=lambda: held_out_loss(model, tokenizer),
    )  # fmt: skip
    model.to(torch.bfloat16).save_pretrained(folder)


def train_draft(folder: Path, target_folder: Path, steps: int = 300, seed: int = 2) -> None:
    """One layer, distilled: its next-token distribution is pulled to the target's at every position."""
    from transformers import AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(target_folder)
    tokenizer.save_pretrained(folder)
    stream = encode(tokenizer, training_files())
    target = AutoModelForCausalLM.from_pretrained(target_folder, dtype=torch.float32).eval()
    draft = _llama(1, seed)
    draft.model.embed_tokens.weight.data.copy_(target.model.embed_tokens.weight)

    def loss(step: int) -> torch.Tensor:
        tokens_BT = _batch(stream, step, seed)[:, :-1]
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                wanted = target(input_ids=tokens_BT, use_cache=False).logits
            got = draft(input_ids=tokens_BT, use_cache=False).logits
        log_q, log_p = (log_softmax(x.float().flatten(0, 1), -1) for x in (got, wanted))
        return kl_div(log_q, log_p, reduction="batchmean", log_target=True)

    fit(draft, loss, steps=steps, rate=3e-3, warmup=30, checkpoint=folder / "checkpoint.safetensors",
        title="draft of the code model", evaluate=lambda: held_out_loss(draft, tokenizer))  # fmt: skip
    draft.to(torch.bfloat16).save_pretrained(folder)
