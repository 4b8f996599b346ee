"""Reading and writing: checkpoints as tables of tensors, and models by spec."""

from torchgraft.io.opening import open_table
from torchgraft.io.saving import atomic_write, save_safetensors
from torchgraft.io.specs import ResolvedModel, resolve, resolve_source
from torchgraft.io.tables import DictTable, TensorInfo, TensorTable, check_finite
from torchgraft.io.vision import import_torchvision

__all__ = [
    "DictTable",
    "ResolvedModel",
    "TensorInfo",
    "TensorTable",
    "atomic_write",
    "check_finite",
    "import_torchvision",
    "open_table",
    "resolve",
    "resolve_source",
    "save_safetensors",
]
