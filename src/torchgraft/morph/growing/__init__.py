"""Growth while a model trains: one edit or a schedule of them, with all that training holds beside the weights.

records    what is edited, what comes of it, what was done
texts      edits as text
groups     which parameter group each parameter of the edited model is in
carry      optimizer state and gradients, along the edits
average    moving averages of weights
parallel   models inside DistributedDataParallel
grow       now
schedule   at given steps
"""

from __future__ import annotations

from torchgraft.morph.growing.grow import grow
from torchgraft.morph.growing.records import Grown
from torchgraft.morph.growing.schedule import Growth

__all__ = ["Grown", "Growth", "grow"]
