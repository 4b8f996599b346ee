"""Canonical keys: state-dict names without the components that wrapper modules put into them; names given once."""

from __future__ import annotations

__all__ = ["strip_wrappers", "unique"]

from collections.abc import Iterable, Sequence
from typing import TypeVar

from torchgraft.errors import CheckpointError

K = TypeVar("K")
V = TypeVar("V")

# A component that a wrapper adds wherever the wrapped module stands in the tree. No user names a module so.
#   _orig_mod                   torch.compile (torch/_dynamo/eval_frame.py)
#   _fsdp_wrapped_module        FSDP 1 (torch/distributed/fsdp/_common_utils.py); up to torch 1.12 it was _fpw_module
#   _checkpoint_wrapped_module  activation checkpointing and offloading wrappers of torch.distributed
#   _forward_module             Lightning Fabric
_ANYWHERE = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_forward_module"}
)
# DataParallel, DistributedDataParallel and AveragedModel all call their only child "module", as a user may call a
# real one: it counts as a wrapper only where it leads every key, because then nothing is told apart by it.
_LEADING = "module."
# AveragedModel's counter stands beside its "module" and belongs to no layer.
_COUNTER = "n_averaged"


def strip_wrappers(keys: Iterable[str]) -> dict[str, str]:
    """Map each state-dict key to its canonical key, the same key without wrapper components.

    ``_orig_mod``, ``_fsdp_wrapped_module``, ``_checkpoint_wrapped_module`` and their like go wherever they stand;
    ``module`` goes only at the front and only where it leads every key. The counter ``n_averaged`` of an
    ``AveragedModel`` has no canonical key and is left out of the result.

    Args:
        keys: the names of a state dict, in any order; the result keeps the order.

    Raises:
        CheckpointError: two keys have one canonical key, or a key names a flattened FSDP shard.

    >>> strip_wrappers(["module.stem._orig_mod.weight", "module.head.bias"])
    {'module.stem._orig_mod.weight': 'stem.weight', 'module.head.bias': 'head.bias'}
    >>> strip_wrappers(["module.weight", "head.bias"])
    {'module.weight': 'module.weight', 'head.bias': 'head.bias'}
    """
    bare = {key: _without_wrappers(key) for key in keys}
    while _leads_every_key(bare.values()):
        bare = {key: name.removeprefix(_LEADING) for key, name in bare.items() if name != _COUNTER}
    owner: dict[str, str] = {}
    for key, name in bare.items():
        if name in owner:
            raise CheckpointError(
                f"keys {owner[name]!r} and {key!r} are both {name!r} once wrapper names are stripped: "
                "save one copy of the state dict"
            )
        owner[name] = key
    return bare


def _without_wrappers(key: str) -> str:
    """Drop the wrapper components of one key; the last component names the tensor and always stays."""
    *path, leaf = key.split(".")
    if leaf.startswith(("_flat_param", "flat_param")):
        raise CheckpointError(
            f"key {key!r} is a flattened FSDP shard: save the model under StateDictType.FULL_STATE_DICT"
        )
    return ".".join([part for part in path if part not in _ANYWHERE] + [leaf])


def _leads_every_key(names: Iterable[str]) -> bool:
    layers = [name for name in names if name != _COUNTER]
    return bool(layers) and all(name.startswith(_LEADING) for name in layers)


def unique(pairs: Sequence[tuple[K, V]]) -> dict[K, V]:
    """Make a dict of names and values; as an ``object_pairs_hook``, of a JSON object, which may have a name twice.

    Raises:
        KeyError: a name is there twice; it is the error's argument.

    >>> unique([("a", 1), ("b", 2)])
    {'a': 1, 'b': 2}
    """
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in names if names.count(name) > 1))
    return entries
