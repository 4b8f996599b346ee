"""The certificate: what deviates, from where on, and why."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from builders import same_bits, snapshot
from torch import Tensor, nn

import torchgraft as tg
from torchgraft.verify.outputs import apart, factor_between
from torchgraft.verify.places import channel_axis
from torchgraft.verify.units import units_of


def trained(module: Any, seed: int = 0) -> Any:
    """Draw all weights and statistics, so that no zero and no unit gain can hide a fault."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                if name.endswith("running_var"):
                    tensor.copy_(1 + 0.5 * noise.abs())
                elif name.endswith("running_mean"):
                    tensor.copy_(0.3 * noise)
                elif tensor.ndim > 1:
                    tensor.copy_(noise * (1.5 / max(1, tensor[0].numel())) ** 0.5)
                else:
                    tensor.copy_(1 + 0.2 * noise)
    return module


Norm = Callable[[int], nn.Module]


def net(
    width: int = 8,
    *,
    depth: int = 2,
    kernel: int = 3,
    stride: int = 1,
    classes: int = 5,
    bias: bool = True,
    act: Callable[[], nn.Module] = nn.ReLU,
    norm: Norm = nn.BatchNorm2d,
    pool: Callable[[int], nn.Module] = nn.AdaptiveAvgPool2d,
    inputs: int = 3,
) -> nn.Sequential:
    """Convolution, norm, activation, ``depth`` times, pool, classes; only the last convolution strides."""
    layers: list[nn.Module] = []
    for number in range(depth):
        step = stride if number == depth - 1 else 1
        conv = nn.Conv2d(width if number else inputs, width, kernel, step, kernel // 2, bias=bias)
        layers += [conv, norm(width), act()]
    return nn.Sequential(*layers, pool(1), nn.Flatten(), nn.Linear(width, classes))


def mlp(width: int, norm: Norm = nn.LayerNorm) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, width), norm(width), nn.ReLU(), nn.Linear(width, 3))


def grown(source: Any, target: Any, **options: Any) -> tuple[Any, Any, tg.Report]:
    source, target = trained(source), trained(target, 1)
    return source, target, tg.transfer(source, target, **options)


def verified(source: Any, target: Any, inputs: Any = None, **options: Any) -> tg.Certificate:
    return tg.verify(*grown(source, target, **options), inputs=inputs)


# --- what can be exact is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target"),
    [(net(), net(16)), (net(), net(16, kernel=5)), (net(), net()), (mlp(8, nn.BatchNorm1d), mlp(11, nn.BatchNorm1d))],
    ids=["wider", "larger kernels", "itself", "no pictures"],
)
def test_a_target_that_holds_the_source_is_exact(source: Any, target: Any) -> None:
    certificate = verified(source, target)
    assert certificate.exact
    assert [(one.mode, one.precision) for one in certificate.deviations] == [
        ("eval", "float64"), ("eval", "float32"), ("train", "float64"), ("train", "float32"),
    ]  # fmt: skip
    assert all(certificate.within(one) for one in certificate.deviations)
    assert certificate.place is None
    assert certificate.reasons == certificate.notes == ()
    assert certificate.agreeing == certificate.compared > 2


def test_the_figures_are_those_of_the_outputs() -> None:
    source, target, report = grown(net(), net(act=nn.SiLU))
    picture = torch.randn(4, 3, 9, 9)
    certificate = tg.verify(source, target, report, picture)
    assert certificate.inputs == "4×3×9×9"
    for mode, precision in (("eval", torch.float64), ("train", torch.float32)):
        a, b = (copy.deepcopy(one).to(precision).train(mode == "train") for one in (source, target))
        y, z = (one(picture.to(precision)).detach() for one in (a, b))
        measured = certificate.deviation(mode, str(precision).removeprefix("torch."))
        assert measured is not None
        assert measured.absolute == pytest.approx(float((y - z).abs().max()), rel=1e-5)
        assert measured.relative == pytest.approx(float((y - z).abs().max() / y.abs().max()), rel=1e-5)
        assert not certificate.within(measured)


