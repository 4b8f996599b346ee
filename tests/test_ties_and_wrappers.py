"""Tied and shared weights, parametrizations, wrapper modules, and dtypes that are not plain floats."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import assert_identity, assert_ledger, blank, filled, same_bits, snapshot
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import torchgraft as tg


def statuses(report: tg.Report) -> dict[str, str]:
    return {tensor.key: tensor.status for tensor in report.tensors}


# --- ties --------------------------------------------------------------------------------------------------------


class Language(nn.Module):
    """An embedding, a body and a head that may share the embedding's weight."""

    def __init__(self, tied: bool, words: int = 7, width: int = 4) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(words, width), nn.Linear(width, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        if tied:
            self.head.weight = self.embedding.weight


def test_tied_to_tied() -> None:
    report = assert_identity(lambda: Language(True))
    assert {t.key: t.tied for t in report.tensors if t.tied} == {"head.weight": "embedding.weight"}
    source, target = filled(Language(True)), Language(True, words=9, width=6)
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert target.head.weight is target.embedding.weight
    assert torch.equal(target.embedding.weight[:7, 1:5], source.embedding.weight)


def test_tied_to_untied_fills_both() -> None:
    source, target = filled(Language(True)), Language(False)
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert torch.equal(target.head.weight, source.embedding.weight)
    assert torch.equal(target.embedding.weight, source.embedding.weight)
    assert report.counts() == {"copied": 6}


def test_untied_to_tied_takes_the_embedding() -> None:
    source, target = filled(Language(False)), Language(True)
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert torch.equal(target.head.weight, source.embedding.weight)
    assert target.head.weight is target.embedding.weight
    assert statuses(report) == dict.fromkeys(snapshot(target), "copied")


def test_tied_weights_of_transformers(zoo: Any) -> None:
    import transformers

    def build(tied: bool) -> Any:
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                n_embd=8, n_head=2, n_layer=1, vocab_size=11, n_positions=6, tie_word_embeddings=tied
            )
        )

    for a, b in ((True, True), (True, False), (False, True)):
        source, target = filled(build(a)), build(b)
        report = tg.transfer(source, target)
        assert_ledger(report, target)
        assert report.coverage == 1
        wanted = source.transformer.wte.weight if b or a else source.lm_head.weight
        assert torch.equal(target.lm_head.weight, wanted)
        assert (target.lm_head.weight is target.transformer.wte.weight) == b


def test_a_shared_module_is_planned_once() -> None:
    def build() -> nn.Module:
        shared = nn.Linear(4, 4)
        return nn.Sequential(nn.Linear(3, 4), shared, nn.ReLU(), shared, nn.LayerNorm(4))

    report = assert_identity(build)
    assert {t.key: t.tied for t in report.tensors if t.tied} == {"3.weight": "1.weight", "3.bias": "1.bias"}


def test_a_module_shared_between_parents() -> None:
    def build(width: int) -> nn.Module:
        norm = nn.BatchNorm1d(width)
        blocks = [nn.Sequential(nn.Linear(width, width), norm, nn.Linear(width, width)) for _ in range(2)]
        return nn.Sequential(*blocks, nn.LayerNorm(width))

    assert_identity(lambda: build(4))
    source, target = filled(build(4)), build(6)
    assert_ledger(tg.transfer(source, target), target)
    assert target[0][1] is target[1][1]
    assert torch.equal(target[1][1].running_mean[1:5], source[1][1].running_mean)


def test_a_shared_parameter_and_a_shared_buffer() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
        model[2].weight = model[0].weight
        model[2].running_mean = model[0].running_mean
        return model

    report = assert_identity(build)
    assert {t.key for t in report.tensors if t.tied} == {"2.weight", "2.running_mean"}


# --- parametrizations --------------------------------------------------------------------------------------------


def weight_norm(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, width), parametrizations.weight_norm(nn.Conv1d(width, width, 3)), nn.LayerNorm(width)
    )


def plain(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.Conv1d(width, width, 3), nn.LayerNorm(width))


def spectral_norm(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, width), parametrizations.spectral_norm(nn.Conv1d(width, width, 3)), nn.LayerNorm(width)
    )


def weight(model: nn.Module) -> Tensor:
    """The weight that the model computes with, power iterations left where they are."""
    with torch.no_grad():
        return copy.deepcopy(model).eval()[1].weight.clone()


