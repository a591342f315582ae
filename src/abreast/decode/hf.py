"""Any Hugging Face causal LM as rows: 4-D masks and position ids over a slot cache, checked by a self-test.

Several architectures ignore the mask or the positions without a word, so whether one obeys is found out by computing
three nodes of a tree and comparing each with its own sequential run.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from abreast.attention import SlotCache
from abreast.core import AbreastError
from abreast.decode.model import Out


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values, written into the slots of the call and read up to the extent."""

    is_sliding, is_croppable = False, True  # a window is the mask's business

    def __init__(self, slots: _Slots):
        super().__init__()
        self.slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        shape = self.slots.cache.capacity
        self.keys, self.values = (t.new_zeros(*t.shape[:2], shape, t.shape[3]) for t in (key_states, value_states))
        self.slots.cache.storage += [self.keys, self.values]
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        self.keys[:, :, self.slots.taken] = key_states
        self.values[:, :, self.slots.taken] = value_states
        extent = self.slots.extent
        return self.keys[:, :, :extent], self.values[:, :, :extent]

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        return self.slots.extent, 0

    def get_seq_length(self) -> int:
        return self.slots.cache.length

    def get_max_cache_shape(self) -> int:
        return self.slots.cache.capacity

    get_max_length = get_max_cache_shape


class _Slots(Cache):
    """The library's view of a SlotCache."""

    def __init__(self, cache: SlotCache, layers: int):
        self.cache, self.taken, self.extent = cache, slice(0, 0), 0
        super().__init__(layers=[_SlotLayer(self) for _ in range(layers)])


class _HFSlotCache(SlotCache):
    def __init__(self, capacity: int, device: torch.device, layers: int):
        super().__init__(capacity, device)
        self.view = _Slots(self, layers)


class HFRows:
    """The generic adapter. Rows are padded to a multiple of 4 and extents to 16, which keeps the order of summation
    of kernels that have one."""

    def __init__(self, model: Any):
        names = inspect.signature(model.forward).parameters
        kind = type(model).__name__
        if "position_ids" not in names:
            raise AbreastError(f"{kind} takes no position_ids, so several guesses cannot share one call of it.")
        self.model, self.config = model, model.config.get_text_config(decoder=True)
        self.key = "cache" if "cache" in names else "past_key_values"
        self.head = model.get_output_embeddings()
        if self.head is None:
            raise AbreastError(f"{kind} has no output embeddings: a causal language model is wanted.")
        self.vocab, self.width = self.head.weight.shape
        self.context = int(getattr(self.config, "max_position_embeddings", None) or 1 << 30)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.dtype, self.device = self.head.weight.dtype, self.head.weight.device
        self.steady = self.trees = False
        model.eval()

    def cache(self, capacity: int) -> SlotCache:
        return _HFSlotCache(capacity + 16, self.device, self.config.num_hidden_layers)

    @torch.no_grad()
    def forward(
        self, cache: SlotCache, tokens: torch.Tensor, positions: torch.Tensor, owners: torch.Tensor,
        see: torch.Tensor, want: slice | torch.Tensor,
    ) -> Out:  # fmt: skip
        m, pad = len(tokens), -len(tokens) % 4
        assert isinstance(cache, _HFSlotCache)
        start, view = cache.length, cache.view
        view.taken = cache.append(*(torch.nn.functional.pad(x, (0, pad)) for x in (positions, owners)))
        view.extent = cache.extent
        whole = torch.zeros(m + pad, cache.extent, dtype=torch.bool, device=self.device)
        whole[:m, : see.shape[1]] = see
        own = torch.arange(m, m + pad, device=self.device)
        whole[own, start + own] = True
        hidden: list[torch.Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda module, args: hidden.append(args[0][0]))
        rows = torch.arange(m, device=self.device)[want]
        try:
            out = self.model(
                input_ids=torch.nn.functional.pad(tokens, (0, pad))[None],
                position_ids=torch.nn.functional.pad(positions, (0, pad))[None],
                attention_mask=self._masks(whole, torch.nn.functional.pad(positions, (0, pad)), cache),
                use_cache=True, logits_to_keep=rows, **{self.key: view},
            )  # fmt: skip
        finally:
            hook.remove()
        cache.crop(start + m)
        return Out(out.logits[0], hidden[0])

    def _masks(self, see: torch.Tensor, positions: torch.Tensor, cache: SlotCache) -> Any:
        """The mask in the form that the model takes: windows and chunks by position, a dict for mixed layers,
        additive for eager attention."""
        c = self.config
        keys, queries = cache.positions[None, : cache.extent], positions[:, None]
        window, chunk = getattr(c, "sliding_window", None), getattr(c, "attention_chunk_size", None)
        if window and not getattr(c, "use_sliding_window", True):
            window = None
        masks = {
            "full_attention": see,
            "sliding_attention": see & (keys > queries - window) if window else see,
            "chunked_attention": see & (keys // chunk == queries // chunk) if chunk else see,
        }
        kinds = set(getattr(c, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
        unknown = kinds - set(masks)
        if unknown:
            raise AbreastError(f"{type(self.model).__name__} has {', '.join(sorted(unknown))} layers, whose state "
                               "cannot be rolled back: only attention layers can verify guesses.")  # fmt: skip
        ready = {kind: self._form(mask)[None, None] for kind, mask in masks.items() if kind in kinds}
        return ready if len(kinds) > 1 else ready.popitem()[1]

    def _form(self, see: torch.Tensor) -> torch.Tensor:
        if self.config._attn_implementation != "eager":
            return see
        return torch.zeros(see.shape, dtype=self.dtype, device=see.device).masked_fill(
            ~see, torch.finfo(self.dtype).min
        )

    @torch.no_grad()
    def unembed(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head(hidden)

    def output(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head.weight.detach()[tokens]

    @torch.no_grad()
    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.get_input_embeddings()(tokens)
