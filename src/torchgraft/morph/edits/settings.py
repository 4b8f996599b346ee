"""Widths that a module's own code keeps as numbers: found by their value, and tried until the model runs."""

from __future__ import annotations

__all__ = ["Changed", "Setting", "settings"]

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from torch import nn

from torchgraft.morph.edits.attributes import LAYERS

_MOST = 32  # combinations of attributes that are tried


@dataclass(frozen=True, slots=True)
class Changed:
    """``keys`` of tensors of other shapes, what numbers become by ``values``, and the module ``within`` which."""

    keys: Collection[str]
    values: Mapping[int, Collection[int]]
    within: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """An attribute of a module, or of its configuration, and its new value."""

    owner: Any
    name: str
    value: Any

    def read(self) -> Any:
        """Return the present value."""
        return vars(self.owner)[self.name]

    def write(self, value: Any) -> None:
        """Set the attribute, past whatever its owner does when it is set."""
        vars(self.owner)[self.name] = value


def settings(model: nn.Module, changed: Changed) -> Iterator[Sequence[Setting]]:
    """Yield sets of settings to try, small ones first: attributes of one name change together, at last one alone."""
    by_name: dict[tuple[str, Any, bool], list[Setting]] = {}
    for one, config in _found(model, changed):
        by_name.setdefault((one.name, str(one.value), config), []).append(one)
    names = sorted(by_name, key=lambda name: name[2])  # configurations last
    alone = [[one] for held in by_name.values() if len(held) > 1 for one in held]
    tries = 0
    for count in (1, 2, len([name for name in names if not name[2]]), len(names), 3, 4):
        for chosen in combinations(names, count):
            if len({(name, config) for name, _, config in chosen}) == len(chosen) and tries < _MOST:
                tries += 1
                yield [one for name in chosen for one in by_name[name]]
    yield from alone[:_MOST]


def _found(model: nn.Module, changed: Changed) -> Iterator[tuple[Setting, bool]]:
    """Yield the attributes that may have to change, and whether they are a configuration's."""
    met: set[int] = set()
    for path, part in model.named_modules():
        prefix = f"{path}." if path else ""
        holds = any(key.startswith(prefix) for key in changed.keys) or next(part.parameters(), None) is None
        if isinstance(part, tuple(LAYERS)) or not holds or not f"{path}.".startswith(changed.within):
            continue
        config = getattr(part, "config", None)
        for owner, is_config in ((part, False), (config, True)):
            if owner is not None and id(owner) not in met and hasattr(owner, "__dict__"):
                met.add(id(owner))
                for name, value in list(vars(owner).items()):
                    for new in _replaced(value, changed.values):
                        yield Setting(owner, name, new), is_config


def _replaced(value: Any, values: Mapping[int, Collection[int]]) -> Iterator[Any]:
    """Yield what a value becomes where it is one of the old numbers, or holds one."""
    if type(value) is int:
        yield from sorted(values.get(value, ()))
    elif type(value) is float:  # the scale of attention scores
        yield from (new**-0.5 for old in values for new in values[old] if abs(value - old**-0.5) < 1e-9)
    elif isinstance(value, tuple) and value and all(type(one) is int for one in value):
        for old in sorted(set(value) & values.keys()):
            for new in sorted(values[old]):
                yield tuple(new if one == old else one for one in value)
                if value.count(old) > 1:  # of parts that were alike, one has changed
                    yield from ((*value[:n], new, *value[n + 1 :]) for n, one in enumerate(value) if one == old)
