"""Pretrained recurrences with real inputs: the LSTM of a voice activity detector on speech, and the GRUs that read and
pronounce English words.

Axes: T steps, B batch, I inputs, H hidden units, S samples of sound.
"""

from __future__ import annotations

import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from abreast.core.errors import AbreastError
from abreast.core.noise import uniform
from abreast.zoo.manifest import fetch

if TYPE_CHECKING:
    import torch

RATE, CHUNK, CONTEXT = 16_000, 512, 64  # samples: a second, a step of the detector, and what it sees of the one before
LETTERS = ["<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz"]
_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH".split()
_PHONES = {v: [v + "0", v + "1", v + "2"] for v in _VOWELS} | {"UW": ["UW", "UW0", "UW1", "UW2"]}
for _phone in "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split():
    _PHONES[_phone] = [_phone]
PHONEMES = ["<pad>", "<unk>", "<s>", "</s>", *(p for name in sorted(_PHONES) for p in _PHONES[name])]
_MOST = 20  # phonemes of a word


@dataclass(frozen=True)
class Unrolled:
    """A pretrained cell, and what it is run over. inputs [T, B, I]; h0 [B, state], of an LSTM h and then c; read:
    states [T, B, state] -> what the model around it makes of them."""

    cell: torch.nn.RNNCellBase = field(repr=False)
    inputs: torch.Tensor = field(repr=False)
    h0: torch.Tensor = field(repr=False)
    read: Callable[[torch.Tensor], Any] = field(repr=False)
    what: str


def spoken(seconds: float = 10.0, silence: float = 0.0) -> np.ndarray:
    """Speech at 16 kHz, float32 [S], from a recording of ten seconds; after it as many `seconds` of `silence` (faint
    noise, 1e-4). Raises AbreastError where it cannot be fetched."""
    with wave.open(str(fetch("speech")), "rb") as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
            raise AbreastError(
                "the recording is not mono, 16 bits, 16 kHz: another version of its package was fetched."
            )
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    noise = uniform(0, "silence", 0, n=max(1, round(silence * RATE))) - 0.5
    return np.concatenate((sound[: round(seconds * RATE)], (2e-4 * noise[: round(silence * RATE)]).astype(np.float32)))


