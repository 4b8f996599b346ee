"""The loop against what can be computed by hand, and what it says when training breaks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from torchgraft.errors import LabError, SpecError
from torchgraft.lab.recipes import OPTIMIZERS, PRECISIONS, check_recipe, learning_rate
from torchgraft.lab.records import Recipe
from torchgraft.lab.training import evaluate, train

SIZE, CLASSES = 8, 3


class Patches:
    """Noise whose mean colour tells the class: learnt within an epoch or two."""

    def __init__(self, train: int = 96, test: int = 45, poison: int | None = None) -> None:
        generator = torch.Generator().manual_seed(7)
        self.train_count, self.test_count = train, test
        self.labels = torch.arange(train + test) % CLASSES
        self.images = torch.randn(train + test, 3, SIZE, SIZE, generator=generator)
        self.images += 2.0 * torch.eye(CLASSES)[self.labels][:, :, None, None]
        self.orders: list[list[int]] = []
        if poison is not None:
            self.images[poison] = math.nan

    def train(
        self, batch: int, augment: str, generator: torch.Generator, device: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        rows = torch.randperm(self.train_count, generator=generator)
        self.orders.append(rows.tolist())
        for part in rows.split(batch):
            yield self.images[part].to(device), self.labels[part].to(device)

    def test(self, batch: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
        for part in torch.arange(self.train_count, self.train_count + self.test_count).split(batch):
            yield self.images[part].to(device), self.labels[part].to(device)


def small(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(8, CLASSES),
    )


RECIPE = Recipe(epochs=3, batch=32, rate=2e-2)


def test_it_learns_and_the_curve_tells_everything() -> None:
    images, seen = Patches(), []
    done = train(small(), images, RECIPE, seed=0, tick=seen.append)
    assert done.curve == tuple(seen) and done.exploded == ""
    first, *later = done.curve
    assert (first.epoch, first.step, first.train_loss, first.rate, first.gradient, first.seconds) == (
        (0, 0, None, None, None, 0.0)
    )
    assert [point.epoch for point in later] == [1, 2, 3]
    assert [point.step for point in later] == [3, 6, 9]
    assert done.curve[-1].accuracy > 90 > done.curve[0].accuracy
    for point in later:
        assert point.rate == learning_rate(RECIPE, point.step - 1, 3)
        assert point.train_loss is not None and point.train_loss > 0
        assert point.gradient is not None and point.gradient > 0
    seconds = [point.seconds for point in done.curve]
    assert seconds == sorted(seconds) and seconds[-1] > 0
    assert all(sorted(order) == list(range(96)) for order in images.orders) and len(images.orders) == 3


def test_one_epoch_is_adam_by_hand() -> None:
    """The same steps written out with torch's plain Adam and cosine end at the same weights."""
    images, recipe = Patches(), Recipe(epochs=1, batch=32, channels_last=False, horizon=2)
    trained = small()
    done = train(trained, images, recipe, seed=5)
    byhand = small()
    optimizer = torch.optim.Adam(byhand.parameters(), lr=4e-3, fused=False)
    order, losses, norms = torch.Generator().manual_seed(5), [], []
    byhand.train()
    for step, (pictures, labels) in enumerate(images.train(32, "", order, "cpu")):
        optimizer.param_groups[0]["lr"] = 4e-4 + 0.5 * (4e-3 - 4e-4) * (1 + math.cos(math.pi * step / 6))
        optimizer.zero_grad()
        loss = cross_entropy(byhand(pictures), labels)
        loss.backward()
        losses.append(loss.item())
        norms.append(math.sqrt(sum(float(p.grad.pow(2).sum()) for p in byhand.parameters() if p.grad is not None)))
        optimizer.step()
    for mine, theirs in zip(trained.state_dict().values(), byhand.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    assert done.curve[1].train_loss == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert done.curve[1].gradient == pytest.approx(max(norms), rel=1e-4)


def test_shares_of_the_learning_rate() -> None:
    """After one step of plain SGD each parameter has gone its share of the way; the curve tells the whole rate."""
    images, recipe = Patches(train=32), replace(RECIPE, epochs=1, optimizer="sgd", rate=1e-3)
    shares = {"0.weight": 0.25, "6.bias": 0.5}
    ends = []
    for given in ({}, shares):
        network = small()
        start = {name: one.detach().clone() for name, one in network.named_parameters()}
        done = train(network, images, recipe, seed=0, shares=given)
        assert done.curve[-1].rate == recipe.rate
        ends.append({name: one.detach() - start[name] for name, one in network.named_parameters()})
    for name, way in ends[0].items():
        assert way.any()
        torch.testing.assert_close(ends[1][name], shares.get(name, 1.0) * way, rtol=1e-2, atol=1e-7)


def test_evaluation_by_hand() -> None:
    images, network = Patches(), small().eval()
    accuracy, loss = evaluate(network, images, RECIPE)
    with torch.no_grad():
        answers = network(images.images[96:])
    assert accuracy == pytest.approx(100 * float((answers.argmax(1) == images.labels[96:]).double().mean()))
    assert loss == pytest.approx(float(cross_entropy(answers, images.labels[96:])), rel=1e-5)


def test_answers_that_are_nan_are_wrong() -> None:
    images = Patches(poison=96 + 3)  # a test image of class 0, which argmax would answer with 0 for NaN
    assert int(images.labels[99]) == 0
    constant = small()
    with torch.no_grad():
        constant[6].bias.copy_(torch.tensor([100.0, 0.0, 0.0]))
    accuracy, loss = evaluate(constant, images, RECIPE)
    assert accuracy == pytest.approx(100 * 14 / 45) and math.isnan(loss)


def test_equal_seeds_give_equal_runs() -> None:
    first, second, third = (train(small(0.5), Patches(), RECIPE, seed=seed) for seed in (1, 1, 2))
    timeless = [tuple(replace(point, seconds=0.0) for point in run.curve) for run in (first, second, third)]
    assert timeless[0] == timeless[1] != timeless[2]


def test_the_caller_keeps_its_generator() -> None:
    network = small(0.5)
    before = torch.get_rng_state()
    train(network, Patches(), RECIPE, seed=9)
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    network = small(0.5)
    torch.manual_seed(100)
    first = train(network, Patches(), RECIPE, seed=1)
    network = small(0.5)
    torch.manual_seed(200)
    second = train(network, Patches(), RECIPE, seed=1)
    assert [point.loss for point in first.curve] == [point.loss for point in second.curve]


def test_the_order_of_the_images_does_not_depend_on_the_network() -> None:
    first, second = Patches(), Patches()
    train(small(), first, RECIPE, seed=4)
    train(nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(3 * SIZE**2, CLASSES)), second, RECIPE, seed=4)
    assert first.orders == second.orders


