"""torchgraft: warm-start any PyTorch network from any trained one, in milliseconds, with no training.

>>> import torchgraft as tg
>>> from torch import nn
>>> small, wide = nn.Linear(4, 2), nn.Linear(4, 3)
>>> tg.transfer(small, wide).counts()
{'resized': 2}
"""

from typing import TYPE_CHECKING, Any

from torchgraft._api import Ranking, apply, plan, rank, similarity, transfer
from torchgraft.errors import ApplyError, CheckpointError, GraftError, MorphError, PinError, PlanError, SpecError
from torchgraft.optim import OptimizerReport, transfer_optimizer
from torchgraft.plan import Plan, Report
from torchgraft.records import Element, Layer, Match, Pair, TensorPlan
from torchgraft.score import pairwise
from torchgraft.verify import Certificate, verify

if TYPE_CHECKING:
    from torchgraft import morph

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
    "plan",
    "rank",
    "similarity",
    "transfer",
    "transfer_optimizer",
    "verify",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "morph":  # imported when it is asked for: with networkx it takes as long as all the rest
        import importlib

        return importlib.import_module("torchgraft.morph")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
