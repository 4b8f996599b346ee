"""Tables of taps: what they compute is what torch computes, and the sum over all paths is the sum over all paths."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tests.morph.strategies import graphs
from torchgraft import MorphError, morph
from torchgraft.morph.kernels import Kernel, added, composed, difference, from_weight, norm, on_box, trimmed
from torchgraft.morph.layout import Filter, Layout, lay_out
from torchgraft.morph.limits import obstacle
from torchgraft.morph.solve import smallest_change
from torchgraft.morph.weights import fresh, from_source, kernels_of, target_kernel, to_sink, total


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_composition_is_one_convolution_after_the_other(dims: int) -> None:
    run = (functional.conv1d, functional.conv2d, functional.conv3d)[dims - 1]
    first, second = drawn(4, 3, *[3] * dims), drawn(2, 4, *[2] * dims, seed=1)
    one = Kernel(first, (0,) * dims)
    other = from_weight(second, (0,) * dims, (2,) * dims)
    blob = drawn(1, 3, *[9] * dims, seed=2)
    expected = run(run(blob, first), second, dilation=2)
    assert torch.allclose(run(blob, composed(other, one).taps), expected)


def test_sums_differences_and_boxes_keep_offsets() -> None:
    one, other = Kernel(drawn(2, 2, 3, 1), (-1, 0)), Kernel(drawn(2, 2, 1, 2, seed=1), (2, -3))
    both = added([one, other])
    assert (both.first, both.extent, both.last) == ((-1, -3), (4, 4), (2, 0))
    assert torch.equal(on_box(both, (-1, 0), (3, 1)), one.taps)
    assert torch.equal(on_box(both, (2, -3), (1, 2)), other.taps)
    left = trimmed(difference(both, other))
    assert left.first == one.first and torch.equal(left.taps, one.taps)
    assert not on_box(one, (5, 5), (2, 2)).any()
    assert norm(trimmed(Kernel(torch.zeros(2, 2, 3, 3), (-1, -1)))) == 0


def laid_out(graph: morph.Graph, inputs: int = 3, outputs: int = 2) -> Layout:
    return lay_out(graph, Filter(inputs, outputs, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(graphs(), st.integers(0, 9))
def test_one_pass_is_the_sum_over_all_paths(graph: morph.Graph, seed: int) -> None:
    layout = laid_out(graph)
    generator = torch.Generator().manual_seed(seed)
    weights = {place: fresh(link, generator) for place, link in enumerate(layout.links) if link.solved}
    kernels = kernels_of(layout, weights)
    whole = nx.MultiDiGraph()
    whole.add_edges_from((link.edge.tail, link.edge.head, place) for place, link in enumerate(layout.links))
    by_paths = []
    for path in nx.all_simple_edge_paths(whole, layout.source, layout.sink):
        kernel = kernels[path[0][2]]
        for *_, place in path[1:]:
            kernel = composed(kernels[place], kernel)
        by_paths.append(kernel)
    size = norm(added(by_paths))
    assert norm(difference(total(layout, weights), added(by_paths))) <= 1e-12 * size
    assert norm(difference(to_sink(layout, kernels)[layout.source], added(by_paths))) <= 1e-12 * size


CASES = {
    "into the sink": ("a=5 s>a:3x3 a>t:3x3", [1]),
    "from the source": ("a=5 s>a:3x3 a>t:3x3", [0]),
    "in the middle": ("a=4 b=3 s>a:1x1 a>b:3x3 b>t:1x1", [1]),
    "between taps": ("a=4 b=3 s>a:3x3 a>b:1x1 b>t:3x3", [1]),
    "two into the sink": ("a=2 b=2 s>a:1x1 a>t:3x3 s>b:1x1 b>t:1x1", [1, 3]),
    "depthwise": ("a=6 b=6 s>a:1x1 a>b:3x3,groups=all b>t:1x1", [1]),
    "groups": ("a=4 b=4 s>a:3x3 a>b:1x1,groups=2 b>t:1x1", [1]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_solve_is_the_least_squares_solution_of_least_norm(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, chosen = CASES[case]
    layout = laid_out(morph.parse(text))
    generator = torch.Generator().manual_seed(0)
    weights = {place: fresh(link, generator) for place, link in enumerate(layout.links)}
    kernels = kernels_of(layout, weights)
    sources, sinks = from_source(layout, kernels), to_sink(layout, kernels)
    links = [layout.links[place] for place in chosen]
    before = [sources[link.edge.tail] for link in links]
    after = sinks[links[0].edge.head]
    error = Kernel(drawn(2, 3, 3, 3, seed=7), (-1, -1))

    def effect(flat: torch.Tensor) -> torch.Tensor:
        moved, start = dict(weights), 0
        for place, link in zip(chosen, links, strict=True):
            count = torch.Size(link.shape).numel()
            moved[place] = weights[place] + flat[start : start + count].reshape(link.shape)
            start += count
        return on_box(difference(total(layout, moved), sources[layout.sink]), (-3, -3), (7, 7)).flatten()

    count = sum(torch.Size(link.shape).numel() for link in links)
    matrix = torch.stack([effect(row) for row in torch.eye(count, dtype=torch.float64)], dim=1)
    wanted = torch.linalg.pinv(matrix, rtol=1e-10) @ on_box(error, (-3, -3), (7, 7)).flatten()

    direct = smallest_change(links, before, after, error)
    assert torch.allclose(torch.cat([one.flatten() for one in direct.weights]), wanted, atol=1e-9)
    monkeypatch.setattr("torchgraft.morph.solve._DENSE", -1)
    again = smallest_change(links, before, after, error)
    assert torch.allclose(torch.cat([one.flatten() for one in again.weights]), wanted, atol=1e-7)


def test_a_ridge_shortens_the_change() -> None:
    layout = laid_out(morph.parse("a=3 s>a:1x1 a>t:3x3"))
    generator = torch.Generator().manual_seed(0)
    kernels = kernels_of(layout, {place: fresh(link, generator) for place, link in enumerate(layout.links)})
    before, after = from_source(layout, kernels)["a"], to_sink(layout, kernels)["t"]
    error = Kernel(drawn(2, 3, 3, 3), (-1, -1))
    lengths = [
        float(smallest_change([layout.links[1]], [before], after, error, ridge).weights[0].norm()) for ridge in (0, 1)
    ]
    assert lengths[1] < lengths[0]


def brute_rank(graph: morph.Graph, inputs: int, outputs: int, seed: int) -> int:
    """Return the rank of a random module of 1x1 layers: what its widths let through."""
    layout = laid_out(graph, inputs, outputs)
    generator = torch.Generator().manual_seed(seed)
    weights = {place: fresh(link, generator) for place, link in enumerate(layout.links) if link.solved}
    return int(torch.linalg.matrix_rank(total(layout, weights).taps[:, :, 0, 0], tol=1e-9))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(graphs(kernels=(1,), identities=False))
def test_what_does_not_go_through_is_known_beforehand(graph: morph.Graph) -> None:
    target = target_kernel(drawn(4, 4, 1, 1), Filter(4, 4, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0))))
    layout = lay_out(graph, Filter(4, 4, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0))))
    assert bool(obstacle(layout, target)) == (brute_rank(graph, 4, 4, 0) < 4)


def test_taps_out_of_reach_are_counted() -> None:
    conv = torch.nn.Conv2d(2, 2, 5, padding=2)
    with pytest.raises(MorphError, match="reach 9 of the 25 taps"):
        morph.module(conv, "s>a:3x3 a>t:1x1")