@pytest.mark.parametrize("keep", ["last", "best"])
def test_the_kept_weights_are_those_that_were_measured(keep: str) -> None:
    recipe = replace(RECIPE, keep=keep)
    images, network = Patches(), small()
    images.labels[:96] = (images.labels[:96] + 1) % CLASSES  # what it learns is wrong of the test images
    done = train(network, images, recipe, seed=0)
    assert done.state is not None
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in done.state.values())
    losses = [point.loss for point in done.curve]
    assert losses[-1] > min(losses)
    fresh = small()
    fresh.load_state_dict(done.state)
    wanted = losses[-1] if keep == "last" else min(losses)
    assert evaluate(fresh, images, recipe)[1] == pytest.approx(wanted, rel=1e-5)


def test_tied_weights_are_kept_one_by_one() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 192), nn.Linear(192, 192), nn.Linear(192, CLASSES))
    network[2].weight = network[1].weight
    state = train(network, Patches(), replace(RECIPE, epochs=1), seed=0).state
    assert state is not None and torch.equal(state["1.weight"], state["2.weight"])
    assert state["1.weight"].data_ptr() != state["2.weight"].data_ptr()


def test_a_loss_that_is_nan_stops_the_run_and_is_told() -> None:
    images = Patches(poison=10)
    done = train(small(), images, RECIPE, seed=0)
    step = images.orders[0].index(10) // 32 + 1
    assert done.exploded == f"loss is nan at epoch 1, step {step}"
    assert [point.epoch for point in done.curve] == [0] and math.isfinite(done.curve[0].loss)
    assert done.state is not None and all(tensor.isfinite().all() for tensor in done.state.values())
    assert len(images.orders) == 1


class _Breaks(nn.Module):
    """A network whose loss is finite and whose gradient is not, from a given training step on."""

    def __init__(self, after: int, test_too: bool = False) -> None:
        super().__init__()
        self.head, self.left, self.test_too = nn.Linear(3 * SIZE**2, CLASSES), after, test_too

    def forward(self, images: Tensor) -> Tensor:
        answers: Tensor = self.head(images.flatten(1))
        if not self.training:
            return answers * (math.inf if self.test_too else 1)
        self.left -= 1
        return answers if self.left >= 0 else answers + (self.head.bias - self.head.bias.detach()).abs().sqrt()


def test_a_gradient_that_is_not_finite_stops_the_run_and_is_told() -> None:
    done = train(_Breaks(after=4), Patches(), RECIPE, seed=0)
    assert done.exploded.startswith("gradient is ") and done.exploded.endswith("at epoch 2, step 5")
    assert [point.epoch for point in done.curve] == [0, 1]


def test_an_explosion_after_many_steps_is_told_exactly() -> None:
    done = train(_Breaks(after=37), Patches(), replace(RECIPE, batch=2, epochs=1), seed=0)
    assert done.exploded.endswith("at epoch 1, step 38")


