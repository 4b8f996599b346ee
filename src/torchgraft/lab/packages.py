"""Packages that only some of the lab needs: imported when they are needed, and named where they are missing."""

from __future__ import annotations

__all__ = ["optional"]

import importlib
from typing import Any

from torchgraft.errors import LabError
from torchgraft.io import import_torchvision


def optional(name: str, what: str, package: str = "", extra: str = "lab") -> Any:
    """Import a module that only the lab needs.

    Args:
        name: of the module.
        what: needs it, for the message.
        package: that brings it, where its name is another.
        extra: of torchgraft that brings the package.

    Raises:
        LabError: its package is not installed.

    >>> optional("json", "this").__name__
    'json'
    """
    try:
        if name.partition(".")[0] == "torchvision":
            import_torchvision()
        return importlib.import_module(name)
    except (ImportError, ValueError) as error:
        missing = package or name.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) or "not installed" in str(error):
            raise LabError(f"{what} needs {missing}, which is not installed: pip install torchgraft[{extra}]") from None
        raise LabError(f"{what} needs {missing}, which fails to import: {error}") from None
