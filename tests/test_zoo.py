"""The laws of the zoo sweep on a fixed sample of architectures; ``make zoo`` runs them on all."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from benchmarks.zoo import laws
from benchmarks.zoo.models import Case, build, cases
from benchmarks.zoo.sweep import choose_trials, survey, trial
from torchgraft.network import read_module

# Deprecations inside the libraries that are built here are theirs to heed.
pytestmark = pytest.mark.filterwarnings("ignore")

# Chosen for what is odd in them: modules shared within a parent (coat), fused and head-wise projections, weights tied
# under two keys, weight norm, computed buffers, relative positions, expert stacks, (in, out) matrices, split norms.
SHAPES = (
    "timm:coat_tiny", "timm:resnet18", "timm:efficientnet_b0", "timm:regnety_002", "timm:convnext_atto",
    "timm:swin_tiny_patch4_window7_224", "timm:beit_base_patch16_224", "timm:eva02_tiny_patch14_224",
    "timm:mixer_s32_224", "timm:maxvit_rmlp_pico_rw_256", "timm:xcit_nano_12_p16_224", "timm:skresnet18",
    "timm:resnetv2_50", "timm:ghostnet_050", "timm:pit_ti_224", "torchvision:densenet121", "torchvision:swin_v2_t",
    "torchvision:raft_small", "torchvision:retinanet_resnet50_fpn",
    "torchvision:mvit_v1_b", "torchvision:regnet_x_400mf",
    "transformers:mixtral", "transformers:deberta_v2", "transformers:whisper", "transformers:mamba2",
)  # fmt: skip
REAL = (
    "timm:coat_tiny", "timm:efficientvit_m0", "timm:efficientformer_l1",
    "timm:levit_128s", "timm:mobilevit_xxs", "timm:vit_tiny_patch16_224",
    "torchvision:shufflenet_v2_x0_5", "torchvision:swin_t", "transformers:gpt2", "transformers:gpt_neox",
    "transformers:t5", "transformers:wav2vec2", "transformers:clip", "transformers:deformable_detr",
    "transformers:falcon", "transformers:mask_former_swin",
)  # fmt: skip


def _case(name: str) -> Case:
    return Case(*name.split(":"))


@pytest.mark.parametrize("name", SHAPES)
def test_laws_of_shapes_hold(name: str) -> None:
    found = survey(_case(name))
    assert found.faults == ()
    assert found.elements > 0
    assert len(found.coverage) == 2


@pytest.mark.parametrize("name", REAL)
def test_laws_of_real_weights_hold(name: str) -> None:
    found = trial(_case(name), "vit_tiny_patch16_224", True)
    assert found.faults == ()
    assert found.skipped == ""
    assert found.coverage > 0
    # efficientformer computes its table of offsets in the constructor alone
    assert ("attention_bias_idxs" in found.refused) == (name == "timm:efficientformer_l1")


def test_sample_is_part_of_the_zoo() -> None:
    everything = set(cases())
    assert {_case(name) for name in (*SHAPES, *REAL)} <= everything
    assert sum(case.library == "transformers" for case in everything) >= 40


def test_a_broken_law_is_told() -> None:
    small, large = nn.Linear(3, 4), nn.Linear(3, 5)
    assert laws.self_plan(small, read_module(small)) == []
    assert "shape" in laws.self_plan(small, read_module(large))[0]
    assert "keys differ" in laws.self_plan(nn.Sequential(small), read_module(small))[0]


def test_outputs_that_are_not_finite_are_told() -> None:
    case = _case("transformers:bert")
    model = build(case)
    assert laws.run(case, model) == laws.Ran(())
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    assert "not finite" in laws.run(case, model).faults[0]


def test_trials_take_the_cheapest_of_a_family_and_the_better_source() -> None:
    one = survey(_case("transformers:bert"))
    costly = dataclasses.replace(one, case=Case("transformers", "costly"), elements=10**8)
    beyond = dataclasses.replace(one, case=Case("transformers", "beyond"), elements=10**9)
    assert choose_trials([beyond, costly, dataclasses.replace(one, coverage=(0.1, 0.2))]) == [
        (one.case, "vit_tiny_patch16_224", True)
    ]
    assert choose_trials([beyond]) == []
