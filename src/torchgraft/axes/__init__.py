"""Which axes of which tensors must be changed together: found by running a model without values, proven by probing.

terms, spans     what an axis is made of, and what follows when two axes are the same
shadow           copies of a model that are run without harm
holes, guesses, guesses_transformers, inputs   what a model can be run on, found by trying
steps, outputs, trace   one run on the meta device: every operator, with the axes of what goes in and comes out
rules            what every operator does to axes
runs             the run itself, with values where its way depends on them
flow             the run as a graph, in which are found:
  branches, sums, gates            what is added to a stream, or multiplied with one
  attention, norms, scales         what couples or scales units
  links, reads                     what stands between layers
groups           the result
precise, probe   its proof
"""

from __future__ import annotations

from torchgraft.axes.groups import AxisGroups, Group, Member, axis_groups, known_groups
from torchgraft.axes.inputs import example_inputs
from torchgraft.axes.probe import Proof, probe

__all__ = ["AxisGroups", "Group", "Member", "Proof", "axis_groups", "example_inputs", "known_groups", "probe"]
