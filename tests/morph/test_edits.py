"""Edits on whole models keep the function, or say why not."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchgraft as tg
from tests.builders import same_bits, snapshot
from tests.morph.networks import ACTIVATIONS, IMAGES, TOKENS, deviation, plain, shaken
from tests.morph.test_edits_grid import EDITS, by_slices
from torchgraft import MorphError, SpecError, morph
from torchgraft.morph import Edit


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_every_activation_can_be_deepened(activation: str, norm: str) -> None:
    model = plain(norm, activation)
    edited = morph.deepen(model, "0", inputs=IMAGES, certify=False)
    assert deviation(model, edited.model) <= 1e-10
    kinds = [type(part).__name__ for part in edited.model[3].modules()]
    assert ("Residual" in kinds) == (activation in ("Tanh", "Mish"))
    assert activation in kinds


def test_kinds_that_an_activation_does_not_allow_are_refused() -> None:
    for activation, kind in (("GELU", "identity"), ("Tanh", "pair"), ("ReLU6", "pair")):
        with pytest.raises(MorphError, match="kind="):
            morph.deepen(plain("none", activation), "0", kind=kind, inputs=IMAGES)
    with pytest.raises(SpecError, match="valid: identity, pair, residual, blend"):
        morph.deepen(plain(), "0", kind="other", inputs=IMAGES)


def test_a_layer_without_an_activation_gets_one_of_the_model() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Identity(), nn.Dropout(0.1), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2))
    deeper = morph.deepen(model.eval(), "0")
    assert deeper.exact
    assert [type(one).__name__ for one in deeper.model.modules()].count("GELU") == 2


@pytest.mark.parametrize("graph", ["s>t:1x1", "s>a:1x1 a>t:3x3", "s>a:3x3 a>t:1x1 s>t:0.5*id"])
def test_branches_are_added_beside_a_layer(graph: str) -> None:
    model = plain()
    edited = morph.add_branch(model, "3", graph, inputs=IMAGES)
    assert deviation(model, edited.model) <= 1e-10
    assert edited.exact and edited.model[3].text.endswith(graph)


def test_a_new_layer_takes_the_statistics_of_the_norm_before_it() -> None:
    model = plain()
    inserted = morph.deepen(model, "0", inputs=IMAGES, certify=False).model[3]
    mean = inserted[1].running_mean
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = (z[:, None] * model[1].weight + model[1].bias).relu().mean(0)
    assert torch.allclose(mean, expected, atol=0.02)


class Block(nn.Module):
    """A residual block with a depthwise convolution and squeeze-and-excitation."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, inner, 1)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.norm2 = nn.BatchNorm2d(inner)
        self.reduce, self.expand = nn.Conv2d(inner, 4, 1), nn.Conv2d(4, inner, 1)
        self.conv3 = nn.Conv2d(inner, width, 1)

    def forward(self, blob: Tensor) -> Tensor:
        inner = F.silu(self.norm2(self.conv2(F.relu(self.conv1(self.norm(blob))))))
        gate = self.expand(F.relu(self.reduce(inner.mean((2, 3), keepdim=True)))).sigmoid()
        return blob + self.conv3(inner * gate)