@pytest.mark.parametrize("source_width", [4, 8])
def test_plain_to_weight_norm_and_back(source_width: int) -> None:
    source, target = plain(source_width), weight_norm(6)
    own = weight(target)
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    got, origin = weight(target), weight(source)
    if source_width == 4:
        assert torch.allclose(got[1:5, 1:5], origin, atol=1e-6)
        assert got[1:5, [0, 5]].abs().max() < 1e-6
        assert torch.allclose(got[[0, 5]], own[[0, 5]], atol=1e-6)
        assert {t.key: t.elements for t in report.tensors if "original0" in t.key} == {
            "1.parametrizations.weight.original0": 6 * (4 * 4 * 3) // (6 * 6 * 3)
        }
    else:
        assert torch.allclose(got, origin[1:7, 1:7], atol=1e-6)
    assert "kept" not in report.counts()
    back = plain(6)
    tg.transfer(target, back)
    assert torch.equal(back[1].weight, got)


def test_weight_norm_to_weight_norm_is_bitwise_and_grows_through_its_inverse() -> None:
    assert_identity(lambda: weight_norm(4))
    source, target = weight_norm(4), weight_norm(6)
    tg.transfer(source, target)
    assert torch.allclose(weight(target)[1:5, 1:5], weight(source), atol=1e-6)


def hooked(hook: Callable[..., Any], width: int, kind: Any = nn.Conv1d) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), hook(kind(width, width, 3)), nn.LayerNorm(width))


def effective(model: nn.Module) -> Tensor:
    """The weight that the second layer computes with in its next forward pass, in evaluation."""
    other = copy.deepcopy(model).eval()
    with torch.no_grad():
        other[1](torch.zeros(1, other[1].in_channels, 5))
    return other[1].weight.detach().clone()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("old", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_the_old_hooks_of_torch(old: Callable[..., Any], kind: Any) -> None:
    new = {nn.utils.weight_norm: parametrizations.weight_norm, nn.utils.spectral_norm: parametrizations.spectral_norm}[old]
    source, target = hooked(old, 4, kind), hooked(old, 4, kind)
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert same_bits(snapshot(target), snapshot(source))
    assert set(report.counts()) == {"copied"}
    before = snapshot(source)
    for build in (old, new, lambda layer: layer):
        for width in (4, 6):
            other = hooked(build, width, kind)
            report = tg.transfer(source, other)
            assert_ledger(report, other)
            assert "kept" not in report.counts()
            first = (width - 4) // 2
            got = effective(other)[first : first + 4, first : first + 4]
            ratio = got / effective(source)
            assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-3)
            if build in (nn.utils.weight_norm, parametrizations.weight_norm) or width == 4:
                assert ratio.mean().item() == pytest.approx(1, rel=0.02) or kind is nn.ConvTranspose1d
    assert same_bits(snapshot(source), before)
    plain = hooked(lambda layer: layer, 4, kind)
    back = hooked(old, 4, kind)
    assert_ledger(tg.transfer(plain, back), back)
    ratio = effective(back) / plain[1].weight.detach()
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-3)


@pytest.mark.parametrize("width", [4, 6])
def test_a_pruned_layer_gives_what_it_computes_with(width: int) -> None:
    from torch.nn.utils import prune

    assert_identity(lambda: hooked(lambda layer: prune.l1_unstructured(layer, "weight", 0.5), 4))
    source, target = hooked(lambda layer: prune.l1_unstructured(layer, "weight", 0.5), 4), plain(width)
    tg.transfer(source, target)
    first = (width - 4) // 2
    assert torch.equal(target[1].weight[first : first + 4, first : first + 4], source[1].weight)
    assert source[1].weight.eq(0).any()
    back = hooked(lambda layer: prune.l1_unstructured(layer, "weight", 0.5), 4)
    mask = back[1].weight_mask.clone()
    report = tg.transfer(plain(4), back)
    assert statuses(report)["1.weight_mask"] == "kept" and torch.equal(back[1].weight_mask, mask)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", [nn.utils.weight_norm, parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_bare_table_of_computed_weights(make: Callable[..., Any]) -> None:
    source, target = hooked(make, 4), hooked(make, 4)
    report = tg.transfer(source.state_dict(), target)
    assert same_bits(snapshot(target), snapshot(source))
    assert set(report.counts()) == {"copied"}
    for factory in (None, lambda: hooked(make, 4)):
        other = plain(6)
        assert "kept" not in tg.transfer(source.state_dict(), other, **({"factory": factory} if factory else {})).counts()
        assert torch.allclose(other[1].weight[1:5, 1:5], effective(source), atol=1e-6)


