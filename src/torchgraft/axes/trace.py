"""Run a model once without values and write down which axes its operators tie together."""

from __future__ import annotations

__all__ = ["Axes", "Call", "Trace", "fresh", "same", "trace", "unify_or_lock", "wide"]

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from torchgraft.axes.terms import ONE, Atom, Term, lock, resolve, size_of, unify
from torchgraft.network import unwrap

Axes = tuple[Term, ...]


@dataclass(slots=True)
class Trace:
    """What a run has shown: the axes of every parameter and buffer, and the operators that no rule knows.

    ``axes`` are by key of the state dict, further names of tied tensors left out.
    """

    axes: dict[str, Axes] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """One operator of a run: what went in and what came out, and the axes of the tensors known so far."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Tensor, ...]
    _known: _Known

    def axes(self, tensor: Tensor) -> Axes:
        """Return the axes of an input."""
        return self._known.of(tensor)

    def give(self, axes: Sequence[Term], output: int = 0) -> None:
        """Set the axes of an output."""
        self._known.set(self.outputs[output], tuple(axes))

    def give_new(self, locked: str = "", first: int = 0) -> None:
        """Give the outputs from number ``first`` on axes of their own."""
        for output in self.outputs[first:]:
            self._known.set(output, tuple(fresh(size, locked) for size in output.shape))

    def arg(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument by position or name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def tensors(self) -> list[Tensor]:
        """Return the tensors among the arguments."""
        return [leaf for leaf in tree_leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Tensor)]


class _Known:
    """The axes of tensors, which are kept alive meanwhile, so that an identity is never given to another tensor."""

    def __init__(self) -> None:
        self._axes: dict[int, Axes] = {}
        self._alive: list[Tensor] = []

    def of(self, tensor: Tensor) -> Axes:
        found = self._axes.get(id(tensor))
        if found is None:  # made outside of the run: an attribute, whose values may depend on their place
            found = tuple(fresh(size, "a constant") for size in tensor.shape)
            self.set(tensor, found)
        return found

    def set(self, tensor: Tensor, axes: Axes) -> None:
        self._axes[id(tensor)] = axes
        self._alive.append(tensor)


def fresh(size: int, locked: str = "") -> Term:
    """Return a new axis."""
    return ONE if size == 1 else Atom(size, locked)


Rules = Callable[[Call], bool]


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, rules: Rules, known: _Known, found: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rules, self._known, self._found = rules, known, found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        if not outputs:
            return result
        name = str(func.overloadpacket).removeprefix("aten.")
        call = Call(name, tuple(args), kwargs or {}, outputs, self._known)
        pointwise = torch.Tag.pointwise in func.tags
        if not self._rules(replace(call, name="pointwise") if pointwise else call):
            self._found.unknown[name] = self._found.unknown.get(name, 0) + 1
            _give_up(call)
        return result


def _give_up(call: Call) -> None:
    """Nothing is known of an operator: all that goes in and comes out stays where it is."""
    reason = f"operator {call.name}"
    for tensor in call.tensors():
        for axis in call.axes(tensor):
            lock(axis, reason)
    call.give_new(reason)


def trace(module: nn.Module, inputs: Sequence[Any], rules: Rules, options: Mapping[str, Any] | None = None) -> Trace:
    """Run ``module`` once on the meta device, in eval mode, and return what its operators tie together.

    Args:
        module: left as it is; a copy is run.
        inputs: positional arguments; their tensors count by shape alone.
        rules: write the axes of an operator's outputs; false where no rule knows it.
        options: keyword arguments.
    """
    module = unwrap(module)
    shadow = _shadow(module)
    known, found = _Known(), Trace()
    _register(shadow, known, found, _uniform(module))
    arguments = tree_map_only(Tensor, lambda tensor: _input(tensor, known), (tuple(inputs), dict(options or {})))
    with torch.no_grad(), _plain_operators(), _Mode(rules, known, found):
        result = shadow(*arguments[0], **arguments[1])
    for leaf in tree_leaves(dict(result) if isinstance(result, Mapping) else result):
        if isinstance(leaf, Tensor):
            for axis in known.of(leaf):
                lock(axis, "an output")
    return found


def _shadow(module: nn.Module) -> nn.Module:
    """Return a copy on the meta device, in eval mode; tied tensors stay tied."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) not in memo:
            hollow = torch.empty_like(tensor, device="meta")
            memo[id(tensor)] = nn.Parameter(hollow, False) if isinstance(tensor, nn.Parameter) else hollow
    return copy.deepcopy(module, memo).eval()


def _register(module: nn.Module, known: _Known, found: Trace, uniform: frozenset[str]) -> None:
    """Give every stored tensor axes of its own; those of one unit are nothing to speak of."""
    stored = module.state_dict(keep_vars=True)
    seen: set[int] = set()
    for key, tensor in stored.items():
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            found.axes[key] = tuple(fresh(size) for size in tensor.shape)
            known.set(tensor, found.axes[key])
    for key, tensor in module.named_buffers():
        if id(tensor) not in seen:  # computed by the constructor, and lost in a state dict
            reason = "" if key in uniform else "a buffer that is not stored"
            known.set(tensor, tuple(fresh(size, reason) for size in tensor.shape))


def _uniform(module: nn.Module) -> frozenset[str]:
    """Names of the buffers that hold one value everywhere (the missing bias of BEiT's keys), so that none moves."""
    return frozenset(
        key
        for key, buffer in module.named_buffers()
        if buffer.numel() and not buffer.is_meta and bool((buffer == buffer.flatten()[0]).all())
    )


def _input(tensor: Tensor, known: _Known) -> Tensor:
    hollow = torch.empty_like(tensor, device="meta")
    known.set(hollow, tuple(fresh(size, "an input") for size in tensor.shape))
    return hollow


@contextmanager
def _plain_operators() -> Iterator[None]:
    """Keep torch from fusing what has rules into what has none."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def same(a: Sequence[Term], b: Sequence[Term]) -> None:
    """Unify two rows of axes from the last on, as broadcasting does: an axis of one meets anything."""
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if resolve(x) != ONE and resolve(y) != ONE:
            unify(x, y)


def unify_or_lock(a: Term, b: Term) -> None:
    """Unify two axes of one size; lock what has another."""
    if size_of(a) == size_of(b):
        unify(a, b)
    else:
        lock(a, "sizes that differ")
        lock(b, "sizes that differ")


def wide(term: Term) -> bool:
    """Tell whether an axis has more than one unit."""
    return resolve(term) != ONE