def test_nothing_changes() -> None:
    source = nn.Sequential(net(), nn.Dropout(0.5), nn.Linear(5, 4))
    target = nn.Sequential(net(16), nn.Dropout(0.5), nn.Linear(5, 4))
    report = grown(source, target)[2]
    source[0].eval()
    before = snapshot(source), snapshot(target)
    flags = [[part.training for part in one.modules()] for one in (source, target)]
    python, legacy, state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    certificate = tg.verify(source, target, report)
    assert certificate.exact
    assert all(same_bits(old, snapshot(new)) for old, new in zip(before, (source, target), strict=True))
    assert flags == [[part.training for part in one.modules()] for one in (source, target)]
    assert torch.equal(state, torch.get_rng_state())
    assert random.getstate() == python
    assert all(np.array_equal(a, b) for a, b in zip(legacy, np.random.get_state(), strict=True))
    assert torch.get_default_dtype() == torch.float32
    assert all(not part._forward_hooks for one in (source, target) for part in one.modules())
    assert tg.verify(source, target, report) == certificate


def test_norms_that_compute_in_float32_are_run_in_float64() -> None:
    class Careful(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.net = mlp(width, nn.BatchNorm1d)

        def forward(self, x: Tensor) -> Tensor:
            x = self.net[0](x).float()
            x = self.net[1](x.to(torch.float32) + torch.zeros(1))
            offset = torch.softmax(x.sum(-1, keepdim=True), -1, dtype=torch.float32)
            assert offset.dtype == self.net[0].weight.dtype
            return self.net[3](torch.relu(x) + offset)

    measured = verified(Careful(8), Careful(12)).deviation()
    assert measured is not None
    assert measured.relative < 1e-14


# --- where it parts, and why --------------------------------------------------------------------------------------


def small_epsilon(width: int) -> nn.Module:
    return nn.BatchNorm2d(width, eps=1e-3)


def group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(2, width)


CASES: dict[str, tuple[Any, Any, str, str]] = {
    "activation": (net(), net(act=nn.SiLU), "3", "ReLU → SiLU, at 2 and 1 more"),
    "activation's setting": (
        net(act=nn.LeakyReLU), net(act=lambda: nn.LeakyReLU(0.2)), "3",
        "LeakyReLU(default) → LeakyReLU(0.2), at 2 and 1 more",
    ),
    "pooling": (net(), net(16, pool=nn.AdaptiveMaxPool2d), "8", "AdaptiveAvgPool2d → AdaptiveMaxPool2d, at 6"),
    "stride": (net(), net(stride=2), "8", "stride 1×1 → 2×2, at 3"),
    "smaller kernel": (net(kernel=5), net(), "0", "kernel 5×5 → 3×3, at 0 and 1 more"),
    "epsilon": (net(), net(norm=small_epsilon), "1", "epsilon 1e-05 → 0.001 in BatchNorm2d, at 1 and 1 more"),
    "shallower": (
        net(depth=4), net(), "8", "a layer of the source has no place in the target, at the source's 6 and 3 more",
    ),
    "narrower": (net(16), net(8), "3", "8 of the source's 16 units are kept, at 3 and 2 more"),
    "no bias": (net(), net(bias=False), "0", "a bias of the source has no place, at 0 and 1 more"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_first_place_and_the_reason(name: str) -> None:
    source, target, place, reason = CASES[name]
    certificate = verified(source, target)
    assert not certificate.exact
    assert certificate.place is not None
    assert (certificate.place.target, certificate.reasons[0]) == (place, reason)


def test_new_tensors_that_do_something_are_named() -> None:
    source, target, report = grown(net(bias=False), net())
    with torch.no_grad():
        target[3].bias.fill_(0.5)  # whatever the transfer made of it
        target[0].bias.zero_()
    certificate = tg.verify(source, target, report)
    assert certificate.place is not None
    assert (certificate.place.target, certificate.reasons) == ("3", ("a bias has no source, at 3",))
    source, target, report = grown(net(), net(depth=4))
    trained(target[6], 2)
    trained(target[9], 2)
    certificate = tg.verify(source, target, report)
    assert certificate.place is not None
    assert (certificate.place.target, certificate.place.source) == ("14", "8")
    assert certificate.reasons[0].startswith("a layer has no counterpart in the source and is no identity, at 6")


def test_a_group_norm_over_more_channels() -> None:
    certificate = verified(net(norm=group_norm), net(16, norm=group_norm), operator="clip")
    told = [reason for reason in certificate.reasons if reason.startswith("GroupNorm")]
    assert told == ["GroupNorm 8 → 16 (in 2 groups) takes its statistics over other units, at 1 and 1 more"]


def test_a_layer_norm_over_more_units() -> None:
    source, target, report = grown(mlp(8), mlp(12))
    taken = units_of(report.plan, report.plan.transfers[0])
    assert taken is not None
    with torch.no_grad():
        new = [unit for unit in range(12) if unit not in taken[0]]
        target[0].weight[new] = torch.randn(4, 6)  # whatever the transfer did there, it is undone
    certificate = tg.verify(source, target, report)
    assert certificate.place is not None
    assert (certificate.place.target, certificate.place.after) == ("1", "0")
    assert certificate.reasons[0] == "LayerNorm 8 → 12 takes its statistics over 12 units instead of 8, at 1"


@pytest.mark.parametrize("eps", [1e-5, 1e-5 * 8 / 12])
def test_an_epsilon_that_is_fixed_is_named_and_one_that_was_scaled_is_not(eps: float) -> None:
    source, target = trained(mlp(8)).double(), trained(mlp(12)).double()
    report = tg.transfer(source, target)
    with torch.no_grad():  # eight units and four copies of their mean: exact but for epsilon
        for one in (0, 1):
            for name in ("weight", "bias"):
                tensor, given = getattr(target[one], name), getattr(source[one], name)
                tensor[:8], tensor[8:] = given, given.mean(0) if one == 0 else 0
        target[1].weight[:8] *= (8 / 12) ** 0.5
        target[3].weight[:, :8] = source[3].weight
        target[3].bias[:] = source[3].bias
    target[1].eps = eps
    moves = [one for one in report.plan.transfers if one.target != "0"]
    assert moves
    certificate = tg.verify(source, target, report)
    taken = units_of(report.plan, report.plan.transfers[0])
    if taken is None or list(taken[0]) != list(range(8)):
        pytest.skip("the units of this plan are laid out otherwise")
    told = f"LayerNorm 8 → 12 cannot be exact because its epsilon is fixed ({eps:g}), at 1"
    assert (told in certificate.reasons) == (eps == 1e-5)
    assert certificate.exact == (eps != 1e-5)


def test_what_was_trained_further_is_told() -> None:
    source, target, report = grown(net(), net())
    with torch.no_grad():
        target[3].weight[0] += 1
    certificate = tg.verify(source, target, report)
    assert certificate.place == tg.verify(source, target, report.plan).place
    assert certificate.place is not None
    assert (certificate.place.target, certificate.place.after) == ("3", "1")
    assert certificate.reasons == (
        "a tensor was changed after the transfer, in the target or in the source, at 3.weight",
    )


def test_less_precise_weights_are_told() -> None:
    certificate = verified(mlp(8), mlp(8).bfloat16())
    assert certificate.reasons[0] == "values are rounded to bfloat16, the source's are float32, at 0 and 2 more"


def test_an_output_that_is_scaled_is_told() -> None:
    class Scaled(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            scaled: Tensor = super().forward(x) * 2.5
            return scaled

    certificate = verified(net(), Scaled(*net()))
    assert certificate.place is not None
    assert certificate.place.target == "output"
    assert certificate.reasons == ("an output is the source's times 2.5", "none → mul, at the output")


def test_what_a_forward_does_by_itself_is_named() -> None:
    class Odd(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            odd: Tensor = super().forward(x.roll(1, 1))
            return odd

    certificate = verified(net(), Odd(*net()))
    assert certificate.place is not None
    assert certificate.place.target == "0"
    assert certificate.reasons == ("none → roll, at 0",)


def test_the_published_method_leaves_statistics_and_rims() -> None:
    certificate = verified(net(), net(16), method="dpiat")
    assert certificate.reasons[:3] == (
        "a running_mean has no source, at 1 and 1 more",
        "a running_var has no source, at 1 and 1 more",
        "operator 'clip' leaves the weights of new inputs as they were, at 3 and 1 more",
    )


class Branch(nn.Module):
    """Adds what its layers compute to its input."""

    def __init__(self, width: int, gain: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.gain * self.layers(x)
        return added


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_a_new_block_that_is_the_identity_is_no_reason(gain: float) -> None:
    target = nn.Sequential(nn.Linear(6, 8), Branch(8, gain), nn.Linear(8, 3))
    certificate = verified(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)), target, exclude_target=["1"])
    assert certificate.exact == (gain == 0)
    told = [one for one in certificate.reasons if one.startswith("a layer has no counterpart in the source")]
    assert bool(told) == (gain != 0)


# --- modes --------------------------------------------------------------------------------------------------------


def test_dropout_and_stochastic_depth_are_off_in_train_mode(zoo: Any) -> None:
    _, torchvision = zoo
    from timm.layers import DropPath

    def build() -> nn.Sequential:
        noisy = [nn.Dropout(0.5), DropPath(0.5), torchvision.ops.StochasticDepth(0.5, "row")]
        return nn.Sequential(nn.Linear(4, 8), *noisy, nn.TransformerEncoderLayer(8, 2, 16, 0.5), nn.Linear(8, 3))

    certificate = verified(build(), build(), inputs=torch.randn(3, 4))
    assert [one.absolute for one in certificate.deviations] == [0, 0, 0, 0]


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn_like(x) * self.inner.weight.numel() if self.training else 0
        noisy: Tensor = self.inner(x + noise)
        return noisy


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        wrapped: Tensor = self.inner(x)
        return wrapped


def test_noise_and_batch_statistics_in_train_mode_are_told_apart() -> None:
    assert "the source draws random numbers" in verified(Noisy(), Wrapped(nn.Linear(4, 3))).notes[0]
    source = trained(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))).double()
    target = trained(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 3)), 1).double()
    target[1].running_mean.zero_()
    target[1].running_var.fill_(1 - target[1].eps)
    certificate = tg.verify(source, target, tg.transfer(source, target))
    assert certificate.exact
    assert certificate.notes == ("exact in eval mode, not in train mode: place and reasons are those of train mode",)
    assert certificate.place is not None
    assert (certificate.place.target, certificate.place.after) == ("2", "0")
    assert certificate.reasons == ("a layer has no counterpart in the source and is no identity, at 1",)