class Coupled(nn.Module):
    """Residual sums, a concatenation, a grouped convolution, and a flattened picture."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.blocks = nn.ModuleList(Block(8, 12) for _ in range(2))
        self.side = nn.Conv2d(3, 6, 3, stride=2)
        self.mix = nn.Conv2d(14, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        blob = self.stem(images)
        for block in self.blocks:
            blob = block(blob)
        blob = self.mix(torch.cat([blob, F.gelu(self.side(images))], 1))
        return self.head(self.grouped(blob)[..., :1].flatten(1))


COUPLED: dict[str, Callable[..., morph.Edited]] = {
    "stream": lambda model, **options: morph.widen(model, "stem", 15, **options),
    "expansion": lambda model, **options: morph.widen(model, "blocks.1.conv1", 18, **options),
    "gate": lambda model, **options: morph.widen(model, "blocks.0.reduce", 6, **options),
    "grouped, to a linear layer": lambda model, **options: morph.widen(model, "grouped", 12, **options),
    "stack": lambda model, **options: morph.stack(model, "blocks", 5, **options),
    "insert_block": lambda model, **options: morph.insert_block(model, "blocks.0", Block(8, 20), **options),
    "insert around": lambda model, **options: morph.insert_block(model, "stem", Block(8, 20), **options),
    "deepen before a function": lambda model, **options: morph.deepen(model, "side", **options),
    "deepen without an activation": lambda model, **options: morph.deepen(model, "grouped", **options),
    "expand a depthwise kernel": lambda model, **options: morph.expand_kernel(model, "blocks.0.conv2", 7, **options),
}


@pytest.mark.parametrize("edit", COUPLED)
def test_what_is_coupled_follows(edit: str) -> None:
    torch.manual_seed(0)
    model = shaken(Coupled())
    edited = COUPLED[edit](model, inputs=IMAGES)
    assert edited.exact and deviation(model, edited.model) <= 1e-10
    assert sum(one.numel() for one in edited.model.parameters()) > sum(one.numel() for one in model.parameters())


class Attention(nn.Module):
    """Attention that keeps its numbers as attributes."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.scale = self.head_dim**-0.5
        self.inner_dim = width
        self.norm, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], 3, self.num_heads, self.head_dim)
        q, k, v = self.qkv(self.norm(x)).reshape(shape).permute(2, 0, 3, 1, 4)
        mixed = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return x + self.proj(mixed.transpose(1, 2).reshape(*x.shape[:2], self.inner_dim))


def attending(norm: type[nn.Module] = nn.LayerNorm) -> Any:
    mlp = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))
    rows = [nn.Linear(6, 6), Attention(6, 3), morph.Residual(nn.Sequential(norm(6), mlp)), norm(6), nn.Linear(6, 4)]
    return shaken(nn.Sequential(*rows))


