"""The architectures of the zoo: their names, how each is built, and an input that each can read."""

from __future__ import annotations

__all__ = ["LIBRARIES", "SOURCES", "Case", "build", "cases", "family", "inputs", "silence", "train_like"]

import importlib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import transformers_zoo
from torchgraft.io import import_torchvision

#: The two sources that every architecture is planned from.
SOURCES = ("resnet50", "vit_tiny_patch16_224")


@dataclass(frozen=True, slots=True)
class Case:
    """One architecture of one library."""

    library: str
    name: str


@cache
def _vision() -> tuple[Any, Any]:
    import_torchvision()  # before timm, which imports it
    return importlib.import_module("timm"), importlib.import_module("torchvision.models")


def silence() -> None:
    """Use one thread and hold back what the libraries say about models that nobody will use."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def _timm_names() -> list[str]:
    return list(_vision()[0].list_models())


def _torchvision_names() -> list[str]:
    return list(_vision()[1].list_models())


def _build_timm(name: str, **options: Any) -> nn.Module:
    model: nn.Module = _vision()[0].create_model(name, **options)
    return model


def _build_torchvision(name: str) -> nn.Module:
    models = _vision()[1]
    parameters = inspect.signature(models.get_model_builder(name)).parameters
    options: dict[str, Any] = {"weights_backbone": None} if "weights_backbone" in parameters else {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # scipy's truncated normal takes half a minute
    model: nn.Module = models.get_model(name, **options)
    return model


def _build_transformers(name: str) -> nn.Module:
    import_torchvision()
    return transformers_zoo.build(name)


#: For each library: its names, and what builds one.
LIBRARIES: Mapping[str, tuple[Callable[[], list[str]], Callable[..., nn.Module]]] = {
    "timm": (_timm_names, _build_timm),
    "torchvision": (_torchvision_names, _build_torchvision),
    "transformers": (transformers_zoo.names, _build_transformers),
}


def cases() -> Iterator[Case]:
    """Yield every architecture."""
    for library, (names, _) in LIBRARIES.items():
        for name in names():
            yield Case(library, name)


def build(case: Case, *, meta: bool = False, **options: Any) -> nn.Module:
    """Build one architecture with fresh random weights, in evaluation mode.

    Args:
        case: the architecture.
        meta: without values.
        options: of timm's constructors.
    """
    _vision()  # imports stay outside of the meta device, or the constants of a module would land on it
    if case.library == "transformers":
        transformers_zoo.classes(case.name)
    with torch.device("meta") if meta else nullcontext():
        return LIBRARIES[case.library][1](case.name, **options).eval()


def family(case: Case) -> str:
    """Name the family: the library's own file for timm and torchvision, the architecture itself for transformers."""
    timm, models = _vision()
    if case.library == "timm":
        return str(timm.model_entrypoint(case.name).__module__)
    if case.library == "torchvision":
        return str(models.get_model_builder(case.name).__module__)
    return case.name


def train_like(model: nn.Module, seed: int) -> nn.Module:
    """Change every tensor of ``model`` as training would: weights, running statistics and counters, all finite."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point() or tensor.is_complex():
                tensor.add_(torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator), alpha=0.02)
            elif tensor.dtype == torch.bool:
                tensor.logical_not_()
            else:
                tensor.add_(7)
    return model


def inputs(case: Case, model: nn.Module) -> Iterator[Callable[[], Any]]:
    """Yield ways to run a forward pass, cheapest first: not every model takes small images."""
    if case.library == "transformers":
        yield partial(_run_transformers, case.name, model)
        return
    if case.library == "torchvision" and "detection" in family(case):
        _suppress_in_python()
        yield partial(model, [torch.randn(3, 96, 96, generator=_generator())])
        return
    if case.library == "torchvision" and "optical_flow" in family(case):
        yield partial(model, _normal(1, 3, 128, 128), _normal(1, 3, 128, 128))
        return
    for shape in _shapes(case, model):
        yield partial(model, _normal(*shape))


@cache
def _suppress_in_python() -> None:
    """Let detectors run where torchvision's compiled half is missing: of it they need non-maximum suppression alone."""
    if not importlib.import_module("torchvision.extension")._has_ops():
        boxes: Any = importlib.import_module("torchvision.ops.boxes")
        boxes.nms = _nms


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return the indices of the boxes ``(n, 4)`` to keep, best score first."""
    iou = importlib.import_module("torchvision.ops.boxes").box_iou(boxes, boxes)
    left, kept = scores.argsort(descending=True), []
    while left.numel():
        kept.append(left[0])
        left = left[1:][iou[left[0], left[1:]] <= threshold]
    return torch.stack(kept) if kept else left


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_generator())


def _shapes(case: Case, model: nn.Module) -> list[tuple[int, ...]]:
    if case.library == "timm":
        settings = getattr(model, "pretrained_cfg", {})
        full = tuple(settings.get("input_size", (3, 224, 224)))
        small = [] if settings.get("fixed_input_size") else [96]
        return [(1, full[0], side, side) for side in small if side < full[1]] + [(1, *full)]
    if "video" in family(case):
        frames = 16 if case.name.startswith(("mvit", "s3d")) else 8
        return [(1, 3, frames, side, side) for side in (64, 224)]
    return [(1, 3, side, side) for side in (96, 224, 299)]


def _run_transformers(name: str, model: nn.Module) -> Any:
    kind = transformers_zoo.ARCHITECTURES[name].inputs
    tokens = torch.randint(3, 30, (1, 8), generator=_generator())
    image = _normal(1, 3, 32, 32)
    given: Mapping[str, Mapping[str, Tensor]] = {
        "text": {"input_ids": tokens},
        "text2text": {"input_ids": tokens, "decoder_input_ids": tokens},
        "speech2text": {"input_features": _normal(1, 16, 60), "decoder_input_ids": tokens},
        "wave": {"input_values": _normal(1, 1600)},
        "spectrogram": {"input_values": _normal(1, 32, 16)},
        "image": {"pixel_values": image},
        "scene": {"pixel_values": _normal(1, 3, 64, 64)},
        "clip": {"input_ids": tokens, "pixel_values": image},
    }
    return model(**given[kind])
