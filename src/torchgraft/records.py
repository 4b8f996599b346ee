"""The data that flows through the pipeline: frozen records, no behaviour beyond derived properties.

Network ── tree of ── Node ── holds ── Layer ── holds ── TensorSpec
Element (a layer or a block)  →  Match (pairs of layers)  →  Plan (moves of tensors)  →  Report
"""

from __future__ import annotations

__all__ = [
    "Element",
    "Fill",
    "Followed",
    "Layer",
    "Match",
    "Move",
    "Network",
    "Node",
    "Obstacle",
    "Pair",
    "Part",
    "Passage",
    "Setting",
    "Stretch",
    "TensorPlan",
    "TensorSpec",
    "Transfer",
    "UnitMap",
    "Window",
    "Windows",
]

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from torchgraft.fingerprint import Look

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """The stretch ``start:stop`` of one axis of a stored tensor (a query inside a fused qkv, say)."""

    axis: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One parameter or buffer, or one part of it, as the matching sees it.

    ``shape`` is what the layer sees: the shape of the part, transposed where ``transpose`` says that the library stores
    ``(in, out)``. ``units`` holds, per axis, the sizes of which the axis is the product: ``((12, 64), (768,))`` is a
    ``(out, in)`` matrix whose outputs are 12 heads of 64. An empty ``units`` means that no axis has inner structure.
    """

    key: str
    role: str
    shape: Shape
    dtype: str
    buffer: bool = False
    part: Part | None = None
    transpose: bool = False
    units: tuple[Shape, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layer:
    """The smallest unit with parameters: a module's own tensors, or one separable part of them.

    ``shape`` is the weight's shape (``(out, in, kh, kw)`` for a convolution), the only thing a score looks at; ``None``
    where the layer has no weight. ``kind`` names what it may exchange weights with. ``stride`` is a convolution's,
    empty where it is unknown; ``patchify`` marks windows that do not overlap.
    """

    path: str
    kind: str
    shape: Shape | None = None
    tensors: tuple[TensorSpec, ...] = ()
    patchify: bool = False
    stride: Shape = ()

    @property
    def biased(self) -> bool:
        """Whether the layer has a bias; one without is mostly followed by a norm and plays another part."""
        return any(spec.role == "bias" for spec in self.tensors)

    @property
    def heads(self) -> int:
        """Axis of the weight that counts attention heads: 0 for queries, 1 for an output projection, -1 for neither."""
        units = next((spec.units for spec in self.tensors if spec.role == "weight"), ())
        return next((axis for axis, factors in enumerate(units) if len(factors) > 1), -1)

    @property
    def look(self) -> tuple[object, ...]:
        """What decides all that a score sees: layers that look alike are scored once."""
        roles = [(spec.role, spec.units) for spec in self.tensors[:2]]
        return self.kind, self.shape, self.stride, len(self.tensors), *roles


@dataclass(frozen=True, slots=True)
class Node:
    """A module: its own layers and its children, in definition order. ``shared`` marks a module met before."""

    path: str
    kind: str
    layers: tuple[Layer, ...] = ()
    children: tuple[Node, ...] = ()
    shape: Shape | None = None
    shared: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network as names, kinds and shapes: what planning needs and nothing else.

    ``tied`` maps each further name of a tensor to its first name; ``look`` is what its module was recognized by, where
    it has one that can be compared.
    """

    name: str
    root: Node
    tensors: dict[str, TensorSpec]
    tied: dict[str, str]
    look: Look | None = field(default=None, compare=False, repr=False)

    @property
    def nodes(self) -> Iterator[Node]:
        """Every module, each before those inside of it."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            waiting += node.children
            yield node


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a standardized network: a block (an ordered group matched as a unit) or a single layer."""

    layers: tuple[Layer, ...]
    block: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """Target layer number ``target`` takes its weights from source layer number ``source`` (flat positions)."""

    target: int
    source: int
    score: float


@dataclass(frozen=True, slots=True)
class Match:
    """What a matcher returns: pairs in the order of the target, and the score of the whole (dpiat.md section 3)."""

    pairs: tuple[Pair, ...]
    score: float


@dataclass(frozen=True, slots=True)
class Window:
    """A box in a tensor: ``steps`` are ``(axis, start, length)`` for each axis that is not whole.

    ``shape``, ``strides`` and ``offset`` are those of the box in a contiguous tensor, in elements.
    """

    steps: tuple[tuple[int, int, int], ...]
    shape: Shape
    strides: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Windows:
    """Where a tensor is written and where it is read, and the boxes that are set to zero first."""

    into: Window
    out_of: Window
    silent: tuple[Window, ...] = ()

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.into.shape)


@dataclass(frozen=True, slots=True)
class UnitMap:
    """Which units of a group of the source stand where in a group of the target: one map for all tensors they are in.

    ``target`` and ``source`` count the units; ``how`` names the rule: one of :data:`torchgraft.units.RULES`, or one
    that looks at weights (:data:`torchgraft.transfer.narrowing.NARROWING`). ``chosen`` holds the source unit of every
    target unit once such a rule has chosen; a plan that has not met the weights has none.
    """

    target: int
    source: int
    how: str
    chosen: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Fill:
    """A tensor of the target that gets one value everywhere, so that what is new does not change the function."""

    key: str
    value: float


