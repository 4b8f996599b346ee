"""The law of exact growth: where the target can hold the source, it computes the source's function before training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import torchgraft as tg
from benchmarks.growth.language import language_cases
from benchmarks.growth.measure import drawn, settle, varied
from benchmarks.growth.networks import CifarResNet, MBConvNet
from benchmarks.growth.pairs import Case, cases
from benchmarks.growth.real import FOLDER, GROWN, grow
from benchmarks.growth.recurrent import Stack
from tests.growing import IMAGES, ROWS, Built, assert_grown, grown


class Residual(nn.Module):
    """A stem and residual blocks of convolutions and batch norms, with squeeze-and-excitation where it is asked for."""

    def __init__(
        self, width: int, depth: int, kernel: int = 3, groups: int = 1, squeezed: int = 0, bottleneck: bool = False
    ) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList(Block(width, kernel, groups, squeezed, bottleneck) for _ in range(depth))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        found: Tensor = self.head(x.mean((2, 3)))
        return found


class Block(nn.Module):
    def __init__(self, width: int, kernel: int, groups: int, squeezed: int, bottleneck: bool) -> None:
        super().__init__()
        inner = width if bottleneck else 2 * width
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.reduce = nn.Conv2d(inner, squeezed, 1) if squeezed else None
        self.expand = nn.Conv2d(squeezed, inner, 1) if squeezed else None
        self.conv3, self.bn3 = nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        if self.reduce is not None and self.expand is not None:
            x = x * torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True)))))
        found: Tensor = self.bn3(self.conv3(x))
        return found


class Dense(nn.Module):
    """Every convolution reads all that came before it, side by side."""

    def __init__(self, stem: int, growth: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        widths = [stem + growth * number for number in range(depth + 1)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.layers = nn.ModuleList(nn.Conv2d(width, growth, 3, padding=1) for width in widths[:-1])
        self.head = nn.Linear(widths[-1], 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = torch.cat([x, layer(torch.relu(norm(x)))], 1)
        found: Tensor = self.head(self.norms[-1](x).mean((2, 3)))
        return found


def tokens(width: int, hidden: int, activation: type[nn.Module] = nn.GELU) -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, width), nn.LayerNorm(width), nn.Linear(width, hidden), activation(), nn.Linear(hidden, width),
        nn.LayerNorm(width), nn.Linear(width, 5),
    )  # fmt: skip


def normed(groups: int, width: int) -> nn.Module:
    parts = (nn.Conv2d(3, width, 3), nn.GroupNorm(groups, width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 5))
    return nn.Sequential(*parts)


STEPS = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(7))

EXACT: dict[str, tuple[Built, Built, Tensor]] = {
    "deeper": (partial(Residual, 8, 2), partial(Residual, 8, 4), IMAGES),
    "wider": (partial(Residual, 8, 2), partial(Residual, 11, 2), IMAGES),
    "twice as wide, deeper, larger kernels": (partial(Residual, 8, 2), partial(Residual, 16, 3, 5), IMAGES),
    "squeeze-and-excitation": (partial(Residual, 8, 2, squeezed=4), partial(Residual, 12, 3, squeezed=6), IMAGES),
    "depthwise": (partial(Residual, 8, 2, groups=16), partial(Residual, 12, 3, 5, groups=24), IMAGES),
    "more groups": (partial(Residual, 8, 2, groups=4), partial(Residual, 16, 2, groups=8), IMAGES),
    "larger groups": (partial(Residual, 8, 2, groups=4), partial(Residual, 16, 2, groups=4), IMAGES),
    "concat": (partial(Dense, 6, 4, 3), partial(Dense, 9, 5, 3), IMAGES),
    # The next stage of the source is exactly as wide as this one of the target.
    "every stage twice as wide": (CifarResNet, partial(CifarResNet, widths=(32, 64, 128)), IMAGES),
    "wider, deeper, larger kernels": (
        CifarResNet,
        partial(CifarResNet, widths=(24, 48, 96), depth=4, kernel=5),
        IMAGES,
    ),
    # Only some blocks are residual; those between them are as wide as their neighbours.
    "more residual blocks among others": (MBConvNet, partial(MBConvNet, repeats=2), IMAGES),
    "LSTM": (partial(Stack, nn.LSTM, 8, 2), partial(Stack, nn.LSTM, 11, 2), STEPS),
    "LSTM both ways": (partial(Stack, nn.LSTM, 6, 1, True), partial(Stack, nn.LSTM, 8, 1, True), STEPS),
    "GRU": (partial(Stack, nn.GRU, 8, 2), partial(Stack, nn.GRU, 12, 2), STEPS),
    "layer norm, padded": (partial(tokens, 12, 24), partial(tokens, 17, 30), ROWS),
    "layer norm, tiled": (partial(tokens, 12, 24), partial(tokens, 24, 48), ROWS),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_larger_target_computes_the_source_s_function(name: str) -> None:
    assert_grown(*EXACT[name])


LANGUAGE = {name: rest for name, *rest in language_cases()}
QUICK = [name for name in LANGUAGE if name.startswith(("GPT-2", "BERT doubled", "Llama tied", "Mistral more", "T5"))]


@pytest.mark.parametrize("name", QUICK)
def test_a_larger_language_model_computes_the_source_s_function(name: str, zoo: object) -> None:
    build, larger, inputs = LANGUAGE[name]
    source, target = drawn(build, 0), drawn(larger, 1)
    assert varied(source, inputs()) > 0.1
    # transformers takes the statistics of root mean squares in float32, whatever the weights are.
    limit = 1e-5 if name.startswith(("Llama", "Mistral", "T5")) else 1e-10
    assert grown(source, target, inputs())[0] <= limit


def test_the_test_sees_a_target_that_is_not_the_same() -> None:
    source, target = drawn(partial(Residual, 8, 2), 0), drawn(partial(Residual, 11, 2), 1)
    settle(source, IMAGES, seed=2)
    tg.transfer(source, target, operator="clip")
    with torch.no_grad():
        assert float((source(IMAGES) - target(IMAGES)).abs().max()) > 1e-3


def reasons(build: Built, larger: Built, inputs: Tensor) -> Sequence[str]:
    source, target = drawn(build, 0), drawn(larger, 1)
    certificate = tg.verify(source, target, tg.transfer(source, target), inputs)
    assert not certificate.exact
    return certificate.reasons


def test_another_activation_is_named() -> None:
    told = reasons(partial(tokens, 12, 24), partial(tokens, 24, 48, nn.SiLU), ROWS)
    assert told[0] == "GELU → SiLU, at 3"


def test_statistics_over_other_units_are_named() -> None:
    told = reasons(partial(normed, 2, 8), partial(normed, 2, 12), IMAGES)
    assert told[0] == "GroupNorm 8 → 12 (in 2 groups) takes its statistics over other units, at 1"


def test_every_pair_of_the_page_has_its_own_name(zoo: object) -> None:
    found: list[Case] = list(cases())
    assert len({(one.section, one.name) for one in found}) == len(found) >= 60


@pytest.mark.shared
@pytest.mark.parametrize("told", ["twice as wide", "wider, deeper, kernels 5×5", "wider, 20 classes"])
def test_a_trained_network_keeps_its_answers(told: str, shared: object) -> None:
    assert FOLDER.is_dir()
    found = grow("cifar10_resnet20", told, dict(GROWN["cifar10_resnet20"])[told], 40)
    assert (found.changed, found.known) == (0, found.before)
    assert found.before >= 25
