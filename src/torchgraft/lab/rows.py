"""Rows as JSON and back, NaN and infinities included."""

from __future__ import annotations

__all__ = ["row_from_dict", "row_to_dict"]

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from torchgraft.errors import LabError
from torchgraft.lab.records import Epoch, Initialized, Row

T = TypeVar("T")
_STRANGE = ("nan", "inf", "-inf")  # what float() reads back


def row_to_dict(row: Row) -> dict[str, Any]:
    """Return a row as dicts, lists, numbers and strings that ``json.dumps(..., allow_nan=False)`` takes.

    A number that JSON does not know becomes a string: ``"nan"``, ``"inf"``, ``"-inf"``.

    >>> point = Epoch(0, 0, accuracy=10.0, loss=float("nan"))
    >>> row_to_dict(Row("k", "target", "b", "a", "random", 0, {}, (point,), Initialized()))["curve"][0]["loss"]
    'nan'
    """
    plain: dict[str, Any] = _plain(dataclasses.asdict(row))
    return plain


def row_from_dict(values: Mapping[str, Any]) -> Row:
    """Return the row that :func:`row_to_dict` was given.

    Raises:
        LabError: a field is missing, or is none of a row's.

    >>> point = Epoch(0, 0, accuracy=10.0, loss=float("inf"))
    >>> row = Row("k", "target", "b", "a", "random", 0, {}, (point,), Initialized())
    >>> row_from_dict(row_to_dict(row)) == row
    True
    """
    try:
        fields = dict(values)
        fields["curve"] = tuple(_record(Epoch, point) for point in values["curve"])
        fields["start"] = _record(Initialized, values["start"])
        return Row(**fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LabError(
            f"this is no row of the lab ({type(error).__name__}: {error}): it is damaged, or of another version"
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _record(kind: type[T], values: Mapping[str, Any]) -> T:
    return kind(**{key: _number(value) for key, value in values.items()})


def _number(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _number(inner) for key, inner in value.items()}
    return float(value) if isinstance(value, str) and value in _STRANGE else value
