"""Matrix products at few rows: which form of the same product is cheapest for a shape is a property of the CPU.

    linear   F.linear: the library's choice, good from many rows on
    turned   mm(W, x.T).T: the weights as the left operand
    packed   oneDNN's blocked weights, reordered once (a second copy of them)

`tune` measures the forms on the model's own weights and fixes one for every row count, the packed copies being kept
only where they are used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch.nn.functional import linear

ROWS = (1, 2, 4, 8, 16, 32)
SAME = 32  # rows up to which oneDNN takes the same kernel; more are cut, as far as bits are to be kept
MOST = 64  # rows up to which the form is looked up; beyond, the largest measured count decides


def packable(weight: torch.Tensor) -> bool:
    """Whether oneDNN can hold this matrix in blocks."""
    return (
        weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and weight.dtype in (torch.float32, torch.bfloat16)
        and (weight.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


class Matrix:
    """y = x W.T + b for x [m, in], W [out, in]; y is contiguous."""

    def __init__(self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]):
        parts = [w.detach() for w in weights]
        self.weight = parts[0] if len(parts) == 1 else torch.cat(parts)
        given = [b.detach() if b is not None else w.new_zeros(len(w)) for w, b in zip(parts, biases)]
        self.bias = torch.cat(given) if any(b is not None for b in biases) else None
        self.packed: torch.Tensor | None = None
        self.form = ["linear"] * (MOST + 1)

    def pack(self) -> None:
        if self.packed is None and packable(self.weight):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, 16)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.as_form(x, self.form[min(len(x), MOST)])

    def as_form(self, x: torch.Tensor, form: str) -> torch.Tensor:
        if form == "packed":
            if SAME < len(x) <= MOST:
                return torch.cat([self.as_form(part, form) for part in x.split(SAME)])
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        if form == "turned":
            y = torch.mm(self.weight, x.t()).t().contiguous()  # the steps between products read rows where they lie
            return y if self.bias is None else y + self.bias
        return linear(x, self.weight, self.bias)

    def settle(self, forms: Sequence[str]) -> None:
        """Fix the form of every row count: forms[i] up to ROWS[i] rows."""
        for rows, form in reversed(list(zip(ROWS, forms))):
            self.form[: rows + 1] = [form] * (rows + 1)
        self.form[ROWS[-1] :] = [forms[-1]] * (MOST + 1 - ROWS[-1])
        if "packed" in forms:
            self.pack()
        else:
            self.packed = None


def tune(matrices: Sequence[Matrix], repeats: int = 3, seconds: float = 0.1) -> bool:
    """Fix the form of all of a model's products for every row count, by timing them one after the other in the order
    of a call, so that weights come from memory and not from a cache. `repeats` and `seconds` are spent on each row
    count at least.

    Packed weights everywhere are preferred where they cost at most 1.15 times the cheapest forms at every row count:
    their kernel is the same at all of them, which is what makes a row's bits independent of its companions. Returns
    whether they were.
    """
    forms = ["linear", "turned", *(["packed"] if all(packable(m.weight) for m in matrices) else [])]
    if "packed" in forms:
        for matrix in matrices:
            matrix.pack()
    costs = [_costs(matrices, rows, forms, repeats, seconds) for rows in ROWS]
    best = [min(at, key=lambda form: at[form]) for at in costs]
    packed = "packed" in forms and all(at["packed"] <= 1.15 * at[form] for at, form in zip(costs, best))
    if packed:
        best = ["packed"] * len(ROWS)
    for matrix in matrices:
        matrix.settle(best)
    return packed


def _costs(
    matrices: Sequence[Matrix], rows: int, forms: Sequence[str], repeats: int, seconds: float
) -> dict[str, float]:
    """Seconds of all products in each form, taken in turns, so that a busy moment of the machine meets all of them."""
    inputs = {m.weight.shape[1]: m.weight.new_ones(rows, m.weight.shape[1]) for m in matrices}
    best = dict.fromkeys(forms, float("inf"))
    turns, end = 0, time.perf_counter() + seconds
    while turns <= repeats or time.perf_counter() < end:
        for form in forms:
            start = time.perf_counter()
            for matrix in matrices:
                matrix.as_form(inputs[matrix.weight.shape[1]], form)
            best[form] = min(best[form], time.perf_counter() - start)
        turns += 1
    return best