def test_a_bare_table_of_a_parametrization_that_needs_its_code() -> None:
    source, target = low_rank(), nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.LayerNorm(8))
    before = snapshot(target)
    with pytest.raises(tg.ApplyError, match="parametrization of 1.weight that only its code can compute"):
        tg.transfer(source.state_dict(), target)
    assert same_bits(snapshot(target), before)


def test_planning_and_reading_leave_a_power_iteration_where_it_is() -> None:
    source, target = spectral_norm(4).train(), spectral_norm(6).train()
    before = snapshot(source), snapshot(target)
    tg.plan(source, target)
    tg.similarity(source, target)
    assert same_bits(snapshot(source), before[0])
    assert same_bits(snapshot(target), before[1])
    tg.transfer(source, plain(4))
    tg.transfer(source, target)
    assert same_bits(snapshot(source), before[0])
    assert source[1].parametrizations.weight.training
    assert target[1].parametrizations.weight.training


def test_spectral_norm_identity_copies_its_buffers() -> None:
    report = assert_identity(lambda: spectral_norm(4))
    assert {t.key for t in report.tensors if t.buffer} == {
        "1.parametrizations.weight.0._u",
        "1.parametrizations.weight.0._v",
    }


def test_spectral_norm_estimates_the_norm_of_its_new_weight() -> None:
    source, target = plain(4), spectral_norm(4)
    with torch.no_grad():
        source[1].weight.normal_(0, 5)
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert "kept" not in report.counts()
    matrix = source[1].weight.detach().flatten(1)
    expected = source[1].weight / torch.linalg.matrix_norm(matrix, 2)
    assert torch.allclose(weight(target), expected, rtol=0.02, atol=1e-3)
    back = plain(4)
    tg.transfer(target, back)
    assert torch.equal(back[1].weight, weight(target))


class LowRank(nn.Module):
    """A low-rank update beside a frozen weight, as LoRA does it; it has no inverse."""

    def __init__(self, out: int, width: int, rank: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(rank, width)), nn.Parameter(torch.zeros(out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def low_rank(rank: int = 2) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.LayerNorm(8))
    parametrize.register_parametrization(model[1], "weight", LowRank(8, 8, rank))
    return model


def test_plain_to_a_low_rank_update_fills_the_frozen_weight_alone() -> None:
    source, target = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.LayerNorm(8)), low_rank()
    before = target[1].parametrizations.weight[0].a.detach().clone()
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert torch.equal(target[1].weight, source[1].weight)
    assert torch.equal(target[1].parametrizations.weight.original, source[1].weight)
    assert torch.equal(target[1].parametrizations.weight[0].a, before)
    kept = [key for key, status in statuses(report).items() if status == "kept"]
    assert kept == ["1.parametrizations.weight.0.a", "1.parametrizations.weight.0.b"]


def test_a_low_rank_update_is_merged_into_a_plain_weight() -> None:
    assert_identity(low_rank)
    source, target = low_rank(), nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.LayerNorm(8))
    nn.init.normal_(source[1].parametrizations.weight[0].b)
    tg.transfer(source, target)
    assert torch.equal(target[1].weight, source[1].weight)
    other = low_rank(rank=4)
    tg.transfer(source, other)
    assert torch.equal(other[1].weight, source[1].weight)


class Product(nn.Module):
    """Two originals and no way back from their product."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


def test_a_parametrization_without_a_way_back_is_an_error_before_anything_is_written() -> None:
    class Invertible(Product):
        def right_inverse(self, value: Tensor) -> tuple[Tensor, Tensor]:
            return value, torch.ones_like(value)

    source, target = plain(4), plain(4)
    parametrize.register_parametrization(target[1], "weight", Invertible())
    target[1].parametrizations.weight[0] = Product()
    before = snapshot(target)
    with pytest.raises(tg.ApplyError, match=r"1\.weight is computed by a parametrization without right_inverse"):
        tg.transfer(source, target)
    assert same_bits(snapshot(target), before)
    assert "kept" in tg.transfer(source, target, exclude_target=["1"]).counts()


class Adapter(nn.Module):
    """What PEFT wraps around a layer."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Attention(nn.Module):
    def __init__(self, rank: int | None = None) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        if rank:
            self.q, self.v = Adapter(self.q, rank), Adapter(self.v, rank)


