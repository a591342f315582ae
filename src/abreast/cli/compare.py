"""`abreast compare decode`: methods on prompts, with a bar or the race itself, then the table and the files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from abreast.cli import inputs
from abreast.cli.show import names_of, show
from abreast.core.compare import Table, compare
from abreast.core.problem import Method, Problem, Run, label
from abreast.web import record
from abreast.web.files import writable
from abreast.web.saved import here


@dataclass(frozen=True)
class Asked:
    """The options of the command."""

    model: str
    methods: str | None
    prompt: list[str]
    prompt_file: Path | None
    prompts: Path | None
    max_new_tokens: int
    sampling: dict[str, Any]
    chat: bool | None
    device: str
    dtype: str | None
    seed: int
    threads: int | None


class Watcher(Protocol):
    """What shows a comparison while it runs."""

    def step(self, problem: Problem[Any], method: Method, commit: Any) -> None: ...

    def run(self, run: Run[Any]) -> None: ...


def run_compare(asked: Asked, live: bool, as_json: bool, out: Path) -> None:
    """The command."""
    from abreast.decode.sampling import Sampling

    console = Console(stderr=True, highlight=False)
    sampling = Sampling(**asked.sampling)
    given = inputs.read_prompts(asked.prompt, asked.prompt_file, asked.prompts)
    names = None
    if asked.methods is not None:
        from abreast.decode.lineup import METHOD_NAMES

        names = names_of(asked.methods, METHOD_NAMES)
    writable(out)
    inputs.set_threads(asked.threads)
    with console.status(f"loading {asked.model}"):
        model, tokenizer = inputs.load_model(asked.model, asked.dtype, asked.device)
        given = given or inputs.default_prompts(asked.model, tokenizer)
        contest = Contest(asked.model, model, tokenizer, given, asked.max_new_tokens, sampling, asked.seed, asked.chat)
        methods = choose(names, asked.model, model, tokenizer)
    saved = contest.held(methods, console, live)
    show(saved, out / "compare-decode", as_json, console)


@dataclass
class Contest:
    """A model with prompts to continue. Building the problems checks them."""

    name: str
    model: Any
    tokenizer: Any
    prompts: Sequence[inputs.Asked]
    max_new_tokens: int
    sampling: Any
    seed: int = 0
    chat: bool | None = None
    title: str = ""

    def __post_init__(self) -> None:
        from abreast.decode.problem import Generation

        def problem(asked: inputs.Asked) -> Generation:
            ids = inputs.encode(asked, self.tokenizer, self.chat)
            return Generation(
                self.model, [ids], self.max_new_tokens, self.sampling, self.seed, tokenizer=self.tokenizer
            )

        self.problems = [problem(asked) for asked in self.prompts]

    def held(self, methods: Sequence[Method], console: Console, live: bool = False) -> dict[str, Any]:
        """All methods on all problems, shown while they run; as plain values."""
        with _watched(self, methods, console, live) as watcher:
            table: Table = compare(self.problems, methods, on_run=watcher.run, on_step=watcher.step)
        return record.comparison(table, self.facts(), self._described())

    def facts(self) -> dict[str, Any]:
        """What the runs do not know."""
        from dataclasses import asdict

        return {
            "title": self.title or Path(self.name).name,
            "model": self.name,
            "device": str(self.problems[0].model.device),
            "chat": self.chat is not False and bool(getattr(self.tokenizer, "chat_template", None)),
            "seed": self.seed,
            "max_new_tokens": self.max_new_tokens,
            "sampling": asdict(self.sampling),
            "machine": here(),
            "curve": self._curve(),
        }

    def _curve(self) -> list[list[float]] | None:
        from abreast.machine.calibrate import Calibration, fingerprint

        dtype = str(self.problems[0].model.dtype).removeprefix("torch.")
        known = Calibration(fingerprint(self.model), dtype).load()
        return [list(point) for point in known.curves.get("target", ())] if known else None

    def _described(self) -> list[dict[str, Any]]:
        return [
            {"name": asked.name, "kind": asked.kind, "prompt": asked.text, "prompt_tokens": len(problem.prompts[0])}
            for asked, problem in zip(self.prompts, self.problems)
        ]


def choose(names: list[str] | None, model_name: str, model: Any, tokenizer: Any) -> list[Method]:
    """The methods of these names; the model's line-up where none are given."""
    from abreast.decode.lineup import lineup, method

    if names is None:
        return lineup(model_name, model, tokenizer)
    return [method(name, model_name, model) for name in names]


@contextmanager
def _watched(contest: Contest, methods: Sequence[Method], console: Console, live: bool) -> Iterator[Watcher]:
    from abreast.cli.race import Bar, Race

    shown = Race(contest, [label(method) for method in methods], console) if live else Bar(contest, methods, console)
    with shown:
        yield shown
