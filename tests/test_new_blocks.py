"""What a target has and its source has not, and what keeps the function all the same: layer scales, silent mixers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchgraft as tg
from benchmarks.growth.measure import drawn
from tests.growing import IMAGES, ROWS, Built

SCALED = 0.1
WORDS = torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(7))


class Scaled(nn.Module):
    """Residual blocks under layer norms, each with a layer scale if there is one."""

    def __init__(
        self, width: int = 8, depth: int = 2, scale: float | None = None, affine: bool = True, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width, eps, affine) for _ in range(depth)])
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.scales = nn.ParameterList([torch.full((width,), scale) for _ in range(depth)] if scale else [])
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number, (norm, layer) in enumerate(zip(self.norms, self.layers, strict=True)):
            made = layer(norm(x))
            x = x + (made * self.scales[number] if len(self.scales) else made)
        return self.head(x)


class Pooling(nn.Module):
    """Blocks that mix places without weights, behind a group norm that has a gain only (PoolFormer v2)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.gains = nn.ParameterList([torch.ones(8) for _ in range(depth)])
        self.layers = nn.ModuleList([nn.Conv2d(8, 8, 1) for _ in range(depth)])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for gain, layer in zip(self.gains, self.layers, strict=True):
            y = F.group_norm(x, 1, gain)
            x = x + (F.avg_pool2d(y, 3, 1, 1, count_include_pad=False) - y)
            x = x + layer(torch.relu(x))
        return self.head(x.mean((2, 3)))


class Turned(nn.Module):
    """Blocks that work on rows of places and turn them back into a picture (DaViT)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.around = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1, groups=8) for _ in range(depth)])
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(depth)])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for around, layer in zip(self.around, self.layers, strict=True):
            x = x + around(x)
            rows = x.flatten(2).transpose(1, 2)
            rows = rows + layer(torch.tanh(rows))
            x = rows.transpose(1, 2).reshape(x.shape)
        return self.head(x.mean((2, 3)))


class Twice(nn.Module):
    """Axes swapped twice, for nothing, on both sides (Mamba)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)).transpose(0, 1).contiguous().transpose(0, 1))


class Spoken(nn.Module):
    """A language model whose last layer is its embedding, under whose name the tensor stands first (CamemBERT)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 20)
        self.words = nn.Embedding(20, width)
        self.layer = nn.Linear(width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        x = x + self.layer(self.norms[0](x))
        return self.head(self.norms[1](x))


class Separable(nn.Module):
    """Attention by a query of one unit (MobileViT 2): what is cut from its projection grows in all parts but one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.stem = width, nn.Conv2d(3, width, 1)
        self.project, self.out = nn.Conv2d(width, 1 + 2 * width, 1), nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        query, key, value = self.project(x).split([1, self.width, self.width], 1)
        context = (key * query.flatten(2).softmax(-1).view_as(query)).sum((2, 3), keepdim=True)
        return self.head((x + self.out(F.relu(value) * context)).mean((2, 3)))


class Aggregation(nn.Module):
    """A block that puts what it makes behind what it reads, and mixes both."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.inner = self._layer(width, inner, 3)
        self.mixed = self._layer(width + inner, width, 1)

    @staticmethod
    def _layer(inputs: int, outputs: int, kernel: int) -> nn.Module:
        convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.mixed(torch.cat([x, self.inner(x)], 1))


class Aggregating(nn.Module):
    """Such blocks in a row, without residuals (VoVNet)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(*(Aggregation(8, 6) for _ in range(depth)))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


