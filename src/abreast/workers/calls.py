"""What ranks say to each other: the head of a call (shapes and dtypes, no data), whether all ranks of a group agree
about it, what it moves, and what comes out.

Both back ends use these functions, so that they refuse the same things in the same words and give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from abreast.core.errors import AbreastError, nearest

if TYPE_CHECKING:
    from torch import Tensor

OPS = ("sum", "mean", "max", "min")
REDUCING = ("all_reduce", "reduce_scatter")
MOST_AXES = 8
LARGEST_TAG = 1 << 20


class Spec(NamedTuple):
    """Dtype, shape and kind of device of a tensor."""

    dtype: Any
    shape: tuple[int, ...]
    device: str = "cpu"

    @property
    def bytes(self) -> int:
        """What its numbers take."""
        size = int(self.dtype.itemsize)
        for n in self.shape:
            size *= n
        return size

    def __str__(self) -> str:
        place = "" if self.device == "cpu" else f" on {self.device}"
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}{place}"


@dataclass(frozen=True)
class Head:
    """One rank's side of a call. op: of a reduction. peer: the source of a broadcast, the destination of a gather.
    specs: of the tensors that this rank brings, in order; none where it only receives. Of a split, op is the name and
    peer the colour."""

    kind: str
    op: str = ""
    peer: int = -1
    specs: tuple[Spec, ...] = ()

    def __str__(self) -> str:
        special = {"broadcast": f"source={self.peer}", "gather": f"to={self.peer}", "split": f"name={self.op!r}"}
        said = special.get(self.kind, f"op={self.op!r}" if self.op else "")
        return f"{self.kind}({said})" if said else self.kind


class Cost(NamedTuple):
    """What a transfer's event says: links used at once, rounds, bytes on all links together."""

    size: float
    span: float
    bytes: float


def spec(x: Any, kind: str) -> Spec:
    """The Spec of `x`. Raises AbreastError where it is no dense tensor, or part of a graph whose gradient would be
    lost on the way."""
    import torch

    if not isinstance(x, torch.Tensor):
        hint = "; torch.tensor(...) makes one" if isinstance(x, (int, float, list, tuple)) else ""
        raise AbreastError(f"{kind} moves torch tensors, not {type(x).__name__}{hint}.")
    if x.layout != torch.strided or x.is_quantized:
        raise AbreastError(f"{kind} moves dense tensors, not {x.layout} ones.")
    if x.dim() > MOST_AXES:
        raise AbreastError(f"{kind} moves tensors of at most {MOST_AXES} axes, not {x.dim()}.")
    if x.grad_fn is not None and torch.is_grad_enabled():
        raise AbreastError(
            f"{kind} would lose the gradient of this tensor: give x.detach(), or write an autograd Function."
        )
    return Spec(x.dtype, tuple(x.shape), x.device.type)


def check_op(kind: str, op: str, dtype: Any) -> None:
    """Raise AbreastError where this reduction is unknown, or means nothing for this dtype."""
    if op not in OPS:
        raise AbreastError(f"{kind} knows no op {op!r}: {nearest(str(op), OPS)}")
    if op == "mean" and not (dtype.is_floating_point or dtype.is_complex):
        raise AbreastError(f"{kind} has no mean of {str(dtype).removeprefix('torch.')}: convert it to floats, or sum.")
    if op in ("max", "min") and dtype.is_complex:
        raise AbreastError(f"{kind} has no {op} of complex numbers.")


def check_peer(kind: str, word: str, peer: Any, rank: int, size: int, oneself: bool = False) -> int:
    """`peer` as a rank of the group. Raises AbreastError where it is none, or the caller where that makes no sense."""
    if not isinstance(peer, int) or isinstance(peer, bool) or not 0 <= peer < size:
        raise AbreastError(f"{kind}: {word} must be a rank from 0 to {size - 1}, not {peer!r}.")
    if peer == rank and not oneself:
        raise AbreastError(f"{kind}: rank {rank} has no message for itself; {word} must be another rank.")
    return peer


def check_tag(kind: str, tag: Any) -> int:
    """`tag` where it is an integer in range. Raises AbreastError where it is not."""
    if not isinstance(tag, int) or isinstance(tag, bool) or not 0 <= tag < LARGEST_TAG:
        raise AbreastError(f"{kind}: a tag is an integer from 0 to {LARGEST_TAG - 1}, not {tag!r}.")
    return tag


