"""One builder for each kind of model spec; the zoo packages are imported only when one of their models is asked for."""

from __future__ import annotations

__all__ = ["BUILDERS", "BuildOptions"]

import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from operator import attrgetter
from types import ModuleType
from typing import Any, Literal

import torch
from torch import nn

from torchgraft.errors import SpecError
from torchgraft.io.vision import import_torchvision


@dataclass(frozen=True)
class BuildOptions:
    """How a spec is built: for which side, and with values or with shapes alone."""

    role: Literal["source", "target"]
    meta: bool = False

    def device(self) -> AbstractContextManager[Any]:
        """Return the context to build in; imports stay outside of it, or their own constants would land on meta."""
        return torch.device("meta") if self.meta else nullcontext()


Builder = Callable[[str, Mapping[str, Any], BuildOptions], nn.Module]


def _need(package: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise SpecError(f"{error.name} is not installed: pip install torchgraft[{extra}]") from None


def _unknown(kind: str, name: str, valid: Iterable[str], listing: str) -> SpecError:
    close = get_close_matches(name, list(valid), n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "no name is close"
    return SpecError(f"unknown {kind} model {name!r}: {hint} ({listing} lists them)")


def build_timm(name: str, options: Mapping[str, Any], build: BuildOptions) -> nn.Module:
    """Build a timm model, without pretrained weights unless ``pretrained=True``."""
    import_torchvision()  # timm imports it, and a mismatched build fails there
    timm = _need("timm", "zoo")
    remote = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if not remote and not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models(), "timm.list_models()")
    options = dict(options)
    pretrained = options.pop("pretrained", False) and not build.meta
    with build.device():
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    return model


def build_torchvision(name: str, options: Mapping[str, Any], build: BuildOptions) -> nn.Module:
    """Build a torchvision model, without weights unless ``weights=NAME`` (``weights=DEFAULT``)."""
    import_torchvision()
    models = importlib.import_module("torchvision.models")
    valid = models.list_models()
    if name.lower() not in valid:
        raise _unknown("torchvision", name, valid, "torchvision.models.list_models()")
    signature = inspect.signature(models.get_model_builder(name.lower())).parameters
    # Detectors and segmenters fetch a pretrained backbone unless they are told not to.
    defaults: dict[str, Any] = (
        {"weights_backbone": None} if "weights_backbone" in signature and not options.get("weights") else {}
    )
    if name.lower() in ("googlenet", "inception_v3"):
        defaults["init_weights"] = True  # what they do anyway, but only after a warning
    options = {**defaults, **options}
    if options.pop("pretrained", False):
        options["weights"] = "DEFAULT"
    if build.meta:
        options.pop("weights", None)
    with build.device():
        model: nn.Module = models.get_model(name, **options)
    return model


def build_hf(name: str, options: Mapping[str, Any], build: BuildOptions) -> nn.Module:
    """Build a transformers model from a folder or the hub's cache; a source with its weights, a target without.

    The class is the first of the config's ``architectures`` and ``AutoModel`` where it names none. Code that comes
    with a model is never run. What lies in the cache is used before the network is asked.
    """
    with suppress(SpecError):  # transformers imports torchvision where there is one, and does without where not
        import_torchvision()
    transformers = _need("transformers", "zoo")
    if not os.path.isdir(name) and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise SpecError(f"hf:{name} is no folder: check the path, or give a hub id as hf:OWNER/NAME")
    config = _cache_first(name, lambda **where: transformers.AutoConfig.from_pretrained(name, **where, **options))
    architecture = (getattr(config, "architectures", None) or ["AutoModel"])[0]
    kind = getattr(transformers, architecture, None)
    if kind is None:
        raise SpecError(
            f"hf:{name} is a {architecture}, which transformers {transformers.__version__} does not have "
            "(code of the repository is never run): upgrade transformers, or build it with python:MODULE:FACTORY"
        )
    with _quiet(transformers):
        if build.role == "target" or build.meta:
            with build.device():
                built: nn.Module = kind.from_config(config) if kind is transformers.AutoModel else kind(config)
            return built
        model, info = _cache_first(
            name, lambda **where: kind.from_pretrained(name, config=config, output_loading_info=True, **where)
        )
    _tell_gaps(name, info)
    loaded: nn.Module = model
    return loaded


def _cache_first(name: str, load: Callable[..., Any]) -> Any:
    """Load from the folder or the cache, and from the network only if that fails and is allowed."""
    try:
        return load(local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
        if os.path.isdir(name) or offline:
            raise SpecError(f"hf:{name} cannot be loaded: {_first_line(error)}") from None
    try:
        return load(trust_remote_code=False)
    except Exception as error:
        raise SpecError(
            f"hf:{name} is neither a folder, nor in the cache, nor reachable: {_first_line(error)}"
        ) from None


def _tell_gaps(name: str, info: Mapping[str, Any]) -> None:
    """Warn of weights that the checkpoint did not have and that are therefore random."""
    missing = sorted({*info.get("missing_keys", ()), *(entry[0] for entry in info.get("mismatched_keys", ()))})
    if missing:
        listed = ", ".join(missing[:3])
        warnings.warn(f"hf:{name} has no weights for {len(missing)} tensors ({listed}): these are random", stacklevel=2)


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Hold back transformers' progress bars, and put its setting back."""
    log = transformers.utils.logging
    shown = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            log.enable_progress_bar()


def build_python(name: str, options: Mapping[str, Any], build: BuildOptions) -> nn.Module:
    """Call ``package.module:factory`` with the options; modules of the working folder can be imported."""
    module_name, _, factory_name = name.partition(":")
    if not module_name or not factory_name:
        raise SpecError(f"python:{name} is incomplete: write python:package.module:factory")
    with _working_folder():
        module = _import(name, module_name)
        try:
            factory = attrgetter(factory_name)(module)
        except AttributeError:
            close = get_close_matches(factory_name, dir(module), n=1)
            hint = f"did you mean {close[0]}?" if close else "check the name"
            raise SpecError(f"python:{name}: {module_name} has no {factory_name!r}: {hint}") from None
        if not callable(factory):
            raise SpecError(f"python:{name} is a {type(factory).__name__}: name a class or a function that builds")
        with build.device():
            model = factory(**options)
    if not isinstance(model, nn.Module):
        raise SpecError(f"python:{name} returned a {type(model).__name__}: let the factory return a torch.nn.Module")
    return model


def _import(spec: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        where = "it is searched on the Python path and in the working folder"
        raise SpecError(f"python:{spec}: there is no module {error.name!r}: {where}") from None


@contextmanager
def _working_folder() -> Iterator[None]:
    """Put the working folder at the front of the import path for a while."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


BUILDERS: Mapping[str, Builder] = {
    "timm": build_timm,
    "torchvision": build_torchvision,
    "hf": build_hf,
    "python": build_python,
}
