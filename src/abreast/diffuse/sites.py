"""Where a network mixes positions of the picture: what must talk when the picture is cut into patches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import nn

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Site:
    """A module that mixes positions. name: its path in the network.

    kind: "conv" looks `reach` positions to each side; "patch" is a convolution whose windows do not overlap, so that
    patches of their size are enough; "norm" takes means over the picture; "attention" looks everywhere ("joint": over
    picture and prompt together), "cross" at the prompt alone.
    """

    name: str
    kind: Literal["conv", "patch", "norm", "attention", "joint", "cross"]
    module: nn.Module = field(repr=False, compare=False)
    reach: tuple[int, ...] = ()


def find_sites(module: nn.Module) -> list[Site]:
    """Every site of a network, found by type, in the order in which the modules were registered."""
    found = []
    for name, part in module.named_modules():
        if isinstance(part, _CONVS):
            if any(k > 1 for k in part.kernel_size):
                apart = all(k <= s for k, s in zip(part.kernel_size, part.stride))
                reach = tuple((k - 1) * d // 2 for k, d in zip(part.kernel_size, part.dilation))
                found.append(Site(name, "patch" if apart else "conv", part, reach))
        elif isinstance(part, nn.GroupNorm):
            found.append(Site(name, "norm", part))
        elif hasattr(part, "processor") or isinstance(part, nn.MultiheadAttention):
            found.append(Site(name, _attends(part), part))
    return found


def _attends(part: nn.Module) -> Literal["attention", "joint", "cross"]:
    if getattr(part, "added_kv_proj_dim", None) is not None:
        return "joint"
    cross = getattr(part, "is_cross_attention", None)
    if cross is None:
        cross = getattr(part, "cross_attention_dim_head", None) is not None
    return "cross" if cross else "attention"