def test_a_wrapped_layer_takes_from_a_plain_one() -> None:
    source = nn.Sequential(*(Attention() for _ in range(3)), nn.LayerNorm(32))
    target = nn.Sequential(*(Attention(2) for _ in range(3)), nn.LayerNorm(32))
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    for number in range(3):
        for letter in "qkvo":
            layer = getattr(target[number], letter)
            layer = getattr(layer, "base_layer", layer)
            assert torch.equal(layer.weight, getattr(source[number], letter).weight), (number, letter)
    assert all(statuses(report)[key] == "kept" for key in statuses(report) if "lora" in key)
    x = torch.randn(2, 32)
    assert torch.equal(target[1].q(x), source[1].q(x))  # the update is still zero


# --- wrappers ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda m: nn.DataParallel(torch.compile(m))])
def test_wrappers_on_either_side_change_nothing(wrap: Callable[[nn.Module], Any]) -> None:
    source, target = filled(plain(4)), plain(4)
    report = tg.transfer(wrap(source), wrap(target))
    assert same_bits(snapshot(target), snapshot(source))
    assert report.counts() == {"copied": 6}
    assert_ledger(report, target)
    assert report.source == report.target == "Sequential"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_part_of_a_model() -> None:
    source, target = filled(plain(4)), plain(4)
    target[1] = torch.compile(target[1])
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert torch.equal(target[1].weight, source[1].weight)
    assert report.counts() == {"copied": 6}


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("lazy", [lambda: nn.LazyLinear(3), lambda: nn.LazyBatchNorm1d(), lambda: nn.LazyConv2d(3, 3)])
def test_a_lazy_module_is_an_error_that_names_the_fix(lazy: Callable[[], nn.Module]) -> None:
    known, unknown = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), lazy())
    for source, target in ((known, unknown), (unknown, known)):
        with pytest.raises(tg.PlanError, match=r"1\.\w+ belongs to a lazy module .* run one forward pass first"):
            tg.transfer(source, target)
        with pytest.raises(tg.PlanError, match="lazy"):
            tg.plan(source, target)


# --- dtypes and buffers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("width", [4, 6])
def test_other_precisions(dtype: torch.dtype, width: int) -> None:
    source, target = filled(plain(4)), plain(width).to(dtype)
    assert_ledger(tg.transfer(source, target), target)
    assert target[1].weight.dtype == dtype
    first = (width - 4) // 2
    assert torch.equal(target[1].bias[first : first + 4], source[1].bias.to(dtype))
    back = plain(4)
    tg.transfer(target, back)
    assert torch.equal(back[1].bias, source[1].bias.to(dtype).float())


class Complex(nn.Module):
    def __init__(self, size: int, dtype: torch.dtype = torch.complex64) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.zeros(size, size, dtype=dtype))
        self.norm = nn.LayerNorm(4)


def test_complex_parameters() -> None:
    assert_identity(lambda: Complex(4))
    source, target = filled(Complex(2)), blank(Complex(4))
    with torch.no_grad():
        source.filter += 2j
    tg.transfer(source, target)
    assert torch.equal(target.filter[1:3, 1:3], source.filter)
    assert target.filter[0].eq(-1).all()


def test_a_complex_parameter_takes_a_real_one_but_not_the_other_way_round() -> None:
    real, image = filled(Complex(2, torch.float32)), filled(Complex(2))
    target = Complex(2)
    assert tg.transfer(real, target).coverage == 1
    assert torch.equal(target.filter, real.filter.to(torch.complex64))
    other = blank(Complex(2, torch.float32))
    report = tg.transfer(image, other)
    assert statuses(report)["filter"] == "kept"
    assert other.filter.eq(-1).all()


