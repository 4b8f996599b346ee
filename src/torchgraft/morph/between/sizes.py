"""The next edit that brings kernels and widths nearer to the target's, once both runs have the same uses."""

from __future__ import annotations

__all__ = ["kernel_edits", "width_edits"]

from collections.abc import Iterator
from math import prod

from torchgraft.axes.terms import Atom, Cat, Prod, Term, atoms_of, size_of
from torchgraft.errors import MorphError
from torchgraft.morph.between.runs import Run
from torchgraft.morph.edits import Edit
from torchgraft.morph.edits.sizes import output_of


def kernel_edits(run: Run, target: Run) -> Iterator[Edit]:
    """Yield an edit for every convolution whose kernel is larger in the target."""
    for mine, other in zip(run.uses, target.uses, strict=True):
        kernels = [one.shapes[0][2:] for one in (mine, other)]
        if mine.name == "convolution" and kernels[0] != kernels[1]:
            size = kernels[1][0] if len(set(kernels[1])) == 1 else list(kernels[1])
            yield Edit("expand_kernel", mine.path, {"size": size})


def width_edits(run: Run, target: Run) -> Iterator[Edit]:
    """Yield edits that give a layer the width, or an attention the heads, that it has in the target, in order.

    Those after the first may be settled by the first one: what is coupled follows.
    """
    seen: set[str] = set()
    for mine, other in zip(run.uses, target.uses, strict=True):
        path, outputs = _output(run, mine.keys[0])
        _, wanted = _output(target, other.keys[0])
        if path in seen or outputs is None or wanted is None:
            continue
        seen.add(path)
        heads = _heads(run, outputs)
        if heads is not None:
            yield from _head_edits(path.rpartition(".")[0] or path, heads, _heads(target, wanted))
        elif size_of(outputs) != size_of(wanted):
            yield Edit("widen", path, {"width": size_of(wanted)})


def _output(run: Run, key: str) -> tuple[str, Term | None]:
    """Return the path that is edited to widen what a tensor makes, and the axis of that."""
    for path in (key.rpartition(".")[0], key):
        try:
            return path, output_of(run.model, run.groups, path)
        except MorphError:  # a parameter that belongs to no layer has a path of its own
            continue
    return key, None


def _heads(run: Run, term: Term) -> tuple[int, int] | None:
    """Return how many heads an axis has, and of which size."""
    roles = {group.number: group.role for group in run.groups.groups}
    for part in _products(term):
        counts = [one.size for one in part.factors if isinstance(one, Atom) and roles[one.number] == "heads"]
        if counts:
            return prod(counts), size_of(part.factors[-1])
    alone = [atom for atom in atoms_of(term) if roles[atom.number] == "heads"]
    return (alone[0].size, 1) if alone else None


def _products(term: Term) -> Iterator[Prod]:
    if isinstance(term, Prod):
        yield term
    for part in term.parts if isinstance(term, Cat) else ():
        yield from _products(part)


def _head_edits(path: str, heads: tuple[int, int], wanted: tuple[int, int] | None) -> Iterator[Edit]:
    if wanted is None or wanted == heads:
        return
    more = {"heads": wanted[0]} if wanted[0] != heads[0] else {}
    larger = {"head_size": wanted[1]} if wanted[1] != heads[1] else {}
    yield Edit("widen_heads", path, {**more, **larger})
