"""Guesses at what a model reads: from the settings a library leaves behind, or from its first layers."""

from __future__ import annotations

__all__ = ["candidates"]

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from torchgraft.axes.guesses_transformers import from_config
from torchgraft.axes.holes import Candidate, Hole

# Sides of pictures: those that networks are made for first, then smaller and larger ones.
_SIDES = (32, 28, 64, 96, 128, 224, 227, 256, 299, 384, 512, 16, 8)
_LENGTHS = (64, 400, 1600, 16000)


def candidates(module: nn.Module, small: bool) -> Iterator[Candidate]:
    """Yield guesses, the best ones first.

    Args:
        module: the model.
        small: small pictures first.
    """
    for guess in (_from_timm, _from_torchvision, _from_transformers, _from_layers):
        yield from guess(module, small)


def _pictures(channels: int, sides: list[int]) -> Iterator[Candidate]:
    for side in sides:
        yield Candidate((Hole((1, channels, side, side)),))


def _from_timm(module: nn.Module, small: bool) -> Iterator[Candidate]:
    """Models of timm say what they were trained on; whether they read less is to be tried."""
    settings = getattr(module, "pretrained_cfg", None)
    if not isinstance(settings, dict) or not settings.get("input_size"):
        return
    size = tuple(settings["input_size"])
    full = Candidate((Hole((1, *size)),))
    fixed = getattr(getattr(module, "patch_embed", None), "img_size", None)
    if isinstance(fixed, tuple) and len(fixed) == 2 and tuple(fixed) != tuple(size[1:]):
        yield Candidate((Hole((1, size[0], *fixed)),))
    if small and not settings.get("fixed_input_size"):
        yield from _pictures(size[0], [side for side in (96, 112, 128, 160) if side < min(size[1:])])
    yield full


def _from_torchvision(module: nn.Module, small: bool) -> Iterator[Candidate]:
    home = type(module).__module__
    if not home.startswith("torchvision.models"):
        return
    if "detection" in home:
        yield Candidate(([Hole((3, 96, 96))],))
    elif "optical_flow" in home:
        yield Candidate((Hole((1, 3, 128, 128)), Hole((1, 3, 128, 128))))
    elif "video" in home:
        for frames in (8, 16):
            for side in (64, 112, 224) if small else (112, 224):
                yield Candidate((Hole((1, 3, frames, side, side)),))
    else:
        yield from _pictures(3, [96, 224, 299] if small else [224, 299, 384, 518])


def _from_transformers(module: nn.Module, small: bool) -> Iterator[Candidate]:
    config = getattr(module, "config", None)
    if hasattr(config, "model_type"):
        named = tuple(inspect.signature(module.forward).parameters)
        yield from from_config(config, named, str(getattr(module, "main_input_name", "input_ids")))


def _linear(layer: Any) -> Iterator[tuple[Hole, ...]]:
    for shape in ((1, layer.in_features), (1, 8, layer.in_features)):
        yield (Hole(shape),)


def _convolution(layer: Any) -> Iterator[tuple[Hole, ...]]:
    rank, channels = len(layer.kernel_size), layer.in_channels
    if rank == 1:
        yield from ((Hole((1, channels, length)),) for length in _LENGTHS)
    elif rank == 2:
        yield from ((Hole((1, channels, side, side)),) for side in _SIDES)
    else:
        yield from ((Hole((1, channels, 16, side, side)),) for side in (32, 64, 112, 224))


def _words(layer: Any) -> Iterator[tuple[Hole, ...]]:
    yield (Hole((1, 8), layer.num_embeddings),)
    yield (Hole((8,), layer.num_embeddings),)


def _recurrent(layer: Any) -> Iterator[tuple[Hole, ...]]:
    yield (Hole((1, 8, layer.input_size)),)
    yield (Hole((1, layer.input_size)),)


def _attention(layer: Any) -> Iterator[tuple[Hole, ...]]:
    yield (Hole((1, 8, layer.embed_dim)),)


def _layer_norm(layer: Any) -> Iterator[tuple[Hole, ...]]:
    shape = tuple(layer.normalized_shape)
    yield (Hole((1, 8, *shape)),)
    yield (Hole((1, *shape)),)


def _channels(layer: Any) -> Iterator[tuple[Hole, ...]]:
    channels = getattr(layer, "num_features", None) or layer.num_channels
    yield from ((Hole((1, channels, *rest)),) for rest in ((32, 32), (32,), (16, 32, 32), ()))


def _bilinear(layer: Any) -> Iterator[tuple[Hole, ...]]:
    yield Hole((1, layer.in1_features)), Hole((1, layer.in2_features))


#: What a layer reads, by its class; subclasses count.
LAYERS: Mapping[type[nn.Module], Callable[[Any], Iterator[tuple[Hole, ...]]]] = {
    nn.Bilinear: _bilinear,
    nn.Linear: _linear,
    nn.modules.conv._ConvNd: _convolution,
    nn.Embedding: _words,
    nn.EmbeddingBag: _words,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _recurrent,
    nn.MultiheadAttention: _attention,
    nn.LayerNorm: _layer_norm,
    nn.modules.batchnorm._NormBase: _channels,
    nn.GroupNorm: _channels,
}


def _from_layers(module: nn.Module, small: bool) -> Iterator[Candidate]:
    """The layers that stand first may be those that read the input; every required argument is read alike."""
    needed = max(1, _required(module))
    seen: set[tuple[Hole, ...]] = set()
    for place, layer in enumerate(_known_layers(module)):
        if place == 4:
            return
        guess = next(guess for kind, guess in LAYERS.items() if isinstance(layer, kind))
        for holes in guess(layer):
            if holes not in seen:
                seen.add(holes)
                yield Candidate(holes if len(holes) > 1 else holes * needed)


def _known_layers(module: nn.Module) -> Iterator[nn.Module]:
    """Layers of a known class, of which none stands in another one."""
    if isinstance(module, tuple(LAYERS)):
        yield module
    else:
        for child in module.children():
            yield from _known_layers(child)


def _required(module: nn.Module) -> int:
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return sum(one.kind in plain and one.default is one.empty for one in parameters)