def silero_lstm(sound: np.ndarray | None = None, dtype: str = "float32") -> Unrolled:
    """The LSTM of silero-vad over sound [S] or [B, S] at 16 kHz, `spoken()` where not given: a step every 32 ms.

    `read` gives the probability [T, B] that somebody speaks. Raises AbreastError where the weights cannot be fetched,
    or the sound is shorter than a step.
    """
    import torch
    from safetensors.torch import load_file
    from torch.nn import functional as F

    w = load_file(fetch("silero-vad"))
    sound_BS = torch.atleast_2d(torch.from_numpy(spoken() if sound is None else np.asarray(sound, np.float32)))
    T = sound_BS.shape[1] // CHUNK
    if sound_BS.dim() != 2 or T < 1:
        raise AbreastError(f"sound is [samples] or [batch, samples], {CHUNK} at least, not {list(sound_BS.shape)}.")
    seen = F.pad(sound_BS[:, : T * CHUNK], (CONTEXT, 0)).unfold(1, CHUNK + CONTEXT, CHUNK)  # [B, T, chunk + context]
    x = F.pad(seen.flatten(0, 1)[:, None], (0, CONTEXT), "reflect")
    waves = F.conv1d(x, w["stft_conv.weight"], stride=128)
    half = waves.shape[1] // 2
    x = (waves[:, :half] ** 2 + waves[:, half:] ** 2).sqrt()
    for k, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
        x = F.conv1d(x, w[f"conv{k}.weight"], w[f"conv{k}.bias"], stride=stride, padding=1).relu()
    kind = getattr(torch, dtype)
    inputs = x[..., 0].view(-1, T, 128).transpose(0, 1).contiguous().to(kind)
    cell = _cell(torch.nn.LSTMCell, [w[f"lstm_cell.{name}"] for name in _NAMES], kind)
    head, bias = w["final_conv.weight"][0, :, 0].to(kind), w["final_conv.bias"].to(kind)

    def read(states: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(states[..., :128].relu() @ head + bias)

    return Unrolled(cell, inputs, inputs.new_zeros(inputs.shape[1], 256), read, "silero-vad's LSTM on speech")


_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def g2p_gru(words: Sequence[str], dtype: str = "float32") -> tuple[Unrolled, Unrolled]:
    """The two GRUs of g2p-en on words: the one that reads their letters, and the one that says their phonemes.

    Shorter words are padded, T being the longest; h0 of the second is where the first ends, its inputs what it said
    itself, one phoneme after the other. `read` gives the first's last states [B, H], the second's phonemes, a list for
    each word. Raises AbreastError where the weights cannot be fetched, or a word has other characters than a to z.
    """
    import torch

    bad = [word for word in words if not word or set(word) - set(LETTERS[3:])]
    if bad or not words:
        raise AbreastError(f"words are in the letters a to z, at least one of them, not {bad[0] if bad else words!r}.")
    with np.load(fetch("g2p-en")) as stored:
        w = {name: torch.from_numpy(stored[name]).to(getattr(torch, dtype)) for name in stored.files}
    ends = torch.tensor([len(word) for word in words])
    ids = torch.zeros(int(ends.max()) + 1, len(words), dtype=torch.long)
    for b, word in enumerate(words):
        ids[: len(word) + 1, b] = torch.tensor([*map(LETTERS.index, word), LETTERS.index("</s>")])
    reader = _cell(torch.nn.GRUCell, [w[f"enc_{_short(name)}"] for name in _NAMES], w["fc_b"].dtype)
    speaker = _cell(torch.nn.GRUCell, [w[f"dec_{_short(name)}"] for name in _NAMES], w["fc_b"].dtype)
    inputs = w["enc_emb"][ids]

    def last(states: torch.Tensor) -> torch.Tensor:
        return states[ends, torch.arange(len(words))]

    def phonemes(states: torch.Tensor) -> list[list[str]]:
        said = (states @ w["fc_w"].T + w["fc_b"]).argmax(-1).T.tolist()
        return [[PHONEMES[p] for p in (row[: row.index(3)] if 3 in row else row)] for row in said]

    zero = inputs.new_zeros(len(words), inputs.shape[-1])
    with torch.no_grad():
        state, states = zero, []
        for x in inputs:
            state = reader(x, state)
            states.append(state)
        start = state = last(torch.stack(states))
        token, heard = torch.full((len(words),), 2), []
        for _ in range(_MOST):
            heard.append(w["dec_emb"][token])
            state = speaker(heard[-1], state)
            token = (state @ w["fc_w"].T + w["fc_b"]).argmax(-1)
    return (
        Unrolled(reader, inputs, zero, last, "g2p-en's GRU reading words"),
        Unrolled(speaker, torch.stack(heard), start, phonemes, "g2p-en's GRU pronouncing words"),
    )


def pronunciations(n: int, seed: int = 0, least: int = 3) -> dict[str, list[list[str]]]:
    """n words of the CMU dictionary of at least `least` letters, drawn by `seed`, each with the ways it is said."""
    known: dict[str, list[list[str]]] = {}
    for line in fetch("cmudict").read_text(encoding="utf-8").splitlines():
        word, *phones = line.split("#")[0].split()
        word = word.partition("(")[0]
        if len(word) >= least and not set(word) - set(LETTERS[3:]):
            known.setdefault(word, []).append(phones)
    order = np.argsort(uniform(seed, "words", 0, n=len(known)))[:n]
    names = list(known)
    return {names[i]: known[names[i]] for i in order}


def _short(name: str) -> str:
    return name.replace("weight", "w").replace("bias", "b")


def _cell(kind: Any, weights: Sequence[torch.Tensor], dtype: torch.dtype) -> Any:
    """A torch cell with given weights, frozen."""
    cell = kind(weights[0].shape[1], weights[1].shape[1]).to(dtype)
    for name, weight in zip(_NAMES, weights):
        getattr(cell, name).data.copy_(weight)
    return cell.requires_grad_(False).eval()
