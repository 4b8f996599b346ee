"""Run a model once without values and write down which axes its operators tie together."""

from __future__ import annotations

__all__ = [
    "Axes",
    "Call",
    "Trace",
    "broadcast",
    "fresh",
    "mark",
    "positions",
    "same",
    "trace",
    "unify_or_lock",
    "wide",
]

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from torchgraft.axes.outputs import outputs_of
from torchgraft.axes.shadow import called, hollow, in_order, ours, plain_operators, shadow_of
from torchgraft.axes.steps import Step, scale_of, settings_of
from torchgraft.axes.terms import ONE, Atom, Cat, Term, atoms_of, lock, resolve, size_of, unify
from torchgraft.errors import brief
from torchgraft.fingerprint import uniform
from torchgraft.network import unwrap

#: Along which axes a buffer holds the same for all units, and the one value that it holds, if it is one.
_Alike = tuple[tuple[bool, ...], float | None]

Axes = tuple[Term, ...]


@dataclass(slots=True)
class Trace:
    """What a run has shown: the axes of every parameter and buffer, and the operators that no rule knows.

    ``failed`` are those of them whose rule raised something, and what: faults of ours.

    ``axes`` are by key of the state dict, further names of tied tensors left out; ``steps`` are the operators in the
    order of the run, ``stored`` the keys of the values that are parameters or buffers, ``idle`` the keys of those that
    no output is computed from; ``given`` and ``outputs`` are the values of inputs and outputs, ``classes``
    those of the modules without others inside, by path; ``constants`` the names of buffers that are not stored,
    ``numbers`` those that are one number.
    """

    axes: dict[str, Axes] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    stored: dict[int, str] = field(default_factory=dict)
    idle: frozenset[str] = frozenset()
    given: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    classes: dict[str, str] = field(default_factory=dict)
    constants: dict[int, str] = field(default_factory=dict)
    numbers: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """One operator of a run: what went in and what came out, and the axes of the tensors known so far."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Tensor, ...]
    _known: _Known
    over: list[Term] = field(default_factory=list)

    def axes(self, tensor: Tensor) -> Axes:
        """Return the axes of an input."""
        return self._known.of(tensor)

    def give(self, axes: Sequence[Term], output: int = 0) -> None:
        """Set the axes of an output."""
        self._known.set(self.outputs[output], tuple(axes))

    def couple(self, axes: Sequence[Term], what: str = "") -> None:
        """Say that the units of these axes come together: what is summed, or shares statistics."""
        self.over.extend(axes)
        if what:
            mark(axes, what)

    def give_new(self, locked: str = "", first: int = 0) -> None:
        """Give the outputs from number ``first`` on axes of their own."""
        for output in self.outputs[first:]:
            self._known.set(output, tuple(fresh(size, locked) for size in output.shape))

    def lock_if_needed(self, term: Term, reason: str) -> None:
        """Lock a term unless nothing comes of the first output: a place that was looked at for its shape alone."""
        self._known.later.append((self._known.number(self.outputs[0]), term, reason))

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
        self._numbers: dict[int, int] = {}
        self._count = 0
        self.stored: dict[int, str] = {}  # keys by identity
        self.later: list[tuple[int, Term, str]] = []  # what to lock if a value is needed

    def of(self, tensor: Tensor) -> Axes:
        found = self._axes.get(id(tensor))
        if found is None:  # made outside of the run: an attribute, whose values may depend on their place
            found = tuple(fresh(size, "a constant") for size in tensor.shape)
            self.set(tensor, found)
        return found

    def set(self, tensor: Tensor, axes: Axes) -> None:
        self._axes[id(tensor)] = axes
        self._alive.append(tensor)

    def computed(self) -> frozenset[Atom]:
        """Return the atoms in the axes of all tensors but the stored ones."""
        rows = {axes for number, axes in self._axes.items() if number not in self.stored}
        return frozenset(atom for axes in rows for term in axes for atom in atoms_of(term))

    def number(self, tensor: Tensor, *, new: bool = False) -> int:
        """Return the number of a tensor's present value; ``new`` where an operator has just written it."""
        if new or id(tensor) not in self._numbers:
            self._alive.append(tensor)
            self._numbers[id(tensor)] = self._count
            self._count += 1
        return self._numbers[id(tensor)]


def fresh(size: int, locked: str = "") -> Term:
    """Return a new axis."""
    return ONE if size == 1 else Atom(size, locked)


