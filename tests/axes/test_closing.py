"""What makes a value zero, in runs where one value is read along very many ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchgraft.axes import axis_groups


class Doubled(nn.Module):
    """A value added to itself again and again: the ways to it double with every sum."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.stem, self.branch, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = y = self.stem(x)
        z = self.branch(x)
        for _ in range(self.times):
            y, z = y + y.relu(), z + z.relu()
        return self.head(x + z + y)


def test_what_makes_a_value_zero_is_asked_once_along_hundreds_of_sums() -> None:
    """By recursion this would take 2 ** 600 steps, and a stack of as many frames."""
    groups = axis_groups(Doubled(600), (torch.zeros(2, 3),))
    assert set(groups.branches[0].closing) == {"branch.weight", "branch.bias"}
    stream = next(group for group in groups.free() if group.size == 8)
    assert {member.key for member in stream.members} == {
        "stem.weight", "stem.bias", "branch.weight", "branch.bias", "head.weight",
    }  # fmt: skip
