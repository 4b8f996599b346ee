"""Small models and checks that several test files share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import torchgraft as tg


class Bomb:
    """Writes a file when it is unpickled, so that a test can see that it was not."""

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, ("touch exploded",)


def filled(module: Any, start: float = 1.0) -> Any:
    """Give every element of every tensor a number of its own, counting up from ``start``."""
    with torch.no_grad():
        for tensor in stored(module).values():
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.copy_(torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape) + start)
                start += tensor.numel()
            elif tensor.ndim == 0:
                tensor.fill_(7)
    return module


def blank(module: Any, value: float = -1.0) -> Any:
    """Fill every floating tensor with one number, so that what a transfer wrote can be told from what it left."""
    with torch.no_grad():
        for tensor in stored(module).values():
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.fill_(value)
    return module


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copy a state dict."""
    return {key: value.detach().clone() for key, value in stored(module).items()}


def stored(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a state dict, themselves; an extra state is none."""
    state = module.state_dict(keep_vars=True)
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Tell whether two state dicts hold the same keys and the same bits."""
    return a.keys() == b.keys() and all(
        x.dtype == b[key].dtype and x.shape == b[key].shape and torch.equal(octets(x), octets(b[key]))
        for key, x in a.items()
    )


def octets(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def assert_ledger(report: tg.Report, target: nn.Module) -> None:
    """Every tensor of the state dict has one status, and the totals are the state dict's."""
    state = stored(target)
    assert sorted(tensor.key for tensor in report.tensors) == sorted(state)
    assert report.total == sum(value.numel() for value in {id(value): value for value in state.values()}.values())
    assert sum(report.counts().values()) == len(state)
    for tensor in report.tensors:
        assert tensor.shape == tuple(state[tensor.key].shape)
        assert 0 <= tensor.elements <= tensor.size
        assert tensor.status in {"copied", "resized", "reused", "silenced", "initialised", "kept"}
        assert (tensor.status in {"silenced", "initialised", "kept"}) == (not tensor.source)


def tiled(source: Tensor, copies: int, axis: int = -1, shared: bool = False) -> Tensor:
    """Every unit of an axis ``copies`` times; where they are read, their weight is shared: 1/3 and 2/3 of two."""
    shares = [2 * (copy + 1) / (copies * (copies + 1)) if shared else 1.0 for copy in range(copies)]
    return torch.cat([source * share for share in shares], axis)


def statuses(report: tg.Report) -> dict[str, str]:
    """The status of every tensor."""
    return {tensor.key: tensor.status for tensor in report.tensors}


def assert_identity(build: Callable[[], nn.Module]) -> tg.Report:
    """A model transferred into a fresh copy of itself gives a bitwise equal state dict."""
    source, target = filled(build()), build()
    expected = snapshot(source)
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert set(report.counts()) <= {"copied"}
    assert same_bits(snapshot(target), expected)
    assert same_bits(snapshot(source), expected)
    return report


def grown(
    source: nn.Module, target: nn.Module, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor], tg.Report]:
    """Transfer a numbered source into a blank target and return both state dicts."""
    report = tg.transfer(filled(source), blank(target), **options)
    assert_ledger(report, target)
    return snapshot(source), snapshot(target), report


def timm_vit(timm: Any, **options: Any) -> Any:
    settings = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2, "img_size": 32, "patch_size": 8}
    return timm.models.VisionTransformer(num_classes=5, **(settings | options))


def plain(width: int) -> nn.Module:
    """A convolution between two other layers."""
    return nn.Sequential(nn.Linear(3, width), nn.Conv1d(width, width, 3), nn.LayerNorm(width))


#: Layers that take and give ``width`` features, or whose widths do not matter here: nothing below runs them.
VOCABULARY: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda width: nn.Linear(width, width + 1),
    "no bias": lambda width: nn.Linear(width, 3, bias=False),
    "conv1d": lambda width: nn.Conv1d(width, 4, 3),
    "conv2d": lambda width: nn.Conv2d(3, width, 3),
    "depthwise": lambda width: nn.Conv2d(width, width, 5, groups=width),
    "conv3d": lambda width: nn.Conv3d(2, width, 1),
    "transposed": lambda width: nn.ConvTranspose2d(width, 2, 2, 2),
    "batchnorm": nn.BatchNorm2d,
    "batchnorm without gains": lambda width: nn.BatchNorm1d(width, affine=False),
    "batchnorm without statistics": lambda width: nn.BatchNorm1d(width, track_running_stats=False),
    "instancenorm": lambda width: nn.InstanceNorm2d(width, affine=True, track_running_stats=True),
    "layernorm": nn.LayerNorm,
    "groupnorm": lambda width: nn.GroupNorm(1, width),
    "rmsnorm": nn.RMSNorm,
    "embedding": lambda width: nn.Embedding(width, 4),
    "bag": lambda width: nn.EmbeddingBag(5, width),
    "lstm": lambda width: nn.LSTM(width, 3, 2, bidirectional=True),
    "gru": lambda width: nn.GRU(3, width),
    "attention": lambda width: nn.MultiheadAttention(4 * width, 4, add_bias_kv=True),
    "encoder": lambda width: nn.TransformerEncoderLayer(2 * width, 2, width),
    "bilinear": lambda width: nn.Bilinear(width, 2, 3),
    "prelu": nn.PReLU,
    "relu": lambda width: nn.ReLU(),
    "weight norm": lambda width: nn.utils.parametrizations.weight_norm(nn.Linear(width, 4)),
    "spectral norm": lambda width: nn.utils.parametrizations.spectral_norm(nn.Conv1d(width, 4, 3)),
    "token": lambda width: nn.ParameterList([torch.randn(1, 1, width)]),
}


def networks(most: int = 6) -> st.SearchStrategy[nn.Module]:
    """Random small networks from the vocabulary, some of them nested."""
    layer = st.tuples(st.sampled_from(sorted(VOCABULARY)), st.integers(1, 6)).map(
        lambda one: VOCABULARY[one[0]](one[1])
    )
    part = st.one_of(layer, st.lists(layer, min_size=1, max_size=3).map(lambda layers: nn.Sequential(*layers)))
    parts = st.lists(part, min_size=1, max_size=most).map(lambda parts: nn.Sequential(*parts))
    return parts.filter(lambda network: bool(network.state_dict()))