Rules = Callable[[Call], bool]


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, rules: Rules, known: _Known, found: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rules, self._known, self._found = rules, known, found
        self._origins: dict[int, int] = {}  # the value that another one is a function of, place by place
        self._path = ""  # the innermost module that runs

    def watch(self, module: nn.Module) -> None:
        """Follow which of the innermost modules run, and note their classes."""
        for path, part in module.named_modules():
            if not any(part.children()) and not isinstance(part, torch.jit.ScriptModule):
                part.register_forward_pre_hook(partial(self._enter, path))
                part.register_forward_hook(partial(self._enter, ""))
                if isinstance(part, nn.Linear):
                    part.register_forward_pre_hook(in_order)
                self._found.classes[path] = type(part).__name__

    def _enter(self, path: str, *_: Any) -> None:
        self._path = path

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        if outputs:
            self._note(func, tuple(args), kwargs or {}, outputs)
        return result

    @ours
    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: tuple[Tensor, ...]) -> None:
        """Write down one operator, and what it does to axes."""
        name = str(func.overloadpacket).removeprefix("aten.")
        call = Call(name, args, kwargs, outputs, self._known)
        read = tuple(map(self._known.number, call.tensors()))
        written = tuple(self._known.number(output, new=True) for output in outputs)
        pointwise = torch.Tag.pointwise in func.tags
        if not self._knows(replace(call, name="pointwise") if pointwise else call, name):
            self._found.unknown[name] = self._found.unknown.get(name, 0) + 1
            _give_up(call)
        shape, over = tuple(outputs[0].shape), tuple(call.over)
        made = Step(name, read, written, shape, scale_of(name, args), self._path, settings_of(args, kwargs), over)
        self._found.steps.append(made)
        origins = {self._origins.get(value, value) for value in read if value not in self._found.stored}
        if name in ("add", "add_") and len(origins) == 2:
            mark(call.axes(outputs[0]), "sum")  # of two computed values: a stream into which both write
        origin = origins.pop() if pointwise and len(origins) == 1 else written[0]
        self._origins.update(dict.fromkeys(written, origin))

    def _knows(self, call: Call, name: str) -> bool:
        try:
            return self._rules(call)
        except Exception as error:  # a plan can be made without this operator: told once the run is over
            self._found.failed[name] = brief(error)
            return False


def _give_up(call: Call) -> None:
    """Nothing is known of an operator: all that goes in and comes out stays where it is."""
    reason = f"operator {call.name}"
    for tensor in call.tensors():
        for axis in call.axes(tensor):
            lock(axis, reason)
    call.give_new(reason)


def trace(
    module: nn.Module,
    inputs: Sequence[Any],
    rules: Rules,
    options: Mapping[str, Any] | None = None,
    *,
    values: bool = False,
) -> Trace:
    """Run ``module`` once on the meta device, in eval mode, and return what its operators tie together.

    Args:
        module: left as it is; a copy is run.
        inputs: positional arguments; their tensors count by shape alone.
        rules: write the axes of an operator's outputs; false where no rule knows it.
        options: keyword arguments.
        values: run with values where the module stands, since its way depends on them.

    Raises:
        RunError: the model fails.
    """
    module = unwrap(module)
    shadow = shadow_of(module, values)
    known, found = _Known(), Trace()
    _register(shadow, known, found, _uniform_buffers(module))
    arguments = tree_map_only(
        Tensor, lambda tensor: _input(tensor, known, values), (tuple(inputs), dict(options or {}))
    )
    mode = _Mode(rules, known, found)
    mode.watch(shadow)
    found.given = tuple(known.number(leaf) for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor))
    with torch.no_grad(), plain_operators(), mode:
        result = called(shadow, *arguments)
    for name, error in found.failed.items():
        told = f"the rule for the operator {name} failed ({error}), so its axes stay as they are: please report this"
        warnings.warn(told, stacklevel=2)
    outputs = outputs_of(result)
    for output in outputs:
        for axis in known.of(output):
            lock(axis, "an output")
    _lock_unread(found)
    _lock_cut_off(found, known)
    found.outputs = tuple(map(known.number, outputs))
    needed = set(found.outputs)
    found.idle = _idle(found, needed)
    needed |= _written(found)
    for value, term, reason in known.later:
        if value in needed:
            lock(term, reason)
    return found