def agree(heads: Sequence[Head], ranks: Sequence[int]) -> None:
    """Raise AbreastError unless all ranks mean the same call. ranks: the world ranks of the group, for the message."""
    first = heads[0]
    for rank, head in zip(ranks, heads):
        if str(head) != str(first):
            raise AbreastError(f"rank {ranks[0]} calls {first} where rank {rank} calls {head}: all must call the same.")
    places = {rank: s.device for rank, head in zip(ranks, heads) for s in head.specs}
    if len(set(places.values())) > 1:
        said = ", ".join(f"rank {rank} on {device}" for rank, device in places.items())
        raise AbreastError(f"{first.kind}: all tensors must be on one kind of device, not {said}.")
    if first.kind in REDUCING:
        for rank, head in zip(ranks, heads):
            if head.specs != first.specs:
                ours, theirs = _differing(first.specs, head.specs)
                raise AbreastError(
                    f"{first.kind}: rank {ranks[0]} brings {ours} where rank {rank} brings {theirs}; "
                    "all must bring the same dtype and shape."
                )
    if first.kind == "broadcast":
        sent = heads[first.peer].specs[0]
        for rank, head in zip(ranks, heads):
            if head.specs and head.specs[0] != sent:
                raise AbreastError(
                    f"broadcast: rank {ranks[first.peer]} sends {sent} where rank {rank} has {head.specs[0]}; "
                    "give the same dtype and shape, or None."
                )


def _differing(ours: Sequence[Spec], theirs: Sequence[Spec]) -> tuple[Spec, Spec]:
    return next((a, b) for a, b in zip(ours, theirs) if a != b)


def cost(heads: Sequence[Head]) -> Cost:
    """What a call costs by the textbook's ring (a broadcast is a pipelined chain; a gather arrives on one link).

    S bytes a rank, n ranks: all-reduce 2(n-1) rounds and 2(n-1)S bytes; all-gather n-1 and n(n-1)S; reduce-scatter
    half an all-reduce; all-to-all n-1 and what is not for oneself; broadcast and gather n-1 and (n-1)S; a barrier is an
    all-reduce of one byte. An empty transfer counts one byte, because what moves nothing is no transfer.
    """
    n, first = len(heads), heads[0]
    brought = [sum(s.bytes for s in head.specs) for head in heads]
    hops = float(n - 1)
    match first.kind:
        case "all_reduce":
            size, span, volume = float(n), 2 * hops, 2 * hops * brought[0]
        case "barrier":
            size, span, volume = float(n), 2 * hops, 2 * hops
        case "all_gather":
            size, span, volume = float(n), hops, hops * sum(brought)
        case "reduce_scatter":
            size, span, volume = float(n), hops, hops * brought[0]
        case "all_to_all":
            sent = sum(s.bytes for r, head in enumerate(heads) for to, s in enumerate(head.specs) if to != r)
            size, span, volume = float(n), hops, float(sent)
        case "broadcast":
            size, span, volume = hops, hops, hops * brought[first.peer]
        case "gather":
            size, span, volume = 1.0, hops, float(sum(brought) - brought[first.peer])
        case _:
            raise AssertionError(first.kind)
    return Cost(size, span, max(volume, 1.0))


def message(s: Spec) -> Cost:
    """What one message costs."""
    return Cost(1.0, 1.0, max(float(s.bytes), 1.0))


def fold(xs: Sequence[Tensor], op: str) -> Tensor:
    """The reduction of `xs` in rank order: ((x0 + x1) + x2) and so on, elementwise; a mean divides at the end."""
    import torch

    total = xs[0].clone()
    for x in xs[1:]:
        match op:
            case "sum" | "mean":
                total += x
            case "max":
                torch.maximum(total, x, out=total)
            case "min":
                torch.minimum(total, x, out=total)
            case "product":
                total *= x
            case "and":
                total &= x
            case "or":
                total |= x
            case "xor":
                total ^= x
            case _:
                raise AssertionError(op)
    if op == "mean":
        total /= len(xs)
    return total


def packed(x: Tensor) -> Tensor:
    """A contiguous copy of `x`, without its graph."""
    import torch

    return x.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)


def answer(heads: Sequence[Head], brought: Sequence[Sequence[Tensor]], rank: int, shared: dict[str, Tensor]) -> Any:
    """What `rank` gets out of a call, from copies of what all ranks brought. shared: kept between the ranks of one
    call, so that a sum is made once."""
    head = heads[rank]
    match head.kind:
        case "all_gather":
            return [tensors[0].clone() for tensors in brought]
        case "all_reduce":
            if "total" not in shared:
                shared["total"] = fold([tensors[0] for tensors in brought], head.op)
            return shared["total"].clone()
        case "reduce_scatter":
            return fold([tensors[rank] for tensors in brought], head.op)
        case "all_to_all":
            return [tensors[rank] for tensors in brought]
        case "broadcast":
            return brought[head.peer][0].clone()
        case "gather":
            return [tensors[0] for tensors in brought] if rank == head.peer else None
        case _:
            return None
