"""A run as a row of uses: every operator that reads stored tensors, in the order of the run."""

from __future__ import annotations

__all__ = ["Run", "Use", "agreed_runs", "fits", "parts_of", "run_of"]

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from torchgraft.axes import AxisGroups, axis_groups, example_inputs
from torchgraft.axes.flow import Flow
from torchgraft.axes.holes import Arguments
from torchgraft.axes.operators import LAYOUT
from torchgraft.axes.shadow import hollow
from torchgraft.axes.steps import Step
from torchgraft.axes.terms import size_of
from torchgraft.errors import InputsError, RunError
from torchgraft.morph.edits.chain import regular_blocks
from torchgraft.morph.edits.draft import Draft


@dataclass(frozen=True, slots=True)
class Use:
    """One operator that reads stored tensors.

    ``keys`` and ``shapes`` are those of the tensors, the weight first. ``fixed`` is what no edit changes: of a
    convolution stride, dilation, and by how much its padding keeps the size. ``before`` are the poolings and shifts
    since the last use, which tell like layers of different places apart.
    """

    name: str
    keys: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    fixed: tuple[Any, ...] = ()
    before: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The module whose tensor is read first."""
        return self.keys[0].rpartition(".")[0]

    def __str__(self) -> str:
        shape = "×".join(map(str, self.shapes[0]))
        return f"{self.keys[0].removesuffix('.weight')} ({self.name.removeprefix('native_')} {shape})"


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A model, its axis groups, and the uses of its run."""

    model: nn.Module
    groups: AxisGroups
    uses: tuple[Use, ...]
    inputs: Arguments

    def regular(self, paths: Iterable[str]) -> frozenset[str]:
        """Return those of some modules that give what they read in the same shape."""
        draft = Draft(self.model, self.model, {}, tree_map_only(Tensor, hollow, self.inputs), self.groups)
        parents = dict.fromkeys(path.rpartition(".")[0] for path in paths)
        return frozenset(path for parent in parents for path in regular_blocks(draft, parent))

    @property
    def flow(self) -> Flow:
        """The whole run."""
        return self.groups.flow


# Operators without weights that a block begins with, or that stand between stages.
_PLACES = frozenset(("roll", "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d"))


def run_of(model: nn.Module, inputs: Arguments) -> Run:
    """Run a model without values.

    Raises:
        RunError: it fails.
    """
    groups = axis_groups(model, *inputs)
    shapes = {key: tuple(map(size_of, row)) for key, row in groups.axes.items()}
    uses = []
    before: list[str] = []
    for step in groups.flow.steps:
        keys = () if step.name in LAYOUT else _keys(groups.flow, step)
        before += [step.name] if step.name in _PLACES else []
        if keys:
            held = tuple(shapes[key] for key in keys)
            uses.append(Use(step.operator, keys, held, _fixed(step, held[0]), tuple(before)))
            before = []
    return Run(model, groups, tuple(uses), inputs)


def _keys(flow: Flow, step: Step) -> tuple[str, ...]:
    """Return the keys of the stored tensors that a step reads, the weight of a linear layer before its bias."""
    found = [key for value in step.inputs if (key := flow.parameter(value)) is not None]
    return tuple(reversed(found)) if step.name == "addmm" else tuple(found)


def _fixed(step: Step, weight: tuple[int, ...]) -> tuple[Any, ...]:
    if step.name == "embedding":
        return weight[:1]
    if step.name != "convolution":
        return ()
    stride, padding, dilation, turned, _, groups = [one for one in step.settings if one is not None][-6:]
    excess = tuple(2 * p - (k - 1) * d for p, k, d in zip(padding, weight[2:], dilation, strict=False))
    return (stride, dilation, turned, excess, groups > 1)


def fits(source: Use, target: Use) -> bool:
    """Tell whether edits that only enlarge may make one use of the other.

    >>> small, large = (Use("mm", ("w",), (shape,)) for shape in ((8, 4), (12, 4)))
    >>> fits(small, large), fits(large, small)
    (True, False)
    """
    if source.name != target.name or source.fixed != target.fixed:
        return False
    return len(source.shapes) == len(target.shapes) and all(
        len(a) == len(b) and all(y >= x for x, y in zip(a, b, strict=True))
        for a, b in zip(source.shapes, target.shapes, strict=True)
    )


def agreed_runs(source: nn.Module, target: nn.Module, given: Arguments | None) -> tuple[Run, Run, Arguments]:
    """Run both models on the same inputs: those given, or else what either of them runs on.

    Raises:
        InputsError: there are none.
    """
    failed: Exception | None = None
    for model in (source, target):
        try:
            inputs = example_inputs(model) if given is None else given
            return run_of(source, inputs), run_of(target, inputs), inputs
        except (RunError, InputsError) as error:
            failed = failed or error
    told = "on which both models run: give some that both take, or there are no edits between them"
    raise InputsError(f"no inputs are known {told} ({failed})")


def parts_of(model: nn.Module, path: str) -> tuple[str, ...]:
    """Return the paths of the parts of an ``nn.Sequential`` or ``nn.ModuleList``, none of another module."""
    row = model.get_submodule(path)
    if type(row) not in (nn.Sequential, nn.ModuleList):
        return ()
    return tuple(f"{path}.{name}".lstrip(".") for name in row._modules)
