"""What a command is given, made into models and prompts; what is wrong with it is said before any long work."""

from __future__ import annotations

import difflib
import json
import logging
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from abreast.core.errors import AbreastError, nearest


@dataclass(frozen=True)
class Asked:
    """One prompt, as text or (of the embedded code model) as tokens."""

    name: str
    kind: str
    text: str
    ids: list[int] | None = field(default=None, repr=False)


def set_threads(threads: int | None) -> None:
    """Threads of torch."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def load_model(name: str, dtype: str | None, device: str) -> tuple[Any, Any]:
    """Model and tokenizer. A name that nearly is one of the zoo's is told so, and a Hub that cannot be reached is not
    waited for: what its cache holds is loaded."""
    from abreast.zoo.models import NAMES, load, resolve

    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.7)
    if near and name not in NAMES and "/" not in name and not Path(name).exists():
        raise AbreastError(f"There is no model {name!r}: {nearest(name, NAMES)}")
    alone = isinstance(resolve(name), str) and not _hub_answers()
    if alone:
        os.environ["HF_HUB_OFFLINE"] = "1"
    quiet()
    try:
        return load(name, dtype, device)
    except AbreastError as error:
        if alone and "could not be taken from the Hub" in str(error):
            raise AbreastError(
                f"{name} is neither a folder nor one of {', '.join(NAMES)}, the local Hub cache does not hold it, and "
                "the Hugging Face Hub cannot be reached from here."
            ) from error
        raise


def _hub_answers() -> bool:
    """Whether the Hub's machine accepts connections; taken for granted behind a proxy."""
    if getproxies():
        return True
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or ""
    try:
        socket.create_connection((host, 443), timeout=4).close()
    except OSError:
        return False
    return True


def quiet() -> None:
    """No bars and warnings of libraries between ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        from transformers.utils import logging as library
    except ImportError:
        return
    library.set_verbosity_error()
    library.disable_progress_bar()


def read_prompts(texts: list[str], file: Path | None, jsonl: Path | None) -> list[Asked]:
    """The prompts that were given, in this order: texts, a file, the lines of a JSONL."""
    found = [Asked(f"prompt {i + 1}", "text", text) for i, text in enumerate(texts)]
    if file is not None:
        found.append(Asked(file.name, "file", _read(file)))
    if jsonl is not None:
        lines = [(n, line) for n, line in enumerate(_read(jsonl).splitlines(), 1) if line.strip()]
        if not lines:
            raise AbreastError(f"{jsonl} has no prompts: one JSON object a line is wanted.")
        found += [_line(jsonl, n, line) for n, line in lines]
    for asked in found:
        if not asked.text.strip():
            raise AbreastError(f"{asked.name} is empty: give at least one word.")
    return found


def default_prompts(name: str, tokenizer: Any, n: int = 4) -> list[Asked]:
    """Prompts where none were given: held-out source for the code models, one of each kind for a chat model."""
    if name in ("code", "code-draft"):
        from abreast.zoo.held_out import code_prompts

        ids = code_prompts(tokenizer, n)
        return [Asked(f"held-out {i + 1}", "code", tokenizer.decode(tokens), tokens) for i, tokens in enumerate(ids)]
    if getattr(tokenizer, "chat_template", None):
        from abreast.zoo.prompts import few

        return [Asked(prompt.name, prompt.kind, prompt.text) for prompt in few(n)]
    raise AbreastError("this model is not tuned for chat, so there is no prompt by default: give --prompt TEXT.")


def encode(asked: Asked, tokenizer: Any, chat: bool | None) -> list[int]:
    """The tokens of a prompt; in the chat template where there is one, unless `chat` says otherwise."""
    if asked.ids is not None:
        return asked.ids
    if chat or (chat is None and getattr(tokenizer, "chat_template", None)):
        from abreast.zoo.prompts import chat_ids

        return chat_ids(tokenizer, asked.text)
    return list(tokenizer(asked.text, verbose=False)["input_ids"])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise AbreastError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise AbreastError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}.") from error


def _line(path: Path, number: int, line: str) -> Asked:
    try:
        facts = json.loads(line)
        text = facts["prompt"]
    except (ValueError, KeyError, TypeError):
        text = None
    if not isinstance(text, str):
        raise AbreastError(f'{path}, line {number}, is no JSON object with a "prompt" that is text.')
    kind = facts.get("kind", "text")
    if not isinstance(kind, str):
        raise AbreastError(f'{path}, line {number}: "kind" must be text.')
    return Asked(f"{kind} {number}", kind, text)
