"""What torch's operators are to those who read a run: what lies otherwise, multiplies, adds, normalizes or gates."""

from __future__ import annotations

__all__ = ["BATCH_NORMS", "FACTORS", "KEEPS_ZERO", "LAYER_NORMS", "LAYOUT", "PRODUCTS", "SIGMOIDS", "SUMS"]

from collections.abc import Mapping

#: Operators that only change how a value lies, or pass a part of it on.
LAYOUT = frozenset(
    [
        *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "clone", "contiguous", "expand", "squeeze"),
        *("unsqueeze", "roll", "slice", "select", "flatten", "as_strided", "alias", "detach", "_to_copy", "index"),
        *("pixel_shuffle", "constant_pad_nd", "native_dropout", "dropout", "unbind", "split", "split_with_sizes"),
    ]
)
#: Where value, weight and bias of a product with a weight stand among its inputs; a bias may be missing there.
PRODUCTS: Mapping[str, tuple[int, int, int | None]] = {
    "addmm": (1, 2, 0),
    "mm": (0, 1, None),
    "convolution": (0, 1, 2),
}
#: Where the factors of any product stand among its inputs, from which place to which: a weight may be on either side.
FACTORS: Mapping[str, tuple[int, int]] = {
    "convolution": (1, 2), "addmm": (1, 3), "baddbmm": (1, 3), "mm": (0, 2), "bmm": (0, 2)
}  # fmt: skip
#: Norms that treat every unit for itself, and those that take their statistics over units.
BATCH_NORMS = frozenset(["native_batch_norm", "_native_batch_norm_legit_no_training"])
LAYER_NORMS = frozenset(["native_layer_norm", "native_group_norm"])
SUMS = frozenset(["add", "sub"])
#: Functions that a gate ends in.
SIGMOIDS = frozenset(["sigmoid", "hardsigmoid"])
#: Functions of one value with f(0) = 0, place by place or over places.
KEEPS_ZERO = frozenset(
    [
        *("relu", "silu", "gelu", "hardswish", "hardtanh", "leaky_relu", "tanh", "mish", "elu", "neg", "div", "mean"),
        *("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "avg_pool2d", "avg_pool3d"),
        *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices"),
    ]
)
