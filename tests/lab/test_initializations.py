"""What a target is started from: every baseline and control against values worked out by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.fft
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import torchgraft
from torchgraft.errors import CheckpointError, LabError
from torchgraft.lab import initializations
from torchgraft.lab.initializations import INITIALIZATIONS, check, describe, initialize, load_pretrained, needs_source
from torchgraft.lab.initializations.matching import with_statistics
from torchgraft.optim import transferred_keys

FROM_SOURCE = [name for name in INITIALIZATIONS if name not in ("random", "pretrained", "predicted")]
VARIANTS = [
    "dpiat:bipartite:full:x=0.25",
    "graft:keep=even:rate=auto",
    "graft:clip_normalized",
    "fna:graft",
    "fna:stages",
    "net2net:graft:noise=0",
    "permuted:dpiat:dp:clip",
    "variance:dp",
]


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return layer


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every tensor values of its own, the running statistics too."""
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(drawn.abs() + 0.5 if key.endswith("running_var") else drawn * 0.3)
    return network


def convnet(width: int) -> nn.Sequential:
    layers = (nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(*layers, nn.Conv2d(width, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class TestNames:
    def test_table_is_described(self) -> None:
        rows = dict(describe())
        assert [one.partition("[")[0].partition(":")[0] for one in rows] == list(INITIALIZATIONS)
        assert all(meaning.endswith(".") for meaning in rows.values())

    @pytest.mark.parametrize("name", [*INITIALIZATIONS, *VARIANTS, "pretrained:a.pt", "predicted:a.npz"])
    def test_valid(self, name: str) -> None:
        if name == "predicted":
            with pytest.raises(LabError, match="predicted:FILE"):
                check(name)
        else:
            check(name)
            assert needs_source(name) == (name.partition(":")[0] not in ("random", "pretrained", "predicted"))

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("grafft", r"unknown initialization 'grafft': did you mean 'graft'\? \(valid: random, pretrained, "),
            ("", r"unknown initialization ''"),
            ("random:1", "random takes no argument"),
            ("dpiat:clipp", r"'clipp' in 'clipp' is neither a matcher \(graft, dp, .*\) nor an operator \(embed, "),
            ("dpiat:dp:random", "names two matchers"),
            ("graft:x=1", "'x=1' in 'x=1' is no exponent"),
            ("graft:x=much", "no exponent"),
            ("graft:least=2", "'least=2' in 'least=2' is no similarity: write least=NUMBER between 0 and 1"),
            ("graft:rate=0", "'rate=0' names no share of the learning rate: write rate=NUMBER once"),
            ("dpiat:rate=2", "names no share of the learning rate"),
            ("graft:rate=auto:rate=0.5", "names no share of the learning rate"),
            ("permuted:graft:rate=0.5", "'rate=0.5' in 'rate=0.5' is neither a matcher"),
            ("graft:keep=most", "'keep=most' in 'keep=most' is no narrowing: write keep= and one of readers"),
            ("fna:bipartite", r"unknown match 'bipartite' \(valid: dp, graft, stages\)"),
            ("permuted:dp", r"unknown method 'dp' \(valid: graft, dpiat"),
            ("net2net:noise=-1", "neither a match"),
            ("net2net:noise=x", "neither a match"),
        ],
    )
    def test_invalid(self, name: str, message: str) -> None:
        for function in (check, needs_source):
            with pytest.raises(LabError, match=message):
                function(name)

    def test_a_source_is_missing(self) -> None:
        with pytest.raises(LabError, match="graft takes weights from a source"):
            initialize("graft", None, nn.Linear(2, 2), seed=0)


class TestOurs:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("graft", {}),
            ("dpiat", {"method": "dpiat"}),
            ("dpiat:full:nbipartite", {"method": "dpiat", "operator": "full", "matcher": "nbipartite"}),
            ("graft:x=0.3:clip", {"exponent": 0.3, "operator": "clip"}),
        ],
    )
    def test_as_the_library_does_it(self, name: str, options: dict[str, object]) -> None:
        source, target = lively(convnet(5)), lively(convnet(8), 1)
        other = copy.deepcopy(target)
        done = initialize(name, source, target, seed=3)
        report = torchgraft.transfer(source, other, seed=3, **options)  # type: ignore[arg-type]
        assert same(target, other)
        assert (done.coverage, done.plan_hash) == (report.coverage, report.fingerprint)
        for method, value in done.similarity.items():
            assert value == torchgraft.similarity(source, other, method=method)
        assert list(done.similarity) == ["dpiat", "graft"]

    def test_what_is_transferred_learns_at_a_share_of_the_rate(self) -> None:
        source, target = lively(convnet(5)), lively(convnet(8), 1)
        shares = {
            rate: initialize(f"graft{rate}", source, copy.deepcopy(target), seed=3).shares
            for rate in ("", ":rate=1", ":rate=0.5", ":rate=auto")
        }
        keys = transferred_keys(torchgraft.plan(source, target))
        assert shares[""] == shares[":rate=1"] == {} and keys
        assert shares[":rate=0.5"] == dict.fromkeys(keys, 0.5)
        assert shares[":rate=auto"] == dict.fromkeys(keys, 0.25)

    def test_which_units_are_kept(self) -> None:
        source, first = lively(convnet(8)), lively(convnet(5), 1)
        second = copy.deepcopy(first)
        initialize("graft:keep=even", source, first, seed=3)
        torchgraft.transfer(source, second, seed=3, narrowing="even")
        assert same(first, second)
        initialize("graft", source, second, seed=3)
        assert not same(first, second)

    def test_random_leaves_the_target(self) -> None:
        target = lively(convnet(8), 1)
        other = copy.deepcopy(target)
        done = initialize("random", None, target, seed=0)
        assert same(target, other)
        assert (done.coverage, done.plan_hash, done.similarity) == (0.0, "", {})


