"""A linear module becomes one layer again, exactly, or is refused with the place that is in the way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchgraft import MorphError, morph
from torchgraft.morph.certificate import deviation


def settled(norm: nn.Module) -> nn.Module:
    """Give a batch norm statistics and parameters that are not those of a new one."""
    with torch.no_grad():
        for tensor, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.5, 2)):
            tensor.uniform_(low, high)
        for tensor in (norm.weight, norm.bias):
            tensor.uniform_(0.5, 1.5)
    return norm


class RepVGG(nn.Module):
    def __init__(self, channels: int = 4, mode: str = "zeros", stride: int = 1) -> None:
        super().__init__()
        self.large = nn.Conv2d(channels, channels, 3, stride, 1, bias=False, padding_mode=mode)
        self.large_norm = settled(nn.BatchNorm2d(channels))
        self.small = nn.Conv2d(channels, channels, 1, stride, bias=False)
        self.small_norm = settled(nn.BatchNorm2d(channels))
        self.shortcut = settled(nn.BatchNorm2d(channels)) if stride == 1 else None

    def forward(self, blob: Tensor) -> Tensor:
        out = self.large_norm(self.large(blob)) + self.small_norm(self.small(blob))
        return out if self.shortcut is None else out + self.shortcut(blob)


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(4, 2, 1)
        self.three = nn.Sequential(nn.Conv2d(4, 3, 1, bias=False), nn.Conv2d(3, 5, 3, padding=1))
        self.five = nn.Conv2d(4, 2, (1, 5), padding=(0, 2), groups=2)
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 3, 1))

    def forward(self, blob: Tensor) -> Tensor:
        return torch.cat([self.one(blob), self.three(blob), 0.5 * self.five(blob) - 1.0, -self.pool(blob) / 2], dim=1)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_a_repvgg_block_is_one_convolution(mode: str) -> None:
    block = RepVGG(mode=mode).double().eval()
    layer = morph.contract(block)
    assert (layer.kernel_size, layer.padding, layer.padding_mode, layer.deviation < 1e-12) == (
        (3, 3),
        (1, 1),
        mode,
        True,
    )
    assert deviation(block, layer, (2, 4, 7, 6)) <= 1e-12


def test_strided_branches_are_one_convolution_at_every_size() -> None:
    block = RepVGG(stride=2).double().eval()
    layer = morph.contract(block)
    assert layer.stride == (2, 2)
    for size in range(3, 9):
        assert deviation(block, layer, (1, 4, size, 11 - size)) <= 1e-12


def test_branches_side_by_side_are_one_convolution() -> None:
    block = Inception().double().eval()
    layer = morph.contract(block)
    assert (layer.out_channels, layer.kernel_size) == (12, (3, 5))
    assert deviation(block, layer, (2, 4, 8, 9)) <= 1e-12


CHAINS = {
    "norms": lambda: [settled(nn.BatchNorm2d(3)), nn.Conv2d(3, 4, 3), settled(nn.BatchNorm2d(4)), nn.Conv2d(4, 5, 1)],
    "valid": lambda: [nn.Conv2d(3, 4, 3, padding=2), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 2, (1, 2))],
    "strides": lambda: [nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3), nn.AvgPool2d(2), nn.Dropout(0.5)],
    "pads": lambda: [nn.ZeroPad2d((1, 2, 0, 3)), nn.Conv2d(3, 4, 3), nn.ZeroPad2d((-1, 0, 0, -1))],
    "circles": lambda: [
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
        settled(nn.BatchNorm2d(4)),
        nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"),
    ],
    "mirror": lambda: [nn.Conv2d(3, 4, 1), nn.ReflectionPad2d(2), nn.Conv2d(4, 2, 5)],
    "dilated": lambda: [nn.Conv2d(3, 3, 3, padding=2, dilation=2, groups=3), nn.PReLU(init=1.0)],
    "cropped": lambda: [nn.ConstantPad2d((2, -1, 1, 0), 0.0), nn.Conv2d(3, 3, 1)],
}


@pytest.mark.parametrize("name", CHAINS)
def test_chains_are_one_convolution(name: str) -> None:
    chain = nn.Sequential(*CHAINS[name]()).double().eval()
    layer = morph.contract(chain)
    assert isinstance(layer, nn.Conv2d)
    for size in (9, 10, 13):
        assert deviation(chain, layer, (2, 3, size, size + 1)) <= 1e-12


def test_dilation_and_groups_are_found_again() -> None:
    chain = nn.Sequential(*CHAINS["dilated"]()).double().eval()
    layer = morph.contract(chain)
    assert (layer.kernel_size, layer.dilation, layer.groups, layer.padding) == ((3, 3), (2, 2), 3, (2, 2))


def test_a_single_layer_and_other_numbers_of_axes() -> None:
    for layer, shape in (
        (nn.Conv1d(2, 3, 5, 2, 2), (1, 2, 9)),
        (nn.Conv3d(2, 3, 3), (1, 2, 5, 6, 5)),
        (nn.Linear(4, 3), (2, 4)),
    ):
        layer.double()
        again = morph.contract(layer)
        assert type(again) is type(layer) and torch.allclose(again.weight, layer.weight, atol=1e-15)
        assert deviation(layer, again, shape) <= 1e-14
    chain = nn.Sequential(
        nn.Linear(4, 8), settled(nn.BatchNorm1d(8)), nn.Identity(), nn.Linear(8, 3, bias=False)
    ).eval()
    assert deviation(chain, morph.contract(chain.double()), (5, 4)) <= 1e-13


def chain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 3, 1), *layers)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (chain(nn.Sequential(nn.ReLU())), r"1\.0 \(ReLU\) is no linear layer"),
        (chain(nn.PReLU()), r"1 \(PReLU\) is not linear"),
        (chain(nn.BatchNorm2d(3)).train(), "1 takes the statistics of the batch"),
        (chain(nn.BatchNorm2d(3, track_running_stats=False)).eval(), "statistics of the batch"),
        (chain(nn.Dropout(0.1)).train(), "1 draws random numbers"),
        (chain(nn.Conv2d(3, 3, 3, padding=1)), "1 pads with zeros a blob that has a bias"),
        (chain(nn.MaxPool2d(2)), r"1 \(MaxPool2d\)"),
        (chain(nn.AvgPool2d(3, 1, 1, count_include_pad=False)), "1 divides by another number"),
        (chain(nn.ConstantPad2d(1, 2.0)), "1 pads with a constant"),
        (chain(nn.Conv2d(3, 3, 3), nn.ReflectionPad2d(1)), "2 pads in mode reflect"),
        (chain(nn.Conv2d(4, 3, 1)), "3 channels meets a layer that reads 4"),
        (chain(nn.Linear(3, 3)), "1 has 0 spatial axes"),
        (nn.Identity(), "how many channels come in"),
    ],
    ids=str,
)
def test_what_is_not_one_layer_is_refused_by_name(module: nn.Module, said: str) -> None:
    with pytest.raises(MorphError, match=said):
        morph.contract(module)


class Odd(nn.Module):
    """Something that is not linear, or cannot be read, by the name of what it does."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.conv, self.what = nn.Conv2d(2, 2, 1), what

    def forward(self, blob: Tensor, other: Tensor | None = None) -> object:
        made = self.conv(blob)
        acts = {
            "square": lambda: made * made,
            "relu": lambda: torch.relu(made),
            "branch": lambda: made if made.sum() > 0 else blob,
            "two": lambda: made + other,
            "pair": lambda: (made, made),
            "view": lambda: made.view(1, -1),
            "sizes": lambda: made + self.conv(blob)[:, :, 1:],
            "batch": lambda: torch.cat([made, made]),
        }
        return acts[self.what]()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("square", "multiplies blobs"),
        ("relu", "relu"),
        ("branch", "cannot be traced"),
        ("two", "adds what is neither a blob nor a number"),
        ("pair", "no single blob"),
        ("view", "view"),
        ("sizes", "getitem"),
        ("batch", "concatenates along axis 0"),
    ],
)
def test_odd_modules_are_refused_by_name(what: str, said: str) -> None:
    with pytest.raises(MorphError, match=said):
        morph.contract(Odd(what))


