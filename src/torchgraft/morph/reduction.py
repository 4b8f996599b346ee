"""Contraction of a module to its irreducible core (arXiv:1701.03281 Algorithm 1)."""

from __future__ import annotations

__all__ = ["Branch", "Leaf", "Parallel", "Reduction", "Series", "Step", "Tree", "is_simple", "reduction"]

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torchgraft.morph.graph import Graph, vertices


@dataclass(frozen=True, slots=True)
class Leaf:
    """An edge of the module, by its place in it."""

    edge: int


@dataclass(frozen=True, slots=True)
class Series:
    """Two parts one after the other, with the blob ``middle`` between them (TYPE-I)."""

    first: Tree
    middle: str
    second: Tree


@dataclass(frozen=True, slots=True)
class Parallel:
    """Parts side by side, summed (TYPE-II)."""

    parts: tuple[Tree, ...]


Tree = Leaf | Series | Parallel


@dataclass(frozen=True, slots=True)
class Branch:
    """A contracted edge: what lies between two blobs of the core."""

    tail: str
    head: str
    tree: Tree


@dataclass(frozen=True, slots=True)
class Step:
    """One contraction: ``series`` removed the blob ``at``, ``parallel`` merged all edges ``at`` = ``tail>head``."""

    kind: str
    at: str


@dataclass(frozen=True, slots=True)
class Reduction:
    """What a module contracts to: the ``core``, and the ``steps`` that led there, first to last."""

    core: tuple[Branch, ...]
    steps: tuple[Step, ...]

    @property
    def simple(self) -> bool:
        """Whether one edge is left: the module is two-terminal series-parallel, "simple morphable" in the paper."""
        return len(self.core) == 1


def reduction(graph: Graph) -> Reduction:
    """Contract a module until neither a blob with one edge in and one out nor a pair of parallel edges is left.

    >>> from torchgraft.morph.text import parse
    >>> found = reduction(parse("s>a:3x3 a>t:1x1 s>t:id"))
    >>> found.simple, [(step.kind, step.at) for step in found.steps]
    (True, [('series', 'a'), ('parallel', 's>t')])

    The core is the same whatever the order of the steps: series-parallel reduction is confluent. Parts of a tree are
    in the order of their first edges.
    """
    inner = vertices(graph)[1:-1]
    core = [Branch(edge.tail, edge.head, Leaf(place)) for place, edge in enumerate(graph.edges)]
    steps: list[Step] = []
    while True:
        done = _series(core, inner) or _parallel(core)
        if done is None:
            return Reduction(tuple(core), tuple(steps))
        core, step = done
        steps.append(step)


def is_simple(graph: Graph) -> bool:
    """Tell whether series and parallel splits alone lead from one edge to the module.

    >>> from torchgraft.morph.names import named
    >>> is_simple(named("C")), is_simple(named("D"))
    (True, False)
    """
    return reduction(graph).simple


def _series(core: Sequence[Branch], inner: Sequence[str]) -> tuple[list[Branch], Step] | None:
    leading, leaving = Counter(one.head for one in core), Counter(one.tail for one in core)
    for name in inner:
        if leading[name] == leaving[name] == 1:
            first = next(one for one in core if one.head == name)
            second = next(one for one in core if one.tail == name)
            joined = Branch(first.tail, second.head, Series(first.tree, name, second.tree))
            rest = [joined if one is first else one for one in core if one is not second]
            return rest, Step("series", name)
    return None


def _parallel(core: Sequence[Branch]) -> tuple[list[Branch], Step] | None:
    counts = Counter((one.tail, one.head) for one in core)
    for (tail, head), count in counts.items():
        if count > 1:
            together = [one for one in core if (one.tail, one.head) == (tail, head)]
            merged = Branch(tail, head, Parallel(tuple(part for one in together for part in _parts(one.tree))))
            rest = [merged if one is together[0] else one for one in core if one not in together[1:]]
            return rest, Step("parallel", f"{tail}>{head}")
    return None


def _parts(tree: Tree) -> tuple[Tree, ...]:
    return tree.parts if isinstance(tree, Parallel) else (tree,)