def test_a_mode_that_cannot_be_run_is_left_out_and_said() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("labels are missing")
            picky: Tensor = self.inner(x)
            return picky

    certificate = verified(Picky(), Picky())
    assert certificate.exact
    assert {one.mode for one in certificate.deviations} == {"eval"}
    assert "not measured in train mode and float64 (RuntimeError: labels are missing)" in certificate.notes


# --- inputs and outputs -------------------------------------------------------------------------------------------


class Pair(nn.Module):
    """Takes two inputs, gives a dictionary or a tuple."""

    def __init__(self, width: int, kind: type = dict) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, width), nn.Linear(5, width), nn.Linear(width, 3)
        self.kind = kind

    def forward(self, x: Tensor, y: Tensor) -> Any:
        hidden = torch.relu(self.a(x) + self.b(y))
        outputs = {"scores": self.c(hidden), "hidden": hidden, "kind": "pair", "number": torch.tensor(1)}
        return outputs if self.kind is dict else tuple(outputs.values())


@pytest.mark.parametrize("kind", [dict, tuple])
def test_inputs_and_outputs_may_be_nested(kind: type) -> None:
    models = grown(Pair(8, kind), Pair(12, kind))
    x, y = torch.randn(2, 4), torch.randn(2, 5)
    for inputs in ((x, y), {"x": x, "y": y}):
        certificate = tg.verify(*models, inputs=inputs)
        assert certificate.exact
        assert certificate.inputs == "2×4, 2×5"
        assert len(certificate.notes) == 1
        assert certificate.notes[0].startswith("output 2 has 12 units in the target and 8 in the source: the 8 that ")


