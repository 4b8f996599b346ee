"""torchgraft: warm-start any PyTorch network from any trained one, in milliseconds, with no training.

>>> import torchgraft as tg
>>> from torch import nn
>>> small, wide = nn.Linear(4, 2), nn.Linear(4, 3)
>>> tg.transfer(small, wide).counts()
{'resized': 2}
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchgraft import morph
    from torchgraft._api import Ranking, apply, plan, rank, similarity, transfer
    from torchgraft.errors import ApplyError, CheckpointError, GraftError, MorphError, PinError, PlanError, SpecError
    from torchgraft.optim import OptimizerReport, parameter_groups, transfer_optimizer
    from torchgraft.plan import Plan, Report
    from torchgraft.records import Element, Layer, Match, Pair, TensorPlan
    from torchgraft.score import pairwise
    from torchgraft.verify import Certificate, verify

__all__ = [
    "ApplyError",
    "Certificate",
    "CheckpointError",
    "Element",
    "GraftError",
    "Layer",
    "Match",
    "MorphError",
    "OptimizerReport",
    "Pair",
    "PinError",
    "Plan",
    "PlanError",
    "Ranking",
    "Report",
    "SpecError",
    "TensorPlan",
    "apply",
    "morph",
    "pairwise",
    "parameter_groups",
    "plan",
    "rank",
    "similarity",
    "transfer",
    "transfer_optimizer",
    "verify",
]

__version__ = "0.1.0"

# Where the public names are. They are imported when they are asked for: `import torchgraft` costs next to nothing.
_HOMES = {
    "_api": ("Ranking", "apply", "plan", "rank", "similarity", "transfer"),
    "errors": ("ApplyError", "CheckpointError", "GraftError", "MorphError", "PinError", "PlanError", "SpecError"),
    "optim": ("OptimizerReport", "parameter_groups", "transfer_optimizer"),
    "plan": ("Plan", "Report"),
    "records": ("Element", "Layer", "Match", "Pair", "TensorPlan"),
    "score": ("pairwise",),
    "verify": ("Certificate", "verify"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = ("axes", "errors", "io", "lab", "morph", "records")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"torchgraft.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"torchgraft.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})


class _Package(ModuleType):
    """Keeps `torchgraft.plan` the function: importing the file of that name would set the attribute to the file."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
