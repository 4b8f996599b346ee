"""Canonical keys: what wrappers put into names comes out again, and nothing else does."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from torchgraft.errors import CheckpointError
from torchgraft.names import strip_wrappers

PLAIN = ["0.weight", "0.bias", "2.weight", "2.bias"]


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))


def canonical(module: nn.Module) -> list[str]:
    return list(strip_wrappers(module.state_dict()).values())


def test_data_parallel() -> None:
    assert canonical(nn.DataParallel(net())) == PLAIN


def test_averaged_model_drops_its_counter() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(net())
    assert "n_averaged" in averaged.state_dict()
    assert canonical(averaged) == PLAIN
    assert canonical(torch.optim.swa_utils.AveragedModel(nn.DataParallel(net()))) == PLAIN


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch.compile imports torch.jit
def test_compiled_module_inside_and_outside() -> None:
    inner = net()
    inner[0] = torch.compile(inner[0])
    assert canonical(torch.compile(nn.DataParallel(inner))) == PLAIN


def test_activation_checkpointing() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper

    wrapped = net()
    wrapped[2] = CheckpointWrapper(wrapped[2])
    # The wrapper's hook already cleans its own state dict; its named_parameters it leaves, and others copy those.
    assert canonical(wrapped) == PLAIN
    assert strip_wrappers(["2._checkpoint_wrapped_module.weight"]) == {
        "2._checkpoint_wrapped_module.weight": "2.weight"
    }


def test_stacked_wrappers_in_any_order() -> None:
    keys = [
        "module._orig_mod.module._fsdp_wrapped_module.layer1._checkpoint_wrapped_module.conv.weight",
        "module._orig_mod.module._fsdp_wrapped_module.fc.bias",
    ]
    assert list(strip_wrappers(keys).values()) == ["layer1.conv.weight", "fc.bias"]


def test_module_is_kept_where_it_tells_keys_apart() -> None:
    keys = ["module.weight", "head.module.weight", "head.bias"]
    assert strip_wrappers(keys) == {key: key for key in keys}


def test_module_is_kept_below_the_front() -> None:
    keys = ["body.module.weight", "body.module.bias"]
    assert strip_wrappers(keys) == {key: key for key in keys}


def test_a_tensor_may_bear_a_wrapper_name() -> None:
    assert strip_wrappers(["module", "_orig_mod"]) == {"module": "module", "_orig_mod": "_orig_mod"}


def test_counter_alone_is_an_ordinary_buffer() -> None:
    assert strip_wrappers(["n_averaged"]) == {"n_averaged": "n_averaged"}


def test_collision_names_both_keys() -> None:
    with pytest.raises(CheckpointError, match=r"'fc._orig_mod.weight'.*'fc.weight'|'fc.weight'.*'fc._orig_mod.weight'"):
        strip_wrappers(["fc.weight", "fc._orig_mod.weight"])


def test_flat_fsdp_shard_says_how_to_save() -> None:
    with pytest.raises(CheckpointError, match="FULL_STATE_DICT"):
        strip_wrappers(["_fsdp_wrapped_module._flat_param"])


words = st.sampled_from(["conv", "fc", "module", "layer", "0", "weight", "modules", "my_orig_mod"])
trees = st.lists(st.lists(words, min_size=1, max_size=4).map(".".join), min_size=1, max_size=6, unique=True)


@given(trees)
def test_wrapping_all_keys_changes_no_canonical_key(keys: list[str]) -> None:
    once = list(strip_wrappers(keys).values())
    wrapped = list(strip_wrappers([f"module._orig_mod.{key}" for key in keys]).values())
    assert wrapped == once
    assert list(strip_wrappers(once).values()) == once
