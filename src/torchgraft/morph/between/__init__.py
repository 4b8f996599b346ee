"""From a source to a given target by edits that keep the function.

runs        the run of a model as a row of uses of its tensors
alignment   the target's run as the source's in which parts are repeated
sizes       the edits of kernels and widths that are left
compare     whether two models are the same computation, names aside
fill        the weights of an edited model in the target itself
proof       what rules out every row of edits
script      what was found, replayed and filled into the target
search      the whole
"""

from __future__ import annotations

from torchgraft.morph.between.script import Script
from torchgraft.morph.between.search import between

__all__ = ["Script", "between"]
