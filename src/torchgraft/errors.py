"""The error tree.

    GraftError (ValueError)          everything torchgraft raises on purpose
    ├── CheckpointError              a file that cannot be read, or must not be
    ├── SpecError                    a model, strategy or option that does not exist
    ├── PlanError                    two networks that cannot be planned (a lazy module, a wrong plan file)
    │   └── PinError                 a pin or an exclusion that cannot hold
    ├── ApplyError                   a plan that does not fit the tensors it is applied to
    ├── RunError                     a model whose own code failed when it was run; the failure is its ``__cause__``
    ├── InputsError                  a model for which no inputs were found that it runs on
    ├── MorphError                   a function-preserving edit that cannot be made, or not exactly
    └── LabError                     an experiment that cannot be run: its data, its record or its store

Each message is one sentence that names the thing and then the fix, so that a command line can print it as it is.
"""

from __future__ import annotations

__all__ = [
    "ApplyError",
    "CheckpointError",
    "GraftError",
    "InputsError",
    "LabError",
    "MorphError",
    "PinError",
    "PlanError",
    "RunError",
    "SpecError",
    "brief",
    "choose",
    "listed",
]

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class GraftError(ValueError):
    """Base of all errors that torchgraft raises on purpose."""


class CheckpointError(GraftError):
    """A file that cannot be read, or that must not be (a pickle that would run code)."""


class SpecError(GraftError):
    """A model, strategy or option name that does not exist."""


class PlanError(GraftError):
    """Two networks between which no plan can be made."""


class PinError(PlanError):
    """A pin or an exclusion that cannot hold."""


class ApplyError(GraftError):
    """A plan that does not fit the tensors it is applied to."""


class RunError(GraftError):
    """A model whose own code failed when it was run; what it raised is the ``__cause__``."""


class InputsError(GraftError):
    """A model for which no inputs were found that it runs on."""


class MorphError(GraftError):
    """A function-preserving edit that cannot be made, or not exactly."""


class LabError(GraftError):
    """An experiment of the lab that cannot be run: its data, its record or its store is at fault."""


def brief(error: BaseException, most: int = 200) -> str:
    """Return the type and the message of an error in one line of at most ``most`` characters.

    >>> brief(KeyError("a"))
    "KeyError: 'a'"
    """
    return " ".join(f"{type(error).__name__}: {error}".split())[:most]


def choose(table: Mapping[str, T], name: str, what: str) -> T:
    """Return ``table[name]``, or raise a :class:`SpecError` that lists the valid names.

    >>> choose({"dp": 1, "random": 2}, "dpp", "matcher")
    Traceback (most recent call last):
    torchgraft.errors.SpecError: unknown matcher 'dpp': did you mean 'dp'? (valid: dp, random)
    """
    try:
        return table[name]
    except (KeyError, TypeError):
        close = get_close_matches(str(name), table, n=1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        raise SpecError(f"unknown {what} {name!r}{hint} (valid: {', '.join(table)})") from None


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return names in one line: the first ones, and how many there are more.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
