"""What must appear at once: help and the catalog."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "numpy", "rich", "jinja2")


ROOMS = {"compare": ("decode", "solve", "diffuse"), "advise": ("solve", "diffuse")}
HELP = [[command, room, "--help"] for command, rooms in ROOMS.items() for room in rooms]


@pytest.mark.parametrize("args", [["--help"], ["papers"], ["papers", "lookahead"], *HELP])
def test_light_commands_load_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys\nfrom abreast.cli import main\nsys.argv[1:] = sys.argv[1:]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout


def test_papers(cli) -> None:
    assert "lookahead" in cli("papers").stdout
    assert cli("papers").stdout.rstrip().splitlines()[-1].startswith("199 papers")
    decode = cli("papers", "--room", "decode").stdout
    assert "medusa" in decode and "tensor-neat" not in decode
    assert json.loads(cli("papers", "medusa", "--json").stdout)["slug"] == "medusa"
    assert {row["room"] for row in json.loads(cli("papers", "--room", "solve", "--json").stdout)} == {"solve"}
    assert "Medusa" in cli("papers", "medusa").stdout


def test_papers_refuse(refused) -> None:
    assert "medusa" in refused("papers", "medus")
    assert "decode" in refused("papers", "--room", "decod")
    assert "holds" in refused("papers", "--state", "done")
    assert "either" in refused("papers", "medusa", "--room", "decode")


def test_slips_of_the_command_line(refused) -> None:
    assert "demo" in refused("dmo")
    assert "--max-new-tokens" in refused("compare", "decode", "--max-new-tokens", "-3")
    assert "--threads" in refused("demo", "--threads", "none")
    assert "No such option" in refused("papers", "--rom", "decode")
    assert "SLUG" in refused("try").upper()