ATTENTION: dict[str, Callable[..., morph.Edited]] = {
    "stream": lambda model, **options: morph.widen(model, "0", 9, **options),
    "stream by copies": lambda model, **options: morph.widen(model, "0", 12, **options),
    "feed-forward": lambda model, **options: morph.widen(model, "2.body.1.0", 20, **options),
    "heads": lambda model, **options: morph.widen_heads(model, "1", heads=5, **options),
    "head size": lambda model, **options: morph.widen_heads(model, "1", head_size=5, **options),
    "heads and size": lambda model, **options: morph.widen_heads(model, "1", heads=4, head_size=3, **options),
    "deepen": lambda model, **options: morph.deepen(model, "2.body.1.0", **options),
    "insert": lambda model, **options: morph.insert_block(model, "1", Attention(6, 2), **options),
}


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize("edit", ATTENTION)
def test_transformers_are_edited(edit: str, norm: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = attending(nn.LayerNorm if "stream" in edit else norm)  # one stream cannot be under both at any width
    edited = ATTENTION[edit](model, inputs=TOKENS)
    assert edited.exact and deviation(model, edited.model, TOKENS) <= 1e-10
    attention = edited.model[1]
    assert attention.qkv.weight.shape[0] == 3 * attention.num_heads * attention.head_dim
    assert attention.scale == attention.head_dim**-0.5


class Indexed(nn.Module):
    """Code that counts on the places of a row's parts, and on values."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4))
        self.named = nn.Sequential(OrderedDict((f"block_{n}", Mixer()) for n in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.named(x)
        x = self.row[1](self.row[0](x))
        return self.row[2](x if bool(x.sum() > -1) else -x)


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(x)))


@pytest.mark.parametrize("inputs", [TOKENS, None], ids=["given", "guessed"])
def test_code_that_counts_on_places_and_values_is_edited_too(inputs: Tensor | None) -> None:
    model = shaken(Indexed())
    edited = morph.insert_block(model, "row.0", Mixer(), inputs=inputs)
    assert [type(one) for one in edited.model.row] == [nn.Sequential, nn.ReLU, nn.Linear]
    stacked = morph.stack(edited.model, "named", 5, inputs=inputs)
    assert sorted(stacked.model.named._modules) == ["block_0", "block_0_2", "block_0_3", "block_1", "block_1_2"]
    wider = morph.widen(stacked.model, "named.block_1_2.up", 12, inputs=inputs)
    assert edited.exact and stacked.exact and wider.exact
    assert deviation(model, wider.model, TOKENS) <= 1e-10


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "the classes": (lambda m: morph.widen(m, "8", 7, inputs=IMAGES), "the width of 8 cannot change: .* an output"),
    "no width": (lambda m: morph.widen(m, "2", 7, inputs=IMAGES), r"2 \(ReLU\) has no width of its own"),
    "no such module": (lambda m: morph.widen(m, "conv9", 7, inputs=IMAGES), "has no module 'conv9'"),
    "smaller": (lambda m: morph.widen(m, "0", 4, inputs=IMAGES), "use morph.narrow"),
    "larger": (lambda m: morph.narrow(m, "0", 12, inputs=IMAGES), "use morph.widen"),
    "the same": (lambda m: morph.widen(m, "0", 8, inputs=IMAGES), "8 wide already"),
    "inexact": (lambda m: morph.narrow(m, "0", 6, inputs=IMAGES), "would change the function by .* approximate=True"),
    "another centre": (lambda m: morph.expand_kernel(m, "0", 4, inputs=IMAGES), "no larger one with the same centre"),
    "no kernel": (lambda m: morph.expand_kernel(m, "8", 3, inputs=IMAGES), "no convolution with a kernel"),
    "no row": (lambda m: morph.stack(m, "0", 3, inputs=IMAGES), "give the path of a row"),
    "no heads": (lambda m: morph.widen_heads(m, "0", heads=3, inputs=IMAGES), "holds no heads"),
    "no depth": (lambda m: morph.stack(m, "", 2, inputs=IMAGES), "give a depth above that"),
    "a block that adds": (
        lambda m: morph.insert_block(m, "8", nn.Sequential(nn.Linear(5, 5), nn.Tanh()), inputs=IMAGES),
        "would change the function",
    ),
    "a block that does not run": (
        lambda m: morph.insert_block(m, "8", nn.Linear(3, 3), inputs=IMAGES),
        "the model does not run",
    ),
    "no block": (lambda m: morph.insert_block(m, "8", 3, inputs=IMAGES), "a block is a torch module"),
    "the whole model": (lambda m: morph.insert_block(m, "", nn.ReLU(), inputs=IMAGES), "the path is empty"),
    "a graph too small": (lambda m: morph.split(m, "3", "s>t:1x1", inputs=IMAGES), "reach"),
    "one branch": (lambda m: morph.branch(m, "3", 1, inputs=IMAGES), "2 branches or more"),
    "more branches than channels": (
        lambda m: morph.branch(m, "3", 9, merge="concat", inputs=IMAGES),
        "3 has 8 outputs, too few for 9 branches",
    ),
    "slices of a dense layer": (
        lambda m: by_slices(m, "8", inputs=IMAGES),
        r"use allocate='replicate', or merge='add'",
    ),
    "shares of more": (lambda m: morph.branch(m, "3", shares=[0.5, 0.6], inputs=IMAGES), "add up to one"),
    "an empty share": (lambda m: morph.branch(m, "3", shares=[1.0, 0.0], inputs=IMAGES), "none of them zero"),
    "no argument": (lambda m: morph.apply_edits(m, [Edit("widen", "0")], inputs=IMAGES), r"its arguments: width\)"),
    "no edit": (lambda m: morph.apply_edits(m, []), "give at least one"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused_with_its_reason(what: str) -> None:
    model = plain()
    before = snapshot(model)
    edit, reason = REFUSED[what]
    with pytest.raises(MorphError, match=reason) as refused:
        edit(model)
    assert "\n" not in str(refused.value)
    assert same_bits(before, snapshot(model))


def test_code_that_does_not_run_in_other_widths_is_named() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.up(x) * torch.ones(8, dtype=x.dtype, device=x.device))

    with pytest.raises(MorphError, match=r"the code of 0 \(Fixed\) does not run in .* use tg\.transfer"):
        morph.widen(nn.Sequential(Fixed()).double(), "0.up", 12, inputs=TOKENS)


def test_narrowing_says_what_it_cost() -> None:
    model = plain()
    edited = morph.narrow(model, "3", 6, narrowing="magnitude", inputs=IMAGES, approximate=True)
    assert edited.exact is False and edited.model[3].out_channels == 6 and edited.model[8].in_features == 24
    measured = edited.certificate.deviation() if edited.certificate else None
    assert measured is not None and 1e-3 < measured.relative < 1
    with torch.no_grad():
        model[3].weight[:2], model[3].bias[:2], model[4].weight[:2], model[4].bias[:2] = 0, 0, 0, 0
        model[8].weight[:, :8] = 0
    assert morph.narrow(model, "3", 6, inputs=IMAGES).exact, "units that are not in use cost nothing"


def test_in_place_the_model_is_the_edited_one_or_as_it_was() -> None:
    model = plain()
    source = copy.deepcopy(model)
    edited = morph.widen(model, "3", 12, inputs=IMAGES, inplace=True)
    assert edited.model is model and model[3].out_channels == 12 and model[8].in_features == 48
    assert deviation(source, model) <= 1e-10
    with pytest.raises(MorphError):
        morph.widen(model, "8", 12, inputs=IMAGES, inplace=True)
    assert deviation(source, model) <= 1e-10


def test_edits_are_data() -> None:
    model = plain()
    edits = [Edit("widen", "0", {"width": 12}), Edit("deepen", "3"), Edit("add_branch", "3", {"graph": "s>t:1x1"})]
    assert [Edit.from_json(edit.to_json()) for edit in edits] == edits
    edited = morph.apply_edits(model, edits, inputs=IMAGES)
    assert edited.exact and deviation(model, edited.model) <= 1e-10 and len(edited.reports) == 3
    assert str(edited).splitlines()[:3] == ["widen 0: width=12", "deepen 3", "add_branch 3: graph=s>t:1x1"]
    blank = morph.apply_edits(plain("batch", "ReLU"), edits, inputs=IMAGES, certify=False)
    assert blank.exact is None and "not measured" in str(blank)
    blank.model.load_state_dict(edited.model.state_dict())
    assert deviation(edited.model, blank.model) == 0
    assert morph.EDITS.keys() >= {edit.name for edit in edits}
    with pytest.raises(SpecError, match="did you mean 'widen'"):
        morph.apply_edits(model, [Edit("wide", "0")], inputs=IMAGES)
    with pytest.raises(MorphError, match="is no JSON"):
        Edit("insert_block", "0", {"block": nn.ReLU()}).to_json()
    with pytest.raises(MorphError, match="is no edit"):
        Edit.from_json("[]")


@pytest.mark.parametrize("edit", ["widen", "deepen"])
def test_the_optimizer_s_state_goes_with_the_weights(edit: str) -> None:
    model = plain().train()
    first = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(3):
        first.zero_grad()
        model(IMAGES).square().mean().backward()
        first.step()
    edited = EDITS[edit](model, inputs=IMAGES)
    second = torch.optim.AdamW(edited.model.parameters(), 1e-3)
    report = tg.transfer_optimizer(edited.report, first, second, source=model, target=edited.model)
    assert len(report.moved) >= len(list(model.parameters()))
    old, new = first.state[model[0].weight]["exp_avg"], second.state[edited.model[0].weight]["exp_avg"]
    assert torch.equal(old, new)


@pytest.mark.parametrize("edit", ["widen", "deepen by a residual", "split", "branch by shares"])
def test_draws_follow_the_seed_alone(edit: str) -> None:
    model = plain()
    before = torch.get_rng_state()
    made = [EDITS[edit](model, inputs=IMAGES, certify=False, seed=seed).model for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    assert same_bits(*map(snapshot, made[:2])) and not same_bits(*map(snapshot, made[1:]))


def test_tied_and_frozen_tensors_stay_so() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.up = nn.Embedding(11, 6), nn.Linear(6, 8)
            self.down, self.head = nn.Linear(8, 6), nn.Linear(6, 11, bias=False)
            self.head.weight = self.words.weight
            self.norm = nn.LayerNorm(6)
            self.up.weight.requires_grad_(False)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.words(tokens)
            return self.head(self.norm(x + self.down(F.relu(self.up(x)))))

    model, tokens = shaken(Tied()), torch.arange(8)[None] % 11
    edited = morph.widen(model, "words", 10, inputs={"tokens": tokens})
    assert edited.model.head.weight is edited.model.words.weight
    assert edited.model.words.embedding_dim == edited.model.up.in_features == 10
    assert not edited.model.up.weight.requires_grad and edited.model.down.weight.requires_grad
    assert deviation(model, edited.model, tokens) <= 1e-10