class Buffers(nn.Module):
    """Buffers of every sort beside one layer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        self.register_buffer("index", torch.arange(size))
        self.register_buffer("mask", torch.eye(size, dtype=torch.bool))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("scratch", torch.zeros(size), persistent=False)
        self.register_buffer("nothing", None)
        self.register_parameter("none", None)


def test_buffers() -> None:
    source, target = Buffers(4), Buffers(4)
    source.index += 3
    source.mask.zero_()
    source.scale += 1
    source.scratch += 9
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert torch.equal(target.index, source.index)
    assert not target.mask.any()
    assert target.scale.eq(2).all()
    assert target.scratch.eq(0).all()  # it is no part of the state dict
    other = Buffers(6)
    report = tg.transfer(source, other)
    assert_ledger(report, other)
    kept = {key for key, status in statuses(report).items() if status == "kept"}
    assert kept == {"index", "mask", "scale"}
    assert torch.equal(other.index, torch.arange(6))


class Stateful(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"steps": 3}

    def set_extra_state(self, state: Any) -> None:
        self.steps = state["steps"]


def test_extra_state_is_no_tensor() -> None:
    source, target = filled(Stateful(3, 2)), Stateful(3, 2)
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert torch.equal(target.weight, source.weight)
    assert not hasattr(target, "steps")
    assert tg.transfer(source.state_dict(), target).counts() == {"copied": 2}


class Packed(nn.Module):
    """A layer whose weight is stored as whole numbers, as weight-only quantization does."""

    def __init__(self, out: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randint(-8, 8, (out, width), dtype=torch.int8))
        self.register_buffer("scales", torch.rand(out))
        self.bias = nn.Parameter(torch.zeros(out))


def test_whole_number_weights_are_copied_but_never_mixed_with_floats() -> None:
    source, target = Packed(4, 3), Packed(4, 3)
    assert tg.transfer(source, target).counts() == {"copied": 3}
    assert torch.equal(target.weight, source.weight)
    before = snapshot(target)
    report = tg.transfer(nn.Linear(3, 4), target)
    assert_ledger(report, target)
    assert statuses(report)["weight"] == "kept"
    assert torch.equal(target.weight, before["weight"])
    linear = nn.Linear(3, 4)
    own = linear.weight.detach().clone()
    assert statuses(tg.transfer(source, linear))["weight"] == "kept"
    assert torch.equal(linear.weight, own)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_dynamically_quantized_source() -> None:
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this build of torch cannot quantize")
    torch.backends.quantized.engine = "fbgemm"
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    target = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    before = snapshot(target)
    report = tg.transfer(quantized, target)
    assert_ledger(report, target)
    assert statuses(report) == {key: "copied" if key.startswith("1.") else "kept" for key in before}
    assert torch.equal(target[0].weight, before["0.weight"])
    with pytest.raises(tg.CheckpointError, match="not a named tensor"):
        tg.transfer(quantized.state_dict(), target)
    with pytest.raises(tg.PlanError, match="holds no parameter"):
        tg.transfer(torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 4)), {nn.Linear}), target)


def test_quantized_tensors_are_copied_and_never_mixed() -> None:
    class Quantized(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.register_buffer("table", torch.quantize_per_tensor(torch.rand(size, 2), 0.1, 0, torch.qint8))
            self.linear = nn.Linear(2, size)

    source, target = Quantized(3), Quantized(3)
    report = tg.transfer(source, target)
    assert report.counts() == {"copied": 3}
    assert torch.equal(target.table.dequantize(), source.table.dequantize())
    assert statuses(tg.transfer(source, Quantized(4)))["table"] == "kept"


def test_an_empty_tensor() -> None:
    source, target = Complex(4), Complex(4)
    source.filter, target.filter = nn.Parameter(torch.zeros(0, 4)), nn.Parameter(torch.zeros(0, 4))
    report = tg.transfer(source, target)
    assert_ledger(report, target)
    assert report.coverage == 1


def test_the_source_is_never_written_and_gradients_stay_as_they_are() -> None:
    source, target = filled(plain(4)), plain(6)
    target[1].weight.requires_grad_(False)
    before = snapshot(source)
    places = {key: value.data_ptr() for key, value in target.state_dict().items()}
    parameters = dict(target.named_parameters())
    tg.transfer(source, target)
    assert same_bits(snapshot(source), before)
    assert {key: value.data_ptr() for key, value in target.state_dict().items()} == places
    assert all(parameters[key] is value for key, value in target.named_parameters())
    assert not target[1].weight.requires_grad
    assert target[1].bias.requires_grad
    assert target[1].bias.grad_fn is None


def test_a_model_may_be_its_own_source() -> None:
    model = filled(plain(4))
    before = snapshot(model)
    assert tg.transfer(model, model).counts() == {"copied": 6}
    assert same_bits(snapshot(model), before)
