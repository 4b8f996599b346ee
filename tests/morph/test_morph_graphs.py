"""Modules as graphs: their text, networkx, what is no module, and contraction."""

from __future__ import annotations

import random

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.morph.strategies import graphs
from torchgraft import MorphError, SpecError, morph
from torchgraft.morph.graph import vertices
from torchgraft.morph.reduction import Leaf, Parallel, Series, Tree

TEXTS = [
    "s>t:3x3",
    "a=64 s>a:3x3 a>t:1x1 s>t:id",
    "a=2in b=out/4 s>a:3,stride=2 a>b:5x1,dilation=2x1,groups=all b>t:1,groups=2 s>t:avg3x3,stride=2,padding=1",
    "s>t:0.5*id s>t:-0.25*id s>t:1x1 s>t:max3x3",
    "s>a:3x3x3,padding=0 a>t:1",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_read_and_written_the_same(text: str) -> None:
    graph = morph.parse(text)
    assert str(graph) == text
    assert morph.from_networkx(morph.to_networkx(graph)) == graph


@settings(max_examples=60, deadline=None, derandomize=True)
@given(graphs())
def test_random_modules_survive_text_and_networkx(graph: morph.Graph) -> None:
    assert morph.parse(str(graph)) == graph
    assert morph.from_networkx(morph.to_networkx(graph)) == graph


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one edge"),
        ("s>t", "cannot read 's>t'"),
        ("a=0 s>a:3 a>t:1", "cannot read 'a=0'"),
        ("a=4 a=5 s>a:3 a>t:1", "cannot read 'a=5'"),
        ("s>t:3y3", "cannot read the layer '3y3'"),
        ("s>t:0x0", "the least is 1"),
        ("s>t:3x3,stride", "cannot read 'stride'"),
        ("s>t:3x3,steps=2", "cannot read 'steps=2'"),
        ("s>t:3x3,stride=2,stride=2", "once each"),
        ("s>t:id,stride=2", "takes no options"),
        ("s>t:avg3,groups=2", "stride and padding only"),
        ("s>t:3,groups=2x2", "groups are one number"),
        ("s>a:3 a>s:1", "s > a is one"),
        ("s>a:3 s>b:3", "one sink, and a, b are 2"),
        ("s>t:3 r>t:3", "one source, and s, r are 2"),
        ("b=3 s>a:3 a>t:1", "names no vertex"),
        ("t=3 s>a:3 a>t:1", "is that of the convolution"),
        ("s>half:3 half>t:1", "cannot name a vertex"),
        ("s>1a:3 1a>t:1", "cannot name a vertex"),
    ],
)
def test_what_is_no_module_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(MorphError, match=said.replace("*", r"\*")):
        morph.parse(text)


def test_a_graph_of_networkx_needs_layers() -> None:
    graph = nx.DiGraph([("s", "t")])
    with pytest.raises(MorphError, match="no attribute 'layer'"):
        morph.from_networkx(graph)
    graph.add_edge("s", "a", layer="3x3")
    graph.add_edge("a", "t", layer="1x1,stride=2")
    graph.edges["s", "t"]["layer"] = "3x3,stride=2"
    graph.nodes["a"]["width"] = 7
    assert str(morph.from_networkx(graph)) == "a=7 s>t:3x3,stride=2 s>a:3x3 a>t:1x1,stride=2"


def test_the_papers_modules_have_their_names() -> None:
    simple = {name: morph.is_simple(morph.named(name)) for name in morph.NAMES}
    assert [name for name, yes in simple.items() if not yes] == ["D"]
    assert str(morph.named("3c1", 3)) == "s>a:3 a>t:1 s>t:0.5*id"
    with pytest.raises(MorphError, match="'1c1' at every second"):
        morph.named("1c1-half")
    with pytest.raises(SpecError, match="did you mean '1c1'"):
        morph.named("1c2")


def leaves(tree: Tree) -> list[int]:
    if isinstance(tree, Leaf):
        return [tree.edge]
    parts = (tree.first, tree.second) if isinstance(tree, Series) else tree.parts
    return [leaf for part in parts for leaf in leaves(part)]


def test_contraction_follows_algorithm_1() -> None:
    found = morph.reduction(morph.parse("s>a:3 a>b:1 a>b:3 b>t:1 s>t:1"))
    assert [(step.kind, step.at) for step in found.steps] == [
        ("parallel", "a>b"),
        ("series", "a"),
        ("series", "b"),
        ("parallel", "s>t"),
    ]
    (whole,) = found.core
    assert isinstance(whole.tree, Parallel) and sorted(leaves(whole.tree)) == [0, 1, 2, 3, 4]


def test_the_bridge_is_its_own_core() -> None:
    found = morph.reduction(morph.parse("s>a:1 s>b:1 a>b:1 a>t:1 b>t:1"))
    assert not found.simple and not found.steps and len(found.core) == 5
    inside = morph.reduction(morph.parse("s>a:1 s>b:1 a>c:1 c>b:1 a>b:1 a>t:1 b>t:1 b>t:3"))
    assert not inside.simple and len(inside.core) == 5 and len(inside.steps) == 3


@st.composite
def splits(draw: st.DrawFn) -> morph.Graph:
    """Build a module from one edge by series and parallel splits alone."""
    edges = [("s", "t")]
    for step in range(draw(st.integers(0, 9))):
        place = draw(st.integers(0, len(edges) - 1))
        tail, head = edges[place]
        if draw(st.booleans()):
            edges.append((tail, head))
        else:
            edges[place : place + 1] = [(tail, f"m{step}"), (f"m{step}", head)]
    return morph.Graph(tuple(morph.Edge(tail, head) for tail, head in edges))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(splits())
def test_what_splits_build_contracts_to_one_edge(graph: morph.Graph) -> None:
    found = morph.reduction(graph)
    assert found.simple
    assert sorted(leaves(found.core[0].tree)) == list(range(len(graph.edges)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(graphs(identities=False), st.integers(0, 99))
def test_the_core_does_not_depend_on_the_order(graph: morph.Graph, seed: int) -> None:
    shuffled = list(graph.edges)
    random.Random(seed).shuffle(shuffled)
    one, other = morph.reduction(graph), morph.reduction(morph.Graph(tuple(shuffled)))
    pairs = [sorted((branch.tail, branch.head) for branch in found.core) for found in (one, other)]
    assert pairs[0] == pairs[1]


def test_vertices_come_after_all_that_leads_to_them() -> None:
    assert vertices(morph.parse("b>t:1 a>b:1 s>a:1 s>b:1")) == ("s", "a", "b", "t")
