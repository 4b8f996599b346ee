"""From a source to a given target by edits: found again, replayed, filled in; or why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.builders import same_bits, snapshot
from tests.morph.networks import IMAGES, deviation, shaken
from tests.morph.test_edits_zoo import EDITS as ZOO
from tests.morph.test_edits_zoo import MODELS, SMALL
from torchgraft import MorphError, morph
from torchgraft.errors import InputsError
from torchgraft.morph import Edit, Script, between
from torchgraft.morph.edits import edit_of, read_edits, text_of


class Block(nn.Module):
    """A residual block with a pre-activation, whose branch may have another kernel and width."""

    def __init__(self, width: int, inner: int, kernel: int = 3) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.first = nn.Conv2d(width, inner, kernel, padding=kernel // 2)
        self.last = nn.Conv2d(inner, width, 1)

    def forward(self, blob: Tensor) -> Tensor:
        return blob + self.last(torch.relu(self.first(self.norm(blob))))


def residual(width: int = 4, depth: int = 2, inner: int = 6, kernel: int = 3) -> Any:
    """A stem, a row of blocks, and a head."""
    blocks = nn.Sequential(*(Block(width, inner, kernel) for _ in range(depth)))
    parts = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return shaken(nn.Sequential(*parts, nn.Linear(4 * width, 5)))


def plain(
    widths: tuple[int, ...] = (8, 8), *, kernel: int = 3, act: type[nn.Module] = nn.ReLU, bias: bool = True
) -> Any:
    """Convolutions with batch norms in one row."""
    parts: list[nn.Module] = []
    for before, width in zip((3, *widths), widths, strict=False):
        parts += [nn.Conv2d(before, width, kernel, padding=kernel // 2, bias=bias), nn.BatchNorm2d(width), act()]
    return shaken(nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 5)))


def pooled(*stages: int) -> Any:
    """Stages of like convolutions, a pooling behind each."""
    parts: list[nn.Module] = [nn.Conv2d(3, 6, 1)]
    for depth in stages:
        for _ in range(depth):
            parts += [nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
        parts.append(nn.MaxPool2d(2))
    return shaken(nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)))


PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any], list[str]]] = {
    "itself": (plain, plain, []),
    "wider": (plain, lambda: plain((12, 16)), ["widen 0 width=12", "widen 3 width=16"]),
    "deeper": (plain, lambda: plain((8, 8, 8)), ["deepen 0 kind=identity"]),
    "a larger kernel": (plain, lambda: plain(kernel=5), ["expand_kernel 0 size=5", "expand_kernel 3 size=5"]),
    "all at once": (
        lambda: plain((4, 8)),
        lambda: plain((6, 6, 10), kernel=5),
        [
            "deepen 0 kind=identity",
            "expand_kernel 0 size=5",
            "expand_kernel 3.0 size=5",
            "expand_kernel 4 size=5",
            "widen 0 width=6",
            "widen 3.0 width=6",
            "widen 4 width=10",
        ],
    ),
    "deeper stages of like layers": (
        lambda: pooled(1, 2),
        lambda: pooled(2, 3),
        ["deepen 5 kind=identity", "deepen 1 kind=identity"],
    ),
    "stages of other widths, deeper": (
        lambda: plain((8, 8, 12)),
        lambda: plain((10, 10, 15, 15)),
        ["deepen 6 kind=identity", "widen 0 width=10", "widen 3 width=10", "widen 6 width=15", "widen 9.0 width=15"],
    ),
    "more blocks": (residual, lambda: residual(depth=4), ["stack 2 depth=4"]),
    "wider blocks and stream": (
        residual,
        lambda: residual(width=6, inner=9),
        ["widen 0 width=6", "widen 2.0.first width=9", "widen 2.1.first width=9"],
    ),
}


@pytest.mark.parametrize("told", PAIRS)
def test_a_target_is_reached_and_filled(told: str) -> None:
    make, make_target, edits = PAIRS[told]
    source, target = make(), make_target()
    before = snapshot(source), snapshot(target)
    script = between(source, target, inputs=IMAGES)
    assert script.reachable is True and script.obstacles == ()
    assert list(map(text_of, script.edits)) == edits
    assert (same_bits(before[0], snapshot(source)), same_bits(before[1], snapshot(target))) == (True, True)
    filled = script.into(source, target, inputs=IMAGES)
    assert filled.model is target and filled.exact and deviation(source, target) <= 1e-10


def test_names_and_nesting_play_no_part() -> None:
    source = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.inner, self.stem = nn.Linear(9, 2), nn.Linear(9, 9), nn.Linear(4, 9)

        def forward(self, rows: Tensor) -> Tensor:
            return self.head(torch.relu_(self.inner(self.stem(rows).relu())))

    target, rows = Named(), torch.randn(3, 4)
    script = between(source, target)
    assert list(map(text_of, script.edits)) == ["deepen 0 kind=identity", "widen 0 width=9", "widen 2.0 width=9"]
    script.into(source, target)
    assert torch.allclose(source(rows), target(rows), atol=1e-6)


def test_a_script_goes_to_text_and_back() -> None:
    script = between(plain(), plain((12, 8)), inputs=IMAGES)
    assert Script.from_json(script.to_json()) == script
    assert str(script).splitlines() == ["# Sequential → Sequential: 1 edit", "widen 0 width=12"]
    rows = [
        Edit("split", "", {"parts": "s>a:1x1 a>t:3x3"}),
        Edit("expand_kernel", "a.b", {"size": [3, 5]}),
        Edit("x", "y", {"flag": True, "word": "true", "gap": 'a "b"'}),
    ]
    assert [edit_of(text_of(edit)) for edit in rows] == rows
    assert read_edits(str(script)) == read_edits(script.to_json()) == list(script.edits)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"source": 1}', '{"source":"a","target":"b","reachable":3,"edits":[],"obstacles":[]}']
)
def test_what_is_no_script_is_refused(text: str) -> None:
    with pytest.raises(MorphError, match="this is no script"):
        Script.from_json(text)


def test_a_replay_is_the_edits_and_makes_the_same_weights() -> None:
    source, target = plain(), plain((12, 8, 8))
    script = Script.from_json(between(source, target, inputs=IMAGES).to_json())
    made = script.replay(source, inputs=IMAGES)
    assert made.exact and made.edits == script.edits
    again = morph.apply_edits(source, script.edits, inputs=IMAGES, certify=False)
    assert same_bits(snapshot(made.model), snapshot(again.model))
    assert {tuple(one.shape) for one in made.model.parameters()} == {tuple(one.shape) for one in target.parameters()}


RULED_OUT: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "narrower": (plain, lambda: plain((8, 6)), "as they are or larger: 3 (convolution 8×8×3×3) [→ 6×8×3×3]"),
    "an activation of another kind": (
        plain,
        lambda: plain(act=nn.SiLU),
        "the source runs relu twice, the target never, and silu more often",
    ),
    "fewer layers": (plain, lambda: plain((8,)), "the source runs relu twice, the target once"),
    "fewer blocks": (residual, lambda: residual(depth=1), "the source runs relu 3 times, the target twice"),
    "other classes": (
        plain,
        lambda: shaken(nn.Sequential(*plain()[:-1], nn.Linear(8, 7))),
        "the outputs change: 2×5 → 2×7",
    ),
    "a smaller kernel": (plain, lambda: plain(kernel=1), "0 (convolution 8×3×3×3) [→ 8×3×1×1]"),
    "a bias": (lambda: plain(bias=False), plain, "0 (convolution 8×3×3×3) [without → with a bias]"),
    "a stride": (
        plain,
        lambda: shaken(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), *plain()[1:])),
        "[stride 1×1 → 2×2]",
    ),
}


@pytest.mark.parametrize("told", RULED_OUT)
def test_what_edits_cannot_do_is_ruled_out(told: str) -> None:
    make, make_target, reason = RULED_OUT[told]
    script = between(make(), make_target(), inputs=IMAGES)
    assert script.reachable is False and script.edits == () and reason in " ".join(script.obstacles)
    assert str(script).splitlines()[0].endswith("out of reach")
    with pytest.raises(MorphError, match="has no edits to replay"):
        script.replay(make())
    with pytest.raises(MorphError, match="has no edits to replay"):
        script.into(make(), make_target())


NOT_FOUND: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "a new layer that nothing is like": (
        plain,
        lambda: shaken(nn.Sequential(*plain()[:6], nn.Conv2d(8, 8, 3, stride=2), *plain()[6:])),
        "is new",
    ),
    "another epsilon": (plain, lambda: _with_epsilon(plain()), "(0.1, 1e-05) → BatchNorm2d(0.1, 0.001), at 1"),
}


def _with_epsilon(model: Any) -> Any:
    model[1].eps = 1e-3
    return model


@pytest.mark.parametrize("told", NOT_FOUND)
def test_what_is_not_found_is_not_called_impossible(told: str) -> None:
    make, make_target, reason = NOT_FOUND[told]
    script = between(make(), make_target(), inputs=IMAGES)
    assert script.reachable is None and reason in " ".join(script.obstacles), script
    assert "no edits found, though there may be some" in str(script)


def test_a_block_of_the_target_is_named_by_its_path() -> None:
    source, target = residual(), residual()
    target[2].append(Block(4, 6, 1).double())
    target = shaken(target, 3)
    script = between(source, target, inputs=IMAGES)
    assert list(map(text_of, script.edits)) == ["insert_block 2.1 block=target:2.2"]
    script = Script.from_json(script.to_json())
    with pytest.raises(MorphError, match="takes a block of the target"):
        script.replay(source)
    assert script.replay(source, target, inputs=IMAGES).exact
    assert script.into(source, target, inputs=IMAGES).exact and deviation(source, target) <= 1e-10


def test_models_without_values_are_decided_and_not_filled() -> None:
    with torch.device("meta"):
        source, target = (nn.Sequential(nn.Linear(4, n), nn.ReLU(), nn.Linear(n, 2)) for n in (6, 9))
    script = between(source, target)
    assert list(map(text_of, script.edits)) == ["widen 0 width=9"]
    real = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(MorphError, match="is on the meta device"):
        script.into(real, target)
    with pytest.raises(MorphError, match="the edited model is no Sequential"):
        script.into(real, nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 2)))


@pytest.mark.parametrize("told", [one for one, (edit, _, _) in ZOO.items() if edit not in ("add_branch", "branch")])
def test_one_edit_of_a_real_model_is_found_again(told: str, zoo: object) -> None:
    kind, (name, path, arguments) = told.partition(",")[0], ZOO[told]
    model = MODELS[kind]()
    inputs = torch.arange(12).reshape(2, 6) if kind in ("gpt2", "llama") else torch.randn(SMALL)
    target = morph.apply_edits(model, [Edit(name, path, arguments)], inputs=inputs, certify=False).model
    script = between(model, target, inputs=inputs, certify=False)
    assert script.reachable, script
    assert [edit.name for edit in script.edits] == [name]


def test_models_of_other_inputs_are_an_error() -> None:
    with pytest.raises(InputsError, match="on which both models run"):
        between(nn.Linear(4, 2), nn.Conv2d(3, 2, 3))


EDITS: dict[str, Callable[[Any, int], Edit]] = {
    "widen": lambda model, more: Edit("widen", "0", {"width": model[0].out_channels + more}),
    "inside": lambda model, more: Edit("widen", "2.0.first", {"width": model[2][0].first.out_channels + more}),
    "stack": lambda model, more: Edit("stack", "2", {"depth": len(model[2]) + 1}),
    "kernel": lambda model, more: Edit(
        "expand_kernel", "2.0.first", {"size": [model[2][0].first.kernel_size[0] + 2, model[2][0].first.kernel_size[1]]}
    ),
    "deepen": lambda model, more: Edit("deepen", "0", {"kind": "identity"}),
}


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([*EDITS][:4]), st.integers(1, 5)), min_size=1, max_size=4), st.booleans())
def test_what_edits_have_made_is_found_again(rows: list[tuple[str, int]], deepened: bool) -> None:
    """The target is the edited model with new weights; another row of edits may lead to it."""
    source = model = residual()
    for name, more in [*rows, *([("deepen", 0)] if deepened else [])]:
        model = morph.apply_edits(model, [EDITS[name](model, more)], inputs=IMAGES, certify=False).model
    target = shaken(model, seed=7)
    script = between(source, target, inputs=IMAGES, certify=False)
    assert script.reachable, f"{rows} {script}"
    filled = script.into(source, target, inputs=IMAGES, certify=False)
    assert deviation(source, filled.model) <= 1e-10
    assert json.loads(script.to_json())["reachable"] is True
