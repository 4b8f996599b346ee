"""What every operator does to the axes of its arguments: one literal table."""

from __future__ import annotations

__all__ = ["RULES", "apply_rules"]

from collections.abc import Callable, Mapping

from torchgraft.axes.rules.layers import (
    attention,
    batch_norm,
    convolution,
    embedding,
    grid_sample,
    group_norm,
    grouped_product,
    layer_norm,
    normalized_weight,
    product,
)
from torchgraft.axes.rules.shapes import (
    concatenate,
    divide,
    expand,
    fold,
    gather,
    index,
    index_put,
    index_select,
    pad,
    permute,
    repeat,
    reshape,
    select,
    shuffle,
    slice_,
    stack,
    strided,
    transpose,
    unbind,
    unfold,
    unshuffle,
    windows,
)
from torchgraft.axes.rules.values import (
    constant,
    fourier,
    gated,
    in_order,
    keep,
    numbered,
    parts_of_complex,
    pointwise,
    reduce,
    softmax,
    triangle,
    write,
)
from torchgraft.axes.trace import Call

Rule = Callable[[Call], None]


def apply_rules(call: Call) -> bool:
    """Write the axes of an operator's outputs; return false where no rule knows it."""
    rule = RULES.get(call.name) or RULES.get(call.name.rstrip("_"))
    if rule is None:
        return False
    rule(call)
    return True


def _named(rule: Rule, *names: str) -> dict[str, Rule]:
    return dict.fromkeys(names, rule)


#: Rules by the name of the operator; "pointwise" is every operator that torch tags as such.
RULES: Mapping[str, Rule] = {
    "pointwise": pointwise,
    **_named(pointwise, "where", "masked_fill", "lerp", "addcmul", "_prelu_kernel", "fill", "native_dropout",
             "dropout", "alias", "detach", "clone", "_to_copy", "contiguous", "lift_fresh", "lift_fresh_copy", "_conj",
             "nan_to_num", "bernoulli", "hardswish", "hardtanh", "hardsigmoid", "log_sigmoid_forward", "elu",
             "softplus", "leaky_relu", "threshold", "mish", "rrelu_with_noise", "logical_not",
             "bitwise_not", "floor_divide", "polar", "complex"),
    **_named(keep, "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d",
             "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "upsample_bilinear2d",
             "upsample_nearest1d", "upsample_nearest2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
             "upsample_linear1d", "_upsample_bicubic2d_aa", "_upsample_nearest_exact2d", "reflection_pad1d",
             "reflection_pad2d", "replication_pad2d", "adaptive_max_pool1d"),
    **_named(constant, "zeros", "ones", "full", "empty", "zeros_like", "ones_like", "full_like", "empty_like",
             "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor", "empty_strided", "new_empty_strided",
             "rand", "randn", "rand_like", "randn_like"),
    **_named(numbered, "arange", "linspace", "eye", "tril_indices", "triu_indices", "logspace", "randperm",
             "argmax", "argmin", "nonzero", "histc", "bincount", "_unique2", "multinomial"),
    "convolution": convolution,
    **_named(batch_norm, "native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit",
             "_batch_norm_no_update", "cudnn_batch_norm", "batch_norm"),
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    **_named(product, "mm", "addmm", "bmm", "baddbmm", "mv", "dot", "matmul", "addmv", "addbmm"),
    **_named(reshape, "view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze"),
    "permute": permute,
    **_named(transpose, "transpose", "t"),
    "expand": expand,
    "repeat": repeat,
    "cat": concatenate,
    "stack": stack,
    **_named(divide, "split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes"),
    "unbind": unbind,
    "select": select,
    "slice": slice_,
    **_named(reduce, "sum", "mean", "amax", "amin", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm",
             "any", "all", "logsumexp", "prod", "max", "min"),
    **_named(softmax, "_softmax", "_log_softmax", "_safe_softmax"),
    **_named(in_order, "cumsum", "cumprod", "sort", "topk", "flip", "roll", "logcumsumexp"),
    "constant_pad_nd": pad,
    "embedding": embedding,
    "index": index,
    "index_select": index_select,
    "index_put": index_put,
    "gather": gather,
    **_named(triangle, "tril", "triu", "diagonal"),
    "copy": write,
    "pixel_shuffle": shuffle,
    "pixel_unshuffle": unshuffle,
    "im2col": unfold,
    "unfold": windows,
    **_named(fold, "col2im", "im2col_backward"),
    "glu": gated,
    "as_strided": strided,
    **_named(fourier, "_fft_c2c", "_fft_r2c", "_fft_c2r"),
    **_named(parts_of_complex, "view_as_real", "view_as_complex"),
    **_named(grid_sample, "grid_sampler_2d", "grid_sampler_3d"),
    "_weight_norm_interface": normalized_weight,
    "_grouped_mm": grouped_product,
    **_named(attention, "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
             "_scaled_dot_product_efficient_attention", "_scaled_dot_product_attention_math"),
}  # fmt: skip
