"""Networks with too little in common: what is taken, and how to take more."""

from __future__ import annotations

import pytest
from torch import nn

import torchgraft as tg
from torchgraft.match.fitting import LEAST_SIMILARITY, input_pairs, is_alike
from torchgraft.score import SCORERS
from torchgraft.transfer.planning import UNLIKE


def plain(*widths: int, kernel: int = 1) -> nn.Module:
    """Convolutions with norms, in a row, no blocks."""
    parts: list[nn.Module] = []
    for inputs, outputs in zip((3, *widths), widths, strict=False):
        parts += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


class Basic(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])

    def forward(self, x):  # type: ignore[no-untyped-def]
        return (x + self.norms[1](self.b(self.norms[0](self.a(x)).relu()))).relu()


def residual(width: int, count: int) -> nn.Module:
    stem = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
    blocks = (Basic(width) for _ in range(count))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


UNLIKE_PAIR = plain(96, 160, 192, 192, 192), residual(16, 12)


def test_of_networks_with_little_in_common_only_what_reads_the_input_is_taken() -> None:
    plan = tg.plan(*UNLIKE_PAIR)
    assert plan.notes[0] == UNLIKE
    assert {tensor.key.split(".")[0] for tensor in plan.tensors if tensor.source} == {"0", "1"}
    assert tg.similarity(*UNLIKE_PAIR, measure="F") < LEAST_SIMILARITY


def test_all_of_it_is_taken_on_request_and_by_the_published_method() -> None:
    source, target = UNLIKE_PAIR
    for plan in (tg.plan(source, target, least_similarity=0), tg.plan(source, target, method="dpiat")):
        assert UNLIKE not in plan.notes and max(map(int, (t.key.split(".")[0] for t in plan.tensors if t.source))) > 1
    assert UNLIKE not in tg.plan(source, target, pins={"0": "0"}).notes
    assert UNLIKE not in tg.plan(source, target, scorer=lambda *sides: SCORERS["graft"](*sides) / 2).notes


def test_a_network_of_many_times_the_width_is_no_other_network() -> None:
    narrow, wide = plain(4, 6, 8), plain(64, 96, 128)
    assert tg.similarity(narrow, wide, measure="F") < LEAST_SIMILARITY
    for plan in (tg.plan(narrow, wide), tg.plan(wide, narrow)):
        assert UNLIKE not in plan.notes and all(tensor.source for tensor in plan.tensors)


def test_where_nothing_reads_the_input_alike_all_that_is_matched_is_taken() -> None:
    source = nn.Sequential(nn.Linear(7, 160), *(nn.Conv2d(160, 160, 1) for _ in range(3)))
    plan = tg.plan(source, residual(16, 12))
    assert tg.similarity(source, residual(16, 12), measure="F") < LEAST_SIMILARITY
    assert UNLIKE not in plan.notes and plan.coverage > 0


@pytest.mark.parametrize("wrong", [-0.1, 1.5])
def test_a_similarity_that_cannot_be(wrong: float) -> None:
    with pytest.raises(tg.SpecError, match="between 0"):
        tg.plan(*UNLIKE_PAIR, least_similarity=wrong)


def test_nothing_is_unlike_nothing() -> None:
    assert is_alike(0.0, {}, []) and input_pairs({}, []) == {}
