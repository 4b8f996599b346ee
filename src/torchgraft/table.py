"""Stage 0 for a bare table of arrays: kinds and blocks inferred from the tree of names and the shapes.

A table from a safetensors file has lost the order in which its layers were defined, for the format sorts names. Its
order is guessed: from siblings of the same names in the other network where there are such, else from numbers and the
usual words. Names order a table; they never decide what matches what.
"""

from __future__ import annotations

__all__ = ["doubts", "read_table", "sibling_order"]

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cmp_to_key
from itertools import combinations
from typing import Any

from torchgraft.conventions import Reading, readings
from torchgraft.errors import PlanError
from torchgraft.io import TensorInfo
from torchgraft.layers import Own, Structure, layers_of, linear_structures
from torchgraft.records import Network, Node, Shape, TensorSpec

_Tree = dict[str, Any]
# Sorts the names below a path; names of tensors stay as they are where no network tells their order.
Sorter = Callable[[str, Sequence[str], bool], list[str]]

_BUFFERS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
_PARAMETERS = frozenset({"weight", "bias"})  # also where the other network has frozen its own into buffers

# What makes queries, keys and values.
_QUERIES, _KEYS, _VALUES = (
    "q|query|q_proj|q_lin|to_q|wq|linear_q",
    "k|key|k_proj|k_lin|to_k|wk|linear_k",
    "v|value|v_proj|v_lin|to_v|wv|linear_v",
)
# The usual words for the parts of a network and of a block, in the order in which they run.
_WORDS = tuple(
    re.compile(f"^({words})$", re.IGNORECASE)
    for words in (
        r".*stem.*|conv_?0|bn_?0|norm_?0|patch_embed.*|embeddings?|embed_tokens|word_embeddings|wte|tok_embeddings|shared",
        r"wpe|position_embeddings|token_type_embeddings|embed_positions|pos_embed.*|norm_pre|pre_?layer_?norm|ln_pre",
        r"expand(_conv)?|conv_pw|norm_?1|ln_?1|input_layernorm|layernorm_before|attention_norm|bn_?0",
        rf"qkv|c_attn|in_proj|self|self_attn(ention)?|{_QUERIES}",
        _KEYS,
        _VALUES,
        r"attn|attention|att|proj|o|wo|o_proj|out_proj|out_lin|to_out|dense|conv|conv_dw|depthwise",
        r"self_attn_layer_norm|sa_layer_norm|attn_norm|encoder_attn|cross_?attn.*|EncDecAttention",
        r"norm_?2|ln_?2|post_attention_layernorm|layernorm_after|ffn_norm|encoder_attn_layer_norm",
        r"se|se_reduce|conv_reduce|features?|backbone|encoder|body|trunk|transformer|bert|model",
        r"se_expand|conv_expand|layers?|blocks?|stages?|h|decoder",
        r"mlp|ffn|feed_forward|intermediate|gate_proj|w1|fc_?1|lin1|c_fc|wi|wi_0|gate_up_proj",
        r"up_proj|w3|wi_1|output|fc_?2|lin2|c_proj|down_proj|w2|project(_conv)?|conv_pwl|pointwise",
        r"ls_?1|gamma_?1|downsample|shortcut|conv_head|head_conv|norm|ln_f|final_layer_norm|ln_post|layer_?norm",
        r"pool.*|neck|pre_logits|fc_norm|classif.*|fc|heads?|lm_head|logits?|linear|cls|last_linear|score|top",
    )
)  # fmt: skip


# A block's number inside of a flat name: "block_1_depthwise", "stage1_unit2_conv1".
_NUMBERED = re.compile(r"\d_[A-Za-z]")