EXACT: dict[str, tuple[Built, Built, Tensor]] = {
    "new layer scales": (Scaled, partial(Scaled, scale=SCALED), ROWS),
    "new layer scales, deeper": (Scaled, partial(Scaled, depth=4, scale=SCALED), ROWS),
    "new layer scales, tiled": (Scaled, partial(Scaled, 16, scale=SCALED), ROWS),
    "new layer scales, padded": (Scaled, partial(Scaled, 11, 3, scale=SCALED), ROWS),
    "layer scales on both sides": (partial(Scaled, scale=SCALED), partial(Scaled, 16, 3, scale=SCALED), ROWS),
    "layer norms without parameters, tiled": (
        partial(Scaled, affine=False),
        partial(Scaled, 16, 3, affine=False),
        ROWS,
    ),
    "axes swapped twice": (partial(Twice, 8), partial(Twice, 12), ROWS),
    "words under the name of the head": (partial(Spoken, 8), partial(Spoken, 16), WORDS),
    "mixers without weights": (partial(Pooling, 2), partial(Pooling, 4), IMAGES),
    "a query of one unit": (partial(Separable, 8), partial(Separable, 12), IMAGES),
    "a part of a concatenation": (partial(Aggregating, 1), partial(Aggregating, 3), IMAGES),
    "rows and pictures": (partial(Turned, 2), partial(Turned, 4), IMAGES),
}


@pytest.mark.parametrize("name", EXACT)
def test_what_only_the_target_has_keeps_the_function_and_the_plan_says_so(name: str) -> None:
    build, larger, inputs = EXACT[name]
    source, target = drawn(build, 0), drawn(larger, 1)
    plan = tg.plan(source, target)
    report = tg.apply(plan, source, target)
    assert tg.verify(source, target, report, inputs).exact
    assert plan.exact, plan.obstacles


def test_a_new_layer_scale_is_one_also_where_the_source_does_not_fit() -> None:
    source, target = drawn(partial(Scaled, depth=3), 0), drawn(partial(Scaled, 6, scale=1e-5), 1)
    report = tg.transfer(source, target)
    assert all(bool((scale == 1).all()) for scale in target.scales)
    told = {one.key: one.status for one in report.tensors}
    assert told["scales.0"] == told["scales.1"] == "silenced"


def test_layer_scales_of_the_source_that_have_no_place_are_multiplied_in() -> None:
    source, target = drawn(partial(Scaled, scale=SCALED), 0), drawn(Scaled, 1)
    plan = tg.plan(source, target)
    assert plan.exact, plan.obstacles
    assert tg.verify(source, target, tg.apply(plan, source, target)).exact


def test_branches_are_placed_in_the_order_of_the_run(zoo: object) -> None:
    """Layer by layer, the perceptron of a block of one sort was placed before the attention of that block."""
    from timm.models.gcvit import GlobalContextVit

    def build(depths: tuple[int, ...]) -> nn.Module:
        return GlobalContextVit(depths=depths, num_classes=5, num_heads=(2, 4, 8, 16), embed_dim=16)

    source, target = drawn(partial(build, (1, 2, 1, 1)), 0), drawn(partial(build, (1, 4, 1, 1)), 1)
    report = tg.transfer(source, target)
    assert report.plan.exact and tg.verify(source, target, report).exact


def test_zeros_that_a_norm_would_need_and_does_not_get_are_foretold(zoo: object) -> None:
    """Mamba 2 normalizes what its convolution gives, heads and their sizes in one: new units of it are not zero."""
    from transformers import Mamba2Config, Mamba2ForCausalLM

    def build(width: int) -> nn.Module:
        sizes = {"head_dim": 8, "state_size": 8, "n_groups": 2, "expand": 2, "num_hidden_layers": 1, "vocab_size": 30}
        return Mamba2ForCausalLM(Mamba2Config(hidden_size=width, num_heads=width // 4, **sizes))

    source, target = drawn(partial(build, 32), 0), drawn(partial(build, 64), 1)
    plan = tg.plan(source, target)
    assert not plan.exact and any("held at zero behind a depthwise" in one for one in plan.obstacles or ())
    assert not tg.verify(source, target, tg.apply(plan, source, target)).exact


@pytest.mark.parametrize(
    ("width", "eps", "why"), [(12, 1e-5, "takes in 12 units"), (16, 1e-3, "1e-05 → 0.001 in Layer")]
)
def test_layer_norms_without_parameters_that_change_are_foretold(width: int, eps: float, why: str) -> None:
    source, target = drawn(partial(Scaled, affine=False), 0), drawn(partial(Scaled, width, affine=False, eps=eps), 1)
    plan = tg.plan(source, target)
    assert not plan.exact and any(why in one for one in plan.obstacles or ())
    assert not tg.verify(source, target, tg.apply(plan, source, target), ROWS).exact
