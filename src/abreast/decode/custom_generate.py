"""Methods inside Hugging Face `generate`: its processors, its stopping criteria, its output; our loop.

model.generate(**inputs, custom_generate=decode.Lookahead())
model.generate(**inputs, custom_generate=decode.Streamed(decode.Lookahead(), streamer))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from abreast.core import Method, run
from abreast.decode.problem import Generation
from abreast.decode.sampling import Sampling


@dataclass(frozen=True)
class LibrarySampling(Sampling):
    """The library's own list of logits processors (temperature and filters among them), as they act on row `row` of a
    batch of `rows` that is padded on the left."""

    processors: Any = field(default=None, repr=False, compare=False)
    padding: tuple[int, ...] = ()
    row: int = 0
    rows: int = 1

    @property
    def plain(self) -> bool:
        return self.temperature == 0 and not self.processors

    def scores(self, logits: torch.Tensor, history: Sequence[int]) -> torch.Tensor:
        x = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        if not self.processors:
            return x
        # Some processors hold a setting for every row of the batch, so all rows are there; only one is read.
        prefix = torch.tensor([[*self.padding, *history]], device=x.device).repeat(self.rows, 1)
        return self.processors(prefix, x.repeat(self.rows, 1))[self.row]


@dataclass(frozen=True)
class LibraryGeneration(Generation):
    """Ends where the library's stopping criteria say so."""

    criteria: Any = field(default=None, repr=False, compare=False)
    padding: tuple[tuple[int, ...], ...] = ()

    def sampling_of(self, request: int) -> Sampling:
        return replace(self.sampling, padding=self.padding[request], row=request, rows=len(self.prompts))  # type: ignore[call-arg]

    def ended(self, tokens: Sequence[int], prompt: int) -> bool:
        ids = torch.tensor([tokens], device=self.model.device)
        return super().ended(tokens, prompt) or bool(self.criteria(ids, None).all())


def generate_with(
    method: Method, model: Any, input_ids: torch.Tensor, *, logits_processor: Any, stopping_criteria: Any,
    generation_config: Any, streamer: Any = None, **rest: Any,
) -> Any:  # fmt: skip
    """What `generate` calls. Batches may be padded on the left; answers are padded on the right."""
    mask = rest.get("attention_mask")
    kept = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    rows, padding = ([ids[k].tolist() for ids, k in zip(input_ids, keep)] for keep in (kept, ~kept))
    eos = generation_config.eos_token_id
    ends = () if eos is None else tuple(eos) if isinstance(eos, (list, tuple)) else (eos,)
    longest = stopping_criteria.max_length or input_ids.shape[1] + (generation_config.max_new_tokens or 20)
    problem = LibraryGeneration(
        model, rows, max_new_tokens=max(longest - input_ids.shape[1], 1),
        sampling=LibrarySampling(float(generation_config.do_sample), processors=logits_processor),
        seed=torch.initial_seed() if generation_config.do_sample else 0, eos=ends, criteria=stopping_criteria,
        padding=tuple(map(tuple, padding)),
    )  # fmt: skip

    def show(commit: Any) -> None:
        for tokens in commit.tokens.values():
            streamer.put(torch.tensor(tokens))

    if streamer is not None:
        streamer.put(input_ids.cpu())
    found = run(problem, method, on_step=None if streamer is None else show)
    if streamer is not None:
        streamer.end()
    width = max(map(len, found.value))
    pad = generation_config.pad_token_id if generation_config.pad_token_id is not None else (ends or (0,))[0]
    new = torch.tensor([[*row, *[pad] * (width - len(row))] for row in found.value], device=input_ids.device)
    sequences = torch.cat([input_ids, new], 1)
    if generation_config.return_dict_in_generate:
        from transformers.generation import GenerateDecoderOnlyOutput

        return GenerateDecoderOnlyOutput(sequences=sequences)  # type: ignore[arg-type]
    return sequences


@dataclass(frozen=True)
class Streamed:
    """A method whose tokens go to a streamer as they are committed: `generate` itself hands on none."""

    method: Method
    streamer: Any = field(repr=False)

    def __call__(self, model: Any, input_ids: torch.Tensor, **generate: Any) -> Any:
        return generate_with(self.method, model, input_ids, streamer=self.streamer, **generate)