def test_a_list_is_one_argument() -> None:
    class Pictures(nn.Sequential):
        def forward(self, pictures: list[Tensor]) -> Tensor:
            return super().forward(torch.stack([picture.mean(dim=(1, 2)) for picture in pictures]))

    source, target = (Pictures(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2)) for width in (4, 6))
    inputs = [torch.randn(3, 8, 8), torch.randn(3, 5, 7)]
    plan = tg.plan(source, target, inputs=inputs)
    assert not plan.notes
    assert tg.verify(source, target, tg.apply(plan, source, target), inputs).exact
    assert tg.morph.widen(source, "0", 8, inputs=inputs).exact


def test_classes_are_compared_as_the_plan_maps_them() -> None:
    certificate = verified(net(classes=4), net(16, classes=6))
    assert certificate.exact
    assert certificate.notes == (
        "the output has 6 units in the target and 4 in the source: the 4 that 8 took over are compared",
    )
    certificate = verified(net(classes=4), net(16, classes=4), labels={0: 3, 2: 1})
    assert certificate.exact
    assert certificate.notes[0].endswith("the 2 that 8 took over are compared")


def test_models_for_other_pictures_are_compared_on_what_both_take(zoo: Any) -> None:
    timm, _ = zoo

    def vit(size: int) -> Any:
        return timm.models.VisionTransformer(
            img_size=size, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=3
        )

    certificate = verified(vit(32), vit(64))
    assert certificate.notes == (
        "the source is made for 2×3×32×32, the target for 2×3×64×64",
        "no input fits both: the source was run on 2×3×32×32, the target on 2×3×64×64",
    )
    assert "the embedding of positions is resampled (1×17×16 → 1×65×16), at pos_embed" in certificate.reasons
    certificate = verified(net(inputs=1), net(16, inputs=3))
    measured = certificate.deviation()
    assert measured is not None
    assert measured.relative < 1e-6


