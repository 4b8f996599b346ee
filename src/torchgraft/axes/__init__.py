"""Which axes of which tensors must be changed together: found by running a model without values, proven by probing.

terms   what an axis is made of, and what follows when two axes are the same
trace   one run on the meta device: every operator, with the axes of what goes in and comes out
rules   what every operator does to axes
inputs  what a model can be run on, found by trying
runs    the run itself, with values where its way depends on them
groups  the result
probe   its proof
"""

from __future__ import annotations

from torchgraft.axes.groups import AxisGroups, Group, Member, axis_groups, known_groups
from torchgraft.axes.inputs import example_inputs
from torchgraft.axes.probe import Proof, probe

__all__ = ["AxisGroups", "Group", "Member", "Proof", "axis_groups", "example_inputs", "known_groups", "probe"]
