"""One layer becomes a module: exact for every geometry, or refused in words."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from torchgraft import MorphError, SpecError, morph
from torchgraft.morph.certificate import deviation


def conv(inputs: int = 4, outputs: int = 6, kernel: int = 3, dims: int = 2, **options: object) -> nn.Module:
    made = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](inputs, outputs, kernel, **options)  # type: ignore[arg-type]
    return made.double()


STRIDE = {
    1: ("s>a:3 a>t:1 s>t:1", "s>a:3 a>t:3", "s>a:1 a>b:3 s>b:3 b>t:3 a>t:1"),
    2: (
        "s>a:3,stride=2 a>t:1 s>t:3,stride=2",
        "s>a:3 a>t:3,stride=2",
        "s>a:3,stride=2 a>t:3 s>b:3 b>t:1,stride=2 a>b:1",
    ),
    3: ("s>a:3,stride=3 a>t:3 s>b:1 b>t:3,stride=3", "s>a:5 a>t:1,stride=3", "s>a:3,stride=3 a>t:1"),
}
STRIDE[2] = (*STRIDE[2][:2], "s>a:3,stride=2 s>b:3 a>c:1 b>c:1,stride=2 a>t:1 c>t:3 b>t:1,stride=2")


@pytest.mark.parametrize("padding", ["input", "same"])
@pytest.mark.parametrize("pad", [0, 1, 2, 4])
@pytest.mark.parametrize("stride", STRIDE)
def test_strides_and_paddings_are_exact_at_every_size(stride: int, pad: int, padding: str) -> None:
    layer = conv(stride=stride, padding=pad)
    for text in STRIDE[stride]:
        module = morph.module(layer, text, padding=padding)
        for size in range(3, 13):
            assert deviation(layer, module, (1, 4, size, 15 - size), size) <= 1e-12, (text, size)


OPTIONS = [
    {"dilation": 2, "padding": 2},
    {"dilation": (1, 3), "padding": (1, 3)},
    {"padding": "same"},
    {"padding": "same", "dilation": 2},
    {"padding": "valid", "bias": False},
    {"groups": 2, "padding": 1},
    {"padding": 1, "padding_mode": "circular"},
    {"padding": 2, "padding_mode": "reflect", "stride": 2},
    {"padding": (0, 2), "padding_mode": "replicate"},
    {"padding": "same", "padding_mode": "circular"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("text", ["s>a:K a>t:1", "s>a:K a>t:3,stride=S s>b:1,stride=S b>t:K", "s>a:1 a>t:K,stride=S"])
def test_geometries_are_exact(options: dict[str, object], text: str) -> None:
    layer = conv(**options)
    stride, dilation = options.get("stride", 1), options.get("dilation", 1)
    by = "x".join(map(str, dilation)) if isinstance(dilation, tuple) else dilation
    text = text.replace("a>t:1", f"a>t:1,stride={stride}") if text.endswith("a>t:1") else text
    text = text.replace("S", str(stride)).replace("K", f"3,dilation={by}", 1).replace("K", f"3,dilation={by}")
    module = morph.module(layer, text)
    assert deviation(layer, module, (2, 4, 9, 12)) <= 1e-12
    assert deviation(layer, module, (2, 4, 12, 9)) <= 1e-12


@pytest.mark.parametrize("kernel", [1, 2, 4, 5])
def test_even_and_large_kernels_are_exact(kernel: int) -> None:
    layer = conv(kernel=kernel, padding=kernel // 2)
    for text in (f"s>a:2 a>t:{kernel} s>b:1 b>t:1", f"s>a:{kernel} a>t:3 s>b:2 b>t:1 a>b:avg1"):
        assert deviation(layer, morph.module(layer, text), (1, 4, 8, 9)) <= 1e-12


@pytest.mark.parametrize("dims", [1, 3])
def test_other_numbers_of_axes_work_alike(dims: int) -> None:
    layer = conv(dims=dims, padding=1, stride=2)
    module = morph.module(layer, STRIDE[2][2])
    assert deviation(layer, module, (2, 4, *[7] * dims)) <= 1e-12


def test_a_linear_layer_is_one_by_one() -> None:
    layer = nn.Linear(5, 7).double()
    module = morph.module(layer, "a=9 s>a:1x1 a>t:1x1 s>b:1 a>b:1 b>t:1 s>t:1x1", activation="gelu")
    assert all(isinstance(edge, nn.Linear) for edge in module.edges.values())
    blob = torch.randn(2, 3, 5, dtype=torch.float64)
    assert torch.allclose(module(blob), layer(blob), atol=1e-13)
    with pytest.raises(MorphError, match="a linear layer has none"):
        morph.module(layer, "s>a:3 a>t:1")


@pytest.mark.parametrize("groups", [2, 4])
def test_groups_of_the_layer_and_of_the_module(groups: int) -> None:
    layer = conv(4, 4, groups=groups, padding=1)
    for text in (f"s>a:3,groups={groups} a>t:1", f"s>a:1,groups={groups} a>t:3,groups={groups} s>t:1", "s>a:1 a>t:3"):
        assert deviation(layer, morph.module(layer, text), (2, 4, 7, 8)) <= 1e-12, text
    inverted = "a=4in b=4in s>a:1x1 a>b:3x3,groups=all b>t:1x1"
    assert deviation(conv(4, 4, 1), morph.module(conv(4, 4, 1), "s>t:1x1"), (1, 4, 5, 5)) > 1e-3  # other weights
    pointwise = conv(4, 6, 1)
    module = morph.module(pointwise, inverted)
    assert deviation(pointwise, module, (2, 4, 7, 8)) <= 1e-12
    with pytest.raises(MorphError, match="do not divide"):
        morph.module(layer, "a=6 s>a:3x3,groups=4 a>t:1x1")


def test_a_depthwise_layer_cannot_make_a_dense_one() -> None:
    with pytest.raises(MorphError, match="deviates by"):
        morph.module(conv(4, 4, padding=1), "s>t:3x3,groups=all")


def test_averages_and_scaled_identities_are_taken_into_account() -> None:
    layer = conv(4, 4, padding=1)
    module = morph.module(layer, "s>t:0.5*id s>t:avg3x3 s>a:3x3 a>t:1x1 a>t:avg1")
    assert deviation(layer, module, (2, 4, 7, 8)) <= 1e-12
    with pytest.raises(MorphError, match="maximum pooling is not linear"):
        morph.module(layer, "s>t:max3x3 s>t:3x3")


def test_a_bottleneck_is_wide_enough_for_a_layer_of_its_rank() -> None:
    layer = conv(6, 6, padding=1)
    with torch.no_grad():
        low = torch.randn(6, 2, dtype=torch.float64) @ torch.randn(2, 54, dtype=torch.float64)
        layer.weight.copy_(low.reshape(6, 6, 3, 3))
    for text in ("a=2 s>a:3x3 a>t:1x1", "a=2 s>a:3x3 a>t:1x1 s>b:1x1 b>t:1x1", "a=2 b=2 s>a:3x3 a>b:1x1 b>t:1x1"):
        assert deviation(layer, morph.module(layer, text), (1, 6, 8, 8)) <= 1e-11
    with pytest.raises(MorphError, match="go through a, 1 channels wide, and the convolution has rank 2"):
        morph.module(layer, "a=1 s>a:3x3 a>t:1x1")


def test_narrow_paths_together_can_be_enough() -> None:
    layer = conv(6, 6, padding=1)
    module = morph.module(layer, "a=3 b=3 s>a:3x3 a>t:1x1 s>b:3x3 b>t:1x1")
    assert module.certificate.method == "alternate"
    assert deviation(layer, module, (1, 6, 8, 8)) <= 1e-8


def test_the_nearest_module_is_given_on_request_with_its_deviation() -> None:
    layer = conv(6, 6, padding=1)
    module = morph.module(layer, "a=3 s>a:3x3 a>t:1x1", approximate=True)
    assert not module.certificate.exact
    weight = layer.weight.detach()
    best = torch.linalg.svdvals(weight.flatten(1))[3:].norm() / weight.norm()
    assert module.certificate.inside == pytest.approx(float(best), rel=5e-3)
    assert module.certificate.inside >= float(best) - 1e-12  # Eckart-Young: nothing of rank 3 is nearer
    assert module.certificate.deviation > 1e-2


def test_same_padding_of_dense_kernels_is_told_by_how_much_it_deviates() -> None:
    layer = conv(4, 4, kernel=5, padding=2)
    text = "a=16 s>a:3x3 a>t:3x3"
    inner = morph.module(layer, text)
    assert inner.certificate.exact and inner.certificate.method == "alternate"
    with pytest.raises(MorphError, match="padded inside"):
        morph.module(layer, text, padding="same")
    same = morph.module(layer, text, padding="same", approximate=True)
    assert same.certificate.inside <= 1e-11 and same.certificate.deviation > 1e-3
    blob = torch.randn(1, 4, 12, 12, dtype=torch.float64)
    middle = (..., slice(2, -2), slice(2, -2))
    assert torch.allclose(same(blob)[middle], layer(blob)[middle], atol=1e-9)


def test_paddings_that_are_written_are_checked() -> None:
    layer = conv(padding=1)
    assert deviation(layer, morph.module(layer, "s>a:3x3,padding=1 a>t:1x1,padding=0"), (1, 4, 6, 7)) <= 1e-12
    written = morph.module(layer, "s>a:3x3,padding=1 a>t:3x3,padding=1")
    assert written.edges["a_t"].padding == (1, 1) and written.certificate.exact
    with pytest.raises(MorphError, match="padding 1x1 keeps the convolution's window"):
        morph.module(layer, "s>a:3x3,padding=0 a>t:1x1,padding=0")
    with pytest.raises(MorphError, match="need different windows"):
        morph.module(layer, "s>a:3x3 a>t:3x3,padding=0 a>t:1x1,padding=0")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s>a:3x3x3 a>t:1", "has 3 numbers for 2 axes"),
        ("s>a:3,stride=2 a>t:1", r"make \(2, 2\), those of the convolution \(1, 1\)"),
        ("s>a:3,stride=2 a>t:1 s>t:3", "strides of the paths to t differ"),
        ("s>t:id s>t:3x3", "keeps the width"),
        ("a=5 s>a:id a>t:3x3", "keeps the width"),
        ("a=in/3 s>a:3 a>t:1", "cannot be divided by 3"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(MorphError, match=said):
        morph.module(conv(4, 6, padding=1), text)


def test_what_is_no_filter_is_refused_in_words() -> None:
    for layer in (nn.ConvTranspose2d(2, 2, 3), nn.LazyConv2d(3, 3), nn.BatchNorm2d(3)):
        with pytest.raises(MorphError, match=f"cannot read {type(layer).__name__}"):
            morph.module(layer, "A")
    with pytest.raises(MorphError, match="no real numbers"):
        morph.module(nn.Conv2d(2, 2, 3, device="meta"), "A")
    hooked = nn.Conv2d(2, 2, 3)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(MorphError, match="hooks"):
        morph.module(hooked, "A")
    for options in ({"method": "magic"}, {"activation": "swoosh"}, {"normalization": "layer"}):
        with pytest.raises(SpecError, match="valid"):
            morph.module(conv(), "A", **options)
    with pytest.raises(MorphError, match="valid: input, same"):
        morph.module(conv(), "A", padding="inside")
    with pytest.raises(MorphError, match="cannot be filled by 'split'"):
        morph.module(conv(padding=1), "D", method="split")


@pytest.mark.parametrize("name", morph.NAMES)
@pytest.mark.parametrize("options", [{}, {"normalization": "batchnorm", "activation": "relu"}], ids=["bare", "dressed"])
def test_the_papers_modules_are_exact_and_train(name: str, options: dict[str, str]) -> None:
    kernel = 1 if name.startswith("1c1") else 3
    layer = conv(4, 4, kernel, padding=kernel // 2)
    module = morph.module(layer, name, **options)
    blob = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    assert torch.allclose(module.eval()(blob), layer(blob), rtol=1e-12, atol=1e-12)
    module.train()(blob).square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert all(bool(edge.weight.grad.any()) for edge in module.edges.values() if hasattr(edge, "weight"))
    assert not module.certificate.zero


def test_a_shortcut_is_a_convolution_with_the_identity() -> None:
    shortcut = nn.Conv2d(4, 4, 1, bias=False).double()
    nn.init.dirac_(shortcut.weight)
    module = morph.module(shortcut, "3c1", normalization="batchnorm", activation="relu").eval()
    blob = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    assert torch.allclose(module(blob), blob, atol=1e-13)


def test_branches_differ_and_seeds_count() -> None:
    layer = conv(4, 4, padding=1)
    one, same, other = (morph.module(layer, "two-branch", seed=seed) for seed in (0, 0, 1))
    assert not torch.allclose(one.edges["s_a"].weight, one.edges["s_b"].weight, atol=1e-2)
    for key, value in one.state_dict().items():
        assert torch.equal(value, same.state_dict()[key])
    assert not torch.allclose(one.edges["s_a"].weight, other.edges["s_a"].weight, atol=1e-2)


def test_type_mode_and_freezing_are_those_of_the_layer_and_nothing_else_changes() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1).eval().requires_grad_(False)
    before, state = copy.deepcopy(layer), torch.get_rng_state()
    module = morph.module(layer, "B", normalization="batchnorm", activation="silu")
    assert torch.equal(torch.get_rng_state(), state)
    assert not module.training and all(one.dtype == torch.float32 for one in module.parameters())
    assert not any(one.requires_grad for one in module.parameters())
    assert torch.equal(layer.weight, before.weight) and layer.bias is not None
    blob = torch.randn(2, 4, 8, 8)
    assert torch.allclose(module(blob), layer(blob), atol=1e-5)
    half = morph.module(nn.Conv2d(4, 4, 3, dtype=torch.bfloat16), "A")
    assert all(one.dtype == torch.bfloat16 for one in half.parameters()) and half.certificate.exact


def test_a_module_is_copied_stored_and_shown() -> None:
    layer = conv(4, 4, padding=1)
    module = morph.module(layer, "s>a:3x3 a>t:3x3 s>t:1x1", activation="relu")
    blob = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    again = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    assert torch.equal(again(blob), module(blob))
    other = morph.module(conv(4, 4, padding=1), "s>a:3x3 a>t:3x3 s>t:1x1", activation="relu")
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(blob), module(blob))
    assert "s>a:3x3 a>t:3x3 s>t:1x1" in repr(module)
    assert "exact" in str(module.certificate) and module.certificate.to_dict()["exact"] is True


def test_the_bias_finds_a_place_before_the_sink() -> None:
    layer = conv(4, 4, padding=1)
    module = morph.module(layer, "s>a:3x3 a>t:-2.0*id")
    assert module.edges["s_a"].bias is not None
    assert deviation(layer, module, (1, 4, 5, 5)) <= 1e-12


def test_a_layer_of_zeros_becomes_a_module_that_computes_zero() -> None:
    layer = conv(4, 4, padding=1, bias=False)
    nn.init.zeros_(layer.weight)
    for name in ("two-branch", "D", "3c1"):
        assert morph.module(layer, name)(torch.randn(1, 4, 6, 6, dtype=torch.float64)).abs().max() <= 1e-13


@pytest.mark.parametrize("method", morph.METHODS)
def test_every_method_fills_what_it_is_made_for(method: str) -> None:
    layer = conv(4, 4, padding=1)
    module = morph.module(layer, "A", method=method)
    assert module.certificate.method == method and module.certificate.exact
    assert (module.certificate.carrier != "") == (method == "carrier")
