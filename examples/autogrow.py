"""AutoGrow: a network gets deeper whenever its accuracy has stopped rising, until depth no longer helps.

After Wen et al., "AutoGrow: Automatic Layer Growing in Deep Convolutional Networks" (arXiv:1906.02909). They start new
blocks at random; here each one starts as a block that changes nothing, so that no accuracy is lost on the way.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

from torchgraft import morph

digits = load_digits()
images, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)


def block() -> nn.Module:
    return morph.Residual(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)))


def network(first: int, second: int) -> nn.Sequential:
    rows = [nn.Sequential(*(block() for _ in range(depth))) for depth in (first, second)]
    head = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), rows[0], nn.MaxPool2d(2), rows[1], *head)


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """Train for an epoch, and return the accuracy on what is left out, in percent."""
    model.train()
    for batch in torch.randperm(1000).split(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        return 100 * (model.eval()(images[1000:]).argmax(1) == labels[1000:]).double().mean().item()


def main(patience: int = 3, gain: float = 0.2) -> dict[str, list[float]]:
    torch.manual_seed(1)
    model = network(1, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    rows, best, waited, epochs, stops = ["1", "3"], 0.0, 0, 0, [0.0]
    while rows:
        accuracy, epochs = train(model, optimizer), epochs + 1
        best, waited = (accuracy, 0) if accuracy > best + gain else (best, waited + 1)
        if waited == patience:
            print(f"epoch {epochs}: {len(model[1])} + {len(model[3])} blocks have stopped rising at {best:.1f} %")
            if best == stops[-1]:  # the last block has not helped: its row is deep enough
                rows.pop()
            rows, waited, stops = rows[::-1], 0, [*stops, best]
            if rows:  # the next one's turn
                morph.grow(model, optimizer, f"stack {rows[-1]} depth={len(model.get_submodule(rows[-1])) + 1}")
    fresh = network(len(model[1]), len(model[3]))
    optimizer = torch.optim.Adam(fresh.parameters(), 0.01)
    scratch = max(train(fresh, optimizer) for _ in range(epochs))
    print(f"as deep from the start, {epochs} epochs: {scratch:.1f} %")
    return {"grown": stops[1:], "scratch": [scratch]}


if __name__ == "__main__":
    main()
