"""The same growth by torchgraft and by gromo, of two layers with a norm and an activation between them.

    python -m benchmarks.morph_tools

prints the table of docs/comparison.md: what the function deviates by, in float64 and eval mode, when the first layer
gets 12 units instead of 8. gromo (0.1.0, `pip install gromo`) is measured where it is installed; it grows networks of
its own modules, so that the two networks are alike but not the same.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from torchgraft import MorphError, morph

WIDTH, WIDER = 8, 12
ROWS = torch.randn(64, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IMAGES = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

#: Norm by its name in torch, activation, and inputs; a row of the table each.
CASES: dict[str, tuple[str, tuple[Any, ...], type[nn.Module], Tensor]] = {
    "linear, ReLU": ("", (), nn.ReLU, ROWS),
    "convolution, ReLU": ("", (), nn.ReLU, IMAGES),
    "convolution, GELU": ("", (), nn.GELU, IMAGES),
    "convolution, batch norm, ReLU": ("BatchNorm2d", (WIDTH,), nn.ReLU, IMAGES),
    "convolution, group norm of 4, ReLU": ("GroupNorm", (4, WIDTH), nn.ReLU, IMAGES),
    "linear, layer norm, ReLU": ("LayerNorm", (WIDTH,), nn.ReLU, ROWS),
}


def shaken(model: nn.Module) -> nn.Module:
    """Give norms values as training leaves them."""
    generator = torch.Generator().manual_seed(1)
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            noise = 0.3 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.add_(noise.abs() if key.endswith("running_var") else noise)
    return model.eval()


def deviation(model: nn.Module, grow: Callable[[], nn.Module], inputs: Tensor) -> str:
    """Return max|after - before| / max|before|, or that the edit was refused."""
    with torch.no_grad():
        before = model(inputs)
        try:
            after = grow().eval()(inputs)
        except MorphError:
            return "refused"
        apart = float((after - before).abs().max() / before.abs().max())
        return f"{apart:.0e}" if apart else "0"


def ours(norm: str, arguments: tuple[Any, ...], activation: type[nn.Module], inputs: Tensor) -> str:
    """Measure torchgraft on plain layers of torch."""
    torch.manual_seed(0)
    between = [getattr(nn, norm)(*arguments)] if norm else []
    if inputs.ndim == 2:
        layers = [nn.Linear(6, WIDTH), *between, activation(), nn.Linear(WIDTH, 4)]
    else:
        layers = [nn.Conv2d(3, WIDTH, 3, padding=1), *between, activation(), nn.Conv2d(WIDTH, 4, 3, padding=1)]
    model = shaken(nn.Sequential(*layers).double())
    return deviation(model, lambda: morph.widen(model, "0", WIDER, inputs=inputs).model, inputs)


def theirs(norm: str, arguments: tuple[Any, ...], activation: type[nn.Module], inputs: Tensor, **options: Any) -> str:
    """Measure gromo on its own layers, which grow with these options."""
    modules = {name: importlib.import_module(f"gromo.modules.{name}") for name in _MODULES}
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        norms = [getattr(modules["growing_normalisation"], f"Growing{norm}")(*arguments)] if norm else []
        after = nn.Sequential(*norms, activation())
        if inputs.ndim == 2:
            layer, sizes = modules["linear_growing_module"].LinearGrowingModule, ((6, WIDTH), (WIDTH, 4))
            more: dict[str, Any] = {}
        else:
            layer, sizes = modules["conv2d_growing_module"].FullConv2dGrowingModule, ((3, WIDTH), (WIDTH, 4))
            more = {"kernel_size": 3, "padding": 1, "input_size": tuple(inputs.shape[2:])}
        first = layer(*sizes[0], post_layer_function=after, **more)
        second = layer(*sizes[1], previous_module=first, **more)
        first.next_module = second
        model = shaken(nn.Sequential(first, second))

        def grow() -> nn.Module:
            second.create_layer_extensions(WIDER - WIDTH, **options)
            second.apply_change(scaling_factor=1.0, apply_delta=False, extension_size=WIDER - WIDTH)
            return model

        return deviation(model, grow, inputs)
    finally:
        torch.set_default_dtype(torch.float32)


_MODULES = ("linear_growing_module", "conv2d_growing_module", "growing_normalisation")

#: Ways in which gromo initializes new units, by what they are called in the table.
GROMO: dict[str, dict[str, Any]] = {
    "gromo, new units read with zeros": {"input_extension_init": "zeros"},
    "gromo, in pairs": {"neuron_pairing": "vv_z_negz", "noise_ratio": 0.0},
    "gromo, in pairs, its own noise": {"neuron_pairing": "vv_z_negz"},
}


def lines() -> Iterator[str]:
    """Yield the table."""
    known = GROMO if importlib.util.find_spec("gromo") else {}
    yield f"| network | torchgraft | {' | '.join(known)} |" if known else "| network | torchgraft |"
    yield "|---|---|" + "---|" * len(known)
    for name, case in CASES.items():
        yield f"| {' | '.join([name, ours(*case), *(theirs(*case, **options) for options in known.values())])} |"


if __name__ == "__main__":
    print("\n".join(lines()))