@pytest.fixture(scope="module")
def source(zoo: tuple[object, object]) -> nn.Module:
    import timm

    return lively(timm.create_model("mobilenetv2_035", num_classes=10)).eval()


class TestRealPair:
    """A real MobileNetV2 into a real MnasNet: wider, of other kernels, with other blocks."""

    @pytest.mark.parametrize("name", [*FROM_SOURCE, *VARIANTS])
    def test_finite_repeatable_and_pure(self, name: str, source: nn.Module) -> None:
        import timm

        target = lively(timm.create_model("mnasnet_050", num_classes=10), 1)
        other, before, random = copy.deepcopy(target), copy.deepcopy(source), torch.get_rng_state()
        done, again = (initialize(name, source, one, seed=7) for one in (target, other))
        assert all(tensor.isfinite().all() for tensor in target.state_dict().values())
        assert same(target, other)
        assert same(source, before)
        assert torch.equal(torch.get_rng_state(), random)
        assert (done.coverage, done.plan_hash, done.note) == (again.coverage, again.plan_hash, again.note)
        assert 0 < done.coverage <= 1 and len(done.plan_hash) == 64 and done.seconds > 0
        assert done.similarity["dpiat"] == pytest.approx(0.616, abs=1e-3)
        assert all(float(value.min()) > 0 for key, value in target.state_dict().items() if key.endswith("running_var"))

    @pytest.mark.parametrize("name", ["net2net", "permuted", "shuffled", "variance", "dpiat:full"])
    def test_the_seed_matters_where_something_is_drawn(self, name: str, source: nn.Module) -> None:
        import timm

        one, two = (timm.create_model("mnasnet_050", num_classes=10) for _ in range(2))
        two.load_state_dict(one.state_dict())
        initialize(name, source, one, seed=0)
        initialize(name, source, two, seed=1)
        assert not same(one, two)

    def test_baselines_match_as_the_paper_does(self, source: nn.Module) -> None:
        import timm

        target = timm.create_model("mnasnet_050", num_classes=10)
        plan = torchgraft.plan(source, target, method="dpiat")
        moved = torchgraft.plan(source, target, method="dpiat", standardizer=with_statistics)
        assert moved.pairs() == plan.pairs()
        statistics = {one.key for one in moved.tensors if one.source} - {one.key for one in plan.tensors if one.source}
        assert {key.rpartition(".")[2] for key in statistics} == {"running_mean", "running_var"}

    @pytest.mark.parametrize("name", ["fna", "weight_selection", "net2net", "tile_middle", "dct", "variance"])
    def test_tokens_by_the_match_of_graft(self, name: str, zoo: tuple[object, object]) -> None:
        import timm

        small, large = (
            timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_heads=2, embed_dim=width, num_classes=3)
            for width in (16, 24)
        )
        before = large.cls_token.clone()
        initialize(f"{name}:graft", lively(small), large, seed=0)
        assert not torch.equal(large.cls_token, before)
        assert large(torch.randn(2, 3, 32, 32)).isfinite().all()


