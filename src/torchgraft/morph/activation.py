"""Parametric activations that start as the identity, and can be made plain again (arXiv:1603.01670, 1701.03281)."""

from __future__ import annotations

__all__ = ["ACTIVATIONS", "Blend", "parametric", "settle"]

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from torchgraft.errors import choose


class Blend(nn.Module):
    """``(1 - amount) * activation(x) + amount * x`` with a learned ``amount`` that starts at one: the identity.

    >>> blend = Blend(nn.GELU())
    >>> bool((blend(torch.tensor([-2.0, 3.0])) == torch.tensor([-2.0, 3.0])).all())
    True
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.amount = nn.Parameter(torch.ones(()))

    def forward(self, blob: Tensor) -> Tensor:
        """Return the blend of a tensor of any shape."""
        activated: Tensor = self.activation(blob)
        return (1 - self.amount) * activated + self.amount * blob


#: Activations by name; that of ReLU is torch's own PReLU with a slope of one.
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.PReLU(init=1.0),
    "relu6": lambda: Blend(nn.ReLU6()),
    "leaky_relu": lambda: Blend(nn.LeakyReLU(0.01)),
    "elu": lambda: Blend(nn.ELU()),
    "gelu": lambda: Blend(nn.GELU()),
    "silu": lambda: Blend(nn.SiLU()),
    "mish": lambda: Blend(nn.Mish()),
    "hardswish": lambda: Blend(nn.Hardswish()),
    "softplus": lambda: Blend(nn.Softplus()),
    "sigmoid": lambda: Blend(nn.Sigmoid()),
    "tanh": lambda: Blend(nn.Tanh()),
}


def parametric(name: str) -> nn.Module:
    """Return the parametric form of an activation. Raises :class:`SpecError` for an unknown name."""
    return choose(ACTIVATIONS, name, "activation")()


def settle(module: nn.Module, tolerance: float = 0.0) -> tuple[str, ...]:
    """Replace, in place, parametric activations by plain ones where their parameter allows it; return their paths.

    A ``PReLU`` becomes ``ReLU`` where all its slopes are zero, an identity where all are one; a :class:`Blend`
    becomes its activation, or an identity, by its amount. ``tolerance`` is how far a parameter may be from that: with
    0 the function is kept to the bit, otherwise the output of a replaced activation moves by at most the tolerance
    times ``|x|``, or times ``|x - activation(x)|`` for a blend.

    >>> model = nn.Sequential(nn.PReLU(init=1.0), nn.PReLU(init=0.0), nn.PReLU(init=0.25))
    >>> settle(model), model[0], model[1]
    (('0', '1'), Identity(), ReLU())
    """
    settled = []
    for path, parent in list(module.named_modules()):
        for name, child in list(parent.named_children()):
            plain = _plain(child, tolerance)
            if plain is not None:
                setattr(parent, name, plain.train(child.training))
                settled.append(f"{path}.{name}" if path else name)
    return tuple(settled)


def _plain(module: nn.Module, tolerance: float) -> nn.Module | None:
    if isinstance(module, Blend):
        amount, plain = module.amount.detach(), module.activation
    elif isinstance(module, nn.PReLU):
        amount, plain = module.weight.detach(), nn.ReLU()
    else:
        return None
    if bool((amount.abs() <= tolerance).all()):
        return plain
    return nn.Identity() if bool(((amount - 1).abs() <= tolerance).all()) else None
