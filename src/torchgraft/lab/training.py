"""The one training loop of the lab: plain, the same for every initialization, and loud where it breaks."""

from __future__ import annotations

__all__ = ["Images", "Trained", "evaluate", "train"]

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import get_total_norm

from torchgraft.errors import LabError
from torchgraft.lab.networks import logits
from torchgraft.lab.recipes import OPTIMIZERS, PRECISIONS, check_recipe, learning_rate
from torchgraft.lab.records import Epoch, Recipe

_TEST_BATCH = 250
_SHARE = "share"  # of the learning rate, in a group of parameters
# Losses and gradients are looked at this many steps at a time: on a GPU every look waits for all work to end.
_LOOK = 16
# A scaled loss (float16) overflows now and then, and the scale is halved; more in a row are no matter of scale.
_OVERFLOWS = 24


class Images(Protocol):
    """What the loop asks of a data set; a batch is ``(images (n, 3, size, size), labels (n,))``."""

    @property
    def train_count(self) -> int:
        """Number of the training images."""

    def train(
        self, batch: int, augment: str, generator: torch.Generator, device: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over the training images, shuffled and augmented by ``generator``."""

    def test(self, batch: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate once over the test images, as they are."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What :func:`train` returns: the curve, what broke (or ``""``), and the weights, on the CPU.

    ``state`` is that of the last measured epoch or, by ``recipe.keep``, of the one with the least test loss; ``None``
    where no test loss was finite.
    """

    curve: tuple[Epoch, ...]
    exploded: str
    state: dict[str, Tensor] | None


@dataclass(frozen=True, slots=True)
class _Loop:
    """What stays the same from epoch to epoch; ``run`` is the network, compiled where the recipe asks for it."""

    run: nn.Module
    recipe: Recipe
    images: Images
    device: torch.device
    parameters: tuple[nn.Parameter, ...]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


@dataclass(slots=True)
class _Meter:
    """What the steps of one epoch add up to; ``overflows`` counts the gradients in a row that are not finite."""

    epoch: int
    first: int  # steps taken before this epoch
    allowed: int  # overflows in a row that are no fault
    loss: float = 0.0
    images: int = 0
    steps: int = 0
    gradient: float = 0.0
    overflows: int = 0
    rate: float = 0.0
    broken: str = ""


@dataclass(slots=True)
class _Kept:
    """The weights to return."""

    which: str
    loss: float = math.inf
    state: dict[str, Tensor] | None = None


def train(
    network: nn.Module,
    images: Images,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
    tick: Callable[[Epoch], object] = lambda point: None,
    shares: Mapping[str, float] | None = None,
) -> Trained:
    """Train ``network`` in place by ``recipe`` (cross entropy), testing it before training and after every epoch.

    Where the loss or the gradient is no longer finite, training stops and the curve keeps what was measured. A test
    loss that is not finite does not stop it, since the statistics behind it may recover within an epoch; a run that
    ends with one is told as exploded. On the CPU equal seeds give equal results; torch's generators are left as they
    were. A last batch of one image is left out: BatchNorm has no deviation of one value.

    Args:
        network: maps ``(n, 3, size, size)`` to logits ``(n, classes)``; moved to ``device``.
        images: what to learn.
        recipe: how.
        seed: of the order of the images, augmentation, dropout and stochastic depth; not of the weights.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...
        tick: called with every point of the curve as soon as it is measured.
        shares: of the learning rate, by parameter; 1 for those that it does not name.

    Raises:
        SpecError: an unknown optimizer or precision.
        LabError: the recipe is impossible, the network has nothing to train or returns no logits.
    """
    check_recipe(recipe)
    kept, curve, broken, seconds = _Kept(recipe.keep), [], "", 0.0
    generator = torch.Generator().manual_seed(seed)
    with _seeded(seed, torch.device(device)):
        loop = _prepare(network, images, recipe, torch.device(device), shares or {})
        point = Epoch(0, 0, *evaluate(loop.run, images, recipe, device))
        while True:
            curve.append(point)
            _keep(kept, network, point)
            tick(point)
            if point.epoch == recipe.epochs:
                break
            begun = time.perf_counter()
            meter = _epoch(loop, point, generator)
            seconds += time.perf_counter() - begun
            if meter.broken:
                broken = meter.broken
                break
            point = _point(meter, *evaluate(loop.run, images, recipe, device), seconds)
    return Trained(tuple(curve), broken or _test_fault(point), kept.state)


def evaluate(network: nn.Module, images: Images, recipe: Recipe, device: str = "cpu") -> tuple[float, float]:
    """Return accuracy (percent) and mean cross entropy of the test images, in the recipe's precision.

    An image for which the network answers NaN counts as wrong.

    Raises:
        LabError: there are no test images, or the network returns no logits.
    """
    network.eval()
    right, losses, count = [], [], 0
    # Not inference_mode: what a network caches in it (a rotary embedding, a mask) cannot be trained with afterwards.
    with torch.no_grad():
        for pictures, labels in images.test(_TEST_BATCH, device):
            answers = _answers(network, pictures, recipe)
            best, found = answers.max(1)  # NaN where any class is
            right.append(((found == labels) & ~best.isnan()).sum())
            losses.append(cross_entropy(answers, labels, reduction="sum"))
            count += len(labels)
    if not count:
        raise LabError("the data has no test images: give at least one")
    return 100 * int(torch.stack(right).sum()) / count, float(torch.stack(losses).cpu().double().sum()) / count


def _prepare(
    network: nn.Module, images: Images, recipe: Recipe, device: torch.device, shares: Mapping[str, float]
) -> _Loop:
    network.to(device)
    if recipe.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = tuple(parameter for parameter in network.parameters() if parameter.requires_grad)
    if not parameters:
        raise LabError(f"{type(network).__name__} has no parameters to train: let them require gradients")
    run: Any = torch.compile(network) if recipe.compile else network
    scaler = torch.amp.GradScaler(device.type, enabled=PRECISIONS[recipe.precision].scaled)
    optimizer = OPTIMIZERS[recipe.optimizer](_groups(network, shares), recipe)
    return _Loop(run, recipe, images, device, parameters, optimizer, scaler)


def _groups(network: nn.Module, shares: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return a group of parameters for each share of the learning rate."""
    named = [(shares.get(name, 1.0), one) for name, one in network.named_parameters() if one.requires_grad]
    every = sorted({share for share, _ in named})
    return [{"params": [one for own, one in named if own == share], _SHARE: share} for share in every]


def _epoch(loop: _Loop, last: Epoch, generator: torch.Generator) -> _Meter:
    """Go once over the training images, from the point where the last epoch ended."""
    recipe = loop.recipe
    steps = _steps(loop.images.train_count, recipe.batch)
    meter = _Meter(last.epoch + 1, last.step, min(_OVERFLOWS, steps - 1) if loop.scaler.is_enabled() else 0)
    seen: list[tuple[Tensor, int]] = []
    loop.run.train()
    batches = loop.images.train(recipe.batch, recipe.augment, generator, str(loop.device))
    for step, (pictures, labels) in enumerate(batches):
        if step == steps:
            break
        meter.rate = learning_rate(recipe, last.step + step, steps)
        seen.append((_step(loop, pictures, labels, meter.rate), len(labels)))
        if len(seen) == _LOOK or step + 1 == steps:
            _look(meter, seen)
            seen.clear()
            if meter.broken:
                break
    return meter


def _steps(images: int, batch: int) -> int:
    """Steps of an epoch; a last batch of one image is no step.

    >>> [_steps(images, 4) for images in (1, 4, 5, 6)]
    [1, 1, 1, 2]
    """
    if not images:
        raise LabError("the data has no training images: give at least one")
    return max(1, -(-images // batch) - (batch > 1 and images % batch == 1))


def _step(loop: _Loop, pictures: Tensor, labels: Tensor, rate: float) -> Tensor:
    """Take one step; return loss and gradient norm ``(2,)`` without waiting for them."""
    for group in loop.optimizer.param_groups:
        group["lr"] = rate * group[_SHARE]
    loop.optimizer.zero_grad(set_to_none=True)
    loss = cross_entropy(_answers(loop.run, pictures, loop.recipe), labels)
    loop.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    loop.scaler.unscale_(loop.optimizer)
    norm = get_total_norm([parameter.grad for parameter in loop.parameters if parameter.grad is not None])
    loop.scaler.step(loop.optimizer)
    loop.scaler.update()
    return torch.stack([loss.detach(), norm.to(loss)])


def _answers(network: nn.Module, pictures: Tensor, recipe: Recipe) -> Tensor:
    """Return the logits ``(n, classes)`` in float32, computed in the recipe's precision and memory layout."""
    if recipe.channels_last:
        pictures = pictures.contiguous(memory_format=torch.channels_last)
    dtype = PRECISIONS[recipe.precision].dtype
    context: AbstractContextManager[Any] = (
        nullcontext() if dtype is None else torch.autocast(pictures.device.type, dtype=dtype)
    )
    with context:
        return logits(network, pictures).float()


def _look(meter: _Meter, seen: list[tuple[Tensor, int]]) -> None:
    """Add the newest steps to the meter, up to the first one that broke."""
    values = torch.stack([pair for pair, _ in seen]).tolist()
    for (loss, gradient), (_, images) in zip(values, seen, strict=True):
        meter.steps += 1
        finite = math.isfinite(gradient)
        meter.overflows = 0 if finite else meter.overflows + 1
        if not math.isfinite(loss) or meter.overflows > meter.allowed:
            what = f"gradient is {gradient}" if math.isfinite(loss) else f"loss is {loss}"
            meter.broken = f"{what} at epoch {meter.epoch}, step {meter.first + meter.steps}"
            return
        meter.loss += loss * images
        meter.images += images
        meter.gradient = max(meter.gradient, gradient if finite else 0.0)


def _point(meter: _Meter, accuracy: float, loss: float, seconds: float) -> Epoch:
    return Epoch(
        epoch=meter.epoch,
        step=meter.first + meter.steps,
        accuracy=accuracy,
        loss=loss,
        train_loss=meter.loss / meter.images,
        rate=meter.rate,
        gradient=meter.gradient,
        seconds=seconds,
    )


def _test_fault(point: Epoch) -> str:
    return "" if math.isfinite(point.loss) else f"test loss is {point.loss} at epoch {point.epoch}, step {point.step}"


def _keep(kept: _Kept, network: nn.Module, point: Epoch) -> None:
    """Copy the weights to the CPU where they are the ones to return."""
    if math.isfinite(point.loss) and (kept.which == "last" or point.loss < kept.loss):
        kept.loss = point.loss
        # Contiguous, since no file format knows channels_last; a copy each, tied or not.
        kept.state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in network.state_dict().items()}


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators that dropout draws from, and put them back."""
    index = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device.index
    with torch.random.fork_rng(devices=[index] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(index):
                torch.cuda.manual_seed(seed)
        yield
