"""Give a target on the meta device real memory and its own initialization."""

from __future__ import annotations

__all__ = ["materialize"]

from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from inspect import Parameter, signature

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, cached, is_parametrized

from torchgraft.errors import ApplyError
from torchgraft.transfer.parametrized import renew_estimates, set_computed, unsettable

Initializer = Callable[[nn.Module], object]
Slot = tuple[nn.Module, str, bool]  # module, local name, whether it is a parameter

# Methods that compute tables once more: of timm, of torchvision's Swin; and the one that ties weights in transformers.
_TABLES = (
    "init_non_persistent_buffers",
    "define_relative_position_bias_table",
    "define_relative_position_index",
    "tie_weights",
)
_NEITHER = 255  # a byte that is neither of the two values of a bool

# What a batch norm that has seen nothing holds.
_STATISTICS = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}


def _slots(module: nn.Module) -> Iterator[tuple[str, Slot, Tensor]]:
    for path, part in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name, parameter in part._parameters.items():
            if parameter is not None:
                yield prefix + name, (part, name, True), parameter
        for name, buffer in part._buffers.items():
            if buffer is not None:
                yield prefix + name, (part, name, False), buffer


def materialize(module: nn.Module, served: Set[str], seed: int) -> frozenset[str]:
    """Replace every meta tensor of ``module`` by one in memory, initialized as the model's own code would.

    Each submodule's own ``reset_parameters`` (torch, timm), ``_reset_parameters`` (attention) or ``_init_weights``
    (transformers) runs, then the model's own ``init_weights`` (timm). A parameter that none of them reaches gets
    torch's convention for its rank: gains of one, biases of zero, a truncated normal of deviation 0.02 for tokens and
    tables. Draws come from ``seed``; the caller's generator is left as it was.

    Tensors already in memory keep their values, but for a parameter that is the only one there beside others on the
    meta device: ``torch.Tensor(4, 256)`` heeds no device, so a model built on the meta device with the legacy
    constructor (Deformable DETR in transformers) holds whatever its memory held before.

    Args:
        module: the target.
        served: keys that the plan fills entirely, so that nothing needs to initialize them.
        seed: seed of the random draws.

    Returns:
        The keys that had no values of their own.

    Raises:
        ApplyError: a tensor is computed in the constructor, so nothing can restore it; the module is left on meta.
    """
    before = [(key, slot, tensor) for key, slot, tensor in _slots(module)]
    legacy = _legacy(module)
    meta = [one for one in before if one[2].is_meta or id(one[2]) in legacy]
    memory = {
        key: tensor.detach().clone() for key, _, tensor in before if not tensor.is_meta and id(tensor) not in legacy
    }
    fresh: dict[int, Tensor] = {}
    for _, slot, tensor in meta:
        _put(slot, fresh.setdefault(id(tensor), _unset(tensor)))
    lost = [f"{key} is computed in its constructor" for key in _stranded(module)]
    try:
        if not lost:
            unset = _initialize(module, {key: slot for key, slot, _ in meta}, seed)
            lost = [f"{key} is computed in its constructor" for key in unset if key not in served]
    except Exception as error:  # whatever a model's own code raises, the module must not stay half filled
        lost = [f"its own initialization fails ({type(error).__name__}: {error})"]
    with torch.no_grad():
        for key, _, tensor in _slots(module):
            if key in memory:
                tensor.copy_(memory[key])
    if lost:
        for _, slot, tensor in meta:
            _put(slot, tensor)
        raise ApplyError(
            f"the target is on the meta device and {lost[0]}: "
            "build the target on the CPU, or name it by a spec so that torchgraft builds it"
        )
    return frozenset(key for key, _, _ in meta)


