"""Inner structure: heads, fused projections, tokens, position embeddings, input channels, classes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from builders import assert_identity, assert_ledger, blank, filled, same_bits, snapshot
from torch import Tensor, nn

import torchgraft as tg


def grown(
    source: nn.Module, target: nn.Module, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor], tg.Report]:
    """Transfer a numbered source into a blank target and return both state dicts."""
    report = tg.transfer(filled(source), blank(target), **options)
    assert_ledger(report, target)
    return snapshot(source), snapshot(target), report


def heads(matrix: Tensor, size: int) -> Tensor:
    """``(heads * size, in)`` as ``(heads, size, in)``."""
    return matrix.unflatten(0, (-1, size))


# --- heads and fused projections ---------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [4, 5])
def test_attention_grows_by_whole_heads(more: int) -> None:
    source, target, _ = grown(nn.MultiheadAttention(8, 2), nn.MultiheadAttention(4 * more, more))
    first, width, margin = (more - 2) // 2, 4 * more, (4 * more - 8) // 2
    for part in range(3):  # query, key and value separately
        got = heads(target["in_proj_weight"].chunk(3)[part], 4)
        expected = torch.full((more, 4, width), -1.0)
        expected[first : first + 2] = 0
        expected[first : first + 2, :, margin : margin + 8] = heads(source["in_proj_weight"].chunk(3)[part], 4)
        assert torch.equal(got, expected)
        shift = target["in_proj_bias"].chunk(3)[part].unflatten(0, (more, 4))
        assert torch.equal(shift[first : first + 2].flatten(), source["in_proj_bias"].chunk(3)[part])
        assert shift[first + 2 :].eq(-1).all()
        assert shift[:first].eq(-1).all()
    columns = target["out_proj.weight"].t().unflatten(0, (more, 4))[first : first + 2].flatten(0, 1)
    assert torch.equal(columns[:, :8], source["out_proj.weight"].t())  # the last layer: its outputs lead


def test_attention_shrinks_by_whole_heads() -> None:
    source, target, _ = grown(nn.MultiheadAttention(20, 5), nn.MultiheadAttention(8, 2))
    got, origin = (heads(state["in_proj_weight"].chunk(3)[1], 4) for state in (target, source))
    assert torch.equal(got, origin[1:3, :, 6:14])


def test_attention_with_other_key_and_value_widths() -> None:
    def build(width: int, count: int) -> nn.Module:
        return nn.MultiheadAttention(width, count, kdim=6, vdim=3, add_bias_kv=True)

    assert_identity(lambda: build(8, 2))
    source, target, report = grown(build(8, 2), build(16, 4))
    for letter, columns in (("k", 6), ("v", 3)):
        got = heads(target[f"{letter}_proj_weight"], 4)
        assert got.shape == (4, 4, columns)
        assert torch.equal(got[1:3], heads(source[f"{letter}_proj_weight"], 4))
    assert torch.equal(target["bias_k"][..., 4:12], source["bias_k"])
    assert "kept" not in report.counts()


def test_fused_and_separate_attention_meet_part_by_part() -> None:
    fused, apart = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2, kdim=8, vdim=8)
    apart._qkv_same_embed_dim = False
    apart.in_proj_weight = None
    for letter in "qkv":
        setattr(apart, f"{letter}_proj_weight", nn.Parameter(torch.zeros(8, 8)))
    source, target, _ = grown(fused, apart)
    assert torch.equal(torch.cat([target[f"{letter}_proj_weight"] for letter in "qkv"]), source["in_proj_weight"])


def test_vit_tiny_to_small_keeps_whole_heads_in_query_key_value_and_projection(zoo: Any) -> None:
    timm, _ = zoo
    source, target, report = grown(
        timm.create_model("vit_tiny_patch16_224", depth=1), timm.create_model("vit_small_patch16_224", depth=1)
    )
    for part in range(3):
        got, origin = (heads(state["blocks.0.attn.qkv.weight"].chunk(3)[part], 64) for state in (target, source))
        assert got.shape == (6, 64, 384)
        assert origin.shape == (3, 64, 192)
        assert torch.equal(got[1:4, :, 96:288], origin)
        assert got[1:4, :, :96].eq(0).all()
        assert got[1:4, :, 288:].eq(0).all()
        assert got[[0, 4, 5]].eq(-1).all()
        shift = target["blocks.0.attn.qkv.bias"].chunk(3)[part]
        assert torch.equal(shift[64:256], source["blocks.0.attn.qkv.bias"].chunk(3)[part])
    projection = target["blocks.0.attn.proj.weight"]
    assert torch.equal(projection[96:288, 64:256], source["blocks.0.attn.proj.weight"])
    assert projection[96:288, :64].eq(0).all()
    assert projection[96:288, 256:].eq(0).all()
    assert projection[:96].eq(-1).all()
    assert torch.equal(target["pos_embed"][..., 96:288], source["pos_embed"])
    assert "kept" not in report.counts()


class Residual(nn.Module):
    """A pre-norm transformer whose norms are left out, so that widening can keep its function exactly."""

    def __init__(self, width: int, count: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Linear(3, width)
        self.attention = nn.MultiheadAttention(width, count, batch_first=True)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.attention(x, x, x)[0]
        x = x + self.down(self.up(x).relu())
        return self.head(x)


@pytest.mark.parametrize(("width", "count"), [(16, 4), (20, 5), (24, 6)])
def test_widening_by_whole_heads_keeps_the_function(width: int, count: int) -> None:
    source, target = Residual(8, 2, 16).double().eval(), Residual(width, count, 50).double().eval()
    sequence = torch.randn(2, 7, 3, dtype=torch.float64)
    tg.transfer(source, target)
    assert torch.allclose(target(sequence), source(sequence), rtol=0, atol=1e-10)


def tiny_vit(transformers: Any, **options: Any) -> Any:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8,
        num_labels=5, layer_norm_eps=1e-6, **options,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def timm_vit(timm: Any, **options: Any) -> Any:
    settings = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2, "img_size": 32, "patch_size": 8}
    return timm.models.VisionTransformer(num_classes=5, **(settings | options))


def test_a_vision_transformer_of_another_library_computes_the_same(zoo: Any) -> None:
    import transformers

    timm, _ = zoo
    for source, target in ((tiny_vit(transformers), timm_vit(timm)), (timm_vit(timm), tiny_vit(transformers))):
        with torch.no_grad():
            for tensor in source.parameters():
                tensor.normal_(0, 0.3)
        report = tg.transfer(source, target)
        assert set(report.counts()) == {"copied"}
        assert report.coverage == 1
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            outputs = [getattr(out, "logits", out) for out in (model.eval()(images) for model in (source, target))]
        assert torch.allclose(outputs[0], outputs[1], atol=1e-5)


def test_gpt2_stores_its_matrices_transposed(zoo: Any) -> None:
    import transformers

    def build(width: int, count: int) -> Any:
        config = transformers.GPT2Config(n_embd=width, n_head=count, n_layer=1, vocab_size=11, n_positions=6)
        return transformers.GPT2Model(config)

    assert_identity(lambda: build(8, 2))
    source, target, _ = grown(build(8, 2), build(16, 4))
    for part in range(3):
        got = target["h.0.attn.c_attn.weight"].chunk(3, 1)[part].unflatten(1, (4, 4))  # (in, heads, size)
        origin = source["h.0.attn.c_attn.weight"].chunk(3, 1)[part].unflatten(1, (2, 4))
        expected = torch.full((16, 4, 4), -1.0)
        expected[:, 1:3] = 0
        expected[4:12, 1:3] = origin
        assert torch.equal(got, expected)
    projection = torch.full((16, 16), -1.0)
    projection[:, 4:12] = 0
    projection[4:12, 4:12] = source["h.0.attn.c_proj.weight"]
    assert torch.equal(target["h.0.attn.c_proj.weight"], projection)
    hidden = torch.full((16, 64), -1.0)
    hidden[:, 16:48] = 0
    hidden[4:12, 16:48] = source["h.0.mlp.c_fc.weight"]
    assert torch.equal(target["h.0.mlp.c_fc.weight"], hidden)


@pytest.mark.parametrize("name", ["Llama", "Mistral"])
def test_grouped_queries_keep_whole_heads(name: str, zoo: Any) -> None:
    import transformers

    def build(width: int, queries: int, groups: int) -> Any:
        config = getattr(transformers, f"{name}Config")(
            hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1, num_attention_heads=queries,
            num_key_value_heads=groups, head_dim=4, vocab_size=13,
        )  # fmt: skip
        return getattr(transformers, f"{name}ForCausalLM")(config)

    assert_identity(lambda: build(16, 4, 2))
    source, target, _ = grown(build(16, 4, 2), build(32, 8, 4))
    place = "model.layers.0.self_attn"
    for letter, first, count in (("q", 2, 4), ("k", 1, 2), ("v", 1, 2)):
        got = heads(target[f"{place}.{letter}_proj.weight"], 4)
        expected = torch.full(tuple(got.shape), -1.0)
        expected[first : first + count] = 0
        expected[first : first + count, :, 8:24] = heads(source[f"{place}.{letter}_proj.weight"], 4)
        assert torch.equal(got, expected), letter
    columns = target[f"{place}.o_proj.weight"][8:24].unflatten(1, (8, 4))
    assert torch.equal(columns[:, 2:6].flatten(1), source[f"{place}.o_proj.weight"])
    assert columns[:, [0, 1, 6, 7]].eq(0).all()


def test_a_packed_gated_mlp_takes_from_a_separate_one_and_back(zoo: Any) -> None:
    import transformers

    common = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
    }  # fmt: skip

    def apart() -> Any:
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**common))

    def packed() -> Any:
        return transformers.Phi3ForCausalLM(transformers.Phi3Config(**common))

    for build in (apart, packed):
        assert_identity(build)
    source, target, report = grown(apart(), packed())
    gate, up = (source[f"model.layers.0.mlp.{name}_proj.weight"] for name in ("gate", "up"))
    assert torch.equal(target["model.layers.0.mlp.gate_up_proj.weight"], torch.cat([gate, up]))
    assert "kept" not in report.counts()
    back = blank(apart())
    model = packed()
    model.load_state_dict(target)
    tg.transfer(model, back)
    assert torch.equal(back.model.layers[0].mlp.gate_proj.weight, gate)
    assert torch.equal(back.model.layers[0].mlp.up_proj.weight, up)


class WithAdapter(nn.Linear):
    """A fused projection with tensors of its own beside weight and bias."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__(width, 3 * width)
        self.lora_a, self.lora_b = nn.Parameter(torch.randn(rank, width)), nn.Parameter(torch.zeros(3 * width, rank))


