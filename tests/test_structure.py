"""Inner structure: heads, fused projections, tokens, position embeddings, input channels, classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import assert_identity, blank, grown, tiled, timm_vit
from torch import Tensor, nn

import torchgraft as tg


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
    source, target, _ = grown(nn.MultiheadAttention(20, 5), nn.MultiheadAttention(8, 2), narrowing="centre")
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
        assert torch.allclose(got[1:4], tiled(origin, 2, shared=True))
        assert got[[0, 4, 5]].eq(-1).all(), "new heads keep their own initialization"
        shift = target["blocks.0.attn.qkv.bias"].chunk(3)[part]
        assert torch.equal(shift[64:256], source["blocks.0.attn.qkv.bias"].chunk(3)[part])
    projection = target["blocks.0.attn.proj.weight"]
    assert torch.equal(projection[:, 64:256], tiled(source["blocks.0.attn.proj.weight"], 2, 0))
    assert projection[:, :64].eq(0).all()
    assert projection[:, 256:].eq(0).all()
    assert torch.equal(target["pos_embed"], tiled(source["pos_embed"], 2))
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
    shares = torch.tensor([1 / 3] * 8 + [2 / 3] * 8)  # the stream stands there twice
    for part in range(3):
        got = target["h.0.attn.c_attn.weight"].chunk(3, 1)[part].unflatten(1, (4, 4))  # (in, heads, size)
        origin = source["h.0.attn.c_attn.weight"].chunk(3, 1)[part].unflatten(1, (2, 4))
        expected = torch.full((16, 4, 4), -1.0)
        expected[:, 1:3] = torch.cat((origin, origin)) * shares[:, None, None]
        torch.testing.assert_close(got, expected)
    projection = torch.zeros(16, 16)
    projection[4:12] = torch.cat((source["h.0.attn.c_proj.weight"],) * 2, 1)
    assert torch.equal(target["h.0.attn.c_proj.weight"], projection)
    hidden = torch.full((16, 64), -1.0)
    hidden[:, 16:48] = torch.cat((source["h.0.mlp.c_fc.weight"],) * 2) * shares[:, None]
    torch.testing.assert_close(target["h.0.mlp.c_fc.weight"], hidden)


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
        origin = heads(source[f"{place}.{letter}_proj.weight"], 4)
        assert torch.allclose(got[first : first + count], tiled(origin, 2, shared=True)), letter
    columns = target[f"{place}.o_proj.weight"].unflatten(1, (8, 4))
    assert torch.equal(columns[:, 2:6].flatten(1), tiled(source[f"{place}.o_proj.weight"], 2, 0))
    assert columns[:, [0, 1, 6, 7]].eq(0).all()


def test_a_packed_gated_mlp_takes_from_a_separate_one_and_back(zoo: Any) -> None:
    import transformers

    common = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "tie_word_embeddings": False,
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
