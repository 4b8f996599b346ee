"""One pair, measured: random weights into a fresh target, deviation of its function, and what the transfer took."""

from __future__ import annotations

__all__ = ["Row", "drawn", "measure", "settle"]

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import torchgraft as tg
from benchmarks.growth.pairs import Case
from torchgraft.axes import groups as axis_groups

_VARIANCES = (0.5, 1.5)  # of the true ones: the statistics of a norm are not those of the inputs
_EXAMPLES = 8  # that the statistics are taken from
_LEAST = 0.1  # smallest variance of a unit, as a share of the mean over its norm
_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """What one pair gave; ``failure`` says why nothing was measured. Times are in milliseconds.

    ``foretold`` is whether the plan says that the target will be exact, and ``forecast`` how long it took to find out.
    """

    section: str
    name: str
    exact: bool = False
    double: float = float("nan")
    single: float = float("nan")
    training: float = float("nan")
    varied: float = 0.0
    coverage: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    first: float = 0.0
    again: float = 0.0
    apply: float = 0.0
    place: str = ""
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    failure: str = ""
    foretold: bool | None = None
    forecast: float = 0.0


def measure(case: Case) -> Row:
    """Build both networks, transfer, and compare their functions."""
    try:
        return _measured(case)
    except Exception as error:  # a pair that fails must not cost the others
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Row(case.section, case.name, failure=told)


def _measured(case: Case) -> Row:
    inputs = case.inputs()
    source, target = (drawn(build, seed) for seed, build in enumerate((case.source, case.target)))
    if isinstance(inputs, Tensor):
        settle(source, inputs, seed=2)
    axis_groups._KEPT.clear()
    first, plan = _timed(lambda: tg.plan(source, target))
    again = min(_timed(lambda: tg.plan(source, target))[0] for _ in range(_REPEATS))
    forecast, foretold = _timed(lambda: plan.exact)
    applied, report = _timed(lambda: tg.apply(plan, source, target))
    found = tg.verify(source, target, report, inputs)
    double, single, training = (
        float("nan") if one is None else one.relative
        for one in (found.deviation(), found.deviation(precision="float32"), found.deviation("train"))
    )
    place = "" if found.place is None else found.place.target
    return Row(
        case.section, case.name, found.exact, double, single, training, varied(source, inputs), report.coverage,
        report.counts(), 1e3 * first, 1e3 * again, 1e3 * applied, place, found.reasons, (*plan.notes, *found.notes),
        foretold=foretold, forecast=1e3 * forecast,
    )  # fmt: skip


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def drawn(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network in float64 and draw all of its tensors anew, gains and statistics too.

    Weights keep the size of a signal (He et al., 2015); gains, scales and variances are about one, shifts about zero.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().double().eval()
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            value = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            if key.endswith("running_var"):
                value = 1 + 0.2 * value.abs()
            elif tensor.ndim > 1:
                value *= (2 / tensor[0].numel()) ** 0.5
            elif key.endswith(("weight", "scale", "gamma", "gamma_1", "gamma_2", "gamma_3", "temperature")):
                value = 1 + 0.2 * value
            else:
                value *= 0.1
            tensor.copy_(value)
    return model


def settle(model: nn.Module, inputs: Tensor, seed: int) -> None:
    """Give batch norms statistics near those of what reaches them, as training would; without them, do nothing.

    Means are off by 0.3 deviations, variances by a factor between 0.5 and 1.5. Every norm is set before it runs, so
    that errors of the one do not add up in the next.
    """
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    generator = torch.Generator().manual_seed(seed)
    hooks = [part.register_forward_pre_hook(partial(_settle, generator)) for part in norms]
    with torch.no_grad():
        model(torch.randn(_EXAMPLES, *inputs.shape[1:], dtype=inputs.dtype, generator=generator))
    for hook in hooks:
        hook.remove()


def _settle(generator: torch.Generator, norm: nn.modules.batchnorm._BatchNorm, arguments: tuple[Tensor, ...]) -> None:
    x = arguments[0].transpose(0, 1).flatten(1)
    mean, spread = x.mean(1), x.var(1, unbiased=False)
    spread = spread.clamp_min(_LEAST * float(spread.mean()))
    low, high = _VARIANCES
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(mean + 0.3 * torch.randn(len(mean), generator=generator, dtype=x.dtype) * spread.sqrt())
    norm.running_var.copy_(spread * (torch.rand(len(mean), generator=generator, dtype=x.dtype) * (high - low) + low))


def _run(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


def varied(model: nn.Module, inputs: Any) -> float:
    """Return by how much the first output changes from one example to the next: a constant would show nothing."""
    with torch.no_grad():
        found = _run(model, tree_map_only(Tensor, torch.clone, inputs))
    first: Tensor = found if isinstance(found, Tensor) else next(iter(dict(found).values()))
    return float((first[0] - first[1]).abs().max() / first.abs().max())
