"""A layer as branches: in every way, edited on, and contracted again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.morph.networks import IMAGES, TOKENS, deviation, plain, shaken
from torchgraft import MorphError, SpecError, morph

WAYS = {
    "shares": {"allocate": "replicate", "merge": "add"},
    "outputs": {"allocate": "replicate", "merge": "concat"},
    "inputs": {"allocate": "split", "merge": "add"},
    "channels": {"allocate": "split", "merge": "concat"},
}


def branched(way: str) -> Any:
    model = plain("batch", "GELU", "depthwise" if way == "channels" else "plain")
    return morph.branch(model, "3", **WAYS[way], inputs=IMAGES, certify=False).model


def by_channels(model: nn.Module, path: str) -> nn.Module:
    return morph.branch(model, path, **WAYS["channels"], inputs=IMAGES, certify=False).model


INSIDE: dict[str, Callable[[Any], nn.Module]] = {
    "widen": lambda m: morph.widen(m, "3.0", m[3][0].out_channels + 4, inputs=IMAGES, certify=False).model,
    "widen what it reads": lambda m: morph.widen(m, "0", 14, inputs=IMAGES, certify=False).model,
    "deepen": lambda m: morph.deepen(m, "3.1", inputs=IMAGES, certify=False).model,
    "expand the kernel": lambda m: morph.expand_kernel(m, "3.1", 7, inputs=IMAGES, certify=False).model,
    "add a branch": lambda m: morph.add_branch(m, "3.1", "s>t:1x1", inputs=IMAGES, certify=False).model,
    "branch again": lambda m: morph.branch(m, "3.1", 3, inputs=IMAGES, certify=False).model,
    "branch all, then widen one's input": lambda m: INSIDE["widen"](by_channels(m, "5")),
}


@pytest.mark.parametrize("edit", INSIDE)
@pytest.mark.parametrize("way", WAYS)
def test_branches_are_edited_on(way: str, edit: str) -> None:
    model = branched(way)
    edited: Any = INSIDE[edit](model)
    assert deviation(model, edited) <= 1e-10
    assert str(edited) != str(model)
    sizes = edited[3].sizes
    assert bool(sizes) == (way in ("inputs", "channels")) and sum(sizes) in (0, edited[0].out_channels)


@pytest.mark.parametrize("way", ["shares", "outputs", "inputs"])
@pytest.mark.parametrize("layer", [nn.Conv2d(6, 8, 3, 2, 1), nn.Conv1d(6, 8, 5), nn.Linear(6, 8)], ids=str)
def test_linear_branches_contract_to_the_layer(layer: Any, way: str) -> None:
    model = nn.Sequential(layer).double()
    inputs = torch.randn(2, 6, *[9] * (layer.weight.ndim - 2), dtype=torch.float64)
    back: Any = morph.contract(morph.branch(model, "0", 3, **WAYS[way], inputs=inputs).model)
    assert type(back) is type(layer) and torch.allclose(back.weight, layer.weight, atol=1e-14)


def test_groups_contract_to_groups() -> None:
    model = nn.Sequential(nn.Conv2d(6, 12, 3, groups=3)).double()
    inputs = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    made: Any = morph.branch(model, "0", **WAYS["channels"], inputs=inputs).model
    assert [one.groups for one in made[0]] == [2, 1] and made[0].sizes == (4, 2)
    assert morph.contract(made).groups == 3


TOKEN_LAYERS: dict[str, tuple[str, str]] = {
    "a linear layer's outputs": ("0", "outputs"),
    "a linear layer's inputs": ("3", "inputs"),
    "a layer norm": ("1", "shares"),
    "an activation": ("2", "channels"),
}


@pytest.mark.parametrize("case", TOKEN_LAYERS)
def test_tokens_have_their_channels_last(case: str) -> None:
    model = shaken(nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4)))
    path, way = TOKEN_LAYERS[case]
    edited = morph.branch(model, path, **WAYS[way], inputs=TOKENS)
    assert edited.exact and deviation(model, edited.model, TOKENS) <= 1e-10


@pytest.mark.parametrize("way", WAYS)
def test_transposed_convolutions(way: str) -> None:
    groups = 2 if way == "channels" else 1
    model = shaken(nn.Sequential(nn.ConvTranspose2d(6, 8, 3, stride=2, groups=groups), nn.GELU()))
    inputs = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    edited = morph.branch(model, "0", **WAYS[way], inputs=inputs)
    assert edited.exact and deviation(model, edited.model, inputs) <= 1e-10


def test_whole_blocks_are_replicated_and_train_alike_at_first() -> None:
    block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    model = shaken(nn.Sequential(block, nn.Conv2d(8, 4, 1)))
    edited = morph.branch(model, "0", 3, inputs=IMAGES).model
    assert deviation(model.train(), edited.train()) <= 1e-10
    factors: Any = edited[0].factors
    assert len(set(factors)) == 3 and sum(factors) == pytest.approx(1)


def test_shares_are_drawn_or_given() -> None:
    model = plain()
    drawn, given = (morph.branch(model, "3", shares=one, inputs=IMAGES).model[3] for one in (None, [0.25, 0.75]))
    assert torch.allclose(given[0].weight, 0.25 * model[3].weight)
    assert not torch.allclose(drawn[0].weight, drawn[1].weight)


def test_other_layers_are_refused_or_replicated_whole() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, blob: torch.Tensor) -> torch.Tensor:
            return super().forward(blob) * self.weight.norm()

    model = shaken(nn.Sequential(Doubled(3, 8, 3), nn.ReLU()))
    assert morph.branch(model, "0", inputs=IMAGES).exact
    with pytest.raises(MorphError, match="use allocate='replicate' with merge='add'"):
        morph.branch(model, "0", merge="concat", inputs=IMAGES)
    with pytest.raises(SpecError, match="unknown merge 'concatenate': did you mean 'concat'"):
        morph.branch(model, "0", merge="concatenate", inputs=IMAGES)
    with pytest.raises(SpecError, match=r"unknown allocation 'copy' \(valid: replicate, split\)"):
        morph.branch(model, "0", allocate="copy", inputs=IMAGES)


def test_a_module_that_does_not_run_has_no_branches() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    with pytest.raises(MorphError, match="idle is not run with a tensor"):
        morph.branch(Idle().double(), "idle", inputs=TOKENS)
