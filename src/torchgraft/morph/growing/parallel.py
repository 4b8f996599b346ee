"""Models inside DistributedDataParallel: the ranks agree before any of them changes, then wrap again."""

from __future__ import annotations

__all__ = ["agree", "check_whole", "rewrap", "wrapper_of"]

import hashlib
import inspect
import warnings
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchgraft.errors import GraftError, MorphError

# What a wrapper is built with, as it keeps it; each is given again where this torch knows it.
_KEPT = (
    "device_ids",
    "output_device",
    "dim",
    "process_group",
    "find_unused_parameters",
    "gradient_as_bucket_view",
    "static_graph",
    "skip_all_reduce_unused_params",
    "batched_grad_copy",
)
_MB = 1024 * 1024


def wrapper_of(model: nn.Module) -> DistributedDataParallel | None:
    """Return the DistributedDataParallel around a model, ``None`` where there is none."""
    while not isinstance(model, DistributedDataParallel):
        inner = model._modules.get("_orig_mod")
        if inner is None:
            return None
        model = inner
    return model


def check_whole(model: nn.Module, wrapper: DistributedDataParallel | None) -> None:
    """Refuse models whose parameters are in pieces, and wrappers that cannot be set up again.

    Raises:
        MorphError: a model is of that sort.
    """
    sharded = any(type(one).__name__ == "FullyShardedDataParallel" for one in model.modules())
    if sharded or any(type(one).__name__ == "DTensor" for one in model.parameters()):
        raise MorphError(f"the parameters of {type(model).__name__} are sharded: grow the model first, then shard it")
    for name in ("mixed_precision", "_delay_all_reduce_params", "device_mesh"):
        if wrapper is not None and getattr(wrapper, name, None):
            raise MorphError(
                f"a DistributedDataParallel with {name.strip('_')} cannot be set up again: grow its .module"
            )


def agree(wrapper: DistributedDataParallel, what: str, model: nn.Module | None, problem: GraftError | None) -> None:
    """Return when every rank is ready to become the same model.

    Args:
        wrapper: whose ranks they are.
        what: this rank is about to do.
        model: that this rank made, ``None`` where there is a problem.
        problem: that kept this rank from making it.

    Raises:
        GraftError: this rank's own problem; on the others a MorphError that tells it.
    """
    shapes = "" if model is None else str([(key, tuple(one.shape)) for key, one in model.state_dict().items()])
    told = what, hashlib.sha256(shapes.encode()).hexdigest(), str(problem or "")
    everyone: list[Any] = [None] * dist.get_world_size(wrapper.process_group)
    dist.all_gather_object(everyone, told, group=wrapper.process_group)
    if problem is not None:
        raise problem
    for rank, (other, made, failed) in enumerate(everyone):
        if failed:
            raise MorphError(f"rank {rank} cannot grow: {failed}")
        if (other, made) != told[:2]:
            raise MorphError(
                f"rank {rank} does {other!r} and this one {what!r}, or to another model: give all ranks the same"
            )


def rewrap(wrapper: DistributedDataParallel) -> None:
    """Set a wrapper up for the parameters that its module has now; the weights of the first rank go to all others."""
    before = dict(vars(wrapper))
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    given = {name: before[name] for name in _KEPT if name in known and name in before}
    if not before.get("bucket_bytes_cap_default", True):
        given["bucket_cap_mb"] = before["bucket_bytes_cap"] / _MB
    if before.get("bucket_bytes_cap_list"):
        given["bucket_cap_mb_list"] = [size / _MB for size in before["bucket_bytes_cap_list"]]
    if not wrapper.broadcast_buffers:
        given["broadcast_buffers"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has another name from torch 2.13 on
        DistributedDataParallel.__init__(wrapper, before["_modules"]["module"], **given)
    wrapper.training = before["training"]
    wrapper.require_backward_grad_sync = before["require_backward_grad_sync"]  # inside no_sync()
    vars(wrapper).update({name: value for name, value in before.items() if name in _HOOKS})
    for hook, state in before["_comm_hooks"]:
        wrapper.register_comm_hook(state, hook)


_HOOKS = frozenset(name for name in vars(nn.Module()) if "_hooks" in name)