def test_a_test_loss_that_is_nan_before_training_does_not_keep_from_training() -> None:
    """Training mode does not look at the statistics that made evaluation overflow, and mends them."""
    network = small()
    network[1].running_mean.fill_(-3e38)
    network[1].running_var.zero_()
    network[1].momentum = 1.0  # the statistics are those of the last batch
    done = train(network, Patches(), RECIPE, seed=0)
    assert math.isnan(done.curve[0].loss) and done.curve[0].accuracy == 0
    assert done.exploded == "" and done.curve[-1].accuracy > 80
    assert done.state is not None and len(done.curve) == 4


def test_a_run_that_ends_with_an_infinite_test_loss_says_so_and_has_no_weights() -> None:
    done = train(_Breaks(after=99, test_too=True), Patches(), RECIPE, seed=0)
    assert done.exploded == "test loss is nan at epoch 3, step 9"
    assert len(done.curve) == 4 and done.state is None


def test_everything_nan_from_the_start_still_gives_a_curve() -> None:
    network = small()
    with torch.no_grad():
        network[0].weight.fill_(math.nan)
    done = train(network, Patches(), RECIPE, seed=0)
    assert done.exploded == "loss is nan at epoch 1, step 1" and done.state is None
    assert len(done.curve) == 1 and math.isnan(done.curve[0].loss)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_every_optimizer_learns(optimizer: str) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, weight_decay=1e-4, rate=4e-2)
    assert train(small(), Patches(), recipe, seed=0).curve[-1].accuracy > 80


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
def test_every_precision_learns(precision: str) -> None:
    recipe = replace(RECIPE, precision=precision, epochs=12)
    done = train(small(), Patches(), recipe, seed=0)
    assert done.exploded == "" and done.curve[-1].accuracy > 90
    assert done.state is not None and done.state["0.weight"].dtype == torch.float32


def test_overflow_of_a_scaled_loss_is_no_explosion_but_a_lasting_one_is() -> None:
    images = Patches()
    recipe = replace(RECIPE, precision="amp-fp16", batch=2, epochs=1)
    assert train(small(), images, recipe, seed=0).exploded == ""
    assert train(_Breaks(after=4), images, recipe, seed=0).exploded.endswith("at epoch 1, step 29")


@pytest.mark.parametrize(("count", "steps"), [(96, 3), (97, 3), (98, 4), (1, 1)])
def test_a_last_batch_of_one_image_is_left_out(count: int, steps: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, CLASSES))
    done = train(network, Patches(count), replace(RECIPE, epochs=1), seed=0)
    assert done.curve[1].step == steps and done.curve[1].rate == learning_rate(RECIPE, steps - 1, steps)


def test_no_epochs_is_the_zero_shot_measurement() -> None:
    network = small()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    done = train(network, Patches(), replace(RECIPE, epochs=0), seed=0)
    assert len(done.curve) == 1 and done.state is not None
    assert all(torch.equal(before[key], tensor) for key, tensor in done.state.items())


def test_a_network_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(LabError, match="Flatten has no parameters to train"):
        train(nn.Flatten(), Patches(), RECIPE, seed=0)


def test_a_recorded_output_is_trained_through_its_logits() -> None:
    class Record:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()

        def forward(self, images: Tensor) -> Record:
            return Record(self.inner(images))

    wrapped, plain = train(Wrapped(), Patches(), RECIPE, seed=0), train(small(), Patches(), RECIPE, seed=0)
    assert [point.loss for point in wrapped.curve] == [point.loss for point in plain.curve]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"optimizer": "adm"}, SpecError, "unknown optimizer 'adm': did you mean 'adam'"),
        ({"precision": "fp8"}, SpecError, "unknown precision 'fp8'"),
        ({"keep": "first"}, LabError, "keep is 'first'"),
        ({"epochs": -1}, LabError, "epochs is -1: give at least 0"),
        ({"rate": math.nan}, LabError, "rate is nan"),
        ({"final_rate": -1.0}, LabError, "final_rate is -1.0"),
        ({"horizon": 0}, LabError, "horizon is 0: give at least 1"),
    ],
)
def test_impossible_recipes_are_refused(change: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_recipe(replace(RECIPE, **change))


def test_the_rate_never_rises_after_the_warmup_and_ends_where_it_should() -> None:
    recipe = Recipe(horizon=5, warmup=2)
    rates = [learning_rate(recipe, step, 10) for step in range(80)]
    assert rates[:20] == sorted(rates[:20]) and rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[50:] == pytest.approx([4e-4] * 30)
    assert learning_rate(Recipe(), 4 * 79, 79) > 0.99 * 4e-3  # four epochs of a hundred stay near the top
