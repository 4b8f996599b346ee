"""The sweep of benchmarks/axes_sweep: its store, its order and its page."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.axes_sweep.__main__ import _in_order
from benchmarks.axes_sweep.page import render
from benchmarks.axes_sweep.store import Result, Size, append, load
from benchmarks.axes_sweep.trials import _smaller, _Undrawn, try_out
from benchmarks.zoo.models import Case, build
from torchgraft.axes import axis_groups


def test_a_store_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.jsonl"
    assert load(path) == ({}, {})
    size = Size("timm", "a", "family", 3, 1.5)
    first, last = Result("timm", "a", error="broken"), Result("timm", "a", groups=2, silent=("x[0]",), locks={"why": 1})
    for record in (size, first, last):
        append(path, record)
    sizes, results = load(path)
    assert sizes == {("timm", "a"): size}
    assert results["timm", "a"].groups == 2 and list(results["timm", "a"].silent) == ["x[0]"]


def test_one_of_every_family_comes_first_and_the_largest_last() -> None:
    rows = [("a", "f", 5, 5.0), ("b", "f", 2, 2.0), ("c", "g", 3, 3.0), ("d", "h", 100, 1.0)]
    sizes = {("timm", name): Size("timm", name, *rest) for name, *rest in rows}
    order = _in_order([Case("timm", name) for name, *_ in rows], sizes, largest=50)
    assert [case.name for case in order] == ["b", "c", "a", "d"]


@pytest.mark.parametrize("probed", [True, False])
def test_an_architecture_is_tried_and_told(zoo: object, probed: bool) -> None:
    case = Case("timm", "test_resnet")
    found = try_out(case, probed)
    assert found.groups > found.free > 0 and found.proven == probed and not found.unknown
    broken = Result("timm", "test_vit", error="TypeError: 3 is odd")
    results = {(one.library, one.name): one for one in (found, broken)}
    sizes = {key: Size(*key, "family", 10, 1.0) for key in results}
    page = render([case, Case("timm", "test_vit"), Case("timm", "test_vit2")], sizes, results, "command")
    assert ("| 1 (50.0%) |" in page) == probed and "TypeError: 3 is odd: `timm:test_vit`" in page
    assert "## Not tried: 1" in page


@pytest.mark.parametrize(("name", "side"), [
    ("vit_tiny_patch16_224", 112), ("mixer_s32_224", 0), ("resnet18", 0), ("test_vit", 0),
])  # fmt: skip
def test_it_is_built_for_smaller_pictures_where_the_free_groups_are_the_same(zoo: object, name: str, side: int) -> None:
    case = Case("timm", name)
    smaller = _smaller(case, axis_groups(build(case, meta=True)))
    assert (smaller[0] if smaller else 0) == side
    if smaller:
        assert tuple(smaller[1].patch_embed.img_size) == (side, side)
        assert _smaller(case, axis_groups(build(Case("timm", "test_vit"), meta=True))) is None


def test_what_is_made_for_one_size_is_proven_at_a_smaller_one(zoo: object) -> None:
    found = try_out(Case("timm", "vit_small_patch32_224"), probed=True)
    assert found.proven and found.side == 112 and found.inputs == "1×3×112×112"


def test_large_weights_are_not_drawn_before_probing_draws_them() -> None:
    state = torch.random.get_rng_state()
    with _Undrawn():
        nn.init.trunc_normal_(nn.Parameter(torch.zeros(2048, 1024)))
    assert torch.equal(torch.random.get_rng_state(), state)
    with _Undrawn():
        drawn = nn.init.trunc_normal_(nn.Parameter(torch.zeros(8, 4)))
    assert bool(drawn.any()) and not torch.equal(torch.random.get_rng_state(), state)