class TestBaselines:
    def test_name_and_shape(self) -> None:
        source, target = lively(convnet(5)), lively(convnet(8), 1)
        target[3] = nn.Conv2d(8, 4, 1)
        kept = target[0].weight.clone()
        done = initialize("name_shape", source, target, seed=0)
        assert torch.equal(target[3].bias, source[3].bias)
        assert torch.equal(target[0].weight, kept)
        assert done.coverage == (4 + 1) / sum(tensor.numel() for tensor in target.state_dict().values())
        assert done.note == "2 of 8 tensors have a namesake of equal shape"

    def test_fna_leads_centres_and_silences(self) -> None:
        source = nn.Sequential(nn.Conv2d(2, 2, 3, bias=False), nn.BatchNorm2d(2))
        target = nn.Sequential(nn.Conv2d(3, 4, 5, bias=False), nn.BatchNorm2d(4))
        lively(source), lively(target, 1)
        before = copy.deepcopy(target.state_dict())
        initialize("fna", source, target, seed=0)
        expected = torch.zeros(4, 3, 5, 5)
        expected[:2, :2, 1:4, 1:4] = source[0].weight.detach()
        assert torch.equal(target[0].weight, expected)
        for role in ("weight", "bias", "running_mean", "running_var"):
            found, given = getattr(target[1], role), getattr(source[1], role)
            assert torch.equal(found[:2], given)
            assert torch.equal(found[2:], before[f"1.{role}"][2:])

    def test_fna_cuts(self) -> None:
        source, target = lively(nn.Conv2d(4, 4, 5)), lively(nn.Conv2d(2, 3, 3), 1)
        initialize("fna", source, target, seed=0)
        assert torch.equal(target.weight, source.weight[:3, :2, 1:4, 1:4])
        assert torch.equal(target.bias, source.bias[:3])

    def test_weight_selection_is_evenly_spaced(self) -> None:
        source = linear(torch.arange(48.0).view(6, 8), torch.arange(6.0))
        target = nn.Linear(3, 3)
        initialize("weight_selection", source, target, seed=0)
        rows, columns = torch.tensor([0, 2, 4]), torch.tensor([0, 4, 7])  # 6 → 3 a stride; 8 → 3 rounded 0, 3.5, 7
        assert torch.equal(target.weight, source.weight[rows][:, columns])
        assert torch.equal(target.bias, torch.tensor([0.0, 2.0, 4.0]))

    def test_weight_selection_moves_statistics_in_step(self) -> None:
        source, target = lively(convnet(9)), lively(convnet(3), 1)
        initialize("weight_selection", source, target, seed=0)
        assert torch.equal(target[0].weight, source[0].weight[::3])
        assert torch.equal(target[1].running_var, source[1].running_var[::3])
        assert torch.equal(target[3].weight, source[3].weight[:, ::3])

    def test_weight_selection_keeps_what_a_smaller_source_lacks(self) -> None:
        source, target = lively(nn.Linear(2, 2)), lively(nn.Linear(3, 4), 1)
        before = target.weight.clone()
        initialize("weight_selection", source, target, seed=0)
        before[:2, :2] = source.weight
        assert torch.equal(target.weight, before)

    def test_tiles_from_the_middle(self) -> None:
        source, target = linear(torch.tensor([[1.0, 2.0, 3.0]])), nn.Linear(7, 1, bias=False)
        initialize("tile_middle", source, target, seed=0)
        assert target.weight.tolist() == [[2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0]]
        initialize("tile_middle", linear(torch.arange(9.0)[None]), target, seed=0)
        assert target.weight.tolist() == [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]

    @pytest.mark.parametrize("sizes", [(5, 3), (9, 12), (4, 12)])
    def test_dct_cuts_and_pads_the_spectrum(self, sizes: tuple[int, int]) -> None:
        source, target = lively(nn.Linear(6, 8)), nn.Linear(sizes[1], sizes[0])
        initialize("dct", source, target, seed=0)
        spectrum = np.zeros(sizes)
        low = scipy.fft.dctn(source.weight.detach().double().numpy(), norm="ortho")[: sizes[0], : sizes[1]]
        spectrum[: low.shape[0], : low.shape[1]] = low
        expected = scipy.fft.idctn(spectrum, norm="ortho") * np.sqrt(np.prod(sizes) / 48)
        np.testing.assert_allclose(target.weight.detach().numpy(), expected, rtol=1e-4, atol=1e-6)

    def test_dct_keeps_constants_and_equal_shapes(self) -> None:
        source, target = linear(torch.full((4, 6), 0.7)), nn.Linear(11, 3, bias=False)
        initialize("dct", source, target, seed=0)
        torch.testing.assert_close(target.weight.detach(), torch.full((3, 11), 0.7))
        source, twin = lively(convnet(5)), lively(convnet(5), 1)
        initialize("dct", source, twin, seed=0)
        torch.testing.assert_close(twin.state_dict()["0.weight"], source.state_dict()["0.weight"])

    def test_dct_variance_stays_positive(self) -> None:
        source, target = lively(nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4))), nn.BatchNorm2d(9)
        source[1].running_var.copy_(torch.tensor([1e-3, 1e-3, 9.0, 1e-3]))
        target = nn.Sequential(nn.Conv2d(1, 9, 1), target)
        initialize("dct", source, target, seed=0)
        assert float(target[1].running_var.min()) == pytest.approx(1e-3)


