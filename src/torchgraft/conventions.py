"""How other frameworks write a table of arrays: their names for tensors, and the order of their axes.

A table says by itself how it is to be read. Where a bias is as long as the last axis of its matrix and not as the
first, matrices are stored ``(in, out)``; where the two small axes of kernels stand first, kernels are stored
``(kh, kw, in, out)``. Arrays without such evidence follow the others of their table.
"""

from __future__ import annotations

__all__ = ["Reading", "TurnedTable", "readings", "told"]

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

from torch import Tensor

from torchgraft.io import TensorInfo, TensorTable
from torchgraft.kinds import kind_of_tensors
from torchgraft.records import Shape


@dataclass(frozen=True, slots=True)
class Reading:
    """Where a stored array stands in the tree of modules, and how it is brought to torch's layout.

    ``axes`` is the order in which the stored axes are taken, empty where they stay; ``shape`` is the one that follows.
    """

    path: tuple[str, ...]
    role: str
    shape: Shape
    axes: tuple[int, ...] = ()


# What TensorFlow, Keras, Flax, MXNet and Paddle (which puts "_" before some) call the tensors of a layer.
_ROLES = {
    "weight": ("kernel", "weights", "w", "depthwise_kernel", "depthwise_weights", "pointwise_kernel",
               "pointwise_weights", "embedding", "embeddings", "gamma", "scale"),
    "bias": ("biases", "b", "beta", "offset"),
    "running_mean": ("moving_mean", "mean"),
    "running_var": ("moving_variance", "moving_var", "variance", "var"),
}  # fmt: skip
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}
_KERNELS = frozenset(_ROLES["weight"]) - {"embedding", "embeddings", "gamma", "scale"}
_DEPTHWISE = frozenset({"depthwise_kernel", "depthwise_weights"})
_ENDING = re.compile(rf"(.+?)_({'|'.join((*_ROLES, *_ROLE_OF))})")  # MXNet: "stage1_unit1_conv1_weight"
_PLAIN = frozenset({*_ROLES, "num_batches_tracked"})

Own = dict[str, Reading]  # the tensors of one module, by key


def readings(infos: Mapping[str, TensorInfo]) -> dict[str, Reading]:
    """Say for every key of a table where its tensor stands, and how it is laid out.

    >>> from torchgraft.io import DictTable
    >>> from torch import ones
    >>> table = DictTable({"stem/kernel": ones(3, 3, 8, 16), "bn/gamma": ones(16), "bn/beta": ones(16)})
    >>> for reading in readings(table.infos()).values():
    ...     print(*reading.path, reading.role, reading.shape, reading.axes)
    stem weight (16, 8, 3, 3) (3, 2, 0, 1)
    bn weight (16,) ()
    bn bias (16,) ()
    """
    found = {key: Reading(path, role, tuple(infos[key].shape)) for key, (path, role) in _places(infos).items()}
    modules: defaultdict[tuple[str, ...], Own] = defaultdict(dict)
    for key, reading in found.items():
        modules[reading.path][key] = reading
    kernels = {key for key, reading in found.items() if reading.role in _KERNELS}
    for own in modules.values():
        own.update(_renamed(own, bool(kernels)))
    if kernels:
        _flatten_heads(modules)
    first = bool(kernels) and _turn_kernels(modules.values(), found, kernels)
    _turn_matrices(modules.values(), kernels, first)
    return {key: modules[reading.path][key] for key, reading in found.items()}


def _places(keys: Iterable[str]) -> dict[str, tuple[tuple[str, ...], str]]:
    """Split keys into paths and roles, at slashes where there are any; collections of one tree are laid together."""
    keys = list(keys)
    flat = [None if "." in key or "/" in key else _ENDING.fullmatch(key) for key in keys]
    if all(flat):
        return {key: ((found[1],), found[2]) for key, found in zip(keys, flat, strict=True) if found}
    last = [key.rpartition("/")[2] for key in keys if "/" in key]  # torch's end in ".weight", with any sign before
    mark = "/" if 2 * sum("." not in name for name in last) > len(last) else "."
    places = {}
    for key in keys:
        *path, role = (re.sub(r":\d+$", "", key) if mark == "/" else key).split(mark)
        places[key] = tuple(part for part in path if part not in ("", "~")), role
    tops = Counter(path[0] if path else "" for path, _ in places.values())
    if 1 < len(tops) <= 3 and "" not in tops:  # Flax keeps parameters and statistics apart: params, batch_stats
        largest = tops.most_common(1)[0][0]
        inner = {path[1:] for path, _ in places.values() if path[0] == largest}
        below = {(path[1:], role) for path, role in places.values()}
        if len(below) == len(keys) and all(path[1:] in inner and len(path) > 1 for path, _ in places.values()):
            return {key: (path[1:], role) for key, (path, role) in places.items()}
    return places


