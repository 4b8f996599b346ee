"""Small configurations of language models, in pairs: widths that divide, and widths that do not."""

from __future__ import annotations

__all__ = ["language_cases"]

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

Pair = tuple[str, Callable[[], nn.Module], Callable[[], nn.Module], Callable[[], Any]]

_WORDS = 50


def language_cases() -> Iterator[Pair]:
    """Yield name, source, target and inputs: width, number of layers, heads, hidden units are told in the name."""
    for family, (build, sizes) in _FAMILIES.items():
        for source, target, told in sizes:
            words = _both if family.startswith(("T5", "BART")) else _words
            name = f"{family} {told}: {_told(source)} → {_told(target)}"
            yield name, partial(build, *source), partial(build, *target), words


def _told(sizes: tuple[Any, ...]) -> str:
    return "/".join(str(one) for one in sizes if not isinstance(one, bool))


def _words() -> dict[str, Any]:
    return {"input_ids": torch.randint(3, _WORDS, (2, 12), generator=torch.Generator().manual_seed(7))}


def _both() -> dict[str, Any]:
    return {**_words(), "decoder_input_ids": _words()["input_ids"].flip(1)[:, :5]}


def _make(kind: str, config: str, **settings: Any) -> nn.Module:
    library = importlib.import_module("transformers")
    model: nn.Module = getattr(library, kind)(getattr(library, config)(vocab_size=_WORDS, **settings))
    return model


def _gpt2(width: int, layers: int, heads: int, kind: str = "LMHeadModel") -> nn.Module:
    settings = {"n_embd": width, "n_layer": layers, "n_head": heads, "bos_token_id": 1, "eos_token_id": 1}
    return _make(f"GPT2{kind}", "GPT2Config", **settings)


def _rotary(
    family: str,
    width: int,
    layers: int,
    heads: int,
    shared: int,
    hidden: int,
    tied: bool = False,
    kind: str = "ForCausalLM",
) -> nn.Module:
    """Build a Llama or Mistral; ``shared`` is the number of heads of keys and values, each of 16 units."""
    return _make(
        f"{family}{kind}", f"{family}Config", hidden_size=width, num_hidden_layers=layers, head_dim=16,
        num_attention_heads=heads, num_key_value_heads=shared, intermediate_size=hidden, tie_word_embeddings=tied,
    )  # fmt: skip


def _bert(width: int, layers: int, heads: int, hidden: int, kind: str = "ForMaskedLM") -> nn.Module:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return _make(f"Bert{kind}", "BertConfig", intermediate_size=hidden, **sizes)


def _t5(width: int, layers: int, heads: int, hidden: int, kind: str = "ForConditionalGeneration") -> nn.Module:
    sizes = {"d_model": width, "num_layers": layers, "num_heads": heads, "d_ff": hidden, "d_kv": 16}
    return _make(f"T5{kind}", "T5Config", **sizes)


def _opt(width: int, layers: int, heads: int, hidden: int) -> nn.Module:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "ffn_dim": hidden}
    return _make("OPTForCausalLM", "OPTConfig", word_embed_proj_dim=width, **sizes)


def _bart(width: int, layers: int, heads: int, hidden: int) -> nn.Module:
    sizes = {
        f"{side}_{name}": size
        for side in ("encoder", "decoder")
        for name, size in (("layers", layers), ("attention_heads", heads), ("ffn_dim", hidden))
    }
    words = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    return _make(
        "BartForConditionalGeneration", "BartConfig", d_model=width, max_position_embeddings=64, **sizes, **words
    )


def _mamba(width: int, layers: int) -> nn.Module:
    return _make("MambaForCausalLM", "MambaConfig", hidden_size=width, num_hidden_layers=layers, state_size=4)


# Width, layers, heads, (heads of keys and values,) hidden units.
_FAMILIES: dict[str, tuple[Callable[..., nn.Module], tuple[tuple[Any, ...], ...]]] = {
    "GPT-2": (_gpt2, (
        ((64, 2, 4), (80, 3, 5), "padded"),
        ((64, 2, 4), (128, 3, 8), "doubled"),
        ((64, 2, 4), (96, 2, 4), "larger heads"),
    )),
    "Llama": (partial(_rotary, "Llama"), (
        ((64, 2, 4, 2, 96), (90, 4, 6, 3, 128), "padded"),
        ((64, 2, 4, 2, 96), (128, 3, 8, 4, 192), "doubled"),
        ((64, 2, 4, 2, 96, True), (128, 3, 4, 2, 128, True), "tied, doubled"),
        ((64, 2, 4, 2, 96, True), (80, 3, 4, 2, 128, True), "tied, padded"),
    )),
    "Mistral": (partial(_rotary, "Mistral"), (
        ((64, 2, 4, 2, 96), (80, 3, 8, 2, 128), "more queries per key"),
        ((64, 2, 4, 2, 96), (96, 3, 8, 4, 128), "more keys"),
        ((64, 2, 4, 2, 96), (128, 2, 8, 4, 192), "doubled"),
    )),
    "BERT": (_bert, (
        ((64, 2, 4, 96), (80, 3, 5, 128), "padded"),
        ((64, 2, 4, 96), (128, 2, 8, 192), "doubled"),
        ((64, 2, 4, 96), (64, 3, 4, 128), "deeper"),
    )),
    "Gemma": (partial(_rotary, "Gemma", tied=True), (
        ((64, 2, 4, 2, 96), (96, 3, 6, 3, 128), "tied, padded"),
        ((64, 2, 4, 2, 96), (128, 3, 8, 4, 192), "tied, doubled"),
    )),
    "Qwen2": (partial(_rotary, "Qwen2"), (((64, 2, 4, 2, 96), (96, 3, 6, 3, 128), "padded"),)),
    "OLMo 2": (partial(_rotary, "Olmo2"), (((64, 2, 4, 2, 96), (96, 3, 6, 3, 128), "padded"),)),
    "Cohere": (partial(_rotary, "Cohere", tied=True), (((64, 2, 4, 2, 96), (96, 3, 6, 3, 128), "tied, padded"),)),
    "OPT": (_opt, (((64, 2, 4, 96), (80, 3, 5, 128), "padded"),)),
    "BART": (_bart, (
        ((64, 2, 4, 96), (128, 2, 8, 192), "doubled"),
        ((64, 2, 4, 96), (64, 3, 4, 128), "deeper"),
    )),
    "Mamba": (_mamba, (
        ((64, 2), (128, 2), "doubled"),
        ((64, 2), (64, 3), "deeper"),
    )),
    "T5": (_t5, (
        ((64, 2, 4, 96), (80, 3, 5, 128), "padded"),
        ((64, 2, 4, 96), (128, 3, 8, 192), "doubled"),
    )),
    "GPT-2 without head": (partial(_gpt2, kind="Model"), (
        ((64, 2, 4), (80, 3, 5), "padded"),
        ((64, 2, 4), (128, 3, 8), "doubled"),
    )),
    "Llama without head": (partial(_rotary, "Llama", kind="Model"), (
        ((64, 2, 4, 2, 96), (90, 4, 6, 3, 128), "padded"),
        ((64, 2, 4, 2, 96), (128, 3, 8, 4, 192), "doubled"),
    )),
    "BERT without head": (partial(_bert, kind="Model"), (((64, 2, 4, 96), (128, 2, 8, 192), "doubled"),)),
    "T5 without head": (partial(_t5, kind="Model"), (((64, 2, 4, 96), (80, 3, 5, 128), "padded"),)),
}  # fmt: skip