def test_what_does_not_run_is_said_in_one_line() -> None:
    models = grown(net(), net(16))
    with pytest.raises(
        tg.GraftError, match=r"^the source \(Sequential\) does not run on 2×4: .*pass inputs= that both"
    ):
        tg.verify(*models, inputs=torch.randn(2, 4))
    source, target = trained(nn.Sequential(nn.Linear(4, 3))), trained(nn.Sequential(nn.Linear(5, 3)))
    with pytest.raises(tg.GraftError, match=r"^the target \(Sequential\) does not run on 2×4: RuntimeError"):
        tg.verify(source, target, tg.transfer(source, target))


def test_models_and_reports_that_do_not_belong_together_are_refused() -> None:
    source, target, report = grown(net(), net(16))
    with pytest.raises(tg.SpecError, match="the source has no code to run"):
        tg.verify(source.state_dict(), target, report)  # type: ignore[arg-type]
    with pytest.raises(tg.ApplyError, match="the target is on the meta device"):
        tg.verify(source, copy.deepcopy(target).to("meta"), report)
    with pytest.raises(tg.ApplyError, match=r"of another target, where 0\.weight is"):
        tg.verify(source, net(12), report)
    with pytest.raises(tg.ApplyError, match=r"of another source, which has"):
        tg.verify(nn.Sequential(nn.Flatten()), target, report)


def test_a_source_may_be_a_spec(zoo: Any) -> None:
    timm, _ = zoo
    spec = "timm:resnet10t"
    target = trained(timm.create_model("resnet10t"))
    certificate = tg.verify(spec, target, tg.transfer(spec, target), torch.randn(2, 3, 32, 32))
    assert certificate.exact
    assert certificate.source == spec


# --- text and data ------------------------------------------------------------------------------------------------


def test_the_text_is_aligned_and_the_data_plain() -> None:
    certificate = verified(net(), net(act=nn.SiLU))
    lines = str(certificate).splitlines()
    assert lines[0] == "Sequential → Sequential: not exact, measured on 2×3×32×32"
    assert lines[1].split() == ["mode", "precision", "relative", "absolute"]
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["eval", "float64"], ["eval", "float32"], ["train", "float64"], ["train", "float32"],
    ]  # fmt: skip
    assert len({len(line) for line in lines[1:6]}) == 1
    assert lines[6] == "2 of 5 compared layers agree"
    assert lines[7].startswith("parts at: 3, after 1, by ")
    assert lines[8:] == ["reason: ReLU → SiLU, at 2 and 1 more"]
    data = json.loads(json.dumps(certificate.to_dict()))
    assert (data["exact"], data["place"]["target"], len(data["deviations"])) == (False, "3", 4)


def test_helpers() -> None:
    nan, inf = float("nan"), float("inf")
    assert apart(torch.tensor([inf, 1.0]), torch.tensor([inf, 1.0])) == (0, 0)
    assert apart(torch.zeros(2), torch.zeros(2)) == (0, 0)
    assert apart(torch.zeros(2), torch.ones(2)) == (1, inf)
    assert np.isnan(apart(torch.tensor([nan]), torch.tensor([nan]))[0])
    assert factor_between(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])) == 1
    assert channel_axis("linear", (2, 5, 16), (2, 5, 8), None) == 2
    assert channel_axis("linear", (2, 9, 16), (2, 5, 8), None) is None
    assert channel_axis("layernorm", (2, 16, 7, 7), (2, 8, 7, 7), (16, 8)) == 1
    assert channel_axis("conv2d", (2, 8, 8, 8), (2, 8, 8, 8), (8, 8)) == 1
    assert channel_axis("parameter", (2, 9, 9, 8), (2, 9, 9, 8), (9, 9)) is None