class TestNet2Net:
    def test_wider_keeps_the_function(self) -> None:
        source = lively(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
        target = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
        done = initialize("net2net:noise=0", source, target, seed=0)
        x = torch.randn(16, 4)
        torch.testing.assert_close(target(x), source(x))
        assert torch.equal(target[0].weight[:6], source[0].weight)
        assert done.coverage == 1

    @pytest.mark.parametrize("training", [False, True])
    def test_wider_keeps_the_function_of_batch_norms(self, training: bool) -> None:
        source, target = lively(convnet(5)).train(training), convnet(12).train(training)
        initialize("net2net:noise=0", source, target, seed=1)
        x = torch.randn(3, 3, 9, 9)
        torch.testing.assert_close(target(x), source(x), rtol=1e-4, atol=1e-5)

    def test_readers_divide_by_the_number_of_copies(self) -> None:
        source, target = linear(torch.tensor([[6.0]])), nn.Linear(3, 1, bias=False)
        initialize("net2net:noise=0", source, target, seed=0)
        assert target.weight.tolist() == [[2.0, 2.0, 2.0]]

    def test_deeper_keeps_the_function(self) -> None:
        source = lively(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
        hidden = (nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU())
        target = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), *hidden, nn.Linear(6, 3))
        done = initialize("net2net", source, target, seed=0)
        x = torch.randn(16, 4)
        torch.testing.assert_close(target(x), source(x))
        assert done.note.endswith("identity: 2, 4")

    def test_deeper_batch_norm_undoes_itself(self) -> None:
        def net(extra: int) -> nn.Sequential:
            more = [m for _ in range(extra) for m in (nn.Conv2d(5, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU())]
            stem = (nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU())
            return nn.Sequential(*stem, *more, nn.Conv2d(5, 4, 1))

        source, target = lively(net(0)).eval(), lively(net(1), 1).eval()
        done = initialize("net2net", source, target, seed=0)
        x = torch.randn(2, 3, 8, 8)
        torch.testing.assert_close(target(x), source(x), rtol=1e-4, atol=1e-5)
        assert done.note.endswith("identity: 3, 4")
        assert done.coverage == pytest.approx(1, abs=0.01)  # all but the counters of batches

    def test_copies_differ_a_little_and_originals_not(self) -> None:
        source, target = lively(nn.Linear(4, 6, bias=False)), nn.Linear(4, 50, bias=False)
        exact = copy.deepcopy(target)
        initialize("net2net:noise=0", source, exact, seed=0)
        initialize("net2net", source, target, seed=0)
        moved = (target.weight - exact.weight).abs().detach()
        assert float(moved[:6].max()) == 0
        assert 0 < float(moved[6:].max()) < 0.06 * float(source.weight.detach().std())


class TestDepthStack:
    @staticmethod
    def tower(depth: int) -> nn.Sequential:
        blocks = [nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)) for _ in range(depth)]
        return nn.Sequential(nn.Linear(3, 6), nn.Sequential(*blocks), nn.Linear(6, 2))

    def found(self, name: str, depths: tuple[int, int]) -> list[int]:
        source, target = lively(self.tower(depths[0])), lively(self.tower(depths[1]), 1)
        initialize(name, source, target, seed=0)
        given = [block[0].weight for block in source[1]]
        return [[torch.equal(block[0].weight, one) for one in given].index(True) for block in target[1]]

    def test_stacks_instead_of_repeating(self) -> None:
        assert self.found("depth_stack", (2, 4)) == [0, 1, 0, 1]
        assert self.found("depth_stack", (3, 7)) == [0, 1, 2, 0, 1, 2, 0]
        assert self.found("dpiat", (2, 4)) == [0, 0, 1, 1]

    def test_fewer_blocks_take_the_first(self) -> None:
        assert self.found("depth_stack", (5, 3)) == [0, 1, 2]

    def test_the_rest_follows_the_match(self) -> None:
        source, target = lively(self.tower(2)), lively(self.tower(4), 1)
        done = initialize("depth_stack", source, target, seed=0)
        assert torch.equal(target[0].weight, source[0].weight)
        assert torch.equal(target[2].weight, source[2].weight)
        assert done.coverage == 1


