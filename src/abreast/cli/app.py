"""The commands and their options. What is wrong with a command's input is one sentence on stderr, and exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from abreast.cli import INTERRUPTED
from abreast.core.errors import AbreastError


class OneSentence(TyperGroup):
    """Commands whose errors are a sentence."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run a command and exit: 0, 1 (a claim does not hold), 2 (bad input), 130 (interrupted)."""
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except AbreastError as error:
            _say(str(error))
            code = 2
        except Exception as error:
            if not hasattr(error, "format_message"):  # what the parser of the command line raises has it
                raise
            _say(error.format_message())
            code = 2
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """The command itself; the parser would end in silence at Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say("interrupted before anything was finished.")
            raise typer.Exit(INTERRUPTED) from None


def _say(sentence: str) -> None:
    if sentence:
        typer.echo(sentence, err=True)


app = typer.Typer(
    cls=OneSentence,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Make sequential machine learning run abreast, and know what you paid for it.",
)
compare_app = typer.Typer(no_args_is_help=True, help="Hold methods against the sequential run, on your model.")
advise_app = typer.Typer(
    no_args_is_help=True, help="What would pay, on this machine and on others, or that nothing would."
)
zoo_app = typer.Typer(no_args_is_help=True, help="Models and data that packages ship.")
app.add_typer(compare_app, name="compare")
app.add_typer(advise_app, name="advise")
app.add_typer(zoo_app, name="zoo")

Model = Annotated[str, typer.Option("--model", "-m", help="A zoo name, a folder, or an id on the Hugging Face Hub.")]
Device = Annotated[str, typer.Option(help="Where the model runs, as torch names it.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of torch; its own choice where not given.")]
Out = Annotated[Path, typer.Option(help="The folder that results are written to.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON; abreast.web.saved says what is in it.")]


@app.command()
def demo(
    out: Out = Path("out"),
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="For each prompt; 96 if time allows.")] = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Every method, on real prompts: tables and a page."""
    from abreast.cli.demo import run_demo

    run_demo(out, max_new_tokens, threads, json)