@dataclass(frozen=True, slots=True)
class Passage:
    """Outputs of a layer of the target that give on what some of its inputs hold.

    ``weight``, ``bias`` (empty where there is none) and ``norm`` (gain, shift, mean and variance of the batch norm
    behind it, if there is one, and its ``epsilon``) are keys of tensors; output ``rows[i]`` gives input
    ``columns[i]``. ``history`` says what made the values that are given on, at the places ``origin``, so that a norm
    can take their mean and variance (see :class:`torchgraft.axes.links.Link`). ``lifts`` name the activations before
    and behind the layer that are passed in their linear range. ``added``: to what the outputs give anyway. ``gated``
    names the function of a gate that multiplies the inputs; ``gate`` that of the layer itself, whose outputs are the
    open gates then.
    """

    weight: str
    bias: str
    norm: tuple[str, ...]
    epsilon: float
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    history: tuple[tuple[str, ...], ...] = ()
    origin: tuple[int, ...] = ()
    lifts: tuple[str, str] = ("", "")
    added: bool = False
    gated: str = ""
    gate: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """All tensors of the layer and the norm behind it."""
        return (self.weight, *filter(None, [self.bias]), *self.norm)


@dataclass(frozen=True, slots=True)
class Setting:
    """An attribute of a module of the target, and its new value: the epsilon of a norm over more units."""

    path: str
    attribute: str
    value: float


@dataclass(frozen=True, slots=True)
class Obstacle:
    """``what`` keeps the target from computing the source's function, and ``where``: a path of the target."""

    what: str
    where: str


@dataclass(frozen=True, slots=True)
class Followed:
    """Running statistics of the target that follow what was cut before their norm: what is lost is taken out of them.

    ``mean`` and ``variance`` are the target's keys, and so is ``weight``, of the layer before the norm, whose inputs or
    taps were cut. ``bias`` of that layer is the source's, empty where it has none; ``groups`` are those of its inputs.
    ``gain``, ``shift`` and ``function`` say what the source's layer reads, where that is known: a function of what
    another batch norm gives.
    """

    mean: str
    variance: str
    weight: str
    bias: str = ""
    groups: int = 1
    gain: str = ""
    shift: str = ""
    function: str = ""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of an axis that starts at ``into`` in the target and at ``out_of`` in the source.

    It is the product of groups, the slowest first, whose units are paired by the plan's maps of these numbers.
    """

    into: int
    out_of: int
    maps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """One tensor (or part) of the target and the tensor (or part) of the source it is filled from.

    ``prepare`` names what is done to the source first (resampling a patch kernel, say); ``lead`` lists the axes that
    are aligned at their start instead of their centre; ``elements`` counts the target elements the source determines.
    ``windows`` say it all where the move is plain arithmetic on two shapes; elsewhere the operator works on tensors.
    They follow from the rest, so they are no part of a stored plan. ``layout`` says, for every axis, which units go
    where; an axis without stretches is aligned at its centre. Without a layout, all are. ``pads`` name, for every
    axis, what becomes of the places that the source does not determine (see
    :data:`torchgraft.transfer.operators.PADS`). ``factor`` multiplies what comes from the source, ``offset`` is
    added; ``scale`` is the key of the source's layer scale by whose values a mean over its units is weighed, ``fold``
    of one that the target has no place for: it multiplies what comes from the source.
    """

    target: TensorSpec
    source: TensorSpec
    operator: str
    elements: int
    prepare: tuple[str, ...] = ()
    lead: tuple[int, ...] = ()
    layout: tuple[tuple[Stretch, ...], ...] = ()
    pads: tuple[str, ...] = ()
    factor: float = 1.0
    scale: str = ""
    offset: float = 0.0
    fold: str = ""
    windows: Windows | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One target layer filled from one source layer; ``reused`` where the source layer serves another one better."""

    target: str
    source: str
    kind: str
    score: float
    reused: bool
    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """What becomes of one tensor of the target's state dict.

    ``status`` is ``copied`` (the source's tensor as it is), ``resized`` (its shape or layout changed, the rest is the
    target's own, or a layer scale was multiplied in), ``reused`` (as either, from a source that serves another tensor
    better), ``silenced`` (one value everywhere, mostly zero, so that a new block changes nothing), ``initialised`` (the
    target was on the meta device and this tensor was given its own initialization) or ``kept`` (the target's value
    stays).
    ``elements`` counts what the source determines; a ``tied`` tensor is counted under its first name.
    """

    key: str
    shape: Shape
    dtype: str
    buffer: bool
    status: str
    elements: int = 0
    source: tuple[str, ...] = ()
    source_shape: Shape | None = None
    score: float = 0.0
    tied: str | None = None
    reason: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)