def read_table(
    infos: Mapping[str, TensorInfo],
    name: str,
    *,
    ordered: bool = True,
    like: Network | None = None,
    read: Mapping[str, Reading] | None = None,
) -> Network:
    """Read a table of arrays into a :class:`~torchgraft.records.Network`.

    Args:
        infos: key to shape and dtype, in the writer's order where ``ordered``.
        name: what messages call it.
        ordered: whether the order of ``infos`` is the order in which the layers were defined.
        like: a network whose sibling order guides that of an unordered table.
        read: where each tensor stands and how it is laid out, as :func:`~torchgraft.conventions.readings` say.

    Raises:
        PlanError: the table is empty, or a key is both a tensor and a module.
    """
    if not infos:
        raise PlanError(f"{name} holds no tensor: there is nothing to transfer")
    tensors: dict[str, TensorSpec] = {}
    tree: _Tree = {}
    read = readings(infos) if read is None else read
    given = {(s.role, s.dtype, s.shape) for s in like.tensors.values() if s.buffer} if like else set()
    for key, info in infos.items():
        role = read[key].role
        place = tree
        for parent in read[key].path:
            place = place.setdefault(parent, {})
            if isinstance(place, TensorSpec):
                raise PlanError(f"{name} holds {key!r} below a tensor: its keys are not those of a module")
        dtype = str(info.dtype).removeprefix("torch.")
        floating = dtype.startswith(("float", "bfloat", "complex"))
        shape = read[key].shape
        buffer = role in _BUFFERS or not floating or (role not in _PARAMETERS and (role, dtype, shape) in given)
        tensors[key] = place[role] = TensorSpec(key, role, shape, dtype, buffer)
    sort = _attention_order(like) if ordered and not _alphabetical(read) else sibling_order(like)
    return Network(name, _node("", tree, None, sort, _fused_in(like)), tensors, {})


def doubts(read: Mapping[str, Reading], ordered: bool) -> tuple[str, ...]:
    """Say where the order of a table is lost and its names have no tree that could tell it.

    Args:
        read: of the table, in its order.
        ordered: whether its writer kept that order.
    """
    names = {".".join(reading.path) for reading in read.values()}
    numbered = sum(bool(_NUMBERED.search(name)) for name in names if "." not in name)
    if 2 * numbered < len(names) or (ordered and not _alphabetical(read)):
        return ()
    return (
        "the names of the source's layers are flat and in alphabetical order, so their order is guessed: "
        "look at the pairs, or write the table in the order in which they run, as .npz or .pt",
    )


def _alphabetical(read: Mapping[str, Reading]) -> bool:
    """Tell whether a table was sorted by its writer: a module defines its weight first, the alphabet its bias."""
    keys = list(read)
    if keys != sorted(keys):
        return False
    weights: set[tuple[str, ...]] = set()
    for reading in read.values():
        if reading.role == "weight":
            weights.add(reading.path)
        elif reading.role == "bias" and reading.path not in weights:
            return True
    return False


_ATTENTION = tuple(re.compile(f"^({words})$") for words in (_QUERIES, _KEYS, _VALUES))


def _attention_order(like: Network | None) -> Sorter:
    """Return a function that puts queries, keys and values in this order, unless siblings of ``like`` have their names.

    BART and CLIP define keys first. A fused projection stacks queries, keys and values everywhere.
    """
    known = {frozenset(names) for _, names in _siblings(like)}

    def sort(path: str, names: Sequence[str], tensors: bool) -> list[str]:
        ordered = list(names)
        found = [[name for name in names if word.match(name)] for word in _ATTENTION]
        if all(len(same) == 1 for same in found) and frozenset(names) not in known:
            three = [same[0] for same in found]
            for place, name in zip(sorted(map(ordered.index, three)), three, strict=True):
                ordered[place] = name
        return ordered

    return sort


def _siblings(like: Network | None) -> Iterator[tuple[str, list[str]]]:
    """Yield the path of a module and the names of what stands in it, modules or free tensors, in their order."""
    for node in like.nodes if like else ():
        yield node.path, [child.path.rpartition(".")[2] for child in node.children if child.layers or child.children]
        if len(node.layers) > 1:  # free parameters beside each other
            yield node.path, [spec.role for layer in node.layers for spec in layer.tensors]


def _node(path: str, tree: _Tree, structure: Structure | None, sort: Sorter, fused: Mapping[Shape, Structure]) -> Node:
    own: Own = {role: spec for role, spec in tree.items() if isinstance(spec, TensorSpec)}
    if len(own) > 1 and not own.keys() & _PARAMETERS:
        own = {role: own[role] for role in sort(path, list(own), True)}
    chains = tree.get("parametrizations")
    if isinstance(chains, dict):  # tensors behind the module's own, no module of its own
        own |= {role: replace(spec, role=role) for role, spec in _flat("parametrizations", chains)}
    names = sort(path, [name for name, child in tree.items() if isinstance(child, dict) and child is not chains], False)
    structures = _structures({name: tree[name] for name in names}, fused)
    prefix = f"{path}." if path else ""
    children = tuple(_node(prefix + name, tree[name], structures.get(name), sort, fused) for name in names)
    layers = layers_of(path, "", own, structure) if own else ()
    weight = own.get("weight")
    return Node(path, "", layers, children, weight.shape if weight else None)


