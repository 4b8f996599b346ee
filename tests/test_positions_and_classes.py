"""Tokens, position embeddings, input channels and classes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from builders import blank, filled, grown, same_bits, snapshot, tiled, timm_vit
from torch import nn

import torchgraft as tg

# --- tokens and position embeddings ------------------------------------------------------------------------------


def test_tokens_and_layer_scale(zoo: Any) -> None:
    timm, _ = zoo
    options = {"init_values": 1e-5, "reg_tokens": 2}
    source, target, report = grown(
        timm_vit(timm, **options), timm_vit(timm, **(options | {"reg_tokens": 4}), embed_dim=64)
    )
    for key in ("cls_token", "blocks.0.ls1.gamma", "blocks.1.ls2.gamma"):
        assert torch.equal(target[key], tiled(source[key], 2))
    assert torch.equal(target["reg_token"][:, :2], tiled(source["reg_token"], 2))
    assert target["reg_token"][:, 2:].eq(-1).all()
    assert "kept" not in report.counts()


@pytest.mark.parametrize(("small", "large"), [(32, 48), (48, 32)])
def test_position_embeddings_are_resampled_as_timm_does(small: int, large: int, zoo: Any) -> None:
    from timm.layers import resample_abs_pos_embed

    timm, _ = zoo
    source, target, report = grown(timm_vit(timm, img_size=small), timm_vit(timm, img_size=large))
    expected = resample_abs_pos_embed(source["pos_embed"], [large // 8, large // 8], num_prefix_tokens=1)
    assert torch.equal(target["pos_embed"], expected)
    entry = next(tensor for tensor in report.tensors if tensor.key == "pos_embed")
    assert (entry.status, entry.elements) == ("resized", entry.size)


def test_position_embeddings_lose_and_gain_prefix_tokens(zoo: Any) -> None:
    timm, _ = zoo
    source, target, _ = grown(timm_vit(timm), timm_vit(timm, no_embed_class=True))
    assert torch.equal(target["pos_embed"], source["pos_embed"][:, 1:])
    source, target, _ = grown(timm_vit(timm), timm_vit(timm, reg_tokens=2))
    assert torch.equal(target["pos_embed"][:, [0, *range(3, 19)]], source["pos_embed"])
    assert target["pos_embed"][:, 1:3].eq(0).all()


def test_a_position_embedding_that_is_an_embedding_layer_is_resampled_beside_patches(zoo: Any) -> None:
    import transformers
    from timm.layers import resample_abs_pos_embed

    def build(size: int) -> Any:
        config = transformers.CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=size,
            patch_size=8,
        )
        return transformers.CLIPVisionModel(config)

    source, target, _ = grown(build(32), build(64))
    key = next(key for key in source if key.endswith("position_embedding.weight"))
    assert torch.equal(target[key], resample_abs_pos_embed(source[key][None], [8, 8])[0])


def test_text_position_embeddings_keep_their_rows(zoo: Any) -> None:
    import transformers

    def build(length: int) -> Any:
        config = transformers.BertConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20,
            max_position_embeddings=length,
        )  # fmt: skip
        return transformers.BertModel(config)

    source, target, _ = grown(build(16), build(25))  # both are squares, yet no grid of patches
    key = "embeddings.position_embeddings.weight"
    assert torch.equal(target[key][:16], source[key])
    assert target[key][16:].eq(-1).all()


class Positions(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(shape))
        self.norm = nn.LayerNorm(4)


@pytest.mark.parametrize(("a", "b"), [(12, 30), (64, 256), (128, 64)])
@pytest.mark.parametrize("batch", [(), (1,)])
def test_position_embeddings_of_a_network_without_convolutions_keep_their_rows(
    a: int, b: int, batch: tuple[int, ...]
) -> None:
    source, target, _ = grown(Positions(*batch, a, 4), Positions(*batch, b, 4))
    ours, theirs = (state["positional_embedding"].reshape(-1, 4) for state in (target, source))
    shared = min(a, b)
    assert torch.equal(ours[:shared], theirs[:shared])
    assert ours[shared:].eq(-1).all()


@pytest.mark.parametrize("batch", [(), (1,)])
def test_a_class_token_tells_that_there_is_a_grid(batch: tuple[int, ...], zoo: Any) -> None:
    from timm.layers import resample_abs_pos_embed

    source, target, _ = grown(Positions(*batch, 17, 4), Positions(*batch, 65, 4))
    expected = resample_abs_pos_embed(source["positional_embedding"].reshape(1, -1, 4), [8, 8])
    assert torch.equal(target["positional_embedding"].reshape(1, -1, 4), expected)


@pytest.mark.parametrize("first", [False, True])
def test_position_embeddings_of_rank_4(first: bool, zoo: Any) -> None:
    from timm.layers import resample_abs_pos_embed_nhwc

    def shape(side: int) -> tuple[int, ...]:
        return (1, 5, side, side) if first else (1, side, side, 5)

    source, target, _ = grown(Positions(*shape(4)), Positions(*shape(6)))
    origin = source["positional_embedding"]
    origin = origin.permute(0, 2, 3, 1) if first else origin
    expected = resample_abs_pos_embed_nhwc(origin, [6, 6])
    assert torch.equal(target["positional_embedding"], expected.permute(0, 3, 1, 2) if first else expected)


@pytest.mark.filterwarnings("ignore::UserWarning:timm")
def test_relative_position_tables_are_resampled_as_timm_does(zoo: Any) -> None:
    from timm.layers import resize_rel_pos_bias_table

    timm, _ = zoo

    def build(window: int) -> Any:
        return timm.models.SwinTransformer(
            img_size=16 * window, window_size=window, embed_dim=8, depths=(2,), num_heads=(2,), num_classes=3
        )

    source, target, report = grown(build(4), build(6))
    keys = [key for key in source if key.endswith("relative_position_bias_table")]
    assert len(keys) == 2
    assert source[keys[0]].shape == (49, 2)
    assert target[keys[0]].shape == (121, 2)
    for key in keys:
        assert torch.equal(target[key], resize_rel_pos_bias_table(source[key], (6, 6), (121, 2)))
    assert {t.key for t in report.tensors if t.status == "kept"} == set()


@pytest.mark.filterwarnings("ignore::UserWarning:timm")
def test_relative_position_tables_with_a_class_token(zoo: Any) -> None:
    from timm.layers import resize_rel_pos_bias_table

    timm, _ = zoo

    def build(size: int) -> Any:
        return timm.models.Beit(
            img_size=size, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=3, use_rel_pos_bias=True
        )

    source, target, _ = grown(build(32), build(48))
    key = "blocks.0.attn.relative_position_bias_table"
    assert source[key].shape == (52, 2)
    assert target[key].shape == (124, 2)
    assert torch.equal(target[key], resize_rel_pos_bias_table(source[key], (6, 6), (124, 2)))


def test_index_tables_stay_the_targets_own(zoo: Any) -> None:
    _, torchvision = zoo

    def build(window: int) -> Any:
        return torchvision.models.SwinTransformer([4, 4], 8, [2], [2], [window, window], num_classes=3)

    source, target = build(4), build(6)
    before = {key: value.clone() for key, value in target.state_dict().items() if "index" in key}
    report = tg.transfer(source, target)
    assert before
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in before.items())
    assert {t.key for t in report.tensors if t.status == "kept"} == set(before)


@pytest.mark.parametrize(("small", "large"), [(8, 16), (16, 8)])
def test_patch_kernels_are_resampled_as_timm_does(small: int, large: int, zoo: Any) -> None:
    from timm.layers import resample_patch_embed

    timm, _ = zoo

    def build(patch: int) -> Any:
        return timm_vit(timm, patch_size=patch, img_size=4 * patch)

    source, target, _ = grown(build(small), build(large))
    expected = resample_patch_embed(source["patch_embed.proj.weight"], [large, large])
    assert torch.allclose(target["patch_embed.proj.weight"], expected)


# --- input channels and classes ----------------------------------------------------------------------------------


def stem(channels: int, width: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 4, 1), nn.BatchNorm2d(4)
    )


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_input_channels_are_adapted_as_timm_does(channels: int, dtype: torch.dtype, zoo: Any) -> None:
    from timm.models import adapt_input_conv

    source, target, report = grown(stem(3).to(dtype), stem(channels).to(dtype))
    assert torch.equal(target["0.weight"], adapt_input_conv(channels, source["0.weight"]))
    assert report.coverage == 1


def test_colours_from_grey_share_its_response() -> None:
    source, target, _ = grown(stem(1), stem(3))
    assert torch.allclose(target["0.weight"], source["0.weight"].repeat(1, 3, 1, 1) / 3)
    assert torch.allclose(target["0.weight"].sum(1, keepdim=True), source["0.weight"], rtol=1e-6)


def test_other_input_channels_in_a_wider_network() -> None:
    source, target, _ = grown(stem(3), stem(1, 8))
    assert torch.equal(target["0.weight"][2:6], source["0.weight"].sum(1, keepdim=True))
    assert target["0.weight"][[0, 1, 6, 7]].eq(-1).all()


def test_only_a_convolution_takes_other_input_channels_so() -> None:
    for build in (lambda n: nn.ConvTranspose2d(4, n, 2, 2), lambda n: nn.Bilinear(n, 2, 3)):
        plan = tg.plan(nn.Sequential(build(3), nn.LayerNorm(2)), nn.Sequential(build(6), nn.LayerNorm(2)))
        assert all(not move.prepare for transfer in plan.transfers for move in transfer.moves)


def classifier(classes: int, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.LayerNorm(width), nn.Linear(width, classes))


@pytest.mark.parametrize(("a", "b"), [(10, 7), (7, 10)])
@pytest.mark.parametrize("operator", ["embed", "clip", "full", "magnitude"])
def test_classes_correspond_by_position(a: int, b: int, operator: str) -> None:
    source, target, report = grown(classifier(a), classifier(b), operator=operator)
    shared = min(a, b)
    for key in ("2.weight", "2.bias"):
        assert torch.equal(target[key][:shared], source[key][:shared])
        assert operator == "full" or target[key][shared:].eq(-1).all()
    assert next(t.elements for t in report.tensors if t.key == "2.weight") == 4 * (b if operator == "full" else shared)


def test_two_classifiers_beside_each_other_are_both_heads(zoo: Any) -> None:
    timm, _ = zoo

    def build(classes: int) -> Any:
        return timm.models.deit.VisionTransformerDistilled(
            embed_dim=16, depth=1, num_heads=2, img_size=16, patch_size=8, num_classes=classes
        )

    source, target, _ = grown(build(10), build(7))
    assert all(torch.equal(target[key], source[key][:7]) for key in ("head.weight", "head_dist.weight", "head.bias"))


def test_a_convolution_may_give_the_classes() -> None:
    def build(classes: int, kind: Any) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), kind(4, classes, 1))

    for kind, axis in ((nn.Conv2d, 0), (nn.ConvTranspose2d, 1)):
        source, target, _ = grown(build(7, kind), build(10, kind))
        assert torch.equal(target["2.weight"].narrow(axis, 0, 7), source["2.weight"])
        source, target, _ = grown(build(7, kind), build(10, kind), labels={9: 0, 2: 6})
        rows, origin = target["2.weight"].movedim(axis, 0), source["2.weight"].movedim(axis, 0)
        assert torch.equal(rows[9], origin[0])
        assert torch.equal(rows[2], origin[6])
        assert rows[[0, 1, 3, 4, 5, 6, 7, 8]].eq(-1).all()


@pytest.mark.parametrize(("a", "b"), [(10, 7), (7, 10), (8, 8)])
def test_classes_correspond_by_a_label_map(a: int, b: int) -> None:
    labels = {6: 0, 0: 5, 3: 3}
    source, target, report = grown(classifier(a), classifier(b), labels=labels)
    for key in ("2.weight", "2.bias"):
        for t, s in labels.items():
            assert torch.equal(target[key][t], source[key][s])
        assert all(target[key][row].eq(-1).all() for row in set(range(b)) - set(labels))
    entry = next(t for t in report.tensors if t.key == "2.weight")
    assert (entry.status, entry.elements) == ("resized", 12)


@pytest.mark.parametrize("operator", ["embed", "clip"])
def test_a_label_map_of_a_wider_head_leaves_the_other_rows_alone(operator: str) -> None:
    source, target, report = grown(classifier(7), classifier(10, 8), labels={9: 1}, operator=operator)
    expected = torch.full((10, 8), -1.0)
    if operator == "embed":
        expected[9] = tiled(source["2.weight"][1], 2, shared=True)
    else:
        expected[9, 2:6] = source["2.weight"][1]
    assert torch.allclose(target["2.weight"], expected)
    assert next(t.elements for t in report.tensors if t.key == "2.weight") == (8 if operator == "embed" else 4)


def test_a_label_map_of_a_narrower_head() -> None:
    source, target, _ = grown(classifier(7, 8), classifier(10, 4), labels={9: 1}, narrowing="centre")
    assert torch.equal(target["2.weight"][9], source["2.weight"][1, 2:6])
    assert target["2.weight"][:9].eq(-1).all()


def test_a_label_map_survives_json() -> None:
    source, target = filled(classifier(7)), blank(classifier(10))
    plan = tg.Plan.from_json(tg.plan(source, target, labels={9: 1}).to_json())
    tg.apply(plan, source, target)
    assert torch.equal(target[2].weight[9], source[2].weight[1])
    assert target[2].weight[1].eq(-1).all()


def test_a_label_map_of_a_parametrized_head() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)))

    source, target = build(), build()
    before = target[2].weight.detach().clone()
    tg.transfer(source, target, labels={4: 0})
    assert torch.allclose(target[2].weight[4], source[2].weight[0], atol=1e-6)
    assert torch.allclose(target[2].weight[:4], before[:4], atol=1e-6)


@pytest.mark.parametrize("labels", [{10: 0}, {0: 7}, {-1: 0}, {3: -1}])
def test_a_label_that_does_not_exist_is_an_error_before_anything_is_written(labels: dict[int, int]) -> None:
    source, target = classifier(7), classifier(10)
    before = snapshot(target)
    with pytest.raises(tg.ApplyError, match=r"label map pairs target class .* 10 classes .* 7"):
        tg.transfer(source, target, labels=labels)
    assert same_bits(snapshot(target), before)
    plan = tg.plan(source, target, labels={0: 1})
    ((good, bad),) = labels.items()
    wrong = tg.Plan.from_json(plan.to_json().replace(str(list(plan.labels[0])), str([good, bad])))
    wrong = copy.replace(wrong, labels=((good, bad),)) if hasattr(copy, "replace") else _with_labels(wrong, good, bad)
    with pytest.raises(tg.ApplyError, match="label map pairs"):
        tg.apply(wrong, source, target)
    assert same_bits(snapshot(target), before)


def _with_labels(plan: tg.Plan, target: int, source: int) -> tg.Plan:
    from dataclasses import replace

    return replace(plan, labels=((target, source),))


def test_a_label_map_that_cannot_be_used_is_an_error() -> None:
    headless = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    with pytest.raises(tg.PlanError, match="label map cannot be used"):
        tg.plan(headless, classifier(7), labels={0: 0})
    with pytest.raises(tg.PlanError, match="label map cannot be used"):
        tg.plan(classifier(7), classifier(7), labels={0: 0}, method="dpiat")
