"""A small GPT-2 that writes letters, and the text it learns from."""

from __future__ import annotations

__all__ = ["LENGTH", "Text", "batch_of", "gpt2", "learn", "loss_of", "read", "train_source"]

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from torchgraft.io import import_torchvision

LENGTH, BATCH = 64, 32


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """Letters as numbers: the first nine tenths to learn from, the rest to test."""

    learnt: Tensor
    tested: Tensor


def read(path: Path) -> Text:
    """Number the letters of a text in the order of the alphabet."""
    text = path.read_text("utf-8")
    letters = {letter: number for number, letter in enumerate(sorted(set(text)))}
    tokens = torch.tensor([letters[letter] for letter in text])
    split = int(0.9 * len(tokens))
    return Text(tokens[:split], tokens[split:])


def gpt2(layers: int, width: int = 96, heads: int = 4) -> Any:
    """Return a small GPT-2 for 65 characters, without dropout."""
    import_torchvision()
    library = importlib.import_module("transformers")
    none = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
    sizes = {"n_positions": LENGTH, "n_embd": width, "n_layer": layers, "n_head": heads}
    return library.GPT2LMHeadModel(library.GPT2Config(vocab_size=65, **sizes, **none))


def batch_of(tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw stretches of a text, ``(BATCH, LENGTH)``."""
    starts = torch.randint(len(tokens) - LENGTH, (BATCH,), generator=generator)
    return torch.stack([tokens[start : start + LENGTH] for start in starts.tolist()])


def train_source(text: Text, layers: int, steps: int) -> tuple[Any, torch.optim.AdamW]:
    """Train a GPT-2 from scratch; return it, ready to use, and its optimizer."""
    torch.manual_seed(0)
    model = gpt2(layers)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        learn(model, batch_of(text.learnt), optimizer, rates)
    return model.eval(), optimizer


def learn(model: Any, batch: Tensor, optimizer: torch.optim.Optimizer, rates: LRScheduler) -> None:
    """Take one step."""
    optimizer.zero_grad()
    model.train()(batch, labels=batch).loss.backward()
    optimizer.step()
    rates.step()


def loss_of(model: Any, text: Text) -> float:
    """Return the mean cross entropy of the first 16,384 letters to test, in nats a letter."""
    rows = text.tested[: LENGTH * 256].view(-1, LENGTH)
    with torch.inference_mode():
        return float(model.eval()(rows, labels=rows).loss)