def test_a_stack_of_same_convolutions_is_one_away_from_the_borders() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 2, 3, padding=1)).double()
    with pytest.raises(MorphError, match="no convolution is right at the borders"):
        morph.contract(chain)
    layer = morph.contract(chain, approximate=True)
    blob = torch.randn(1, 3, 10, 10, dtype=torch.float64)
    middle = (..., slice(2, -2), slice(2, -2))
    assert torch.allclose(layer(blob)[middle], chain(blob)[middle], atol=1e-12)
    assert layer.deviation > 1e-3


GEOMETRIES = [
    {"padding": 1},
    {"stride": 2, "padding": 1},
    {"stride": 2},
    {"dilation": 2, "padding": 2},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": 2, "groups": 2, "padding_mode": "circular"},
    {"padding": 3, "bias": False},
]


@pytest.mark.parametrize("padding", morph.PADDINGS)
@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_contract_undoes_module(options: dict[str, object], padding: str) -> None:
    layer = nn.Conv2d(4, 6, 3, **options).double().eval()  # type: ignore[arg-type]
    kernel = f"3x3,stride={options.get('stride', 1)},dilation={options.get('dilation', 1)}"
    text = f"s>a:{kernel} a>t:3x3 s>b:1x1 b>t:{kernel} a>c:1x1 c>t:1x1"
    module = morph.module(layer, text, padding=padding, normalization="batchnorm", activation="relu")
    again = morph.contract(module)
    assert str(again) == str(layer)
    assert torch.allclose(again.weight, layer.weight, atol=1e-12)
    assert layer.bias is None or torch.allclose(again.bias, layer.bias, atol=1e-12)


def test_a_trained_module_still_contracts_while_it_is_linear() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1)
    module = morph.module(layer, "two-branch").double()
    steps = torch.optim.SGD(module.parameters(), 1e-2)
    for _ in range(3):
        steps.zero_grad()
        module(torch.randn(2, 4, 6, 6, dtype=torch.float64)).square().mean().backward()
        steps.step()
    again = morph.contract(module)
    assert again.kernel_size == (5, 5) and deviation(module, again, (1, 4, 9, 9)) <= 1e-12


def test_blocks_of_timm_are_one_convolution_without_their_activation(zoo: tuple[object, object]) -> None:
    timm, _ = zoo
    block = timm.create_model("repvgg_a0", stem_chs=8).stages[1][1].double().eval()
    for norm in (block.conv_kxk.bn, block.conv_1x1.bn, block.identity):
        settled(norm)
    with pytest.raises(MorphError, match=r"act \(ReLU\) is no linear layer"):
        morph.contract(block)
    block.act = nn.Identity()
    assert morph.contract(block).kernel_size == (3, 3)


def test_one_block_type_becomes_another_through_one_convolution() -> None:
    block = RepVGG().double().eval()
    other = morph.module(morph.contract(block), "D", padding="same")
    assert deviation(block, other, (2, 4, 7, 7)) <= 1e-12