def _initialize(module: nn.Module, slots: Mapping[str, Slot], seed: int) -> list[str]:
    """Initialize what can be, and return the keys of the rest. All draws are made here, from a generator of our own."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for initializer in _initializers(module):
            initializer()
        unset = [key for key, slot in slots.items() if not _set_by_rank(slot)]
        for part in module.modules():  # a spectral norm's singular vectors follow from its weight
            if isinstance(part, ParametrizationList):
                renew_estimates(part)
    return unset


def _stranded(module: nn.Module) -> list[str]:
    """Meta tensors that are plain attributes, neither parameter nor buffer: nothing but the constructor sets them."""
    found = []
    for path, part in module.named_modules():
        for name, value in part.__dict__.items():
            held = value if isinstance(value, list | tuple) else [value]
            recomputed = part._parameters.keys() & {f"{name}_v", f"{name}_orig"}  # by a hook, before every forward pass
            if not recomputed and any(isinstance(one, Tensor) and one.is_meta for one in held):
                found.append(f"{path}.{name}" if path else name)
    return found


def _legacy(module: nn.Module) -> frozenset[int]:
    """Identities of parameters that the legacy constructor left in uninitialized memory in a model on meta."""
    found = []
    for part in module.modules():
        below = list(part.parameters())
        here = [one for one in part.parameters(recurse=False) if one.device.type == "cpu"]
        if len(here) == 1 < len(below) and sum(one.is_meta for one in below) == len(below) - 1:
            found.extend(here)
    return frozenset(id(one) for one in found)


def _put(slot: Slot, tensor: Tensor) -> None:
    part, name, _ = slot
    setattr(part, name, tensor)  # not into its dictionary: a recurrent layer keeps a list of its weights beside it


def _unset(tensor: Tensor) -> Tensor:
    """Memory for a meta tensor, filled with a value that no initializer leaves: what still holds it was not set."""
    new = torch.empty_like(tensor, device="cpu")
    with torch.no_grad():
        if new.dtype == torch.bool:
            new.view(torch.uint8).fill_(_NEITHER)
        else:
            new.fill_(float("nan") if new.is_floating_point() or new.is_complex() else torch.iinfo(new.dtype).max)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new


def _initializers(module: nn.Module) -> Iterator[Callable[[], object]]:
    """What a model's own code offers to initialize it, in the order in which it must run."""
    for part in module.modules():
        for name in ("reset_parameters", "_reset_parameters"):
            method = getattr(part, name, None)
            own = (*part._parameters.values(), *part._buffers.values())
            if callable(method) and is_parametrized(part):
                yield partial(_reset_parametrized, part, method)
                break
            if callable(method) and any(tensor is not None for tensor in own):
                yield method
                break
    yield from _own_initializers(module, None)
    for part in module.modules():
        for name in _TABLES:
            method = getattr(part, name, None)
            if callable(method) and not _needs_arguments(method):
                yield method


def _reset_parametrized(part: nn.Module, method: Callable[[], object]) -> None:
    """Let a method initialize computed tensors, each of which would be a new one whenever it is read."""
    with cached():
        method()
        names = part.get_submodule("parametrizations")._modules
        values = {name: getattr(part, name).detach().clone() for name in names}
    for name, value in values.items():
        if not _is_unset(value) and not unsettable(part, name):
            set_computed(part, name, value)


def _own_initializers(module: nn.Module, by_part: Initializer | None) -> Iterator[Callable[[], object]]:
    """Library conventions: a transformers model initializes its own parts one by one, timm a model as a whole."""
    own = getattr(module, "_init_weights", None)
    if hasattr(module, "config") and callable(own):
        by_part = own
    whole = getattr(module, "init_weights", None)
    if by_part is None and callable(whole) and not _needs_arguments(whole):
        yield whole
        return
    for child in module.children():
        yield from _own_initializers(child, by_part)
    if by_part is not None:
        yield lambda: by_part(module)


def _needs_arguments(function: Callable[..., object]) -> bool:
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return any(one.default is Parameter.empty and one.kind in kinds for one in signature(function).parameters.values())


def _set_by_rank(slot: Slot) -> bool:
    """Fill a tensor that no initializer reached; ``False`` where nobody can know what belongs there."""
    part, name, is_parameter = slot
    tensor = (part._parameters if is_parameter else part._buffers)[name]
    assert tensor is not None
    if not tensor.numel() or not _is_unset(tensor):
        return True
    with torch.no_grad():
        if not is_parameter:
            if hasattr(part, "_power_method") and tensor.ndim == 1:
                tensor.fill_(tensor.numel() ** -0.5)  # a spectral norm's estimate, from which it iterates
            elif part._buffers.keys() & {"running_mean", "running_var"} and name in _STATISTICS:
                tensor.fill_(_STATISTICS[name])  # a frozen batch norm
            else:
                return False
        elif tensor.ndim >= 2:
            nn.init.trunc_normal_(torch.view_as_real(tensor) if tensor.is_complex() else tensor, std=0.02)
        else:
            tensor.fill_(0.0 if "bias" in name else 1.0)
    return True


def _is_unset(tensor: Tensor) -> bool:
    if tensor.is_floating_point() or tensor.is_complex():
        return bool(tensor.isnan().any())
    if tensor.dtype == torch.bool:
        return bool((tensor.view(torch.uint8) == _NEITHER).any())
    return bool((tensor == torch.iinfo(tensor.dtype).max).all())
