"""MotherNets: one small network is trained, several larger ones hatch from it, and each learns on for a short while.

After Wasay et al., "MotherNets: Rapid Deep Ensemble Learning" (arXiv:1809.04270): the members of an ensemble differ in
structure, and share what it has cost to train the network that all of them contain.
"""

from __future__ import annotations

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn

from torchgraft import morph

digits = load_digits()
images, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)

MEMBERS = {
    "wide": ["widen 0 width=16", "widen 3 width=32"],
    "deep": ["deepen 0", "deepen 4"],
    "large kernels": ["expand_kernel 0 size=5", "expand_kernel 3 size=5"],
    "wide and deep": ["widen 3 width=24", "deepen 3"],
}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> nn.Module:
    model.train()
    for _ in range(epochs):
        for batch in torch.randint(1000, (20, 50)):  # drawn anew for each member
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(*models: nn.Module) -> float:
    """Return the accuracy of what several models say on average, in percent."""
    said = torch.stack([model(images[1000:]).softmax(1) for model in models]).mean(0)
    return 100 * (said.argmax(1) == labels[1000:]).double().mean().item()


def main(epochs: int = 8, more: int = 2) -> dict[str, float]:
    torch.manual_seed(0)
    first = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
    second = nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU()
    trunk = nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(trunk.parameters(), 3e-3)
    print(f"the trunk: {accuracy(train(trunk, optimizer, epochs)):.1f} % after {epochs} epochs")
    hatched, scratch, alone = [], [], epochs // len(MEMBERS) + more  # epochs that one member costs in all
    for name, edits in MEMBERS.items():
        member, own = copy.deepcopy((trunk, optimizer))
        assert morph.grow(member, own, edits).exact
        fresh = copy.deepcopy(member)
        fresh.apply(lambda part: part.reset_parameters() if hasattr(part, "reset_parameters") else None)
        hatched.append(train(member, own, more))
        scratch.append(train(fresh, torch.optim.Adam(fresh.parameters(), 3e-3), alone))
        print(f"{name}: {accuracy(member):.1f} % after {more} more, {accuracy(fresh):.1f} % after {alone} from scratch")
    found = {"trunk": accuracy(trunk), "hatched": accuracy(*hatched), "scratch": accuracy(*scratch)}
    print(f"all together: {found['hatched']:.1f} %, and {found['scratch']:.1f} % from scratch in as many epochs")
    return found


if __name__ == "__main__":
    main()