def test_outputs_that_are_not_numbers_are_never_exact() -> None:
    source, target, report = grown(net(), net())
    with torch.no_grad():
        for one in (source, target):
            one[8].bias[0] = float("nan")
    assert not tg.verify(source, target, report).exact


def test_units_of_parts_and_heads(zoo: Any) -> None:
    timm, _ = zoo

    def vit(width: int, heads: int) -> Any:
        return timm.models.VisionTransformer(
            img_size=16, patch_size=8, embed_dim=width, depth=1, num_heads=heads, num_classes=3
        )

    plan = tg.plan(vit(16, 2), vit(24, 2), operator="clip")
    found = {transfer.target: units_of(plan, transfer) for transfer in plan.transfers}
    assert found["blocks.0.attn.qkv[1]"] == (
        [*range(26, 34), *range(38, 46)],
        [*range(16, 24), *range(24, 32)],
    )
    assert found["head"] == ([0, 1, 2], [0, 1, 2])


# --- real networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "layers"),
    [("resnet50", "wide_resnet50_2", 107), ("mobilenetv2_050", "mobilenetv2_100", 105)],
)
def test_wider_networks_are_exact(source: str, target: str, layers: int, zoo: Any) -> None:
    timm, _ = zoo
    certificate = verified(timm.create_model(source), timm.create_model(target), torch.randn(2, 3, 64, 64))
    assert certificate.exact
    assert all(certificate.within(one) for one in certificate.deviations)
    assert (certificate.agreeing, certificate.compared) == (layers, layers)


def test_blocks_of_another_kind_are_found(zoo: Any) -> None:
    timm, _ = zoo
    certificate = verified(timm.create_model("resnet18"), timm.create_model("resnet26"), torch.randn(2, 3, 32, 32))
    assert certificate.place is not None
    assert (certificate.place.target, certificate.place.after) == ("layer1.0.conv1", "bn1")
    assert certificate.reasons[0] == "kernel 3×3 → 1×1, at layer1.0.conv1 and 4 more"


def test_transformers_are_followed_layer_by_layer(zoo: Any) -> None:
    timm, _ = zoo
    name = "vit_tiny_patch16_224"
    options = {"img_size": 64, "depth": 4}
    source, target, report = grown(timm.create_model(name, **options), timm.create_model(name, **options))
    assert tg.verify(source, target, report).exact
    with torch.no_grad():
        target.blocks[2].mlp.fc1.weight[0] += 1
    certificate = tg.verify(source, target, report)
    assert certificate.place is not None
    assert (certificate.place.target, certificate.place.after) == ("blocks.2.mlp.fc1", "blocks.2.norm2")
    assert certificate.reasons[0].endswith("at blocks.2.mlp.fc1.weight")
    wider = trained(timm.create_model("vit_small_patch16_224", **options), 1)
    certificate = tg.verify(source, wider, tg.transfer(source, wider))
    assert certificate.compared > 30
    assert certificate.exact or certificate.reasons


def test_language_models_are_compared_by_their_scores(zoo: Any) -> None:
    import transformers

    def build(inner: int) -> Any:
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
            intermediate_size=inner, vocab_size=40, attention_dropout=0.5,
        ))  # fmt: skip

    certificate = verified(build(24), build(32))
    assert certificate.exact
    assert all(one.relative < 1e-13 for one in certificate.deviations if one.precision == "float64")
    assert certificate.notes == ()


def test_a_unit_that_is_silent_for_a_few_examples_is_not_taken_for_one_that_nothing_reads() -> None:
    certified = []
    for seed in range(20):  # one in ten of these drops two units that are silent for the first two examples
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        smaller = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        report = tg.transfer(model, smaller)
        certified.append(tg.verify(model, smaller, report).exact)
    assert not any(certified)
    with torch.no_grad():
        model[2].weight[:, :2] = 0  # which nothing reads
    assert tg.verify(model, smaller, tg.transfer(model, smaller)).exact
