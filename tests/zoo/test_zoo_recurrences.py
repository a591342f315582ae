"""Pretrained recurrences do what they were trained for. Skipped where their packages cannot be fetched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from abreast import core, solve, zoo


@pytest.fixture(scope="module", autouse=True)
def fetched() -> None:
    try:
        for name in ("silero-vad", "speech", "g2p-en", "cmudict"):
            zoo.fetch(name, on_progress=lambda megabytes: None)
    except core.AbreastError as error:
        pytest.skip(str(error))


def unrolled(given: zoo.Unrolled) -> Any:
    with torch.no_grad():
        return core.run(solve.CellSequence(given.cell, given.inputs, given.h0), solve.Loop()).value


def test_speech_is_told_from_silence() -> None:
    sound = zoo.spoken(4.0, silence=2.0)
    given = zoo.silero_lstm(sound)
    said = given.read(unrolled(given))[:, 0]
    loud = torch.from_numpy(sound[: 125 * 512]).view(125, 512).pow(2).mean(1).argsort()[-40:]
    assert said[loud].mean() > 0.9 and said[-30:].mean() < 0.05


def test_a_batch_of_sounds_is_each_by_itself() -> None:
    both = np.stack((zoo.spoken(1.0), zoo.spoken(2.0)[16_000:32_000]))
    given = zoo.silero_lstm(both, "float64")
    alone = zoo.silero_lstm(both[1], "float64")
    assert torch.allclose(unrolled(given)[:, 1], unrolled(alone)[:, 0], atol=1e-5)


def test_words_are_said() -> None:
    reader, speaker = zoo.g2p_gru(["hello", "world", "speech", "machine"])
    assert torch.allclose(reader.read(unrolled(reader)), speaker.h0, atol=1e-5)
    assert speaker.read(unrolled(speaker)) == [
        ["HH", "EH1", "L", "OW0"], ["W", "ER1", "L", "D"], ["S", "P", "IY1", "CH"], ["M", "AH0", "SH", "IY1", "N"],
    ]  # fmt: skip


def test_most_dictionary_words_are_said_right() -> None:
    known = zoo.pronunciations(100, seed=1)
    speaker = zoo.g2p_gru(list(known))[1]
    said = speaker.read(unrolled(speaker))
    assert sum(a in ways for a, ways in zip(said, known.values())) > 55


def test_newton_finds_the_detectors_states() -> None:
    given = zoo.silero_lstm(zoo.spoken(1.0), "float64")
    problem = solve.CellSequence(given.cell, given.inputs, given.h0)
    with torch.no_grad():
        found = core.run(problem, solve.DEER(atol=1e-9, rtol=0), against=core.run(problem, solve.Loop()))
    assert found.kept and found.distance < 1e-10


def test_bad_input() -> None:
    with pytest.raises(core.AbreastError, match="letters a to z"):
        zoo.g2p_gru(["naïve"])
    with pytest.raises(core.AbreastError, match="512 at least"):
        zoo.silero_lstm(np.zeros(100, np.float32))
