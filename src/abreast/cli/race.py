"""A comparison while it runs: a bar, or the race, one lane a method, the tokens appearing as they are committed.

Both redraw only when a call has ended and only a few times a second: a thread that draws would take a core from the
model that is being timed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from abreast.core.problem import Method, Problem, Run, label

if TYPE_CHECKING:
    from abreast.cli.compare import Contest

PERIOD = 0.15  # seconds between two drawings
TAIL = 48  # tokens of a lane's text that are decoded for its line


class Bar:
    """One bar over all runs."""

    def __init__(self, contest: Contest, methods: Sequence[Method], console: Console):
        text = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %")
        self.bar = Progress(*text, TimeElapsedColumn(), console=console, transient=True, auto_refresh=False)
        runs = len({label(method) for method in (contest.problems[0].reference, *methods)}) * len(contest.problems)
        self.share, self.done, self.drawn = contest.max_new_tokens, 0, 0.0
        self.total = runs * self.share  # without controls, whose number only their runs know
        self.task = self.bar.add_task(contest.name, total=self.total)

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def step(self, problem: Problem[Any], method: Method, commit: Any) -> None:
        """Tokens were committed."""
        self.bar.advance(self.task, sum(map(len, commit.tokens.values())))
        if time.monotonic() - self.drawn > PERIOD:
            self.bar.update(self.task, description=label(method))
            self._draw()

    def run(self, run: Run[Any]) -> None:
        """A run ended, maybe before its last token was due."""
        self.done = min(self.done + self.share, self.total)
        self.bar.update(self.task, completed=self.done)
        self._draw()

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        self.bar.refresh()


class Lane:
    """What is known of one method on the current problem."""

    def __init__(self, name: str):
        self.name = name
        self.ids: list[int] = []
        self.last = self.calls = 0
        self.began = self.seconds = 0.0
        self.ended = ""

    def add(self, ids: Sequence[int]) -> None:
        """A call committed these."""
        self.ids += ids
        self.last = len(ids)
        self.calls += 1
        self.seconds = time.perf_counter() - self.began


class Race:
    """One lane a method; those not yet run wait."""

    def __init__(self, contest: Contest, names: Sequence[str], console: Console):
        self.contest, self.console = contest, console
        self.names = list(dict.fromkeys([label(contest.problems[0].reference), *names]))
        self.live = Live(console=console, auto_refresh=False)
        self.problem, self.drawn = -1, 0.0
        self.lanes: dict[str, Lane] = {}

    def __enter__(self) -> Race:
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def step(self, problem: Problem[Any], method: Method, commit: Any) -> None:
        """Tokens were committed."""
        self._turn(problem)
        lane = self.lanes.setdefault(label(method), Lane(label(method)))
        if not lane.ids:
            lane.began = time.perf_counter()  # the prompt's own call is not part of the race
        for ids in commit.tokens.values():
            lane.add(ids)
        if time.monotonic() - self.drawn > PERIOD:
            self._draw()

    def run(self, run: Run[Any]) -> None:
        """A lane reached the end."""
        from abreast.web.record import outcome

        self._turn(run.problem)
        lane = self.lanes.setdefault(label(run.method), Lane(label(run.method)))
        lane.ids, lane.last, lane.seconds, lane.ended = list(run.value[0]), 0, run.seconds, outcome(run)
        self._draw()

    def _turn(self, problem: Problem[Any]) -> None:
        at = next(i for i, known in enumerate(self.contest.problems) if known is problem)
        if at != self.problem:
            self.problem, self.lanes = at, {name: Lane(name) for name in self.names}

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        asked = self.contest.prompts[self.problem]
        head = Text(f"{asked.name} ({asked.kind}), {self.problem + 1} of {len(self.contest.prompts)}", style="bold")
        lanes = Table.grid(padding=(0, 1), expand=True)
        for justify in ("left", "right", "right", "right"):
            lanes.add_column(justify=justify, no_wrap=True)
        lanes.add_column(no_wrap=True, ratio=1)
        for lane in self.lanes.values():
            lanes.add_row(*self._line(lane))
        self.live.update(Group(head, lanes), refresh=True)

    def _line(self, lane: Lane) -> tuple[Text, ...]:
        if not lane.ids:
            return (Text(lane.name, style="dim"), Text(), Text(), Text(), Text("waiting", style="dim"))
        speed = len(lane.ids) / lane.seconds if lane.seconds else 0.0
        numbers = f"{len(lane.ids)} tok", f"{lane.seconds:.1f} s", f"{speed:.0f}/s"
        return (Text(lane.name, style="bold" if not lane.ended else ""), *map(Text, numbers), self._tail(lane))

    def _tail(self, lane: Lane) -> Text:
        """The end of the text, what the last call committed in another colour; how it stands, once it has ended."""
        tokenizer, room = self.contest.tokenizer, max(self.console.width - 56, 16)
        new = lane.ids[len(lane.ids) - lane.last :]
        old = lane.ids[-TAIL : len(lane.ids) - lane.last] if lane.last else lane.ids[-TAIL:]
        before, after = (" ".join(tokenizer.decode(ids, skip_special_tokens=True).split("\n")) for ids in (old, new))
        if lane.ended:
            mark = "green" if "identical" in lane.ended or lane.ended == "reference" else "yellow"
            return Text.assemble((lane.ended, mark), " ", (before[-max(room - len(lane.ended), 8) :], "dim"))
        return Text.assemble((before[-max(room - len(after), 8) :], "dim"), (after, "bold cyan"))
