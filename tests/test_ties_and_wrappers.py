"""Tied and shared weights, parametrizations, wrapper modules, and dtypes that are not plain floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import assert_identity, assert_ledger, blank, filled, plain, same_bits, snapshot, statuses
from torch import nn

import torchgraft as tg

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