def _renamed(own: Own, foreign: bool) -> Own:
    """Give the tensors of one module torch's names, if they form a layer under these.

    A vector alone is a gain only in a table that is ``foreign`` for sure: elsewhere it may be a layer scale.
    """
    roles = {key: _ROLE_OF.get(reading.role.lstrip("_"), reading.role) for key, reading in own.items()}
    names = set(roles.values())
    if len(names) < len(own) or not names <= _PLAIN or names <= {reading.role for reading in own.values()}:
        return dict(own)
    only = next(iter(own.values()))
    if len(own) == 1 and only.role not in _KERNELS | {"embedding", "embeddings"} | ({"scale"} if foreign else set()):
        return dict(own)  # a free parameter of that name
    if any(reading.role in ("gamma", "scale") and len(reading.shape) != 1 for reading in own.values()):
        return dict(own)
    renamed = {key: replace(reading, role=roles[key]) for key, reading in own.items()}
    known = kind_of_tensors(tuple((reading.role, len(reading.shape)) for reading in renamed.values()))
    return renamed if known else dict(own)


def _flatten_heads(modules: Mapping[tuple[str, ...], Own]) -> None:
    """See projections to heads, ``(in, heads, size)``, and from heads, ``(heads, size, out)``, as matrices.

    A bias ``(heads, size)`` tells them; the projection from heads stands beside one that has it.
    """
    heads: set[tuple[tuple[str, ...], Shape]] = set()
    for path, own in modules.items():
        roles = {reading.role: key for key, reading in own.items()}
        if roles.keys() == {"weight", "bias"}:
            weight, bias = own[roles["weight"]], own[roles["bias"]]
            if len(weight.shape) == 3 and bias.shape == weight.shape[1:]:
                heads.add((path[:-1], bias.shape))
                own[roles["bias"]] = replace(bias, shape=(prod(bias.shape),))
                shape = prod(bias.shape), weight.shape[0]
                own[roles["weight"]] = replace(weight, shape=shape, axes=(1, 2, 0))
    for path, own in modules.items():
        for key, one in own.items():
            if len(one.shape) == 3 and not one.axes and (path[:-1], one.shape[:2]) in heads:
                own[key] = replace(one, shape=(one.shape[2], prod(one.shape[:2])), axes=(2, 0, 1))


def _turn_kernels(modules: Iterable[Own], stored: Mapping[str, Reading], kernels: set[str]) -> bool:
    """Bring kernels to ``(out, in, kh, kw)`` where the table stores their small axes first, and say whether it does."""
    found = [
        (own, key, reading)
        for own in modules
        for key, reading in own.items()
        if reading.role == "weight" and key in kernels and len(reading.shape) > 2 and not reading.axes
    ]
    votes = [prod(one.shape[:-2]) < prod(one.shape[-2:]) for _, _, one in found if len(one.shape) > 3]
    if 2 * sum(votes) < len(votes):
        return False
    for own, key, reading in found:
        rank = len(reading.shape)
        axes = (rank - 1, rank - 2, *range(rank - 2))
        shape = tuple(reading.shape[axis] for axis in axes)
        length = next((one.shape[0] for one in own.values() if one.role == "bias"), None)
        single = shape[0] == 1 < shape[1] and prod(shape[2:]) > 1 and length in (None, shape[1])
        if stored[key].role in _DEPTHWISE or single:  # (kh, kw, channels, multiplier)
            axes = (rank - 2, rank - 1, *range(rank - 2))
            shape = (shape[0] * shape[1], 1, *shape[2:])
        own[key] = replace(reading, shape=shape, axes=axes)
    return True


def _turn_matrices(modules: Iterable[Own], kernels: set[str], first: bool) -> None:
    """Bring matrices to ``(out, in)`` where their biases tell that the table stores ``(in, out)``.

    Without a bias, only what is called a kernel follows, for a matrix may also be a table of words. ``first`` says
    that the table stores the small axes of its kernels first, which decides where no bias does.
    """
    matrices = []
    for own in modules:
        roles = {reading.role: reading for reading in own.values()}
        weight = roles.get("weight")
        if weight is not None and roles.keys() <= {"weight", "bias"} and len(weight.shape) == 2 and not weight.axes:
            key = next(key for key, reading in own.items() if reading is weight)
            matrices.append((own, key, weight.shape, roles["bias"].shape if "bias" in roles else None))
    votes = [shape[1:] == length for _, _, shape, length in matrices if length and shape[0] != shape[1]]
    if not (2 * sum(votes) > len(votes) or (not votes and first)):
        return
    for own, key, shape, length in matrices:
        if key in kernels if length is None else length == shape[1:]:
            own[key] = replace(own[key], shape=shape[::-1], axes=(1, 0))


def told(found: Mapping[str, Reading]) -> tuple[str, ...]:
    """Say which arrays of a table are turned, in one line, if any are."""
    turned = [key for key, reading in found.items() if reading.axes]
    if not turned:
        return ()
    return (
        f"{len(turned)} arrays of the source are stored with other axes than torch's and are turned: {turned[0]} …",
    )


@dataclass(frozen=True, slots=True)
class TurnedTable:
    """A table whose tensors are given as they are read: the usual layout under the keys that they are stored by."""

    table: TensorTable
    readings: Mapping[str, Reading]

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.table.name

    def infos(self) -> Mapping[str, TensorInfo]:
        """Return key -> shape and dtype, without reading values."""
        return {key: replace(info, shape=self.readings[key].shape) for key, info in self.table.infos().items()}

    def load(self, key: str) -> Tensor:
        """Return the values of one tensor; see :meth:`TensorTable.load`."""
        value, reading = self.table.load(key), self.readings[key]
        return (value.permute(reading.axes) if reading.axes else value).reshape(reading.shape)
