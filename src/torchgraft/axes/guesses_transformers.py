"""Guesses at what a model of transformers reads, from its configuration and the names of its arguments."""

from __future__ import annotations

__all__ = ["from_config"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torchgraft.axes.holes import Candidate, Hole

_WORDS = 8


def _setting(config: Any, *names: str) -> Any:
    """Return the first of some settings that a configuration or one of those inside it has."""
    inner = [
        getattr(config, part, None) for part in ("text_config", "vision_config", "audio_config", "backbone_config")
    ]
    for one in (config, *inner):
        for name in names:
            found = getattr(one, name, None)
            if found is not None and not isinstance(found, bool):
                return found
    return None


def _tokens(config: Any) -> Iterator[Hole]:
    words = _setting(config, "vocab_size")
    if isinstance(words, int) and words > 0:
        end = _setting(config, "eos_token_id")
        # Pairs of text and picture take the words' meaning from where they end, or from the highest one: at the first
        # place it would depend on no other word.
        yield Hole((1, _WORDS), words, (words - 1, *((end,) if isinstance(end, int) and end < words else ())))


def _pictures(config: Any) -> Iterator[Hole]:
    channels = _setting(config, "num_channels") or 3
    size = _setting(config, "image_size")
    sides = [tuple(size)] if isinstance(size, list | tuple) else [(size, size)] if isinstance(size, int) else []
    for side in dict.fromkeys((*sides, (64, 64), (224, 224))):
        yield Hole((1, channels, *side))


def _features(config: Any) -> Iterator[Hole]:
    bins = _setting(config, "num_mel_bins", "feature_size", "input_feat_per_channel") or 80
    places = _setting(config, "max_source_positions")
    for frames in dict.fromkeys((2 * (places or 0) or 96, 96, 3000)):
        yield Hole((1, bins, frames))
        yield Hole((1, frames, bins))


def _waves(config: Any) -> Iterator[Hole]:
    bins, length = _setting(config, "num_mel_bins"), _setting(config, "max_length")
    if bins and length and not hasattr(config, "conv_dim"):
        yield Hole((1, length, bins))
    for samples in (1600, 16000):
        yield Hole((1, samples))
        yield Hole((1, 1, samples))


#: What arguments are filled with, by name.
ARGUMENTS: Mapping[str, Callable[[Any], Iterator[Hole]]] = {
    "input_ids": _tokens,
    "decoder_input_ids": _tokens,
    "pixel_values": _pictures,
    "input_features": _features,
    "input_values": _waves,
}


def from_config(config: Any, named: Sequence[str], main: str) -> Iterator[Candidate]:
    """Yield guesses: all arguments that the model names, then fewer, then its main argument alone.

    Args:
        config: the model's configuration.
        named: the names of its arguments.
        main: the argument that it calls its main one.
    """
    known = [name for name in named if name in ARGUMENTS]
    choices = [known, [name for name in known if name != "pixel_values"], [main], [main, "decoder_input_ids"]]
    fixed = {"use_cache": False} if "use_cache" in named else {}
    seen: set[tuple[str, ...]] = set()
    for names in choices:
        chosen = tuple(name for name in names if name in known)
        if chosen and chosen not in seen:
            seen.add(chosen)
            for filled in _filled(config, chosen):
                yield Candidate((), {**filled, **fixed})


def _filled(config: Any, names: Sequence[str]) -> Iterator[dict[str, Hole]]:
    """Vary one argument, the first that has several guesses; the others take their first."""
    guesses = {name: list(ARGUMENTS[name](config)) for name in names}
    if not all(guesses.values()):
        return
    varied = next((name for name, found in guesses.items() if len(found) > 1), names[0])
    for one in guesses[varied]:
        yield {name: one if name == varied else found[0] for name, found in guesses.items()}
