"""Optimizers after a transfer: state moves with the weights, by the moves of a plan, and rates go by origin.

report    what moved, and what did not and why
holding   which parameter of an optimizer is which tensor of the plan
moments   one moment of one tensor, written by one move, with the scaling that gradients ask for
states    the new state of one parameter, or why it gets none
moving    the whole: read and checked first, then written
groups    learning rates by origin
"""

from __future__ import annotations

from torchgraft.optim.groups import parameter_groups, share_of, transferred_keys
from torchgraft.optim.moving import transfer_optimizer
from torchgraft.optim.report import OptimizerReport

__all__ = ["OptimizerReport", "parameter_groups", "share_of", "transfer_optimizer", "transferred_keys"]
