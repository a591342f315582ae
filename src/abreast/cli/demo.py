"""`abreast demo`: every method that the package can run, on a real chat model and on held-out source code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from abreast.cli import inputs
from abreast.cli.calibrate import faster, measure, measured
from abreast.cli.compare import Contest, choose
from abreast.cli.show import show
from abreast.core.errors import AbreastError
from abreast.core.problem import Method
from abreast.machine.calibrate import Calibration, fingerprint
from abreast.web.files import writable
from abreast.web.saved import several

PROMPTS = 4
TOKENS, FEWEST = 96, 24
CONTROLS = 2  # runs that the line-up adds by itself, about
SECONDS = 100.0  # for one model's runs, if every method were as slow as the reference
ROWS = (1, 2, 4, 8, 16)


def run_demo(out: Path, max_new_tokens: int | None, threads: int | None, as_json: bool) -> None:
    """The command. A model that is not there is left out, in a sentence; Ctrl-C leaves what is finished."""
    writable(out)
    inputs.set_threads(threads)
    console = Console(stderr=True, highlight=False)
    found, missing = [], []
    for name, title in (("smollm2", "SmolLM2-135M-Instruct"), ("code", "the embedded code model")):
        try:
            contest, methods = _contest(name, title, max_new_tokens, console)
        except AbreastError as error:
            missing.append(str(error))
            console.print(f"Without {title}: {error}", style="yellow", markup=False)
            continue
        try:
            found.append(contest.held(methods, console))
        except KeyboardInterrupt:
            break
        if found[-1]["interrupted"]:
            break
    if not found and missing:
        raise AbreastError(f"there is no model to show anything on. {' '.join(missing)}")
    if not found:
        raise KeyboardInterrupt
    show(several(found), out / "demo", as_json, console)


def _contest(name: str, title: str, tokens: int | None, console: Console) -> tuple[Contest, list[Method]]:
    from abreast.decode.sampling import Sampling

    with console.status(f"loading {title}"):
        model, tokenizer = _chat_model(console) if name == "smollm2" else inputs.load_model(name, None, "cpu")
        prompts = inputs.default_prompts(name, tokenizer, PROMPTS)
        methods = choose(None, name, model, tokenizer)
        if tokens is None:
            tokens = _fit(model, (len(methods) + CONTROLS) * len(prompts))
            if tokens < TOKENS:
                console.print(f"This machine is slow just now: {tokens} tokens a prompt instead of {TOKENS}.")
        return Contest(name, model, tokenizer, prompts, tokens, Sampling(), title=title), methods


def _chat_model(console: Console) -> tuple[Any, Any]:
    """SmolLM2 in the type that is faster here."""
    loaded = {kind: inputs.load_model("smollm2", kind, "cpu") for kind in ("bfloat16", "float32")}
    curves = {kind: _known(model).curves["target"] for kind, (model, _) in loaded.items()}
    best = faster(curves)
    said = ", ".join(f"{kind} {1e3 * curve[0][1]:.0f} ms" for kind, curve in curves.items())
    console.print(f"One token of SmolLM2 takes {said} here: the demo runs in {best}.")
    return loaded[best]


def _known(model: Any) -> Calibration:
    """What calls of the model cost here; measured once."""
    dtype = str(model.dtype).removeprefix("torch.")
    known = Calibration(fingerprint(model), dtype).load()
    if known is None or "target" not in known.curves:
        known = measured(model, ROWS, repeats=3)
        known.save()
    return known


def _fit(model: Any, runs: int) -> int:
    """How many tokens each run may have in the demo's time, at the speed that the machine has now."""
    from abreast.decode.adapter import adapt

    ((_, seconds),) = measure(adapt(model), (1,), repeats=3)
    return max(FEWEST, min(TOKENS, int(SECONDS / (seconds * runs))))
