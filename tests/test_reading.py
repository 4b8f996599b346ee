"""A module is read once for each look: what decides how it is matched must be part of the look."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.network import read_module
from torchgraft.records import Layer
from torchgraft.score import Floats, score_graft


class Attention(nn.Module):
    """Separate projections and a number of heads."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(24, 24) for _ in range(4))


class Tied(nn.Module):
    """An embedding and a head, of one tensor or of two."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        if tied:
            self.head.weight = self.embedding.weight


def _buffered(persistent: bool) -> nn.Module:
    module = nn.Linear(2, 2)
    module.register_buffer("table", torch.zeros(3), persistent=persistent)
    return module


CASES: dict[str, Callable[[int], nn.Module]] = {
    "width": lambda n: nn.Linear(3, 4 + n),
    "bias": lambda n: nn.Linear(3, 4, bias=bool(n)),
    "type of a tensor": lambda n: nn.Linear(3, 4, dtype=(torch.float32, torch.float64)[n]),
    "kind": lambda n: nn.Sequential((nn.BatchNorm1d(4, track_running_stats=False), nn.GroupNorm(1, 4))[n]),
    "name": lambda n: nn.ModuleDict({"ab"[n]: nn.Linear(3, 4)}),
    "stride": lambda n: nn.Conv2d(3, 4, 3, stride=1 + n),
    "heads": lambda n: Attention((4, 6)[n]),
    "ties": lambda n: Tied(bool(n)),
    "a module twice": lambda n: nn.Sequential(*([nn.Linear(2, 2)] * 2 if n else [nn.Linear(2, 2), nn.Linear(2, 2)])),
    "nesting": lambda n: (
        nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
        if n
        else nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    ),
    "persistence": lambda n: _buffered(bool(n)),
}


@pytest.mark.parametrize("case", CASES)
def test_what_decides_a_match_makes_another_network(case: str) -> None:
    first, same, other = CASES[case](0), CASES[case](0), CASES[case](1)
    assert read_module(same) is read_module(first)
    assert read_module(other) is not read_module(first)


def test_a_module_changed_in_place_is_read_anew() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    before = read_module(module)
    module[0] = nn.Linear(2, 3, bias=False)
    assert set(before.tensors) - set(read_module(module).tensors) == {"0.bias"}
    attention = Attention(4)
    first = read_module(attention)
    attention.num_heads = 6
    assert read_module(attention) is not first


def test_a_lazy_module_is_refused_after_one_of_its_look_was_read() -> None:
    read_module(nn.Sequential(nn.Linear(2, 3)))
    with pytest.raises(tg.errors.PlanError, match=r"0\.weight belongs to a lazy module"):
        read_module(nn.Sequential(nn.LazyLinear(3)))


def test_networks_of_two_names_are_told_apart() -> None:
    module = nn.Linear(2, 2)
    assert (read_module(module, "one").name, read_module(module, "two").name) == ("one", "two")


def test_only_the_last_networks_are_kept() -> None:
    first = read_module(nn.Linear(2, 2), "first")
    for number in range(80):
        read_module(nn.Linear(2, 2), f"other {number}")
    assert read_module(nn.Linear(2, 2), "first") is not first


def test_a_match_is_remembered_unless_a_stage_is_the_users() -> None:
    source, target = nn.Sequential(nn.Linear(3, 4)), nn.Sequential(nn.Linear(3, 5))
    asked = []

    def scorer(targets: Sequence[Layer], sources: Sequence[Layer]) -> Floats:
        asked.append(len(targets))
        return score_graft(targets, sources)

    plans = [tg.plan(source, target, scorer=scorer) for _ in range(2)]
    assert len(asked) >= 2 and len(asked) % 2 == 0
    assert plans[0] == plans[1] == tg.plan(source, target) == tg.plan(source, target)
    assert tg.plan(source, target, exclude_target=["0"]).pairs() == ()
