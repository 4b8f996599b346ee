"""Networks of an experiment: built from a spec with the data's classes, and small versions of real architectures."""

from __future__ import annotations

__all__ = [
    "build",
    "check_answers",
    "efficientnet_lite",
    "logits",
    "mixnet",
    "mnasnet",
    "mobilenetv2",
    "rexnet",
    "semnasnet",
]

import re
from typing import Any

import torch
from torch import Tensor, nn

from torchgraft.errors import LabError, SpecError
from torchgraft.io import import_torchvision, resolve
from torchgraft.lab.packages import optional

#: How each kind of model is told the number of classes.
_OPTIONS = {"timm": "num_classes", "torchvision": "num_classes", "hf": "num_labels", "python": "num_classes"}
# timm names a network for each published width only, and its functions refuse another: the functions below them take
# any, but are private. They have had these names and `channel_multiplier` since before 1.0.
_GENERATORS = {
    "mixnet": ("mixnet_s", "_gen_mixnet_s"),
    "efficientnet_lite": ("efficientnet_lite0", "_gen_efficientnet_lite"),
    "mnasnet": ("mnasnet_100", "_gen_mnasnet_b1"),
    "semnasnet": ("semnasnet_100", "_gen_mnasnet_a1"),
    "mobilenetv2": ("mobilenetv2_100", "_gen_mobilenet_v2"),
}


def build(
    spec: str, classes: int | None, seed: int = 0, pretrained: bool = False, size: int | None = None
) -> nn.Module:
    """Build the network that a spec names, for ``classes`` classes.

    Args:
        spec: ``timm:NAME[,option=value]``, ``torchvision:...``, ``hf:...`` or ``python:package.module:factory``. The
            number of classes is added; a ``python:`` factory is given ``num_classes`` where it takes that.
        classes: number of the classes; ``None`` leaves the network's own.
        seed: of the initial weights; equal seeds give equal weights.
        pretrained: load the weights that the network's library downloads or has cached.
        size: height and width of the images; with it one forward pass checks that ``(2, 3, size, size)`` gives
            ``(2, classes)``.

    Raises:
        SpecError: the spec is wrong, or a package is missing.
        LabError: the spec states another number of classes, or the network does not answer as it should.

    >>> build("python:torchgraft.lab.networks:mobilenetv2,width=0.25", 7, size=32).classifier.out_features
    7
    """
    kind = spec.partition(":")[0]
    if kind not in _OPTIONS:
        raise LabError(f"{spec!r} is no network: write one of {', '.join(f'{kind}:NAME' for kind in _OPTIONS)}")
    role: Any = "source" if pretrained and kind == "hf" else "target"
    words = [] if classes is None else _classes_option(spec, kind, classes)
    if pretrained and kind in ("timm", "torchvision"):
        words.append("pretrained=True")
    elif pretrained and kind == "python":
        raise LabError(f"{spec}: a factory has no pretrained weights to ask for: give the path of a checkpoint")
    try:
        network = resolve(",".join([spec, *words]), role=role, seed=seed).module
    except SpecError as error:
        if kind != "python" or "unexpected keyword argument 'num_classes'" not in str(error):
            raise
        network = resolve(spec, role=role, seed=seed).module  # a factory for one number of classes
    if network is None:
        raise LabError(f"{spec} is a checkpoint, not a network: write one of {', '.join(_OPTIONS)}")
    if size is not None and classes is not None:
        check_answers(spec, network, classes, size, seed)
    return network


def _classes_option(spec: str, kind: str, classes: int) -> list[str]:
    """Return the option that tells the number of classes, unless the spec has it, and the same."""
    option = _OPTIONS[kind]
    stated = re.search(rf",\s*{option}\s*=\s*([^,]+)", spec)
    if stated is None:
        return [f"{option}={classes}"]
    if stated[1].strip() != str(classes):
        raise LabError(f"{spec} says {option}={stated[1].strip()}, the data has {classes} classes: leave it out")
    return []


