"""How long plan, similarity, apply and import take, and how planning grows with depth."""

from __future__ import annotations

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
    yield import_row()
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


def import_row() -> Row:
    """What ``import torchgraft`` adds to ``import torch``, in fresh processes."""
    code = "import time, torch; s = time.perf_counter(); import torchgraft; print(time.perf_counter() - s)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in range(7)
    ]
    return Row("import torchgraft, after torch", f"{statistics.median(times):.3f} s", "≤ 0.15 s", "")


def growth_rows() -> Iterator[Row]:
    """Planning and similarity of residual-block networks of 50 to 2,000 layers into one a tenth deeper and wider."""
    for layers in (50, 200, 500, 1000, 2000):
        pair = deep(layers, 32), deep(layers * 11 // 10, 48)
        runs = [partial(call, *pair) for call in (tg.plan, tg.similarity)]
        planned, alike = (median_after(forget_pairs, run, 3 + 1) for run in runs)
        figure = f"plan {milliseconds(planned)}, similarity {milliseconds(alike)}, new pair"
        yield Row(f"growth: {layers} layers → {layers * 11 // 10}", figure)


def deep(layers: int, width: int) -> nn.Module:
    """Blocks of four layers with tensors in five stages of growing width, on the meta device."""
    with torch.device("meta"):
        stages = []
        for stage in range(5):
            size = width * (stage + 1)
            count = max(1, layers // 20)
            stages.append(nn.Sequential(*(nn.Sequential(*unit(size)) for _ in range(count))))
        return nn.Sequential(nn.Conv2d(3, width, 3), *stages, nn.Linear(width * 5, 10))


def unit(size: int) -> tuple[nn.Module, ...]:
    """Two convolutions with their norms."""
    return (
        nn.Conv2d(size, size, 3, bias=False),
        nn.BatchNorm2d(size),
        nn.ReLU(),
        nn.Conv2d(size, size, 3, bias=False),
        nn.BatchNorm2d(size),
    )