class Adapted(nn.Module):
    def __init__(self, width: int, count: int, rank: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = count, width // count
        self.qkv, self.proj = WithAdapter(width, rank), nn.Linear(width, width)


def test_a_fused_projection_with_further_tensors() -> None:
    assert_identity(lambda: nn.Sequential(Adapted(8, 2, 2), nn.LayerNorm(8)))
    source, target, _ = grown(
        nn.Sequential(Adapted(8, 2, 2), nn.LayerNorm(8)), nn.Sequential(Adapted(16, 4, 2), nn.LayerNorm(16))
    )
    got, origin = (heads(state["0.qkv.weight"].chunk(3)[2], 4) for state in (target, source))
    assert torch.equal(got[1:3, :, 4:12], origin)
    assert torch.equal(target["0.qkv.lora_a"][:, 4:12], source["0.qkv.lora_a"])


# --- tokens and position embeddings ------------------------------------------------------------------------------


def test_tokens_and_layer_scale(zoo: Any) -> None:
    timm, _ = zoo
    options = {"init_values": 1e-5, "reg_tokens": 2}
    source, target, report = grown(
        timm_vit(timm, **options), timm_vit(timm, **(options | {"reg_tokens": 4}), embed_dim=64)
    )
    for key in ("cls_token", "blocks.0.ls1.gamma", "blocks.1.ls2.gamma"):
        expected = torch.full(tuple(target[key].shape), -1.0)
        expected[..., 16:48] = source[key]
        assert torch.equal(target[key], expected)
    assert torch.equal(target["reg_token"][:, :2, 16:48], source["reg_token"])
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
        expected[9] = 0
    expected[9, 2:6] = source["2.weight"][1]
    assert torch.equal(target["2.weight"], expected)
    assert next(t.elements for t in report.tensors if t.key == "2.weight") == 4


def test_a_label_map_of_a_narrower_head() -> None:
    source, target, _ = grown(classifier(7, 8), classifier(10, 4), labels={9: 1})
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
    with pytest.raises(tg.ApplyError, match="label map pairs target class .* 10 classes .* 7"):
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
