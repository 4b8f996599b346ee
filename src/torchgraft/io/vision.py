"""torchvision, imported also where its compiled half does not fit the installed torch."""

from __future__ import annotations

__all__ = ["import_torchvision"]

import functools
import importlib
import sys
from types import ModuleType

import torch

from torchgraft.errors import SpecError

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """Import torchvision, declaring the operators that a mismatched build lacks.

    timm and transformers import torchvision themselves: call this before either of them.

    The package index serves torchvision built for CUDA, torch is often the CPU build from elsewhere. Then
    torchvision's library does not load, which it tolerates, but its ``_meta_registrations`` still attaches shape rules
    to the operators ``nms`` and ``qnms`` and fails: "operator torchvision::nms does not exist". Nothing here (and
    nothing in timm) ever runs them, so declaring the two by signature is enough to build every model. Where torchvision
    is healthy this is a plain import.

    Raises:
        SpecError: torchvision is not installed, or fails to import for another reason.

    >>> import_torchvision().__name__
    'torchvision'
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        raise SpecError(f"{error.name} is not installed: pip install torchgraft[zoo]") from None
    except RuntimeError as error:
        if "nms does not exist" not in str(error):
            raise SpecError(f"torchvision fails to import ({error}): install the build that fits torch") from None
    # The failed attempt leaves half of the package behind, which a second import would take for the whole.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _declare_operators()
    return importlib.import_module("torchvision")


@functools.cache
def _declare_operators() -> torch.library.Library:
    """Declare the missing operators, once; the cache keeps the library, with which the declaration would end."""
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(operator + _SIGNATURE)  # type: ignore[no-untyped-call]
    return library
