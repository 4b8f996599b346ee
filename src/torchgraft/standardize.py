"""Stage 1: a tree of modules becomes a sequence of blocks and single layers (arXiv:2212.13970, Algorithm 1)."""

from __future__ import annotations

__all__ = ["STANDARDIZERS", "Standardizer", "standardize_graft", "standardize_paper"]

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torchgraft.kinds import DIMENSIONAL, PAPER_KINDS
from torchgraft.records import Element, Layer, Network, Node

# A repeated module with more conv/linear layers than this is a tower of blocks, not a block.
_UNIT_LIMIT = 24


class Standardizer(Protocol):
    """Turns a network into the sequence of elements that is scored and matched."""

    def __call__(self, network: Network) -> tuple[Element, ...]: ...


@dataclass(frozen=True, slots=True)
class _Group:
    """What a subtree became: depth 0 is one layer, depth 1 one block, depth 2 a list of elements."""

    depth: int
    elements: tuple[Element, ...]

    def layers(self) -> tuple[Layer, ...]:
        return tuple(layer for element in self.elements for layer in element.layers)


def standardize_paper(network: Network) -> tuple[Element, ...]:
    """Algorithm 1 to the letter: leaves without parameters take part in the votes and occupy positions.

    Only the weight and bias of the ten scored types are handed on, as in the published method.
    """

    def leaves(node: Node) -> tuple[Layer, ...]:
        return (_paper_layer(network, node),) if node.kind in PAPER_KINDS or not node.children else ()

    return _standardize(network.root, leaves, lambda blocks, singles: singles > blocks, False)


def _paper_layer(network: Network, node: Node) -> Layer:
    if node.kind not in PAPER_KINDS:
        return Layer(node.path, "other")
    prefix = f"{node.path}." if node.path else ""
    specs = (network.tensors.get(prefix + role) for role in ("weight", "bias"))
    return Layer(node.path, node.kind, node.shape, tuple(spec for spec in specs if spec is not None))


def standardize_graft(network: Network) -> tuple[Element, ...]:
    """Algorithm 1 over every layer that holds tensors, so that a module and a bare table of arrays look alike.

    Three changes: leaves without tensors are left out (a table does not know them); a tie of the vote makes a block
    (a pre-norm transformer block has two norms beside two sub-blocks); exactly repeated siblings are blocks whatever
    they contain (a T5 block is made of sub-blocks only).
    """
    return _standardize(network.root, lambda node: () if node.shared else node.layers, lambda blocks, singles: singles >= blocks, True)


def _standardize(
    root: Node, own: Callable[[Node], tuple[Layer, ...]], unpacks: Callable[[int, int], bool], units: bool
) -> tuple[Element, ...]:
    def walk(node: Node, is_root: bool) -> _Group:
        mine = own(node)
        if mine and (not node.children or not units):
            single = tuple(Element((layer,), False) for layer in mine)
            return _Group(0, single) if len(single) == 1 else _Group(1, single)
        if node.shared and units:
            return _Group(1, ())
        only = len(node.children) == 1 and not mine
        groups = [walk(child, is_root and only) for child in node.children]
        if units:
            groups = _settle_units(groups)
        return _join(mine, groups, unpacks, is_root)

    return walk(root, True).elements


def _join(mine: tuple[Layer, ...], groups: Sequence[_Group], unpacks: Callable[[int, int], bool], is_root: bool) -> _Group:
    elements: list[Element] = [Element((layer,), False) for layer in mine]
    for group in groups:
        layers = group.layers()
        if group.depth != 1 or _dimensional(layers) < 2:
            elements.extend(group.elements if group.depth != 1 else (Element((layer,), False) for layer in layers))
        else:
            elements.append(Element(layers, True))
    blocks = sum(element.block for element in elements)
    if not is_root and unpacks(blocks, len(elements) - blocks):
        return _Group(1, tuple(Element((layer,), False) for element in elements for layer in element.layers))
    if len(elements) == 1:
        return _Group(1, tuple(Element((layer,), False) for layer in elements[0].layers))
    return _Group(2, tuple(elements))


def _dimensional(layers: Sequence[Layer]) -> int:
    return sum(layer.kind in DIMENSIONAL for layer in layers)


def _settle_units(groups: Sequence[_Group]) -> list[_Group]:
    """Make one block of each child that stands exactly alike beside a sibling."""
    signatures = [_signature(group) if group.depth == 2 else None for group in groups]
    repeats = Counter(signature for signature in signatures if signature is not None)
    settled = []
    for group, signature in zip(groups, signatures, strict=True):
        if signature is not None and repeats[signature] > 1 and 2 <= _dimensional(group.layers()) <= _UNIT_LIMIT:
            group = _Group(1, tuple(Element((layer,), False) for layer in group.layers()))
        settled.append(group)
    return settled


def _signature(group: _Group) -> tuple[object, ...]:
    return tuple((layer.kind, layer.shape) for layer in group.layers())


#: Standardizers by name.
STANDARDIZERS: Mapping[str, Standardizer] = {"paper": standardize_paper, "graft": standardize_graft}
