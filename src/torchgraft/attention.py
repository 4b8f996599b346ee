"""Inner structure of linear layers: fused projections split into parts, heads as units.

A fused ``qkv`` is three layers in one matrix and a packed gated MLP is two. Each part must meet its own counterpart,
whether the other network fuses it or not, and a head must be kept or dropped as a whole. Only shapes and the integers
that a module carries (``num_heads``, ``head_dim``, ``config``) are looked at, never a module's name.
"""

from __future__ import annotations

__all__ = ["HEAD_COUNTS", "HEAD_SIZES", "KEY_VALUE_COUNTS", "Heads", "fused_parts", "heads_of", "units_of"]

from dataclasses import dataclass
from typing import Any

from torch import nn

from torchgraft.records import Shape

#: How libraries call the number of query heads of an attention, the size of a head, and the number of key heads.
HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
HEAD_SIZES = ("head_dim", "attention_head_size", "key_value_proj_dim", "attn_head_size", "head_size")
KEY_VALUE_COUNTS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")

# These store their fused projection head by head, (heads, 3, head_dim), instead of (3, heads, head_dim).
_INTERLEAVED = frozenset(
    {"GPTNeoXAttention", "BloomAttention", "FalconAttention", "PersimmonAttention", "CodeGenAttention"}
)


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads of an attention module: how many for queries, how many for keys and values, and their size."""

    query: int
    key_value: int
    size: int
    interleaved: bool = False


def _integer(names: tuple[str, ...], *holders: Any) -> int | None:
    for holder in holders:
        values = getattr(holder, "__dict__", {})
        for name in names:
            value = values.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def heads_of(module: nn.Module, width: int) -> Heads | None:
    """Return the heads that ``module`` declares, given the ``width`` of its input; ``None`` where it declares none."""
    own = module.__dict__
    config = own.get("config")
    count = _integer(HEAD_COUNTS, module, config)
    size = _integer(HEAD_SIZES, module)
    if count is None or not (size or own.get("num_heads") or own.get("num_attention_heads") or own.get("n_heads")):
        return None
    width = width or int(own.get("embed_dim", 0))
    size = size or (width // count if width and width % count == 0 else None)
    if size is None:
        return None
    key_value = _integer(KEY_VALUE_COUNTS, module, config) or count
    return Heads(count, key_value, size, type(module).__name__ in _INTERLEAVED)


def fused_parts(out: int, width: int, heads: Heads | None, follower: int | None) -> tuple[int, ...]:
    """Return the sizes of the parts that an ``(out, width)`` matrix stacks along its outputs.

    ``follower`` is the input width of the linear layer after it: a gated MLP computes twice what the next layer reads.

    >>> fused_parts(576, 192, Heads(3, 3, 64), None), fused_parts(192, 192, None, 192)
    ((192, 192, 192), (192,))
    """
    if heads is not None:
        if heads.interleaved:
            return (out,)
        query, key_value = heads.query * heads.size, heads.key_value * heads.size
        if out == query + 2 * key_value:
            return (query, key_value, key_value)
        if out == 2 * key_value and out != query:
            return (key_value, key_value)
        if out % 3 == 0 and out == 3 * width:
            return (width, width, width)
    elif follower is not None and out == 2 * follower and out != width:
        return (follower, follower)
    return (out,)


def units_of(size: int, heads: Heads | None) -> Shape:
    """Factor an axis into ``(heads, head size)`` where it holds whole heads.

    >>> units_of(768, Heads(12, 12, 64)), units_of(100, Heads(12, 12, 64)), units_of(768, None)
    ((12, 64), (100,), (768,))
    """
    if heads is None or size % heads.size or size == heads.size:
        return (size,)
    if heads.interleaved and size == 3 * heads.query * heads.size:
        return (heads.query, 3, heads.size)
    return (size // heads.size, heads.size)
