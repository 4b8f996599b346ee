"""The certificate of a transfer: by how much the target's function deviates from the source's, from where on, and why.

running  both models on the same inputs, in eval and train mode, in float64 and float32
outputs  what is compared, and by how much it deviates
places   the outputs of matched layers, side by side, and the first ones that part
rules    what differs between modules, in words
reasons  what the plan foretold and the rules find, in order
check    the whole
"""

from __future__ import annotations

from torchgraft.verify.certificate import Certificate, Deviation, Place
from torchgraft.verify.check import verify

__all__ = ["Certificate", "Deviation", "Place", "verify"]
