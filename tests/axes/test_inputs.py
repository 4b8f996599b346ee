"""Inputs found by trying: for plain modules, for models of the libraries, and the error where nothing fits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchgraft.axes import axis_groups, example_inputs
from torchgraft.errors import GraftError, InputsError


class Flat(nn.Module):
    """Reads pictures of one size only."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * side * side, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))


class Tagger(nn.Module):
    """Words into a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(7, 3)  # stands first, is read last
        self.words, self.stack = nn.Embedding(11, 6), nn.GRU(6, 7, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.stack(self.words(tokens))[0])


class Chooser(nn.Module):
    """Its way depends on values, so that it does not run on the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x.relu() if x.sum().item() > 1e6 else x.tanh())


MODULES: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]]]] = {
    "linear": (lambda: nn.Linear(5, 2), [(1, 5)]),
    "bilinear": (lambda: nn.Bilinear(5, 4, 2), [(1, 5), (1, 4)]),
    "text": (lambda: nn.Sequential(nn.Conv1d(3, 4, 9), nn.ReLU()), [(1, 3, 64)]),
    "small picture": (lambda: Flat(28), [(1, 1, 28, 28)]),
    "large picture": (lambda: Flat(96), [(1, 1, 96, 96)]),
    "volume": (lambda: nn.Conv3d(2, 4, 3), [(1, 2, 16, 32, 32)]),
    "words": (Tagger, [(1, 8)]),
    "recurrent": (lambda: nn.LSTM(5, 4, batch_first=True), [(1, 8, 5)]),
    "attention": (lambda: nn.MultiheadAttention(8, 2), [(1, 8, 8)] * 3),
    "encoder and decoder": (lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True), [(1, 8, 8)] * 2),
    "norm": (lambda: nn.LayerNorm(6), [(1, 8, 6)]),
    "way by values": (Chooser, [(1, 4)]),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_runs_on_what_is_found_for_it(name: str) -> None:
    build, shapes = MODULES[name]
    module = build().eval()
    arguments, options = example_inputs(module, seed=1)
    assert [tuple(tensor.shape) for tensor in arguments] == shapes and options == {}
    module(*arguments)
    hollow, _ = example_inputs(module)
    assert [tuple(tensor.shape) for tensor in hollow] == shapes and all(tensor.is_meta for tensor in hollow)


def test_values_follow_from_the_seed() -> None:
    module = nn.Linear(5, 2)
    (first,), (again,), (other,) = (example_inputs(module, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_model_of_another_type_of_number_gets_its_own() -> None:
    assert example_inputs(nn.Linear(5, 2).double(), seed=0)[0][0].dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "full", "small"), [("resnet18", 224, 96), ("vit_tiny_patch16_224", 224, 224), ("mixnet_s", 224, 96)]
)
def test_pictures_of_timm(zoo: object, name: str, full: int, small: int) -> None:
    import timm

    with torch.device("meta"):
        module = timm.create_model(name)
    assert example_inputs(module)[0][0].shape[-1] == full
    assert example_inputs(module, small=True)[0][0].shape[-1] == small


def test_pictures_of_torchvision(zoo: object) -> None:
    import torchvision

    with torch.device("meta"):
        module = torchvision.models.resnet18()
    assert [example_inputs(module, small=small)[0][0].shape[-1] for small in (False, True)] == [224, 96]


def test_arguments_of_transformers(zoo: object) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=2)
    arguments, options = example_inputs(T5ForConditionalGeneration(config), seed=0)
    assert arguments == () and options.pop("use_cache") is False
    assert {key: tuple(value.shape) for key, value in options.items()} == {
        "input_ids": (1, 8), "decoder_input_ids": (1, 8),
    }  # fmt: skip
    assert all(int(value.min()) >= 0 and int(value.max()) < 40 for value in options.values())


@pytest.mark.parametrize(("end", "last"), [(7, [39, 7]), (49407, [39])])
def test_a_row_of_words_ends_with_the_highest_and_with_the_end(zoo: object, end: int, last: list[int]) -> None:
    """CLIP reads its text's meaning from there: from the first place, it would not depend on any other word."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    module = CLIPTextModelWithProjection(CLIPTextConfig(vocab_size=40, eos_token_id=end, **sizes))
    words = example_inputs(module, seed=0)[1]["input_ids"][0].tolist()
    assert words[-len(last) :] == last and max(words[: -len(last)]) < 39


def test_a_model_that_reads_something_else_says_what_to_do() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 4)

        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return self.a(x["points"])

    with pytest.raises(InputsError, match=r"Odd ran on none of \d+ guessed inputs .*pass inputs="):
        axis_groups(Odd())
    assert issubclass(InputsError, GraftError)
    assert len(axis_groups(Odd(), [{"points": torch.zeros(2, 3)}]).groups) > 0


def test_a_way_that_depends_on_values_is_run_with_them() -> None:
    (hidden,) = axis_groups(Chooser()).free()
    assert [(member.key, member.axis) for member in hidden.members] == [
        ("a.weight", 0), ("a.bias", 0), ("b.weight", 1),
    ]  # fmt: skip
    assert len(axis_groups(Chooser(), [torch.zeros(1, 4)]).free()) == 1
