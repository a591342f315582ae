"""A page read as text, and driven in a browser where there is one."""

from __future__ import annotations

import html as escapes
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
VOID = {"meta", "link", "input", "br"}


class Reader(HTMLParser):
    """Open elements, everything that would be loaded, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.loaded += [facts[name] or "" for name in ("src", "href", "srcset", "data") if name in facts]
        self.ids += [facts["id"] or ""] if "id" in facts else []
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data


def read(html: str) -> Reader:
    """What a page holds; every element is closed."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def drive(html: str, script: str, folder: Path, width: int = 500) -> dict[str, Any]:
    """What a script leaves in `seen` after it has run in the page; the browser's console stays empty."""
    left = 'document.body.setAttribute("data-seen", JSON.stringify(seen));'
    said = f"<script>{{const seen = {{}};\n{script}\n{left}}}</script>"
    file = folder / "page.html"
    file.write_text(html.replace("</body>", said + "</body>"), encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", f"--window-size={width},900",
        "--virtual-time-budget=2000", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found is not None
    return json.loads(escapes.unescape(found[1]))
