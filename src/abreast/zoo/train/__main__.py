"""`python -m abreast.zoo.train NAME --out FOLDER`: how each of the shipped weights was made.

Seeds are fixed, a run that was stopped goes on from its checkpoint, and each NAME needs the ones before it:
code, code-draft, code-medusa, code-blockwise; smollm2-medusa, smollm2-blockwise. The diffusion models need nothing:
digits-unet, digits-dit, carphone-dit, photos-unet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from abreast import zoo
from abreast.decode.draft.heads import BlockwiseHeads, MedusaHeads
from abreast.zoo.train import code
from abreast.zoo.train.heads import gather, train_heads


def code_heads(kind: str, out: Path) -> None:
    """Heads of the code model, on its own continuations of training files."""
    model, tokenizer = zoo.load(str(out / "code"), "bfloat16")
    stream = code.encode(tokenizer, code.training_files())
    starts = torch.randint(len(stream) - 200, (1500,), generator=torch.Generator().manual_seed(5))
    prompts = [stream[s : s + 96].tolist() for s in starts.tolist()]
    data = gather(model, prompts, 160, out / "code-answers.safetensors")
    torch.manual_seed(0)
    heads = MedusaHeads(4, 256) if kind == "medusa" else BlockwiseHeads(3, 256, 256)
    train_heads(heads, model, data, out / f"code-{kind}", steps=2000, rate=2e-3)


def smollm2_heads(kind: str, out: Path) -> None:
    """Heads of SmolLM2, on its own answers to prompts of ours; never on those that are evaluated."""
    model, tokenizer = zoo.load("smollm2", "bfloat16")
    prompts = [zoo.chat_ids(tokenizer, prompt) for prompt in zoo.training_prompts(0, 800)]
    data = gather(model, [p for p in prompts if len(p) < 400], 128, out / "smollm2-answers.safetensors")
    torch.manual_seed(0)
    heads = MedusaHeads(4, 576, pending=True) if kind == "medusa" else BlockwiseHeads(3, 576, 128)
    train_heads(heads, model, data, out / f"smollm2-{kind}", steps=1500)


def diffusion(name: str, out: Path) -> None:
    """A diffusion model on pictures or a clip that packages ship."""
    from abreast.zoo.train.diffusion import train

    train(name, out / name)


RECIPES = {
    "code": lambda out: code.train_code(out / "code"),
    "code-draft": lambda out: code.train_draft(out / "code-draft", out / "code"),
    "code-medusa": lambda out: code_heads("medusa", out),
    "code-blockwise": lambda out: code_heads("blockwise", out),
    "smollm2-medusa": lambda out: smollm2_heads("medusa", out),
    "smollm2-blockwise": lambda out: smollm2_heads("blockwise", out),
    "digits-unet": lambda out: diffusion("digits-unet", out),
    "digits-dit": lambda out: diffusion("digits-dit", out),
    "carphone-dit": lambda out: diffusion("carphone-dit", out),
    "photos-unet": lambda out: diffusion("photos-unet", out),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--out", type=Path, default=Path("out/zoo"))
    arguments = parser.parse_args()
    RECIPES[arguments.name](arguments.out)
