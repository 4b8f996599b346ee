"""What a model returns on purpose, beside what it only lets one look at."""

from __future__ import annotations

__all__ = ["outputs_of"]

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

# Entries of the dictionaries that transformers returns: values on the way to the result, not the result.
_ON_THE_WAY = frozenset((
    "past_key_values", "hidden_states", "attentions", "cross_attentions", "encoder_last_hidden_state",
    "encoder_hidden_states", "encoder_attentions", "decoder_hidden_states", "decoder_attentions", "cache_params",
    "state", "rnn_state", "mems", "router_logits", "encoder_router_logits", "decoder_router_logits",
    "intermediate_hidden_states", "intermediate_reference_points", "init_reference_points", "extract_features",
    "text_model_output", "vision_model_output", "image_hidden_states",
))  # fmt: skip


def outputs_of(result: Any) -> list[Tensor]:
    """Return the tensors that a model's result consists of.

    Of a mapping, what is only on the way to the result (caches, hidden states, the encoder's last ones) is left out,
    where anything else is there; the last hidden states count where there are no logits.

    Args:
        result: what a forward pass returned: tensors in any nesting of lists, tuples and mappings.

    >>> import torch
    >>> len(outputs_of({"logits": torch.zeros(1), "encoder_last_hidden_state": torch.zeros(2)}))
    1
    """
    if isinstance(result, Mapping):
        entries = dict(result)
        scored = any(
            "logits" in name or name.startswith("pred_") or name.endswith("_embeds") for name in map(str, entries)
        )
        kept = {
            name: value
            for name, value in entries.items()
            if name not in _ON_THE_WAY and not (scored and name == "last_hidden_state")
        }
        found = [leaf for value in (kept or entries).values() for leaf in outputs_of(value)]
        return found or [leaf for leaf in tree_leaves(entries) if isinstance(leaf, Tensor)]
    if isinstance(result, list | tuple) and not hasattr(result, "_fields"):
        return [leaf for part in result for leaf in outputs_of(part)]
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
