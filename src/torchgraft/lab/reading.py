"""Plain data, as a TOML or JSON file holds it, into the record of an experiment: every field checked."""

from __future__ import annotations

__all__ = ["MAIN", "experiment_from_dict", "file_name", "short_name"]

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from torchgraft.errors import LabError
from torchgraft.lab.records import Data, Experiment, Recipe, Source

#: What is compared where nothing else is asked for.
MAIN = ("random", "name_shape", "dpiat", "graft")


def experiment_from_dict(values: Mapping[str, Any], where: str = "the experiment") -> Experiment:
    """Make an experiment of plain data: the fields of :class:`Experiment`; only ``networks`` must be there.

    ``sources`` and ``targets`` default to all networks, ``initializations`` to random, name_shape, dpiat and graft. A
    source may be a name, or a table with ``network`` and ``weights``; networks may be a table or a list of specs.

    Args:
        values: as a TOML or JSON file holds them; ``None`` is as good as a field that is not there.
        where: named in errors.

    Raises:
        LabError: a field that does not exist, or one of the wrong type.

    >>> experiment_from_dict({"networks": ["timm:resnet18", "timm:resnet34"]}).targets
    ('resnet18', 'resnet34')
    """
    _known(values, Experiment, where)
    given = {name: _FIELDS[name](value, f"{where}: {name}") for name, value in values.items() if value is not None}
    if "networks" not in given:
        raise LabError(f"{where} has no networks: give a table of model specs by name, or a list of specs")
    defaults: dict[str, Any] = {
        "name": "experiment",
        "title": "",
        "sources": tuple(Source(name, name) for name in given["networks"]),
        "targets": tuple(given["networks"]),
        "initializations": MAIN,
    }
    return Experiment(**{**defaults, **given})


def short_name(spec: str) -> str:
    """Return what a spec is called in tables: ``timm:resnet18,in_chans=1`` is ``resnet18``."""
    return spec.partition(":")[2].partition(",")[0] or spec


def file_name(text: str) -> str:
    """Return what is left of a text that can name a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "experiment"


def _known(values: Mapping[str, Any], kind: type, where: str) -> None:
    valid = [field.name for field in fields(kind)]
    for name in values:
        if name not in valid:
            close = get_close_matches(str(name), valid, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise LabError(f"{where}: unknown field {name!r}: {hint}(valid: {', '.join(valid)})")


def _text(given: Any, where: str) -> str:
    if isinstance(given, str):
        return given
    raise LabError(f"{where} must be text, not {given!r}")


def _name(given: Any, where: str) -> str:
    """Read the experiment's name, which is that of its store too."""
    if _text(given, where) == file_name(given):
        return str(given)
    raise LabError(f"{where} is {given!r}: write it of letters, digits, '.', '_' and '-', for it names a folder too")


def _whole(given: Any, where: str) -> int:
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 2**32:
        return given
    raise LabError(f"{where} must be a whole number from 0 to 2³² - 1, not {given!r}")


def _number(given: Any, where: str) -> float:
    if isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given):
        return float(given)
    raise LabError(f"{where} must be a number, not {given!r}")


def _percent(given: Any, where: str) -> float:
    if 0 < _number(given, where) <= 100:
        return float(given)
    raise LabError(f"{where} must be an accuracy in percent, above 0 and up to 100, not {given!r}")


def _truth(given: Any, where: str) -> bool:
    if isinstance(given, bool):
        return given
    raise LabError(f"{where} must be true or false, not {given!r}")


def _list(read: Callable[[Any, str], Any]) -> Callable[[Any, str], tuple[Any, ...]]:
    def read_all(given: Any, where: str) -> tuple[Any, ...]:
        if isinstance(given, list | tuple):
            return tuple(read(one, f"{where}[{index}]") for index, one in enumerate(given))
        raise LabError(f"{where} must be a list, not {given!r}")

    return read_all


def _texts(given: Any, where: str) -> dict[str, str]:
    if isinstance(given, Mapping):
        return {str(name): _text(value, f"{where}.{name}") for name, value in given.items()}
    raise LabError(f"{where} must be a table of texts, not {given!r}")


def _networks(given: Any, where: str) -> dict[str, str]:
    if isinstance(given, list | tuple):
        specs = _list(_text)(given, where)
        for name, count in Counter(map(short_name, specs)).items():
            if count > 1:
                raise LabError(f"{where}: {count} of them would be called {name!r}: give a table of specs by name")
        given = {short_name(spec): spec for spec in specs}
    if isinstance(given, Mapping) and given:
        return _texts(given, where)
    raise LabError(f"{where} must be a table of model specs by name, or a list of specs, and not be empty")


def _source(given: Any, where: str) -> Source:
    if isinstance(given, str):
        return Source(given, given)
    if not isinstance(given, Mapping):
        raise LabError(f"{where} must be a network's name, or a table with network and weights, not {given!r}")
    network = given.get("network", given.get("name"))
    if network is None:
        raise LabError(f"{where} names no network: give one of networks")
    base = Source(_text(given.get("name", network), f"{where}.name"), _text(network, f"{where}.network"))
    made: Source = _record(base, given, where)
    return made


def _pair(given: Any, where: str) -> tuple[str, str]:
    pair = _list(_text)(given, where)
    if len(pair) == 2:
        return pair[0], pair[1]
    raise LabError(f"{where} must be [source, target], not {given!r}")


def _data(given: Any, where: str) -> Data:
    made: Data = _record(Data(), {"name": given} if isinstance(given, str) else given, where)
    return made


def _recipe(base: Recipe) -> Callable[[Any, str], Recipe]:
    return lambda given, where: _record(base, given, where)


_TYPES: Mapping[type, Callable[[Any, str], Any]] = {
    str: _text,
    bool: _truth,
    int: _whole,
    float: _number,
    type(None): _whole,  # what None stands for is always "all"
}


def _record(base: Any, given: Any, where: str) -> Any:
    """Return ``base`` with the given fields, each of the type that it has there."""
    if not isinstance(given, Mapping):
        raise LabError(f"{where} must be a table, not {given!r}")
    _known(given, type(base), where)
    likes = {name: getattr(base, name) for name in given}
    return replace(
        base,
        **{
            name: None if value is None and likes[name] is None else _TYPES[type(likes[name])](value, f"{where}.{name}")
            for name, value in given.items()
        },
    )


#: How each field of an experiment is read.
_FIELDS: Mapping[str, Callable[[Any, str], Any]] = {
    "name": _name,
    "title": _text,
    "networks": _networks,
    "sources": _list(_source),
    "targets": _list(_text),
    "initializations": _list(_text),
    "data": _data,
    "recipe": _recipe(Recipe()),
    "source_recipe": _recipe(Recipe(epochs=100, keep="best")),
    "source_data": _data,
    "pairs": _list(_pair),
    "seeds": _list(_whole),
    "thresholds": _list(_percent),
    "pretrained": _texts,
}