class TestControls:
    def test_permuted_keeps_values_and_breaks_consistency(self) -> None:
        source, target = lively(convnet(8)), lively(convnet(8), 1)
        initialize("permuted", source, target, seed=0)
        for key, tensor in target.state_dict().items():
            given = source.state_dict()[key]
            assert torch.equal(tensor.flatten().sort().values, given.flatten().sort().values)
        kernels = {tuple(kernel.flatten().tolist()) for kernel in source[0].weight.flatten(0, 1)}
        assert {tuple(kernel.flatten().tolist()) for kernel in target[0].weight.flatten(0, 1)} == kernels
        orders = [
            [source[1].state_dict()[role].tolist().index(value) for value in target[1].state_dict()[role].tolist()]
            for role in ("weight", "bias", "running_mean", "running_var")
        ]
        assert len({tuple(order) for order in orders}) == 4

    def test_shuffled_moves_every_layer_that_has_a_like(self) -> None:
        def net() -> nn.Sequential:
            return nn.Sequential(nn.Linear(3, 6), *(nn.Linear(6, 6) for _ in range(4)), nn.Linear(6, 2))

        source, target = lively(net()), lively(net(), 1)
        done = initialize("shuffled", source, target, seed=0)
        places = [
            next(j for j in range(1, 5) if all(torch.equal(a, b) for a, b in zip(
                target[i].parameters(), source[j].parameters(), strict=True
            )))
            for i in range(1, 5)
        ]  # fmt: skip
        assert sorted(places) == [1, 2, 3, 4]
        assert all(place != i for i, place in enumerate(places, 1))
        assert torch.equal(target[0].weight, source[0].weight)
        assert done.note.endswith("4 layers of the source moved")

    def test_variance_is_the_sources_and_nothing_else(self) -> None:
        source, target = lively(convnet(300)), convnet(300)
        norm = copy.deepcopy(target[1])
        initialize("variance", source, target, seed=0)
        weight, given = target[0].weight.detach(), source[0].weight.detach()
        assert float(weight.std()) == pytest.approx(float(given.std()), rel=0.05)
        assert abs(float(weight.mean())) < 0.01
        assert abs(float(torch.corrcoef(torch.stack([weight.flatten(), given.flatten()]))[0, 1])) < 0.05
        assert same(target[1], norm)

    def test_draws_are_not_those_of_the_source_that_the_same_seed_made(self) -> None:
        source = nn.Linear(40, 40)
        nn.init.normal_(source.weight, generator=torch.Generator().manual_seed(5))
        target = nn.Linear(40, 40)
        initialize("variance", source, target, seed=5)
        both = torch.stack([target.weight.detach().flatten(), source.weight.detach().flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.1

    @pytest.mark.parametrize(("name", "affine"), [("statistics", False), ("norms", True)])
    def test_norms_alone(self, name: str, affine: bool) -> None:
        source, target = lively(convnet(8)), lively(convnet(8), 1)
        before = copy.deepcopy(target)
        done = initialize(name, source, target, seed=0)
        for role in ("running_mean", "running_var", "weight", "bias"):
            origin = source if affine or role.startswith("running") else before
            assert torch.equal(getattr(target[1], role), getattr(origin[1], role))
        assert torch.equal(target[0].weight, before[0].weight) and same(target[3], before[3])
        total = sum(tensor.numel() for tensor in target.state_dict().values())
        assert done.coverage == pytest.approx((33 if affine else 16) / total)  # 33: with the counter of batches


class TestFiles:
    @pytest.mark.parametrize("suffix", ["safetensors", "npz", "pt"])
    def test_predicted(self, suffix: str, tmp_path) -> None:
        target, other = lively(convnet(8)), lively(convnet(8), 1)
        keys = [key for key, _ in target.named_parameters()]
        values = {key: tensor.contiguous() for key, tensor in other.state_dict().items() if key in keys}
        path = str(tmp_path / f"predicted.{suffix}")
        if suffix == "safetensors":
            save_file(values, path)
        elif suffix == "npz":
            np.savez(path, **{key: tensor.numpy() for key, tensor in values.items()})
        else:
            torch.save(values, path)
        statistics = target[1].running_mean.clone()
        done = initialize(f"predicted:{path}", None, target, seed=0)
        assert all(torch.equal(target.state_dict()[key], values[key]) for key in keys)
        assert torch.equal(target[1].running_mean, statistics)
        parameters = sum(tensor.numel() for tensor in values.values())
        assert done.coverage == parameters / (parameters + 17)
        assert done.note == "5 of 8 tensors predicted"

    def test_a_folder_of_predictions_gives_each_target_its_own(self, tmp_path) -> None:
        for width in (6, 8):
            save_file(lively(convnet(width), 1).state_dict(), tmp_path / f"{width}.safetensors")
        (tmp_path / "notes.txt").write_text("made with GHN-3")
        for width in (6, 8):
            target = lively(convnet(width))
            initialize(f"predicted:{tmp_path}", None, target, seed=0)
            wanted = lively(convnet(width), 1).state_dict()
            assert all(torch.equal(tensor, wanted[key]) for key, tensor in target.state_dict().items())
        with pytest.raises(LabError, match=r"has no prediction for this target: .*6\.safetensors predicts"):
            initialize(f"predicted:{tmp_path}", None, lively(convnet(7)), seed=0)
        save_file(lively(convnet(8)).state_dict(), tmp_path / "again.safetensors")
        with pytest.raises(LabError, match="both fit this target: leave one"):
            initialize(f"predicted:{tmp_path}", None, lively(convnet(8)), seed=0)

    @pytest.mark.parametrize(
        ("key", "shape", "message"),
        [
            ("0.weigth", (8, 3, 3, 3), r"predicts 0\.weigth, which the target does not have"),
            ("0.weight", (8, 3, 5, 5), r"predicts 0\.weight as 8×3×5×5, but the target's is 8×3×3×3"),
        ],
    )
    def test_predicted_for_another_network(self, key: str, shape: tuple[int, ...], message: str, tmp_path) -> None:
        target = lively(convnet(8))
        before, path = copy.deepcopy(target), tmp_path / "predicted.safetensors"
        save_file({"1.weight": torch.ones(8), key: torch.zeros(shape)}, path)
        with pytest.raises(LabError, match=message):
            initialize(f"predicted:{path}", None, target, seed=0)
        assert same(target, before)

    def test_predicted_nan_is_refused_before_anything_is_written(self, tmp_path) -> None:
        target = lively(convnet(8))
        before, path = copy.deepcopy(target), tmp_path / "predicted.safetensors"
        save_file({"1.bias": torch.ones(8), "1.weight": torch.full((8,), float("nan"))}, path)
        with pytest.raises(CheckpointError, match=r"NaN in '1\.weight'"):
            initialize(f"predicted:{path}", None, target, seed=0)
        assert same(target, before)

    def test_pretrained_keeps_a_head_of_other_classes(self, tmp_path) -> None:
        own, target = lively(convnet(8)), lively(convnet(8), 1)
        own[3] = nn.Conv2d(8, 7, 1)
        head, path = target[3].weight.clone(), tmp_path / "own.pt"
        torch.save(own.state_dict(), path)
        done = initialize(f"pretrained:{path}", None, target, seed=0)
        assert same(nn.Sequential(*target[:3]), nn.Sequential(*own[:3]))
        assert torch.equal(target[3].weight, head)
        assert done.note == "kept as initialized: 3.weight, 3.bias"
        assert load_pretrained(target, path) == done.__class__(done.coverage, done.plan_hash, note=done.note)

    def test_pretrained_of_another_architecture(self, tmp_path) -> None:
        path = tmp_path / "other.pt"
        torch.save(convnet(9).state_dict(), path)
        with pytest.raises(LabError, match="holds 2 of the target's 8 tensors"):
            initialize(f"pretrained:{path}", None, convnet(8), seed=0)

    def test_pretrained_without_a_file(self) -> None:
        with pytest.raises(LabError, match="write pretrained:FILE"):
            initialize("pretrained", None, convnet(8), seed=0)


def test_public_names() -> None:
    assert all(hasattr(initializations, name) for name in initializations.__all__)
