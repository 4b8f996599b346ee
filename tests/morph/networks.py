"""Small networks that edits are tried on: every norm, activation and geometry of a convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

IMAGES = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class OverChannels(nn.Module):
    """A norm of the last axis, over the channels of a picture."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, blob: Tensor) -> Tensor:
        return self.norm(blob.movedim(1, -1)).movedim(-1, 1)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda width: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "group": lambda width: nn.GroupNorm(4, width),
    "layer": lambda width: OverChannels(nn.LayerNorm(width)),
    "rms": lambda width: OverChannels(nn.RMSNorm(width, eps=1e-6)),
}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    one.__name__: one
    for one in (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Softplus, nn.Tanh, nn.Mish)
}
GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {"padding": 1},
    "strided": {"stride": 2},
    "grouped": {"groups": 2, "padding": 2},
    "depthwise": {"groups": 8, "padding": "same"},
    "circular": {"padding": 1, "padding_mode": "circular", "dilation": 2},
}


def shaken(model: nn.Module, seed: int = 0) -> Any:
    """Give every tensor values as training leaves them, no two alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in model.double().state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.add_(0.2 * (noise.abs() if key.endswith("running_var") else noise))
    return model.eval()


def plain(norm: str = "batch", activation: str = "ReLU", geometry: str = "plain") -> Any:
    """Two convolutions, a flattened picture and a classifier."""
    act = ACTIVATIONS[activation]
    parts = [nn.Conv2d(3, 8, 3, padding=1), NORMS[norm](8), act()]
    parts += [nn.Conv2d(8, 8, 3, **GEOMETRIES[geometry]), NORMS[norm](8), act()]
    parts += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)]
    return shaken(nn.Sequential(*parts))


@st.composite
def networks(draw: st.DrawFn) -> tuple[Any, dict[str, Any]]:
    """Draw a network as :func:`plain` makes it, of any norm, activation and geometry, and what was drawn."""
    groups, kernel = draw(st.sampled_from((1, 2, 4, 8))), draw(st.sampled_from((1, 3, (3, 1))))
    stride = draw(st.sampled_from((1, 2, (1, 2))))
    modes = st.sampled_from(("zeros", "circular", "reflect", "replicate"))
    told = {
        "norm": draw(st.sampled_from(tuple(NORMS))),
        "activation": draw(st.sampled_from(tuple(ACTIVATIONS))),
        "kernel_size": kernel,
        "stride": stride,
        "groups": groups,
        "dilation": draw(st.sampled_from((1, 2))),
        "padding": draw(st.sampled_from((0, 1, 2, *(("same", "valid") if stride == 1 else ())))),
        "padding_mode": draw(modes),
        "bias": draw(st.booleans()),
    }
    options = {name: value for name, value in told.items() if name not in ("norm", "activation")}
    norm, function = NORMS[told["norm"]], ACTIVATIONS[told["activation"]]
    parts = [nn.Conv2d(3, 8, 3, padding=1), norm(8), function()]
    parts += [nn.Conv2d(8, 8, **options), norm(8), function()]
    parts += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)]
    torch.manual_seed(0)
    return shaken(nn.Sequential(*parts)), told


def deviation(source: nn.Module, edited: nn.Module, inputs: Tensor = IMAGES) -> float:
    """Measure without the certificate: it must not vouch for itself."""
    with torch.no_grad():
        expected = source(inputs)
        return float((edited(inputs) - expected).abs().max() / expected.abs().max())