def check_answers(spec: str, network: nn.Module, classes: int, size: int, seed: int = 0) -> None:
    """Check that images ``(2, 3, size, size)`` give logits ``(2, classes)``.

    Lazy parameters get their values here, by ``seed``.

    Raises:
        LabError: they do not; the message names the spec and the shape.
    """
    was_training = network.training
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        try:
            answers = logits(network.eval(), torch.zeros(2, 3, size, size))
        except LabError as error:
            raise LabError(f"{spec}: {error}") from None
        except Exception as error:  # the network's own code: whatever it raises is about this spec
            reason = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise LabError(
                f"{spec} fails on images of {size}×{size} pixels ({type(error).__name__}: {reason}): "
                "check the network, or choose another size of the images"
            ) from error
        finally:
            network.train(was_training)
    if tuple(answers.shape) != (2, classes):
        raise LabError(
            f"{spec} answers (2, 3, {size}, {size}) with {tuple(answers.shape)}, not (2, {classes}): "
            "let the factory take num_classes, or name a classifier"
        )


def logits(network: nn.Module, images: Tensor) -> Tensor:
    """Return what ``network`` answers as one tensor, also where it returns a record with ``logits``.

    Args:
        network: a module, or its compiled form.
        images: ``(n, 3, size, size)``.

    Raises:
        LabError: the answer holds no logits.

    >>> logits(nn.Flatten(), torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 48])
    """
    answer = network(images)
    found = answer if isinstance(answer, Tensor) else getattr(answer, "logits", None)
    if not isinstance(found, Tensor):
        raise LabError(f"{type(network).__name__} returns a {type(answer).__name__} without logits: name a classifier")
    return found


def mixnet(width: float = 1.0, num_classes: int = 1000, **options: Any) -> nn.Module:
    """Build timm's MixNet-S with ``width`` times its channels (arXiv:1907.09595)."""
    return _scaled("mixnet", width, num_classes, options)


def efficientnet_lite(width: float = 1.0, num_classes: int = 1000, **options: Any) -> nn.Module:
    """Build timm's EfficientNet-Lite0 with ``width`` times its channels (arXiv:1905.11946)."""
    return _scaled("efficientnet_lite", width, num_classes, options)


def mnasnet(width: float = 1.0, num_classes: int = 1000, **options: Any) -> nn.Module:
    """Build timm's MnasNet-B1 with ``width`` times its channels (arXiv:1807.11626)."""
    return _scaled("mnasnet", width, num_classes, options)


def semnasnet(width: float = 1.0, num_classes: int = 1000, **options: Any) -> nn.Module:
    """Build timm's MnasNet-A1 (squeeze-and-excitation) with ``width`` times its channels (arXiv:1807.11626)."""
    return _scaled("semnasnet", width, num_classes, options)


def mobilenetv2(width: float = 1.0, num_classes: int = 1000, **options: Any) -> nn.Module:
    """Build timm's MobileNetV2 with ``width`` times its channels (arXiv:1801.04381)."""
    return _scaled("mobilenetv2", width, num_classes, options)


def rexnet(width: float = 1.0, num_classes: int = 1000, **options: Any) -> nn.Module:
    """Build timm's ReXNet with ``width`` times its channels (arXiv:2007.00992).

    >>> sum(parameter.numel() for parameter in rexnet(width=0.5, num_classes=10).parameters()) < 1_200_000
    True
    """
    network: nn.Module = _timm("timm").create_model("rexnet_100", width_mult=width, num_classes=num_classes, **options)
    return network


def _scaled(name: str, width: float, classes: int, options: dict[str, Any]) -> nn.Module:
    variant, generator = _GENERATORS[name]
    efficientnet = _timm("timm.models.efficientnet")
    if not hasattr(efficientnet, generator):
        raise LabError(f"timm {_timm('timm').__version__} has no {generator}, which {name} needs: install timm 1.0")
    network: nn.Module = getattr(efficientnet, generator)(
        variant, channel_multiplier=width, num_classes=classes, **options
    )
    return network


def _timm(module: str) -> Any:
    import_torchvision()  # timm imports it, and a mismatched build fails there
    return optional(module, "this network")