def _lock_unread(found: Trace) -> None:
    """Of what the run did not read (an auxiliary head, an expert without a word) nothing is known."""
    read = {found.stored[value] for step in found.steps for value in step.inputs if value in found.stored}
    for key, axes in found.axes.items():
        if key not in read:
            for axis in axes:
                lock(axis, "not read in the run")


def _lock_cut_off(found: Trace, known: _Known) -> None:
    """Parts of stored tensors that only longer inputs would read (positions) have not shown what they belong to."""
    cut = [term for axes in found.axes.values() for term in axes if isinstance(resolve(term), Cat)]
    if not cut:
        return
    met = known.computed()
    for term in cut:
        for atom in atoms_of(term):
            if atom not in met:
                lock(atom, "not read in the run")


def _idle(found: Trace, needed: set[int]) -> frozenset[str]:
    """What is read, but leads to no output: a pooler whose result is thrown away."""
    for step in reversed(found.steps):
        if not needed.isdisjoint(step.outputs):
            needed.update(step.inputs)
    return frozenset(key for value, key in found.stored.items() if value not in needed)


def _written(found: Trace) -> set[int]:
    """What is written in place: perhaps a view of something that is needed."""
    made = {step.outputs[0]: step for step in found.steps}
    reached: set[int] = set()
    waiting = [step.inputs[0] for step in found.steps if step.name.endswith("_") and step.inputs]
    while waiting:
        value = waiting.pop()
        if value not in reached:
            reached.add(value)
            waiting += made[value].inputs[:1] if value in made else ()
    return reached


def _register(module: nn.Module, known: _Known, found: Trace, alike: Mapping[str, _Alike]) -> None:
    """Give every stored tensor axes of its own; those of one unit are nothing to speak of."""
    stored = module.state_dict(keep_vars=True)
    seen: set[int] = set()
    for key, tensor in stored.items():
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            found.axes[key] = tuple(fresh(size) for size in tensor.shape)
            found.stored[known.number(tensor)] = key
            known.stored[id(tensor)] = key
            known.set(tensor, found.axes[key])
    for key, tensor in module.named_buffers():
        if id(tensor) not in seen:  # computed by the constructor, and lost in a state dict
            same, value = alike.get(key) or ((False,) * tensor.ndim, None)
            reasons = ["" if one else "a buffer that is not stored" for one in same]
            known.set(tensor, tuple(map(fresh, tensor.shape, reasons)))
            found.constants[known.number(tensor)] = key
            if value is not None and tensor.numel() == 1:
                found.numbers[known.number(tensor)] = value


def _uniform_buffers(module: nn.Module) -> dict[str, _Alike]:
    """Return along which axes buffers that are not stored hold the same for all units, and one value that they hold.

    Such are the missing bias of BEiT's keys, and the filters of anti-aliasing, the same for every channel.
    """
    found = {
        f"{path}.{name}".lstrip("."): uniform(part._buffers.get(name))
        for path, part in module.named_modules()
        for name in part._non_persistent_buffers_set
    }
    return {key: alike for key, alike in found.items() if any(alike[0]) or alike[1] is not None}


def _input(tensor: Tensor, known: _Known, values: bool) -> Tensor:
    made = tensor.detach().clone() if values else hollow(tensor)
    known.set(made, tuple(fresh(size, "an input") for size in tensor.shape))
    return made


def same(a: Sequence[Term], b: Sequence[Term]) -> None:
    """Unify two rows of axes from the last on, as broadcasting does: an axis of one meets anything."""
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if resolve(x) != ONE and resolve(y) != ONE:
            unify(x, y)


def broadcast(rows: Sequence[Axes], shape: Sequence[int]) -> list[Term]:
    """Unify rows of axes as broadcasting to a shape does; return the widest of every axis."""
    axes: list[Term] = []
    for place in range(-len(shape), 0):
        held = [row[place] for row in rows if len(row) >= -place and wide(row[place])]
        for other in held[1:]:
            unify(held[0], other)
        axes.append(held[0] if held else fresh(shape[place]))
    return axes


def mark(axes: Sequence[Term], what: str) -> None:
    """Say something of all atoms of some axes."""
    for axis in axes:
        for atom in atoms_of(axis):
            atom.marks.add(what)


def positions(axes: Sequence[Term], shape: Sequence[int]) -> list[Term]:
    """Lock the places of a picture or a row, whose neighbours are read together; return those of the result."""
    for axis in axes:
        lock(axis, "positions")
    return [fresh(size, "positions") for size in shape]


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
