"""What is put inside a module: norms that change nothing, activations that start as the identity."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchgraft import MorphError, morph


@pytest.mark.parametrize("name", morph.ACTIVATIONS)
def test_parametric_activations_start_as_the_identity_and_settle(name: str) -> None:
    layer = nn.Conv2d(3, 3, 3, padding=1).double()
    module = morph.module(layer, "s>a:3x3 a>t:1x1", activation=name)
    blob = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert torch.allclose(module(blob), layer(blob), atol=1e-13)
    assert morph.settle(module) == ("activations.a",)
    assert isinstance(module.activations["a"], nn.Identity)


def test_a_blend_settles_to_its_activation_where_its_amount_is_gone() -> None:
    model = nn.Sequential(morph.Blend(nn.GELU()), morph.Blend(nn.SiLU()), nn.PReLU(3, init=0.0), nn.PReLU(2))
    with torch.no_grad():
        model[0].amount.zero_()
        model[1].amount.fill_(0.02)
    blob = torch.randn(4, 3, 5)
    before = model[:3](blob)
    assert morph.settle(model) == ("0", "2")
    assert [type(layer) for layer in model[:1]] == [nn.GELU] and isinstance(model[2], nn.ReLU)
    assert torch.equal(model[:3](blob), before)
    assert morph.settle(model, tolerance=0.02) == ("1",)
    assert torch.allclose(model[:3](blob), before, atol=0.02 * float(blob.abs().max()))


def test_an_amount_is_learned() -> None:
    blend = morph.Blend(nn.Tanh())
    blend(torch.tensor([1.0, 2.0])).sum().backward()
    assert float(blend.amount.grad) > 0


def test_batch_norm_is_the_identity_in_eval_and_nearly_so_in_train_on_white_input() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1).double()
    module = morph.module(layer, "two-branch", normalization="batchnorm")
    blob = torch.randn(64, 4, 16, 16, dtype=torch.float64)
    assert torch.allclose(module.eval()(blob), layer(blob), atol=1e-13)
    expected = layer(blob).detach()
    apart = (module.train()(blob).detach() - expected).norm() / (expected - expected.mean()).norm()
    assert float(apart) < 0.15  # borders see fewer values, so their variance is smaller


def test_calibrated_norms_keep_eval_and_are_the_identity_in_train() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1).double()
    module = morph.module(layer, "D", normalization="batchnorm")
    blob = 3 * torch.rand(16, 4, 8, 8, dtype=torch.float64) + 1
    assert (module.train()(blob) - layer(blob)).norm() > 1e-2 * layer(blob).norm()
    with torch.no_grad():
        module.norms["a"].weight.mul_(1.5)  # a norm that is no longer the identity keeps its function, too
    before = module.eval()(blob)
    assert morph.calibrate(module.train(), blob) == 3
    assert module.training
    assert torch.allclose(module.eval()(blob), before, atol=1e-12)
    assert torch.allclose(module.train()(blob), before, atol=1e-12)


def test_a_norm_without_statistics_cannot_be_calibrated() -> None:
    for norm in (nn.BatchNorm2d(2, affine=False), nn.BatchNorm2d(2, track_running_stats=False)):
        with pytest.raises(MorphError, match="cannot be calibrated"):
            morph.calibrate(norm, torch.randn(2, 2, 3, 3))
