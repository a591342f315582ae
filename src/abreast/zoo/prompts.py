"""What SmolLM2 is asked: sixteen evaluation prompts of four kinds, and training prompts apart from them."""

from __future__ import annotations

import ast
import gzip
import json
import random
import re
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import cycle, zip_longest
from pathlib import Path
from typing import Any, Literal

from abreast.core.errors import AbreastError
from abreast.zoo.manifest import fetch
from abreast.zoo.typos import corrupt

Kind = Literal["code", "edit", "summary", "chat"]
KINDS: tuple[Kind, ...] = ("code", "edit", "summary", "chat")

# Short enough for a 135 M model, unlike each other, and with examples in the docstring.
_HUMAN_EVAL = (7, 18, 48, 61)
_DOCUMENTED = (
    "argparse", "asyncio", "collections", "contextlib", "dataclasses", "datetime", "enum", "functools", "inspect",
    "ipaddress", "logging", "pathlib", "random", "subprocess", "tempfile", "threading", "typing",
)  # fmt: skip
_TASKS = (
    ("topics", "explain"), ("functions", "function"), ("passages", "correct"), ("questions", "ask"),
    ("passages", "summarise"), ("programs", "program"), ("passages", "edit"), ("topics", "list"),
    ("passages", "rewrite"),
)  # fmt: skip
_WORDS = (40, 130)
_TYPO_DENSITY = 0.03
_OTHER_WORDS = ("garden", "lantern", "harbor", "copper", "window", "marble")


@dataclass(frozen=True)
class Prompt:
    """One question in a user's words; `chat_ids` turns `text` into tokens."""

    name: str
    kind: Kind
    text: str


def evaluation() -> list[Prompt]:
    """Sixteen prompts, four of each kind, code first.

    The code is HumanEval's; where that cannot be fetched, tasks of our own stand in, and a warning says so.
    """
    written = [Prompt(p["name"], p["kind"], _unwrap(p["text"])) for p in _texts()["evaluation"] if p["kind"] in KINDS]
    return _code_tasks() + written


def few(n: int) -> list[Prompt]:
    """The first `n` (1 to 16) evaluation prompts, the kinds taking turns."""
    prompts = evaluation()
    if not 1 <= n <= len(prompts):
        raise AbreastError(f"There are {len(prompts)} evaluation prompts: ask for 1 to {len(prompts)}, not {n}.")
    by_kind = [[p for p in prompts if p.kind == kind] for kind in KINDS]
    return [prompt for turn in zip(*by_kind) for prompt in turn][:n]


def training_prompts(seed: int, n: int) -> list[str]:
    """`n` different instructions for self-distillation: explain, list, code, correct, edit, summarise, rewrite, chat.

    Made from templates, passages of ours and passages of Python's documentation. The kinds take turns; fewer prompts
    of a seed are a prefix of more. Raises AbreastError if `n` exceeds what there is (about 2,700).
    """
    turns = zip_longest(*_pools(seed))
    prompts = list(dict.fromkeys(text for turn in turns for text in turn if text is not None))
    if len(prompts) < n:
        raise AbreastError(f"Only {len(prompts)} training prompts can be made, not {n}.")
    return prompts[:n]


def chat_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a chat in which the user says `text` and the assistant is about to answer."""
    if not getattr(tokenizer, "chat_template", None):
        raise AbreastError("This tokenizer has no chat template: use a model tuned for chat, or plain tokenizer(text).")
    chat = [{"role": "user", "content": text}]
    return list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"])


@cache
def _texts() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))


def _unwrap(text: str) -> str:
    return text.strip() if "```" in text else re.sub(r"(?<!\n)\n(?!\n)", " ", text.strip())


def _code_tasks() -> list[Prompt]:
    try:
        path = fetch("human-eval")
    except AbreastError as error:
        warnings.warn(f"Code prompts of our own stand in for HumanEval. {error}", stacklevel=3)
        own = (p for p in _texts()["evaluation"] if p["kind"] == "own code")
        return [Prompt(p["name"], "code", _unwrap(p["text"])) for p in own]
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        tasks = {row["task_id"]: row["prompt"].strip() for row in map(json.loads, lines)}
    ask = "Write the Python function that this header describes, and explain it briefly:\n\n```python\n{}\n```"
    return [Prompt(f"human-eval-{i}", "code", ask.format(tasks[f"HumanEval/{i}"])) for i in _HUMAN_EVAL]


def _pools(seed: int) -> Iterator[list[str]]:
    texts = _texts()["training"]
    rng = random.Random(f"prompts {seed}")
    own, documentation = [_unwrap(passage) for passage in texts["passages"]], _documentation()
    passages = own + rng.sample(documentation, min(3 * len(own), len(documentation)))
    for subject, task in _TASKS:
        items = passages if subject == "passages" else texts[subject]
        yield _combine(rng.sample(items, len(items)), texts[task])


def _combine(items: list[str], templates: list[str]) -> list[str]:
    """Every item with every template, no item twice before all had a turn."""
    rounds = [templates[k:] + templates[:k] for k in range(len(templates))]
    return [_fill(template, item) for order in rounds for item, template in zip(items, cycle(order))]


def _fill(template: str, item: str) -> str:
    values = {"it": item}
    if "{typos}" in template:
        values["typos"] = corrupt(item, _TYPO_DENSITY, random.Random(item))
    if "{word}" in template:
        words = re.findall(r"\b[a-z]{5,}\b", item)
        values["word"] = max(words, key=lambda word: (words.count(word), len(word), word))
        values["other"] = _OTHER_WORDS[len(item) % len(_OTHER_WORDS)]
    return template.format(**values)


@cache
def _documentation() -> list[str]:
    """Paragraphs of plain English from Python's language reference and docstrings, one line each."""
    from pydoc_data.topics import topics

    from abreast.zoo.train.corpus import stdlib

    texts = [topics[key] for key in sorted(topics)]
    for module in _DOCUMENTED:
        path = stdlib() / f"{module}.py"
        path = path if path.exists() else stdlib() / module / "__init__.py"
        if path.exists():
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
            texts += [ast.get_docstring(node) or "" for node in nodes if isinstance(node, kinds)]
    found = dict.fromkeys(" ".join(part.split()) for text in texts for part in text.split("\n\n") if _is_prose(part))
    return list(found)


def _is_prose(paragraph: str) -> bool:
    few_words, many_words = _WORDS
    plain = not re.search(r"::|>>>|\|\s|\.\. |[{}*_=]{2,}|^\s{3,}\S", paragraph, re.MULTILINE)
    finished = paragraph[:1].isupper() and paragraph.rstrip().endswith(".")
    return plain and finished and few_words <= len(paragraph.split()) <= many_words
