"""The data that flows through the lab: frozen records, no behaviour beyond derived properties.

Experiment  →  Tasks (one run each)  →  Outcome (one Row, and the weights of a trained source)  →  store  →  report
"""

from __future__ import annotations

__all__ = [
    "Data",
    "Epoch",
    "Experiment",
    "Initialized",
    "Outcome",
    "Recipe",
    "Row",
    "Source",
    "Task",
]

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Data:
    """Which images, at which size, and how many of them.

    ``name`` is ``digits``, ``npz:FILE``, ``cifar10:FOLDER``, ``cifar100:FOLDER``, ``food101:FOLDER``, ``folder:FOLDER``
    or ``hf:NAME``. ``train`` and ``test`` limit the number of images to a fixed, class-balanced subset drawn by
    ``seed``; ``None`` takes all. ``normalize`` is ``data`` (mean and deviation of the training images) or ``imagenet``.
    """

    name: str = "digits"
    size: int = 32
    train: int | None = None
    test: int | None = None
    seed: int = 0
    normalize: str = "data"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained; the defaults are the paper's (arXiv:2212.13970 section 4, dpiat.md section 6).

    The learning rate falls from ``rate`` to ``final_rate`` along half a cosine of ``horizon`` epochs *whatever the
    run's length*: a run of 4 epochs stays near ``rate``. ``keep`` says which weights a source run returns: those of the
    ``last`` epoch or of the ``best`` test loss.
    """

    epochs: int = 4
    batch: int = 128
    optimizer: str = "adam"
    rate: float = 4e-3
    final_rate: float = 4e-4
    horizon: int = 100
    warmup: int = 0
    weight_decay: float = 0.0
    augment: str = "paper"
    precision: str = "float32"
    channels_last: bool = True
    compile: bool = False
    keep: str = "last"


@dataclass(frozen=True, slots=True)
class Source:
    """A trained network that targets are started from.

    ``weights`` is empty where the lab trains it from scratch (by the experiment's ``source_recipe`` and seed ``seed``);
    otherwise it is a checkpoint's path, or ``pretrained`` for what the network's own library downloads or has cached.
    """

    name: str
    network: str
    weights: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is compared: the grid of targets, sources, initializations and seeds, and the recipe they share.

    ``networks`` maps short names to model specs (``timm:NAME[,option=value]``, ``torchvision:…``, ``hf:…``,
    ``python:package.module:factory``); the number of classes is added from the data. ``pairs`` lists
    ``(source, target)``; empty means all ordered pairs of different networks. ``thresholds`` are the accuracies
    (percent) of the time-to-accuracy tables. ``pretrained`` maps a target's name to the weights that the initialization
    of that name starts it from.
    """

    name: str
    title: str
    networks: dict[str, str]
    sources: tuple[Source, ...]
    targets: tuple[str, ...]
    initializations: tuple[str, ...]
    data: Data = Data()
    recipe: Recipe = Recipe()
    source_recipe: Recipe = Recipe(epochs=100, keep="best")
    source_data: Data | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    thresholds: tuple[float, ...] = ()
    pretrained: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """One run: the training of a source, or of a target from one initialization.

    ``key`` is a hash of all that decides the result (specs, data, recipe, seed, the key of the source's own run), and
    of nothing else, so that a run is never repeated and may serve several experiments. ``source`` is ``None`` for a run
    that needs none; ``source_key`` names the run that trains the source, where the lab does.
    """

    key: str
    kind: str  # "source" or "target"
    network: str
    spec: str
    initialization: str
    seed: int
    data: Data
    recipe: Recipe
    source: Source | None = None
    source_spec: str = ""
    source_key: str = ""
    source_data: Data | None = None
    weights: str = ""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One point of a learning curve; epoch 0 is before any training, and has neither ``train_loss`` nor ``rate``.

    Accuracies are percent of the test images. ``gradient`` is the largest norm of the gradient over the epoch's steps.
    ``seconds`` is the time since training began, evaluation left out.
    """

    epoch: int
    step: int
    accuracy: float
    loss: float
    train_loss: float | None = None
    rate: float | None = None
    gradient: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Initialized:
    """What an initialization did: the share of the target's elements it set, the plan's hash, similarities.

    ``shares`` are those of the learning rate that parameters are trained at, by key, where it is not all of it.
    """

    coverage: float = 0.0
    plan_hash: str = ""
    similarity: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    note: str = ""
    shares: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """One finished run, with everything needed to repeat it.

    ``exploded`` tells what broke, and where (``"loss is nan at epoch 2, step 310"``); such a run keeps the curve up to
    there, and its accuracy counts as it was last measured. ``setting`` holds versions, commit, device, threads, host.
    """

    key: str
    kind: str
    network: str
    source: str
    initialization: str
    seed: int
    task: dict[str, Any]
    curve: tuple[Epoch, ...]
    start: Initialized
    exploded: str = ""
    parameters: int = 0
    seconds: float = 0.0
    finished: str = ""
    setting: dict[str, Any] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Test accuracy after the last epoch, in percent."""
        return self.curve[-1].accuracy

    @property
    def best(self) -> float:
        """Best test accuracy of any epoch, in percent."""
        return max(point.accuracy for point in self.curve)

    @property
    def zero_shot(self) -> float:
        """Test accuracy right after the initialization, before any training, in percent."""
        return self.curve[0].accuracy

    @property
    def gradient(self) -> float | None:
        """Largest gradient norm of any step; ``None`` where no epoch was completed.

        >>> curve = Epoch(0, 0, 10.0, 2.3), Epoch(1, 50, 30.0, 1.0, gradient=4.0), Epoch(2, 99, 31.0, 1.0, gradient=2.0)
        >>> Row("k", "target", "b", "", "random", 0, {}, curve, Initialized()).gradient
        4.0
        """
        return max((point.gradient for point in self.curve if point.gradient is not None), default=None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a worker returns: the row for the store and, from a source, its weights as safetensors bytes."""

    row: Row
    weights: bytes = b""
