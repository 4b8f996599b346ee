"""Stage 1: a tree of modules becomes a sequence of blocks and single layers (arXiv:2212.13970, Algorithm 1)."""

from __future__ import annotations

__all__ = ["STANDARDIZERS", "Standardizer", "standardize_graft", "standardize_paper"]

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from torchgraft.kinds import DIMENSIONAL, PAPER_KINDS
from torchgraft.records import Element, Layer, Network, Node

# A repeated module with more conv/linear layers than this is a tower of blocks, not a block.
_UNIT_LIMIT = 24


# A single layer, or the layers of a block.
_Item = Layer | tuple[Layer, ...]

# What a subtree became: depth 0 is one layer, depth 1 one block, depth 2 a list of blocks and layers.
_Group = tuple[int, list[_Item]]

Own = Callable[[Node], tuple[Layer, ...]]
Vote = Callable[[Sequence[_Item]], bool]


class Standardizer(Protocol):
    """Turns a network into the sequence of elements that is scored and matched."""

    def __call__(self, network: Network) -> tuple[Element, ...]: ...


@lru_cache(maxsize=32)
def standardize_paper(network: Network) -> tuple[Element, ...]:
    """Algorithm 1 to the letter: leaves without parameters take part in the votes and occupy positions.

    Only the weight and bias of the ten scored types are handed on, as in the published method.
    """

    def leaves(node: Node) -> tuple[Layer, ...]:
        return (_paper_layer(network, node),) if node.kind in PAPER_KINDS or not node.children else ()

    return _standardize(network.root, leaves, _mostly_singles, False)


def _paper_layer(network: Network, node: Node) -> Layer:
    if node.kind not in PAPER_KINDS:
        return Layer(node.path, "other")
    prefix = f"{node.path}." if node.path else ""
    specs = map(network.tensors.get, (f"{prefix}weight", f"{prefix}bias"))
    return Layer(node.path, node.kind, node.shape, tuple(filter(None, specs)))


@lru_cache(maxsize=32)
def standardize_graft(network: Network) -> tuple[Element, ...]:
    """Algorithm 1 over every layer that holds tensors, so that a module and a bare table of arrays look alike.

    Changes: leaves without tensors are left out (a table does not know them); a tie of the vote makes a block (a
    pre-norm transformer block has two norms beside two sub-blocks); what holds equal blocks stays a list whatever
    stands beside them (a short encoder has as many embeddings as blocks); and exactly repeated siblings are blocks
    whatever they hold (a T5 block is made of sub-blocks only).
    """
    return _standardize(network.root, lambda node: () if node.shared else node.layers, _no_repeats, True)


def _mostly_singles(items: Sequence[_Item]) -> bool:
    blocks = sum(isinstance(item, tuple) for item in items)
    return len(items) - blocks > blocks


def _no_repeats(items: Sequence[_Item]) -> bool:
    blocks = [item for item in items if isinstance(item, tuple)]
    return len(items) - len(blocks) >= len(blocks) == len({_signature(block) for block in blocks})


def _standardize(root: Node, own: Own, unpacks: Vote, units: bool) -> tuple[Element, ...]:
    def walk(node: Node, is_root: bool) -> _Group:
        mine = own(node)
        if mine and not (node.children and units):
            return (0 if len(mine) == 1 else 1), list(mine)
        if node.shared and units:
            return 1, []
        only = is_root and len(node.children) == 1 and not mine
        groups = [walk(child, only) for child in node.children if not units or child.layers or child.children]
        return _join([*mine], _settle_units(groups) if units else groups, unpacks, is_root)

    items = walk(root, True)[1]
    return tuple(Element(item, True) if isinstance(item, tuple) else Element((item,), False) for item in items)


def _join(items: list[_Item], groups: Sequence[_Group], unpacks: Vote, is_root: bool) -> _Group:
    """Steps 3 and 4 of Algorithm 1: what the children became, and whether their blocks are unpacked."""
    for depth, inner in groups:
        if depth == 1 and len(inner) >= 2 and _dimensional(inner) >= 2:
            items.append(_layers(inner))
        else:
            items += inner
    if len(items) == 1 or (not is_root and unpacks(items)):
        return 1, list(_layers(items))
    return 2, items


def _layers(items: Iterable[_Item]) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for item in items:
        if isinstance(item, tuple):
            layers += item
        else:
            layers.append(item)
    return tuple(layers)


def _dimensional(items: Iterable[_Item]) -> int:
    return sum(layer.kind in DIMENSIONAL for layer in _layers(items))


def _settle_units(groups: Sequence[_Group]) -> Sequence[_Group]:
    """Make one block of each child that stands exactly alike beside a sibling."""
    if [depth for depth, _ in groups].count(2) < 2:
        return groups
    signatures = [_signature(items) if depth == 2 else None for depth, items in groups]
    repeats = Counter(signature for signature in signatures if signature is not None)
    settled = []
    for (depth, items), signature in zip(groups, signatures, strict=True):
        is_unit = signature is not None and repeats[signature] > 1 and 2 <= _dimensional(items) <= _UNIT_LIMIT
        settled.append((1, list[_Item](_layers(items))) if is_unit else (depth, items))
    return settled


def _signature(items: Iterable[_Item]) -> tuple[object, ...]:
    return tuple((layer.kind, layer.shape) for layer in _layers(items))


#: Standardizers by name.
STANDARDIZERS: Mapping[str, Standardizer] = {"paper": standardize_paper, "graft": standardize_graft}
