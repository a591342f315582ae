"""The places of a network that mix the rows of a picture, and how a rank's strip takes its part there.

Convolutions wider than a row, group norms and self-attention mix rows; everything else works on a strip as it is. A
network that keeps the picture's shape (UNet, decoder of a VAE) is shown a strip of its input. A transformer cannot be,
as it takes the shape of what it sees for that of the picture: there the tokens are cut before the first block and put
into their places after the last.

The ranks of one process share the module. So what is installed in it only asks for the strip of the current context,
which is each thread's own, and works as before where there is none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import nn

from abreast.core import AbreastError
from abreast.diffuse.sites import find_sites

Kind = Literal["conv", "norm", "keys", "text", "block", "fill", "attention"]
_UNKNOWN = (
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Conv3d, nn.InstanceNorm1d, nn.InstanceNorm2d,
    nn.BatchNorm2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.RNNBase,
)  # fmt: skip
_UNKNOWN_NAMES = {"FirDownsample2D", "FirUpsample2D", "AdaGroupNorm", "SpatialNorm", "TransformerTemporalModel"}


@dataclass(frozen=True)
class PatchSite:
    """One such place. kind: "keys" is what computes keys or values from the strip's own tokens, "text" from a prompt.
    halo: rows that a convolution reads above and below a strip. spare: rows of zeros that were added below the strip.
    first: it reads the network's own input, or is the first of the blocks; last: of the blocks."""

    name: str
    module: nn.Module
    kind: Kind
    halo: tuple[int, int] = (0, 0)
    spare: int = 0
    first: bool = False
    last: bool = False


class Visitor(Protocol):
    """What a rank does at a site, in place of the module's own forward."""

    def visit(
        self, site: PatchSite, plain: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any: ...


_current: ContextVar[Visitor | None] = ContextVar("strip", default=None)
_installed: dict[int, _Installed] = {}
_lock = threading.Lock()


def in_tokens(module: nn.Module) -> bool:
    """Whether a network is a transformer whose tokens are cut, not its picture."""
    return hasattr(module, "transformer_blocks")


def multiple(module: nn.Module) -> int:
    """Strips of this network's input are multiples of so many rows: of its patch size, or its total downsampling, so
    that every convolution that halves starts on an even row."""
    if in_tokens(module):
        return int(getattr(module.config, "patch_size", 1) or 1)
    blocks = getattr(module, "down_blocks", ())
    return 2 ** sum(bool(getattr(block, "downsamplers", None)) for block in blocks)


def find(module: nn.Module) -> list[PatchSite]:
    """The sites of a network. Raises AbreastError where it has parts that mix rows in ways not known here."""
    name = type(module).__name__
    if in_tokens(module):
        last = next((n for n in ("proj_out_2", "proj_out") if isinstance(getattr(module, n, None), nn.Linear)), None)
        if last is None:
            raise AbreastError(f"{name} has no last projection of tokens that is known here: its tokens are not cut.")
        others = [n for n, child in module.named_children() if n != "transformer_blocks" and _attends(child)]
        if others:
            raise AbreastError(f"{name} also attends in {others[0]}, which is not known here: its tokens are not cut.")
        blocks: Any = module.transformer_blocks
        inner = list(_inner(blocks, "transformer_blocks."))
        wide = [s.name for s in inner if s.kind in ("conv", "norm")]
        if wide:
            raise AbreastError(f"{name} mixes rows of tokens in {wide[0]}, so they cannot be cut.")
        end = len(blocks) - 1
        outer = [
            PatchSite(f"transformer_blocks.{k}", b, "block", first=k == 0, last=k == end) for k, b in enumerate(blocks)
        ]
        return [*outer, *inner, PatchSite(last, module.get_submodule(last), "fill")]
    if not any(hasattr(module, part) for part in ("down_blocks", "up_blocks")):
        raise AbreastError(f"patches need a UNet or a transformer of diffusers, not {name}.")
    return list(_inner(module, ""))


def _attends(module: nn.Module) -> bool:
    return any(hasattr(m, "to_k") for m in module.modules())


def _inner(module: nn.Module, prefix: str) -> Iterator[PatchSite]:
    config = getattr(module, "config", None)
    # A network that shifts its input first shows its first convolution something else than what it was given.
    plain = not getattr(config, "center_input_sample", False)
    spare = {
        id(m.conv): 1 for m in module.modules() if type(m).__name__ == "Downsample2D" and m.use_conv and m.padding == 0
    }
    for inner, m in module.named_modules():
        if isinstance(m, _UNKNOWN) or type(m).__name__ in _UNKNOWN_NAMES:
            raise AbreastError(f"{prefix}{inner} is a {type(m).__name__}, which mixes rows in an unknown way.")
    for found in find_sites(module):
        name, m = prefix + found.name, found.module
        if found.kind == "conv" and isinstance(m, nn.Conv2d):
            if m.padding_mode != "zeros" or isinstance(m.padding, str):
                raise AbreastError(f"{name} pads by {m.padding_mode} {m.padding}; strips know rows of zeros.")
            above = int(m.padding[0])
            below = max(0, (m.kernel_size[0] - 1) * m.dilation[0] - above - (m.stride[0] - 1))
            yield PatchSite(name, m, "conv", (above, below), spare.get(id(m), 0), plain and name == "conv_in")
        elif found.kind == "norm":
            yield PatchSite(name, m, "norm")
        elif found.kind in ("attention", "joint", "cross"):
            if not hasattr(m, "is_cross_attention") or getattr(m, "fused_projections", False):
                how = "fused " if hasattr(m, "is_cross_attention") else ""
                raise AbreastError(f"{name} is a {how}{type(m).__name__}, whose keys cannot be exchanged.")
            yield PatchSite(name, m, "attention", first=name == "transformer_blocks.0.attn1")
            for part in ("to_k", "to_v"):
                if isinstance(getattr(m, part), nn.Module):
                    yield PatchSite(f"{name}.{part}", getattr(m, part), "text" if found.kind == "cross" else "keys")


class _Installed:
    """Forwards that ask for the strip, in as many modules as a network has sites."""

    def __init__(self, sites: list[PatchSite]):
        self.users, self.sites = 0, sites
        self.before = [site.module.__dict__.get("forward") for site in sites]
        for site in sites:
            site.module.forward = _asking(site, site.module.forward)

    def remove(self) -> None:
        for site, before in zip(reversed(self.sites), reversed(self.before)):
            del site.module.forward
            if before is not None:
                site.module.forward = before


def _asking(site: PatchSite, plain: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        strip = _current.get()
        return plain(*args, **kwargs) if strip is None else strip.visit(site, plain, args, kwargs)

    return forward


@contextmanager
def installed(module: nn.Module) -> Iterator[None]:
    """The network's sites ask for strips until all who have entered this have left; then it is as it was before."""
    with _lock:
        if id(module) not in _installed:
            _installed[id(module)] = _Installed(find(module))
        _installed[id(module)].users += 1
    try:
        yield
    finally:
        with _lock:
            here = _installed[id(module)]
            here.users -= 1
            if not here.users:
                del _installed[id(module)]
                here.remove()


@contextmanager
def visiting(strip: Visitor) -> Iterator[None]:
    """This rank's strip is what sites ask."""
    token = _current.set(strip)
    try:
        yield
    finally:
        _current.reset(token)
