"""Networks that compute the same by other operators: a plan foretells what the certificate measures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchgraft as tg
from torchgraft.io import import_torchvision


class Separate(nn.Module):
    """Attention by four layers; ``interleaved``: the heads are the fast factor."""

    def __init__(self, width: int = 16, heads: int = 2, *, interleaved: bool = False) -> None:
        super().__init__()
        self.heads, self.interleaved = heads, interleaved
        self.num_attention_heads, self.attention_head_size = heads, width // heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def _split(self, x: Tensor) -> Tensor:
        if self.interleaved:
            return x.view(*x.shape[:2], -1, self.heads).permute(0, 3, 1, 2)
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(one(x)) for one in (self.query, self.key, self.value))
        mixed: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
        return mixed


class Fused(nn.Module):
    """Attention by two layers; ``order`` of what the first one gives, ``inner``: for each head."""

    def __init__(
        self, width: int = 16, heads: int = 2, *, order: str = "qkv", inner: bool = False, cut: bool = False
    ) -> None:
        super().__init__()
        self.num_heads, self.order, self.inner, self.cut = heads, order, inner, cut
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        made, heads = self.qkv(x), self.num_heads
        if self.cut:
            parts = [one.view(*x.shape[:2], heads, -1).transpose(1, 2) for one in made.split(x.shape[2], dim=2)]
        elif self.inner:
            parts = made.view(*x.shape[:2], heads, 3, -1).permute(3, 0, 2, 1, 4).unbind(0)
        else:
            parts = made.view(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        q, k, v = (parts[self.order.index(name)] for name in "qkv")
        mixed: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
        return mixed


class Encoder(nn.Module):
    """One block around an attention; ``swapped``: the stream is the second summand, the gate the second factor."""

    def __init__(self, mixer: nn.Module, width: int = 16, *, swapped: bool = False, minus: bool = False) -> None:
        super().__init__()
        self.mixer, self.swapped, self.minus = mixer, swapped, minus
        self.norm, self.up, self.gate, self.down = (
            nn.LayerNorm(width), nn.Linear(width, 24), nn.Linear(width, 24), nn.Linear(24, width),
        )  # fmt: skip
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mixer(x)
        x = y + x if self.swapped else x + y
        z = self.norm(x)
        up, gate = self.up(z), F.silu(self.gate(z))
        y = self.down(up * gate if self.swapped else gate * up)
        first, second = (y, x) if self.swapped else (x, y)
        scores: Tensor = self.head((first - second if self.minus else first + second).mean(1))
        return scores


def _drawn(module: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return module


def _told(source: nn.Module, target: nn.Module, x: Tensor) -> tuple[bool | None, bool, tuple[str, ...]]:
    source, target = _drawn(source, 0), _drawn(target, 1)
    report = tg.transfer(source, target, inputs=x)
    return report.plan.exact, tg.verify(source, target, report, x).exact, report.plan.obstacles


TOKENS = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
SAME = {
    "separate": lambda: Separate(),
    "fused": lambda: Fused(),
    "split": lambda: Fused(cut=True),
}
OTHER = {
    "interleaved": lambda: Separate(interleaved=True),
    "other heads": lambda: Separate(heads=4),
    "other heads, fused": lambda: Fused(heads=4),
    "keys first": lambda: Fused(order="kqv"),
    "values first": lambda: Fused(order="vqk"),
    "head by head": lambda: Fused(inner=True),
}


@pytest.mark.parametrize("swapped", [False, True], ids=["", "swapped"])
@pytest.mark.parametrize("target", SAME)
@pytest.mark.parametrize("source", SAME)
def test_the_same_attention(source: str, target: str, swapped: bool) -> None:
    told, exact, obstacles = _told(Encoder(SAME[source]()), Encoder(SAME[target](), swapped=swapped), TOKENS)
    assert exact
    assert told, obstacles


@pytest.mark.parametrize("target", OTHER)
@pytest.mark.parametrize("source", SAME)
def test_another_attention(source: str, target: str) -> None:
    """Whether it is the same depends on what the plan made of it; it must not say so where it is not."""
    told, exact, _ = _told(Encoder(SAME[source]()), Encoder(OTHER[target]()), TOKENS)
    assert exact or not told


@pytest.mark.parametrize("swapped", [False, True])
def test_a_difference_has_an_order(swapped: bool) -> None:
    source, target = (Encoder(Separate(), minus=True, swapped=one) for one in (not swapped, swapped))
    told, exact, _ = _told(source, target, TOKENS)
    assert not exact and not told


class Doubled(nn.Module):
    """A sum in which the second summand counts twice."""

    def __init__(self, swapped: bool) -> None:
        super().__init__()
        self.swapped, self.one, self.other, self.head = swapped, nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.one(x), torch.relu(self.other(x))
        scores: Tensor = self.head(torch.add(b, a, alpha=2) if self.swapped else torch.add(a, b, alpha=2))
        return scores


@pytest.mark.parametrize("swapped", [False, True])
def test_a_weighed_sum_has_an_order(swapped: bool) -> None:
    told, exact, _ = _told(Doubled(False), Doubled(swapped), TOKENS)
    assert exact == told == (not swapped)


@pytest.mark.parametrize(("width", "layers"), [(64, 2), (128, 3)], ids=["equal", "larger"])
@pytest.mark.parametrize("back", [False, True], ids=["to timm", "to transformers"])
@pytest.mark.parametrize("scaled", [False, True], ids=["", "with layer scales in timm"])
def test_vision_transformers_of_two_libraries(width: int, layers: int, back: bool, scaled: bool) -> None:
    import_torchvision()
    timm, transformers = pytest.importorskip("timm"), pytest.importorskip("transformers")

    def hub(width: int, layers: int) -> Any:
        config = transformers.ViTConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 16, intermediate_size=4 * width,
            image_size=64, patch_size=16, num_labels=7, layer_norm_eps=1e-6,
        )  # fmt: skip
        return transformers.ViTForImageClassification(config).eval()

    def other(width: int, layers: int) -> Any:
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=64, embed_dim=width, num_heads=width // 16, depth=layers, num_classes=7,
            init_values=0.1 if scaled else None,
        ).eval()  # fmt: skip

    first, second = (other, hub) if back else (hub, other)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    told, exact, obstacles = _told(first(64, 2), second(width, layers), x)
    assert exact
    assert told, obstacles
