"""What is asked: prompts to continue on a language model, and how two continuations compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from abreast.core import AbreastError, Method, Problem, Run
from abreast.decode.model import TokenModel
from abreast.decode.sampling import Dice, Sampling

Tokens = list[list[int]]


@dataclass(frozen=True)
class Generation(Problem[Tokens]):
    """Continue `prompts` by up to `max_new_tokens` tokens each; the answer is the new tokens, one list a prompt.

    model: a Hugging Face causal LM, or anything with the face of `TokenModel`. prompts: token ids of one prompt, or of
    several; text, where a tokenizer is given. eos: ids that end a text (None: the model's own). stop: strings that end
    it (needs the tokenizer). Raises AbreastError for an empty prompt, one that leaves no room in the model's context,
    ids outside the vocabulary, and a number of tokens that is not positive.
    """

    model: Any = field(repr=False, compare=False)
    prompts: Any = field(repr=False)
    max_new_tokens: int = 128
    sampling: Sampling = Sampling()
    seed: int = 0
    eos: tuple[int, ...] | None = None
    stop: tuple[str, ...] = ()
    tokenizer: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        from abreast.decode.adapter import adapt

        model = adapt(self.model)
        eos = model_eos(self.model) if self.eos is None else tuple(self.eos)
        prompts = _prompts(self.prompts, self.tokenizer)
        for name, value in (("model", model), ("eos", eos), ("prompts", prompts)):
            object.__setattr__(self, name, value)
        _check(self)

    @property
    def reference(self) -> Method:
        from abreast.decode.autoregressive import Autoregressive

        return Autoregressive()

    @cached_property
    def capacity(self) -> int:
        """Slots that all prompts and answers together fill, without drafts."""
        return sum(map(len, self.prompts)) + len(self.prompts) * self.max_new_tokens

    def sampling_of(self, request: int) -> Sampling:
        """How the tokens of one prompt are taken; the same for all, unless a subclass says otherwise."""
        return self.sampling

    def dice(self, request: int) -> Dice:
        return Dice(self.seed, request)

    def ended(self, tokens: Sequence[int], prompt: int) -> bool:
        """Whether the text (whose first `prompt` tokens were given) ends with its last token."""
        if tokens[-1] in (self.eos or ()):
            return True
        if not self.stop:
            return False
        recent = list(tokens[max(prompt, len(tokens) - 1 - max(map(len, self.stop))) :])
        now, before = (self.tokenizer.decode(ids, skip_special_tokens=False) for ids in (recent, recent[:-1]))
        return any(now.count(stop) > before.count(stop) for stop in self.stop)

    def distance(self, value: Tokens, reference: Tokens) -> float:
        """Share of the reference's tokens from the first difference on."""
        lost = sum(len(b) - common(a, b) if a != b else 0 for a, b in zip(value, reference))
        return 0.0 if value == reference else max(lost, 1) / max(sum(map(len, reference)), 1)

    def keeps(self, run: Run[Tokens], tolerance: float) -> bool:
        """Identical, or different only from a near tie on: `near_ties` lists those."""
        if run.against is None or run.distance is None:
            return False
        if run.distance <= tolerance:
            return True
        ties = near_ties(self, run.value, run.against.value)
        return all(ties[i] for i, (a, b) in enumerate(zip(run.value, run.against.value)) if a != b)

    def columns(self, run: Run[Tokens]) -> Mapping[str, Any]:
        ledger, tokens = run.ledger, sum(map(len, run.value))
        calls = ledger.calls("target") + ledger.calls("prefill")
        facts: dict[str, Any] = {
            "tokens": tokens,
            "calls": calls,
            "rows": ledger.rows("target"),
            "tokens_per_call": tokens / calls,
            "tokens_per_second": tokens / run.seconds,
        }
        if run.against is not None:
            different = sum(a != b for a, b in zip(run.value, run.against.value))
            ties = near_ties(self, run.value, run.against.value) if different else []
            facts |= {"different": different, "near_ties": sum(ties)}
        return facts

    def text(self, value: Tokens) -> list[str]:
        """The answers as text; raises AbreastError where there is no tokenizer."""
        if self.tokenizer is None:
            raise AbreastError("this Generation has no tokenizer, so its tokens cannot be shown as text.")
        return [self.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in value]


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


NOISE = {torch.float64: 1e-9, torch.float32: 5e-4}  # a top-2 margin that reordered sums can turn around


def near_ties(problem: Generation, value: Tokens, reference: Tokens) -> list[bool]:
    """For each prompt: whether the two answers part at a position where the reference's choice was nearly a tie.

    Its margin, the gap between the best two perturbed scores, is computed anew there. In float32 the row noise
    measured on SmolLM2 is 1.2e-4 a logit, so margins below 5e-4 count; in 16-bit dtypes the noise is that of two units
    in the last place of the best logit.
    """
    ties = []
    for i, (a, b) in enumerate(zip(value, reference)):
        at = common(a, b)
        if a == b or at >= min(len(a), len(b)):
            ties.append(False)
            continue
        before = [*problem.prompts[i], *b[:at]]
        logits = last_logits(problem.model, before)
        scores = problem.sampling_of(i).scores(logits, before)
        if problem.sampling.temperature > 0:
            scores = problem.dice(i).perturbed(scores, len(before))
        top = scores.topk(2).values
        unit = torch.finfo(logits.dtype).eps * float(logits.abs().max()) * 2
        ties.append(float(top[0] - top[1]) <= NOISE.get(logits.dtype, unit) / (problem.sampling.temperature or 1.0))
    return ties


def last_logits(model: TokenModel, tokens: Sequence[int]) -> torch.Tensor:
    """The logits [V] after `tokens`, from an empty cache."""
    m = len(tokens)
    cache = model.cache(m)
    ids = torch.tensor(tokens, device=model.device)
    positions = torch.arange(m, device=model.device)
    see = torch.ones(m, m, dtype=torch.bool, device=model.device).tril_()
    return model.forward(cache, ids, positions, torch.zeros_like(positions), see, slice(m - 1, m)).logits[0]


def model_eos(model: Any) -> tuple[int, ...]:
    """The ids that end a text, from the model's generation settings."""
    config = getattr(model, "generation_config", None) or getattr(model, "config", None)
    eos = getattr(config, "eos_token_id", None)
    if eos is None:
        eos = getattr(getattr(model, "config", None), "eos_token_id", None)
    return () if eos is None else tuple(eos) if isinstance(eos, Iterable) else (eos,)


def _prompts(prompts: Any, tokenizer: Any) -> tuple[tuple[int, ...], ...]:
    """One prompt or several, as text or ids, to a tuple of tuples of ids."""
    if isinstance(prompts, str):
        prompts = [prompts]
    if isinstance(prompts, torch.Tensor):
        prompts = prompts.tolist()
    prompts = list(prompts)
    if prompts and isinstance(prompts[0], str):
        if tokenizer is None:
            raise AbreastError("a prompt given as text needs the tokenizer: pass tokenizer=..., or token ids.")
        prompts = [tokenizer.encode(text) for text in prompts]
    elif not prompts or not isinstance(prompts[0], (list, tuple, torch.Tensor)):
        prompts = [prompts]
    return tuple(tuple(int(token) for token in prompt) for prompt in prompts)


def _check(problem: Generation) -> None:
    if problem.max_new_tokens < 1:
        raise AbreastError(f"max_new_tokens must be at least 1, not {problem.max_new_tokens}.")
    if problem.stop and problem.tokenizer is None:
        raise AbreastError("stop strings need the tokenizer: pass tokenizer=... to Generation.")
    for prompt in problem.prompts:
        if not prompt:
            raise AbreastError("the prompt is empty: give at least one token.")
        outside = next((token for token in prompt if not 0 <= token < problem.model.vocab), None)
        if outside is not None:
            raise AbreastError(
                f"the prompt holds token {outside}, and the vocabulary ends at {problem.model.vocab - 1}."
            )
        if len(prompt) + problem.max_new_tokens > problem.model.context:
            raise AbreastError(
                f"{len(prompt)} prompt tokens and {problem.max_new_tokens} new ones do not fit the model's context of "
                f"{problem.model.context}: shorten the prompt or ask for fewer."
            )