@compare_app.command("decode")
def compare_decode(
    model: Model = "smollm2",
    methods: Annotated[str | None, typer.Option(help="Comma-separated names; the model's line-up by default.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt as text; may be given several times.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="A file that is one prompt.")] = None,
    prompts: Annotated[Path | None, typer.Option(help='JSONL: objects with "prompt" and optionally "kind".')] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens for each prompt.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="0 keeps every token.")] = 0,
    top_p: Annotated[float, typer.Option(help="1 keeps every token.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="1 is none.")] = 1.0,
    chat: Annotated[bool | None, typer.Option("--chat/--no-chat", help="The tokenizer's chat template.")] = None,
    device: Device = "cpu",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, ...; as stored by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    threads: Threads = None,
    live: Annotated[bool, typer.Option("--live", help="Show the race in the terminal.")] = False,
    json: Json = False,
    out: Out = Path("out"),
) -> None:
    """Continue prompts, beside one token at a time."""
    from abreast.cli.compare import Asked, run_compare

    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "repetition_penalty": repetition_penalty}
    asked = Asked(
        model, methods, prompt or [], prompt_file, prompts, max_new_tokens, sampling, chat, device, dtype, seed, threads
    )
    run_compare(asked, live, json, out)


Cell = Annotated[str | None, typer.Option(help="A random torch cell: gru, lstm or rnn; gru by default.")]
Real = Annotated[str | None, typer.Option(help="A trained one of the zoo: silero or g2p.")]
Module = Annotated[
    str | None, typer.Option(metavar="FILE.py:NAME", help="Your own solve.Recurrence, or what makes it.")
]
Width = Annotated[int | None, typer.Option(min=1, help="Hidden units of a random cell; 32 by default.")]
Inputs = Annotated[int | None, typer.Option(min=1, help="Features of its inputs; 16 by default.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of the sequence; 512 by default.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Sequences at once; 4 by default.")]
Gain = Annotated[float | None, typer.Option(help="Factor of the recurrent weights; 1 by default.")]
Seed = Annotated[int, typer.Option(help="Of every draw.")]
DescribedMachine = Annotated[
    str | None, typer.Option("--machine", help="Ask about this described machine only; all of them by default.")
]
AdviceJson = Annotated[bool, typer.Option("--json", help="Print JSON; abreast.cli.advise says what is in it.")]
Floats = Annotated[str | None, typer.Option("--dtype", help="float32 or float64.")]


@compare_app.command("solve")
def compare_solve(
    cell: Cell = None,
    real: Real = None,
    module: Module = None,
    width: Width = None,
    inputs: Inputs = None,
    steps: Steps = None,
    batch: Batch = None,
    gain: Gain = None,
    seed: Seed = 0,
    dtype: Floats = None,
    methods: Annotated[str | None, typer.Option(help="Comma-separated names: deer, quasi-deer, picard, ...")] = None,
    tol: Annotated[float | None, typer.Option(help="The change let pass; each method's own by default.")] = None,
    window: Annotated[int | None, typer.Option(min=1, help="States solved for at once; all by default.")] = None,
    grad: Annotated[bool, typer.Option("--grad", help="Hold gradients against autograd's, too.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Ranks that share the steps, in this process.")] = 1,
    threads: Threads = None,
    json: Json = False,
    out: Out = Path("out"),
) -> None:
    """Unroll a recurrence in parallel over time, beside its loop."""
    from abreast.cli.recurrences import Asked
    from abreast.cli.solve import Options, run_compare_solve

    asked = Asked(cell, real, module, width, inputs, steps, batch, gain, seed, dtype)
    run_compare_solve(asked, Options(methods, tol, window, grad, workers, threads), json, out)


Pipeline = Annotated[str, typer.Option(help="A zoo name, a folder of diffusers', or an id on the Hugging Face Hub.")]
ClassLabel = Annotated[list[int] | None, typer.Option("--class-label", help="One for all samples, or one each.")]
Prompt = Annotated[str | None, typer.Option(help="A text, for pipelines that take one.")]
SampleSteps = Annotated[int | None, typer.Option(min=1, help="Of the scheduler; the pipeline's own by default.")]
Scheduler = Annotated[str | None, typer.Option(help="ddim, euler, dpm-solver++, ... or a class of diffusers.")]
Samples = Annotated[int | None, typer.Option(min=1, help="Samples at once.")]
Guidance = Annotated[float | None, typer.Option(help="Scale of classifier-free guidance.")]
Frames = Annotated[int | None, typer.Option(min=1, help="Of a video.")]
HalfFloats = Annotated[str, typer.Option("--dtype", help="float32, float16 or bfloat16.")]


@compare_app.command("diffuse")
def compare_diffuse(
    pipeline: Pipeline = "digits-dit",
    class_label: ClassLabel = None,
    prompt: Prompt = None,
    steps: SampleSteps = None,
    scheduler: Scheduler = None,
    batch: Samples = None,
    guidance: Guidance = None,
    frames: Frames = None,
    seed: Seed = 0,
    dtype: HalfFloats = "float32",
    methods: Annotated[str | None, typer.Option(help="Comma-separated names: paradigms, parastep, ...")] = None,
    devices: Annotated[int, typer.Option(min=1, help="Ranks that share the work, in this process.")] = 1,
    threads: Threads = None,
    json: Json = False,
    out: Out = Path("out"),
) -> None:
    """Sample a diffusion pipeline in parallel, beside one step at a time."""
    from abreast.cli.diffuse import Options, run_compare_diffuse
    from abreast.cli.pipelines import Asked

    labels = tuple(class_label or ())
    asked = Asked(pipeline, labels, prompt, steps, scheduler, batch, guidance, frames, seed, dtype)
    run_compare_diffuse(asked, Options(methods, devices, threads), json, out)


@advise_app.command("solve")
def advise_solve(
    cell: Cell = None,
    real: Real = None,
    module: Module = None,
    width: Width = None,
    inputs: Inputs = None,
    steps: Steps = None,
    batch: Batch = None,
    gain: Gain = None,
    seed: Seed = 0,
    dtype: Floats = None,
    machine: DescribedMachine = None,
    threads: Threads = None,
    json: AdviceJson = False,
) -> None:
    """Whether a recurrence can be had in parallel over time."""
    from abreast.cli.advise_solve import run_advise_solve
    from abreast.cli.recurrences import Asked

    asked = Asked(cell, real, module, width, inputs, steps, batch, gain, seed, dtype)
    run_advise_solve(asked, machine, threads, json)


@advise_app.command("diffuse")
def advise_diffuse(
    pipeline: Pipeline = "digits-dit",
    class_label: ClassLabel = None,
    prompt: Prompt = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Of the scheduler; 20 by default.")] = None,
    scheduler: Scheduler = None,
    batch: Samples = None,
    guidance: Guidance = None,
    frames: Frames = None,
    seed: Seed = 0,
    dtype: HalfFloats = "float32",
    methods: Annotated[str | None, typer.Option(help="Comma-separated names; all that run by default.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="Ask about so many devices, too.")] = 4,
    machine: DescribedMachine = None,
    threads: Threads = None,
    json: AdviceJson = False,
) -> None:
    """Which axis and method would pay for a pipeline."""
    from abreast.cli.advise_diffuse import run_advise_diffuse
    from abreast.cli.pipelines import Asked

    labels = tuple(class_label or ())
    asked = Asked(pipeline, labels, prompt, steps, scheduler, batch, guidance, frames, seed, dtype)
    run_advise_diffuse(asked, methods, devices, machine, threads, json)


@app.command("try")
def try_(
    slug: Annotated[str, typer.Argument(help="A paper's name in the catalog: abreast papers.")],
    json: Json = False,
    record: Annotated[bool, typer.Option("--record", help="Write the result into a checkout's catalog.")] = False,
    threads: Threads = None,
) -> None:
    """Run one paper's claim: 0 if it holds, 1 if short."""
    from abreast.cli.claims import run_claim

    raise typer.Exit(run_claim(slug, json, record, threads))


@app.command()
def papers(
    slug: Annotated[str | None, typer.Argument(help="One paper; all where not given.")] = None,
    room: Annotated[str | None, typer.Option(help="Only this room's.")] = None,
    state: Annotated[str | None, typer.Option(help="planned, holds or short.")] = None,
    json: Json = False,
) -> None:
    """The catalog, and what holds."""
    from abreast.cli.papers import show_papers

    show_papers(slug, room, state, json)


@app.command()
def report(
    saved: Annotated[Path, typer.Argument(help="What compare or demo wrote, or a ledger as JSON.")],
    html: Annotated[Path | None, typer.Option(help="The page; beside the saved run where not given.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write a trace for Perfetto or chrome://tracing.")] = None,
    machine: Annotated[str | None, typer.Option(help="Time the trace on this described machine.")] = None,
) -> None:
    """A saved run as a table, a page and a trace."""
    from abreast.cli.report import show_report

    show_report(saved, html, trace, machine)


@app.command()
def calibrate(
    model: Model = "smollm2",
    dtype: Annotated[str, typer.Option(help="Comma-separated types of weights.")] = "float32,bfloat16",
    rows: Annotated[str, typer.Option(help="Comma-separated numbers of rows.")] = "1,2,4,8,16,32",
    context: Annotated[int, typer.Option(min=1, help="Tokens in the cache before the call.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="Calls of each size; the median counts.")] = 5,
    device: Device = "cpu",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """What a call of a model costs here, by its rows."""
    from abreast.cli.calibrate import run_calibrate

    run_calibrate(model, dtype, rows, context, repeats, device, threads, json)


@zoo_app.command("get")
def zoo_get(name: Annotated[str, typer.Argument(help="A model or a source: abreast zoo list.")]) -> None:
    """Fetch something into the cache; print where it is."""
    from abreast.cli.zoo import get

    get(name)


@zoo_app.command("list")
def zoo_list() -> None:
    """What there is, with licences and sizes."""
    from abreast.cli.zoo import show

    show()


@zoo_app.command("check")
def zoo_check() -> None:
    """Open every model's files, and say which are ready."""
    from abreast.cli.zoo import check

    check()