def _flat(role: str, tree: _Tree) -> Iterator[tuple[str, TensorSpec]]:
    for name, child in tree.items():
        if isinstance(child, TensorSpec):
            yield f"{role}.{name}", child
        else:
            yield from _flat(f"{role}.{name}", child)


def _fused_in(like: Network | None) -> dict[Shape, Structure]:
    """Return the fused projections of a network by their shapes, as far as shapes tell them from its other layers."""
    parts: defaultdict[str, list[TensorSpec]] = defaultdict(list)
    for node in like.nodes if like else ():
        for spec in (spec for layer in node.layers if layer.kind == "linear" for spec in layer.tensors):
            if spec.role == "weight":
                parts[spec.key].append(spec)
    found: dict[Shape, Structure] = {}
    whole = {specs[0].shape for specs in parts.values() if len(specs) == 1}
    for specs in parts.values():
        shape = sum(spec.shape[0] for spec in specs), specs[0].shape[1]
        if len(specs) > 1 and shape not in whole:
            rows = tuple(spec.units[0] if spec.units else spec.shape[:1] for spec in specs)
            found.setdefault(shape, Structure(rows, specs[0].units[1] if specs[0].units else shape[1:]))
    return found


def _structures(children: Mapping[str, _Tree], fused: Mapping[Shape, Structure]) -> dict[str, Structure]:
    """Fused projections of one parent: three times as many outputs as inputs, and a square projection after it.

    What another layer reads whole is no such projection but the wide middle of an MLP. Those of the other network,
    ``fused`` by shape, are known.
    """
    widths: dict[str, tuple[int, int, bool]] = {}
    for name, child in children.items():
        weight = child.get("weight")
        if isinstance(weight, TensorSpec) and len(weight.shape) == 2:
            widths[name] = (*weight.shape, False)
    found = linear_structures(widths, None)
    for place, (name, (out, width, _)) in enumerate(widths.items()):
        after = list(widths.values())[place + 1 :]
        if out == 3 * width and (width, width, False) in after and all(read != out for _, read, _ in after):
            found[name] = Structure(((width,),) * 3, (width,))
        if (out, width) in fused:
            found[name] = fused[out, width]
    return found


def sibling_order(like: Network | None) -> Sorter:
    """Return a function that sorts the names of siblings as they run.

    The order is that of siblings of exactly these names in ``like``: in the same place, else as most of them stand;
    where there are none, that in which two names mostly stand there; where a name is unknown there, that of numbers
    and the usual words.
    """
    placed: dict[tuple[str, frozenset[str]], list[str]] = {}
    orders: defaultdict[frozenset[str], Counter[tuple[str, ...]]] = defaultdict(Counter)
    counts: Counter[tuple[str, str]] = Counter()
    for place, names in _siblings(like):
        placed[place, frozenset(names)] = names
        orders[frozenset(names)][tuple(names)] += 1
        counts.update(combinations(names[:32], 2))  # numbers order longer lists

    def compare(a: str, b: str) -> int:
        known = 0 if a.isdigit() and b.isdigit() else counts[b, a] - counts[a, b]
        return known or (-1 if _usual(a) < _usual(b) else 1)

    def sort(path: str, names: Sequence[str], tensors: bool) -> list[str]:
        together = frozenset(names)
        if (path, together) in placed:
            return placed[path, together]
        if together in orders:
            return list(orders[together].most_common(1)[0][0])
        return list(names) if tensors else sorted(sorted(names, key=_usual), key=cmp_to_key(compare))

    return sort


def _usual(name: str) -> tuple[int, list[tuple[int, int | str]]]:
    """Sort key: place among the usual words, then natural order ("layer2" before "layer10", "conv1" before "bn1")."""
    rank = next((number for number, word in enumerate(_WORDS) if word.match(name)), len(_WORDS) // 2)
    numbered = re.fullmatch(r"(conv|bn|batch_?norm|norm|downsample)_?(\d+)", name.lower())
    if numbered:
        kind = ("conv", "bn", "batchnorm", "batch_norm", "norm", "downsample").index(numbered[1])
        return 2, [(0, int(numbered[2])), (0, kind)]
    parts = re.findall(r"\d+|\D+", name)
    return rank, [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
