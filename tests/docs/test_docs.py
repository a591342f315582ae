"""What the documentation says is there, is there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest

import abreast
from abreast import core, decode, diffuse, hpc, machine, nets, solve, workers, zoo
from abreast.core.catalog import PATH, record

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "src/abreast/zoo/weights/README.md"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    WEIGHTS,
    *sorted(ROOT.glob("docs/**/*.md")),
]
PAGES = [path for path in PAGES if "papers" not in path.parts]
FENCE = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[tuple[str, str]]:
    """(what follows the language, text) of each block of code."""
    found = FENCE.findall(path.read_text(encoding="utf-8"))
    return [(rest.strip(), text) for _, kind, rest, text in found if kind == language]


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_python_runs_as_printed(page, capsys):
    if not (zoo.weights("code") / "config.json").exists():
        pytest.skip("the embedded model is not in this checkout")
    names: dict[str, object] = {}
    for _, text in blocks(ROOT / page, "python"):
        exec(compile(text, page, "exec"), names)
    said = capsys.readouterr().out
    assert "PromptLookup True" in said and "Lookahead(window=3, ngram=4, guesses=4) True" in said


def test_commands_parse_as_printed():
    import typer.main

    from abreast.cli.app import app

    seen = 0
    for path in PAGES:
        for _, text in blocks(path, "sh"):
            for line in text.splitlines():
                words = shlex.split(line.split("#")[0])
                if words and Path(words[0]).name == "abreast":
                    command, rest, context = typer.main.get_command(app), words[1:], None
                    while hasattr(command, "commands"):
                        context = command.make_context(rest[0], list(rest), context, resilient_parsing=True)
                        command, rest = command.commands[rest[0]], rest[1:]
                    command.make_context(command.name, list(rest), context)
                    seen += 1
    assert seen >= 8


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_resolve(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if file.startswith("papers/"):  # made by docs/gen_papers.py
            continue
        assert target.exists(), f"{name(path)} links to {link}, which is not there"
        assert not anchor or anchor in anchors(target), f"{name(path)} links to {link}: there is no such heading"


@pytest.mark.parametrize(("path", "marker"), [(ROOT / "README.md", "evidence"), (WEIGHTS, "measured")])
def test_markers_stand_once_and_in_order(path, marker):
    text = path.read_text(encoding="utf-8")
    start, end = f"<!-- {marker}:start -->\n", f"\n<!-- {marker}:end -->"
    assert text.count(start) == text.count(end) == 1 and text.index(start) < text.index(end)


def test_quoted_code_is_in_the_file_it_is_quoted_from():
    """Lines may be left out of a quotation; those that are there stand in the file, in this order."""
    quoted = blocks(ROOT / "CONTRIBUTING.md", "python")
    assert quoted
    for title, text in quoted:
        source = (ROOT / title.removeprefix('title="').removesuffix('"')).read_text(encoding="utf-8").splitlines()
        lines = iter(line.strip() for line in source)
        for line in filter(None, map(str.strip, text.splitlines())):
            assert line in lines, f"{line!r} is not, or not in this order, in {title}"


def test_reference_has_every_public_name():
    listed = set(
        re.findall(r"\w+", " ".join(re.findall(r"members: \[(.*)\]", (ROOT / "docs/reference.md").read_text())))
    )
    for module in (abreast, core, decode, diffuse, hpc, machine, nets, solve, workers, zoo):
        public = set(module.__all__) - {"__version__", "METHODS"}
        assert public <= listed, f"{module.__name__}: docs/reference.md lacks {sorted(public - listed)}"


def test_room_page_has_every_method_and_verifier():
    from abreast.decode.lineup import METHOD_NAMES

    text = (ROOT / "docs/rooms/decode.md").read_text(encoding="utf-8")
    verifiers = {"Match", "Rejection", "MultiRejection", "Typical", "Tolerant", "TopK", "Distance"}
    assert {word for word in (*decode.METHODS, *METHOD_NAMES, *verifiers) if f"`{word}`" not in text} == set()


def test_weights_page_has_every_recipe():
    from abreast.zoo.train.__main__ import RECIPES

    text = WEIGHTS.read_text(encoding="utf-8")
    assert [recipe for recipe in RECIPES if f"| `{recipe}` |" not in text] == []


def test_pages_of_papers(tmp_path):
    """A paper that was run has a page with its class, its claim and its checks; a planned one has a line."""
    spec = importlib.util.spec_from_file_location("gen_papers", ROOT / "docs/gen_papers.py")
    assert spec is not None and spec.loader is not None
    gen_papers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gen_papers)
    catalog, evidence = tmp_path / "papers.toml", tmp_path / "evidence/claims"
    shutil.copy(PATH, catalog)
    text = re.sub(r'^state = "\w+"\n(measured = .*\n)?', 'state = "planned"\n', catalog.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^(methods|guarantee|claim|realness) = .*\n", "", text, flags=re.MULTILINE)
    catalog.write_text(text.replace('slug = "medusa"\n', 'slug = "medusa"\nmethods = ["Medusa"]\nclaim = "It pays."\n'))
    record("medusa", "short", "tokens per step: 1.9 (at least 2)", catalog)
    check = core.at_least("tokens | per step", 1.9, 2.0)
    grid = core.Grid("by verifier", ["verifier", "rate"], [["match", 1.91234]])
    evidence.mkdir(parents=True)
    (evidence / "medusa.json").write_text(core.Result("medusa", "real", [check], [grid], 3.0).to_json())
    (evidence.parent / "peers.json").write_text("[]")
    pages = gen_papers.generate(tmp_path / "papers", evidence.parent, catalog)
    assert [page.name for page in pages] == ["index.md", "medusa.md"]
    index, medusa = (page.read_text() for page in pages)
    assert index.count(" planned |") == 198 and "](medusa.md)" in index
    assert "[`decode.Medusa`][abreast.decode.speculative.medusa.Medusa]" in medusa and "It pays." in medusa
    assert "| tokens \\| per step | 1.9 | at least 2 | no |" in medusa and "| match | 1.912 |" in medusa
