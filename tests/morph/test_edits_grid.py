"""Every edit under every norm, activation and geometry of a convolution: exact, or refused with the reason."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.builders import same_bits, snapshot
from tests.morph.networks import GEOMETRIES, IMAGES, NORMS, deviation, networks, plain
from torchgraft import MorphError, morph

EDITS: dict[str, Callable[..., morph.Edited]] = {
    "widen the first": lambda model, **options: morph.widen(model, "0", 16, **options),
    "widen": lambda model, **options: morph.widen(model, "3", 16, **options),
    "widen unevenly": lambda model, **options: morph.widen(model, "3", 12, **options),
    "deepen": lambda model, **options: morph.deepen(model, "0", **options),
    "deepen by a residual": lambda model, **options: morph.deepen(model, "3", kind="residual", **options),
    "deepen by a blend": lambda model, **options: morph.deepen(model, "3", kind="blend", **options),
    "expand the kernel": lambda model, **options: morph.expand_kernel(model, "3", (3, 5), **options),
    "add a branch": lambda model, **options: morph.add_branch(model, "3", as_graph(model[3]), **options),
    "split": lambda model, **options: morph.split(model, "3", " ".join([as_graph(model[3])] * 3), **options),
    "branch by shares": lambda model, **options: morph.branch(model, "3", 3, **options),
    "branch by outputs": lambda model, **options: morph.branch(model, "3", 3, merge="concat", **options),
    "branch by inputs": lambda model, **options: morph.branch(model, "3", 3, allocate="split", **options),
    "branch by groups": lambda model, **options: by_slices(model, "3", **options),
    "branch a norm": lambda model, **options: morph.branch(model, "4", **options),
    "branch an activation": lambda model, **options: by_slices(model, "5", **options),
    "branch a pooling": lambda model, **options: by_slices(model, "6", **options),
    "insert a block": lambda model, **options: morph.insert_block(model, "5", residual(8), **options),
}


def as_graph(layer: Any) -> str:
    """Write a convolution as the edge of a graph."""
    kernel, stride, dilation = ("x".join(map(str, one)) for one in (layer.kernel_size, layer.stride, layer.dilation))
    return f"s>t:{kernel},stride={stride},dilation={dilation},groups={layer.groups}"


def by_slices(model: nn.Module, path: str, **options: Any) -> morph.Edited:
    return morph.branch(model, path, allocate="split", merge="concat", **options)


def residual(width: int) -> nn.Module:
    torch.manual_seed(0)
    return morph.Residual(nn.Sequential(nn.Conv2d(width, 6, 1), nn.GELU(), nn.Conv2d(6, width, 3, padding=1)))


DENSE, GROUPED = ("plain", "strided", "circular"), ("grouped", "depthwise")

#: What cannot be: a layer norm over channels that each have a kernel of their own, or one in groups (see
#: docs/how-it-works.md), slices of what is computed from all channels, and sums of groups that each have their own.
IMPOSSIBLE = {
    ("depthwise", "layer", "widen unevenly"): "would change the function",
    **{
        ("grouped", "layer", edit): "would change the function"
        for edit in ("widen", "widen unevenly", "widen the first")
    },
    **{(geometry, norm, "branch by groups"): "depends on all of its inputs" for geometry in DENSE for norm in NORMS},
    **{
        (geometry, norm, edit): "from its own channel or group alone"
        for geometry in GROUPED
        for norm in NORMS
        for edit in ("branch by outputs", "branch by inputs")
    },
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_edit_keeps_the_function_under_every_norm(edit: str, norm: str, geometry: str) -> None:
    model = plain(norm, "GELU", geometry)
    before = snapshot(model)
    if (geometry, norm, edit) in IMPOSSIBLE:
        with pytest.raises(MorphError, match=IMPOSSIBLE[geometry, norm, edit]):
            EDITS[edit](model, inputs=IMAGES)
        return
    edited = EDITS[edit](model, inputs=IMAGES, certify=False)
    assert deviation(model, edited.model) <= 1e-10
    assert same_bits(before, snapshot(model)), "the source is left as it is"
    assert str(edited.model) != str(model)


def refusal(edit: str, told: dict[str, Any]) -> str:
    """Return why an edit may be refused; see IMPOSSIBLE."""
    if edit == "branch by groups" and told["groups"] == 1:
        return "depends on all of its inputs"
    if edit in ("branch by outputs", "branch by inputs") and told["groups"] > 1:
        return "from its own channel or group alone"
    layer_norm = told["norm"] == "layer" and told["groups"] > 1 and edit.startswith("widen")
    return "LayerNorm .* takes its statistics over" if layer_norm else "nothing"


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(networks(), st.sampled_from(tuple(EDITS)))
def test_an_edit_is_exact_or_refused(network: tuple[Any, dict[str, Any]], edit: str) -> None:
    model, told = network
    with contextlib.suppress(MorphError) if refusal(edit, told) != "nothing" else contextlib.nullcontext():
        edited = EDITS[edit](model, inputs=IMAGES)
        assert edited.exact and deviation(model, edited.model) <= 1e-10
        return
    with pytest.raises(MorphError, match=refusal(edit, told)):
        EDITS[edit](model, inputs=IMAGES)
