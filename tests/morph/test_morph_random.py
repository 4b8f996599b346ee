"""Any module, series-parallel or not: exact whenever one path of it can carry the convolution."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.morph.strategies import convolutions, graphs
from torchgraft import morph
from torchgraft.morph.certificate import deviation

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


def can_carry(graph: morph.Graph, conv: nn.Conv2d) -> bool:
    """Walk all paths: does one have a layer as large as the convolution, wide enough before and after it?"""
    widths = {name: int(width) for name, width in graph.widths}
    sink = next(e.head for e in graph.edges if all(e.head != other.tail for other in graph.edges))

    def walk(name: str, used: bool) -> bool:
        if name == sink:
            return used
        for edge in graph.edges:
            if edge.tail != name:
                continue
            width = widths.get(edge.head, conv.out_channels)
            fits = edge.op == "conv" and edge.kernel[0] >= conv.kernel_size[0]
            if not used and fits and width >= conv.out_channels and walk(edge.head, True):
                return True
            enough = conv.out_channels if used else conv.in_channels
            if edge.head != sink and width >= enough and walk(edge.head, used):
                return True
            if edge.head == sink and used:
                return True
        return False

    source = next(e.tail for e in graph.edges if all(e.tail != other.head for other in graph.edges))
    return walk(source, False)


@settings(max_examples=120, deadline=None, suppress_health_check=SLOW, derandomize=True)
@given(graphs(), convolutions(), st.integers(0, 3))
def test_a_module_with_a_carrier_is_exact(graph: morph.Graph, conv: nn.Conv2d, seed: int) -> None:
    conv.double()
    if not can_carry(graph, conv):
        return
    module = morph.module(conv, graph, seed=seed)
    assert module.certificate.exact
    assert deviation(conv, module, (2, conv.in_channels, 12 + seed, 11), seed) <= 1e-8
    assert module.certificate.gain < 1e3
    assert 1 <= module.certificate.condition < 1e3
    assert f"condition {module.certificate.condition:.1e}" in str(module.certificate)


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW, derandomize=True)
@given(graphs(identities=False), convolutions())
def test_same_padding_everywhere_is_as_exact(graph: morph.Graph, conv: nn.Conv2d) -> None:
    conv.double()
    if not can_carry(graph, conv):
        return
    module = morph.module(conv, graph, padding="same")
    assert deviation(conv, module, (1, conv.in_channels, 9, 10)) <= 1e-8


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW, derandomize=True)
@given(graphs(), convolutions())
def test_what_was_morphed_contracts_to_the_convolution(graph: morph.Graph, conv: nn.Conv2d) -> None:
    conv.double()
    if not can_carry(graph, conv):
        return
    back = morph.contract(morph.module(conv, graph))
    assert isinstance(back, nn.Conv2d)
    assert deviation(conv, back, (2, conv.in_channels, 10, 9)) <= 1e-8
