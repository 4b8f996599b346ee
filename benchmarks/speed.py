"""How long plan, similarity, apply and import take, and how planning grows with depth."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

import torchgraft as tg
from benchmarks.rows import Row
from torchgraft import network
from torchgraft.axes import groups
from torchgraft.io import import_torchvision
from torchgraft.similarity import both_directions
from torchgraft.transfer import planning

PAIR = ("efficientnet_b0", "efficientnet_b2")


def median(run: Callable[[], object], repeats: int = 25) -> float:
    """Median seconds of a call, after one that does not count."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def median_after(before: Callable[[], object], run: Callable[[], object], repeats: int = 7) -> float:
    """Median seconds of a call after another one each time that does not count."""
    times = []
    for _ in range(repeats):
        before()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def forget_pairs() -> None:
    """Forget the pairs of architectures that were planned or compared."""
    planning._matched_once.cache_clear()
    planning._drafted_once.cache_clear()
    both_directions.cache_clear()


def forget() -> None:
    """Forget all architectures."""
    forget_pairs()
    network._KNOWN.clear()
    groups._KEPT.clear()


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def rows() -> Iterator[Row]:
    """Measure plan, similarity, apply, import and growth."""
    import_torchvision()
    import timm

    a, b = timm.create_model(PAIR[0]), timm.create_model(PAIR[1])
    pair = "efficientnet_b0 → b2"
    calls: tuple[tuple[str, Callable[..., object], str, str], ...] = (
        ("plan", tg.plan, "≤ 15 ms", "published code: 460 ms"),
        ("similarity", tg.similarity, "≤ 5 ms", "published code: 1,870 ms"),
    )
    for name, call, goal, published in calls:
        for method in ("graft", "dpiat"):
            run = partial(call, a, b, method=method)
            first, pair_first, again = median_after(forget, run), median_after(forget_pairs, run), median(run)
            told = f"{milliseconds(again)} again, {milliseconds(pair_first)} new pair, {milliseconds(first)} all new"
            yield Row(f"{name} {pair}, {method}", told, goal, published)
    yield from axis_rows(b)
    yield apply_row(a, b, pair)
    yield apply_row(timm.create_model("resnet50"), timm.create_model("wide_resnet50_2"), "resnet50 → wide_resnet50_2")
    yield from import_rows()
    yield from growth_rows()


def axis_rows(b2: nn.Module) -> Iterator[Row]:
    """Measure axis groups, of an architecture met for the first time and of one met before."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        llama = LlamaForCausalLM(LlamaConfig())
    for name, model, goal in (("efficientnet_b2", b2, "≤ 500 ms"), ("Llama, 32 layers, meta", llama, "≤ 2,000 ms")):

        def first(model: nn.Module = model) -> None:
            groups._KEPT.clear()
            groups.axis_groups(model)

        once, again = median(first, 5), median(lambda model=model: groups.axis_groups(model))
        yield Row(f"axis groups, {name}", f"{milliseconds(once)} first, {milliseconds(again)} again", goal, "")


def apply_row(a: nn.Module, b: nn.Module, pair: str) -> Row:
    """Apply beside a copy of all of the target's tensors, in turn.

    Of the model, which has to be walked as apply must; from tensors at hand into memory at hand, or as new ones; and
    torch's own way to write into a model.
    """
    plan = tg.plan(a, b)
    tensors = list(b.state_dict().values())
    copies = [tensor.clone() for tensor in tensors]
    state = {key: tensor.clone() for key, tensor in b.state_dict().items()}

    def copy() -> None:
        with torch.no_grad():
            for tensor, other in zip(tensors, copies, strict=True):
                tensor.copy_(other)

    limits: dict[str, Callable[[], object]] = {
        "a copy of its state dict": lambda: {key: tensor.clone() for key, tensor in b.state_dict().items()},
        "a copy in place": copy,
        "a copy into new tensors": lambda: [tensor.clone() for tensor in tensors],
        "`load_state_dict`": lambda: b.load_state_dict(state),
    }
    times, ratios = [], {name: list[float]() for name in limits}
    for _ in range(15):
        times.append(median(lambda: tg.apply(plan, a, b), 3))
        for name, limit in limits.items():
            ratios[name].append(times[-1] / median(limit, 3))
    beside = ", ".join(f"{statistics.median(values):.2f}× {name}" for name, values in ratios.items())
    return Row(f"apply {pair}", milliseconds(statistics.median(times)), "≤ 1.5× a plain copy", beside)


def import_rows() -> Iterator[Row]:
    """What ``import torchgraft`` adds to ``import torch``, and the first name that is asked for, in fresh processes."""
    timed = "import time, torch; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    for statement in ("import torchgraft", "from torchgraft import transfer"):
        command = [sys.executable, "-c", timed.format(statement)]
        runs = [subprocess.run(command, capture_output=True, check=True, env=environment).stdout for _ in range(8)]
        figure = f"{statistics.median(map(float, runs[1:])):.3f} s"  # the first one compiles
        yield Row(f"`{statement}`, after torch", figure, "≤ 0.15 s" if statement.startswith("import") else "")


def growth_rows() -> Iterator[Row]:
    """Plan and compare residual networks of 50 to 2,000 layers with one a tenth deeper and half as wide again."""
    for layers in (50, 200, 500, 1000, 2000):
        pair = deep(layers, 32), deep(layers * 11 // 10, 48)
        plan, similarity = partial(tg.plan, *pair), partial(tg.similarity, *pair)
        first, pair_first, again = median_after(forget, plan, 1), median_after(forget_pairs, plan, 3), median(plan, 3)
        figure = f"plan {milliseconds(again)} again, {milliseconds(pair_first)} new pair, {milliseconds(first)} all new"
        alike = f"similarity {milliseconds(median_after(forget_pairs, similarity, 3))} new pair"
        yield Row(f"growth: {layers} layers → {layers * 11 // 10}", f"{figure}; {alike}")


class Block(nn.Module):
    """Two convolutions with their norms, and what they read added."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(size, size, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(size)
        self.conv2 = nn.Conv2d(size, size, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def deep(layers: int, width: int) -> nn.Module:
    """Five stages of residual blocks, each wider and on a smaller picture than the one before, on the meta device."""
    parts: list[nn.Module] = []
    with torch.device("meta"):
        for stage in range(5):
            parts.append(nn.Conv2d(width * stage or 3, width * (stage + 1), 3, 2, 1))
            parts.append(nn.Sequential(*(Block(width * (stage + 1)) for _ in range(max(1, layers // 20)))))
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width * 5, 10))
