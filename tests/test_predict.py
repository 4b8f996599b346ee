"""What a plan foretells is what the certificate measures, and nothing is foretold exact that is not."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchgraft as tg
from torchgraft.axes import axis_groups
from torchgraft.forecast import Forecast, told
from torchgraft.records import Obstacle


def drawn(module: Any, seed: int) -> Any:
    """Draw all weights and statistics in float64, so that no zero and no unit gain can hide a fault."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                if name.endswith("running_var"):
                    tensor.copy_(1 + 0.5 * noise.abs())
                elif tensor.ndim > 1:
                    tensor.copy_(noise * (1.5 / max(1, tensor[0].numel())) ** 0.5)
                else:
                    tensor.copy_((0 if "bias" in name or "mean" in name else 1) + 0.2 * noise)
    return module


class Net(nn.Module):
    """A small network of which everything can be changed a little."""

    def __init__(self, width: int = 8, depth: int = 2, **changes: Any) -> None:
        super().__init__()
        self.changes = changes
        stride, padding = changes.get("stride", 1), changes.get("padding", "zeros")
        self.stem = nn.Conv2d(3, width, 3, stride, 1, padding_mode=padding)
        self.blocks = nn.ModuleList(Block(width, **changes) for _ in range(depth))
        self.norm = changes.get("norm", nn.BatchNorm2d)(width)
        self.act = changes.get("act", nn.ReLU)()
        self.head = nn.Linear(width, changes.get("classes", 5))
        if "constant" in changes:
            self.register_buffer("constant", torch.full((4,), changes["constant"]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = self.act(self.norm(x) * self.changes.get("factor", 1))
        x = self.changes.get("pool", _mean)(x)
        if "constant" in self.changes:
            x = x * self.constant.sum()
        scores: Tensor = self.head(x)
        return scores


def _mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def _first(x: Tensor) -> Tensor:
    return x[:, :, 0, 0]


def _last(x: Tensor) -> Tensor:
    return x[:, :, -1, -1]


def _upper(x: Tensor) -> Tensor:
    return x[:, :, :4].mean((2, 3))


def _lower(x: Tensor) -> Tensor:
    return x[:, :, -4:].mean((2, 3))


def _shifted(x: Tensor) -> Tensor:
    return x.roll(1, 2)[:, :, :3].mean((2, 3))


def _rows(x: Tensor) -> Tensor:
    return x.transpose(2, 3)[:, :, :3].mean((2, 3))


def _columns(x: Tensor) -> Tensor:
    return x[:, :, :3].mean((2, 3))


def _softmax(x: Tensor) -> Tensor:
    return x.softmax(1).mean((2, 3))


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1).mean((2, 3))


class Block(nn.Module):
    """A residual branch."""

    def __init__(self, width: int, **changes: Any) -> None:
        super().__init__()
        self.changes = changes
        self.first = nn.Conv2d(width, changes.get("hidden", 2 * width), 1, bias=changes.get("bias", True))
        self.act = changes.get("inner", nn.SiLU)()
        self.second = nn.Conv2d(changes.get("hidden", 2 * width), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.act(self.first(x)))
        if self.changes.get("residual", True):
            y = x + self.changes.get("gain", 1.0) * y
        return y


def layer_norm(eps: float = 1e-5) -> Callable[[int], nn.Module]:
    class Norm(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)

    return lambda width: Norm(width, eps)


EXACT: dict[str, tuple[Any, Any]] = {
    "itself": (Net(), Net()),
    "wider": (Net(), Net(13)),
    "deeper": (Net(), Net(depth=4)),
    "wider and deeper": (Net(), Net(12, 5)),
    "more classes": (Net(), Net(12, classes=9)),
    "layer norm, padded": (Net(norm=layer_norm()), Net(13, norm=layer_norm())),
    "layer norm, doubled": (Net(norm=layer_norm()), Net(16, 3, norm=layer_norm())),
    "only wider inside": (Net(hidden=16), Net(hidden=21)),
    "the same pool of places": (Net(pool=_columns), Net(12, pool=_columns)),
    "a softmax over as many": (Net(pool=_softmax), Net(depth=3, pool=_softmax)),
    "a number in the code": (Net(gain=0.5, factor=3), Net(12, gain=0.5, factor=3)),
    "a constant": (Net(constant=2.0), Net(12, constant=2.0)),
}

OTHER: dict[str, tuple[Any, Any, str]] = {
    "activation": (Net(), Net(12, act=nn.SiLU), "ReLU → SiLU, at act"),
    "inner activation": (Net(), Net(inner=nn.GELU), "SiLU → GELU, at blocks.0.act and 1 more"),
    "setting": (Net(act=nn.ELU), Net(act=lambda: nn.ELU(0.5)), "ELU(1.0) → ELU(0.5), at act"),
    "stride": (Net(), Net(12, stride=2), "stride 1×1 → 2×2, at stem"),
    "padding": (Net(), Net(padding="reflect"), "at stem"),
    "narrower": (Net(), Net(6), "6 of the source's 8 units are kept, at "),
    "narrower inside": (Net(hidden=16), Net(hidden=12), "12 of the source's 16 units are kept, at blocks.0."),
    "shallower": (Net(depth=3), Net(), "a layer of the source has no place in the target, at the source's blocks."),
    "no residual sum": (Net(), Net(residual=False), "the source adds the input of this block to what it gives"),
    "a residual sum": (Net(residual=False), Net(), "the target adds the input of this block to what it gives"),
    "no bias": (Net(), Net(bias=False), "a bias of the source has no place, at blocks.0.first and 1 more"),
    "a bias": (Net(bias=False), Net(), "a bias has no source, at blocks.0.first and 1 more"),
    "epsilon": (Net(), Net(norm=lambda n: nn.BatchNorm2d(n, 0.1)), "epsilon 1e-05 → 0.1 in BatchNorm2d, at norm"),
    "epsilon of a layer norm": (Net(norm=layer_norm()), Net(norm=layer_norm(0.1)), "Norm adds another epsilon"),
    "another norm": (Net(), Net(norm=layer_norm()), "at norm"),
    "group norm": (
        Net(norm=lambda n: nn.GroupNorm(2, n)), Net(16, norm=lambda n: nn.GroupNorm(2, n)),
        "GroupNorm 8 → 16 (in 2 groups) takes its statistics over other units, at norm",
    ),
    "no pictures any more": (Net(), Net(12, pool=_first), "at head"),
    "another place": (Net(pool=_first), Net(12, pool=_last), "select"),
    "other rows": (Net(pool=_upper), Net(12, pool=_lower), "slice"),
    "shifted": (Net(pool=_columns), Net(12, pool=_shifted), "roll"),
    "turned": (Net(pool=_columns), Net(12, pool=_rows), "transpose"),
    "a softmax over more": (Net(pool=_softmax), Net(12, pool=_softmax), "takes in 12 units instead of 8"),
    "a length over more": (Net(pool=_unit), Net(12, pool=_unit), ""),
    "a constant": (Net(constant=2.0), Net(12, constant=3.0), "the buffer constant holds other values, at head"),
    "a factor": (Net(factor=2), Net(factor=3), "the code multiplies by 3 instead of 2, at act"),
    "a gain": (Net(gain=0.5), Net(12, gain=0.25), "the code multiplies by 0.25 instead of 0.5"),
    "a layer norm behind a function of every unit": (
        Net(norm=lambda n: nn.Sequential(nn.BatchNorm2d(n), layer_norm()(n))),
        Net(12, norm=lambda n: nn.Sequential(nn.BatchNorm2d(n), layer_norm()(n))),
        "Norm 8 → 12 takes its statistics over 12 units instead of 8, and new ones cannot be held at their mean behind "
        "BatchNorm2d, at norm.1",
    ),
}  # fmt: skip


def both(source: nn.Module, target: nn.Module, **options: Any) -> tuple[tg.Plan, tg.Certificate]:
    source, target = drawn(copy.deepcopy(source), 0), drawn(copy.deepcopy(target), 1)
    report = tg.transfer(source, target, **options)
    picture = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return report.plan, tg.verify(source, target, report, picture)


@pytest.mark.parametrize("name", EXACT)
def test_what_is_exact_is_foretold(name: str) -> None:
    plan, certificate = both(*EXACT[name])
    assert certificate.exact, certificate
    assert plan.exact, plan.obstacles
    assert plan.obstacles == ()


@pytest.mark.parametrize("name", OTHER)
def test_what_is_not_exact_is_never_foretold_exact_and_the_reason_is_the_certificates(name: str) -> None:
    source, target, reason = OTHER[name]
    plan, certificate = both(source, target)
    assert not certificate.exact
    assert plan.exact is False
    assert any(reason in one for one in plan.obstacles), plan.obstacles
    assert any(reason in one for one in certificate.reasons), certificate.reasons


class Attention(nn.Module):
    """Attention with heads, a table of angles, and a scale of its own."""

    def __init__(self, width: int, heads: int, base: float = 100.0, causal: bool = False) -> None:
        super().__init__()
        self.num_heads, self.causal = heads, causal
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, 5)
        self.register_buffer("angles", torch.arange(6)[:, None] * base ** -torch.linspace(0, 1, 4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q = torch.cat((q[..., :4] * self.angles.cos(), q[..., 4:]), -1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        found: Tensor = self.proj(mixed.transpose(1, 2).reshape(n, length, width))
        return found


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Attention(16, 2), None),
        (Attention(16, 1), "the code multiplies by 0.5 instead of 0.5946, at proj"),
        (Attention(16, 2, base=50.0), "the buffer angles holds other values, at "),
        (Attention(16, 2, causal=True), "none → "),
    ],
    ids=["the same", "other heads", "other angles", "causal"],
)
def test_attention(target: nn.Module, reason: str | None) -> None:
    source, target = drawn(Attention(16, 2), 0), drawn(target, 1)
    x = torch.randn(2, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    report = tg.transfer(source, target, inputs=x)
    assert tg.verify(source, target, report, x).exact == (reason is None)
    assert report.plan.exact == (reason is None), report.plan.obstacles
    assert reason is None or reason in report.plan.obstacles[0]


# --- the forecast as a thing --------------------------------------------------------------------------------------


def test_a_forecast_is_found_once_and_when_it_is_asked() -> None:
    calls = []

    def find() -> tuple[Obstacle, ...]:
        calls.append(1)
        return (Obstacle("kernel 5×5 → 3×3", "a"), Obstacle("kernel 5×5 → 3×3", "b"))

    forecast = Forecast(find)
    assert not calls
    assert (forecast.exact, forecast.exact, calls) == (False, False, [1])
    assert forecast.lines() == ["not exact: kernel 5×5 → 3×3, at a and 1 more"]
    assert pickle.loads(pickle.dumps(forecast)).obstacles == forecast.obstacles
    assert Forecast().lines() == []
    assert Forecast(found=()).lines() == ["exact: the target will compute the source's function"]
    many = Forecast(found=tuple(Obstacle(str(n), "a") for n in range(7)))
    assert many.lines(2) == ["not exact: 0, at a", "further: 1, at a", "and 5 further reasons"]
    assert told([]) == ()


def test_a_plan_tells_its_forecast_in_text_and_json() -> None:
    plan = tg.plan(Net(), Net(12, act=nn.SiLU))
    assert str(plan).splitlines()[-1] == "not exact: ReLU → SiLU, at act"
    again = tg.Plan.from_json(plan.to_json())
    assert (again.exact, again.obstacles, again.fingerprint()) == (False, plan.obstacles, plan.fingerprint())
    assert plan.to_dict()["obstacles"] == [{"what": "ReLU → SiLU", "where": "act"}]
    unknown = tg.plan(Net().state_dict(), Net(12))
    assert (unknown.exact, unknown.obstacles, unknown.to_dict()["exact"]) == (None, (), None)
    assert tg.Plan.from_json(unknown.to_json()).exact is None


def test_a_plan_keeps_no_module_alive() -> None:
    source, target = Net(), Net()
    plan = tg.plan(source, target)
    alive = weakref.ref(source)
    del source
    gc.collect()
    assert alive() is None
    assert plan.exact is None


def test_other_methods_are_foretold_too() -> None:
    source, target = Net(), Net(12)
    plan = tg.plan(source, target, method="dpiat")
    assert plan.exact is False
    assert "a running_mean has no source, at norm" in plan.obstacles
    assert tg.plan(source, target, operator="clip").exact is False
    same = Net()
    assert tg.plan(source, same).exact


class Shared(nn.Module):
    """Attention in which one weight makes keys and values, and the code scales by the size of a head."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.num_heads, self.size = 2, size
        self.q, self.kv, self.proj = nn.Linear(7, 2 * size), nn.Linear(7, 4 * size), nn.Linear(2 * size, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q = self.q(x).view(n, length, self.num_heads, -1).transpose(1, 2)
        k, v = self.kv(x).view(n, length, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = ((q * self.size**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        found: Tensor = self.proj(mixed.transpose(1, 2).reshape(n, length, -1))
        return found


def test_larger_heads_whose_keys_and_values_have_one_weight_are_rescaled_in_the_queries() -> None:
    source, target = drawn(Shared(4), 0), drawn(Shared(6), 1)
    x = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    report = tg.transfer(source, target, inputs=x, pins={"q": "q", "kv": "kv"})
    assert tg.verify(source, target, report, x).exact
    assert report.plan.exact


class Places(nn.Module):
    """A linear layer reads every place of a picture, whose units do not lie side by side in memory."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, width, 1), nn.Linear(width, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.norm(self.mix(self.stem(x).permute(0, 2, 3, 1))))
        return scores


def test_a_linear_layer_of_permuted_values_is_known_as_one() -> None:
    source, target = drawn(Places(8), 0), drawn(Places(12), 1)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert "bmm" not in {step.name for step in axis_groups(source, (x,)).flow.steps}
    report = tg.transfer(source, target, inputs=x)
    assert report.plan.exact, report.plan.obstacles
    assert tg.verify(source, target, report, x).exact
