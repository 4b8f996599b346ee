"""Growth inside DistributedDataParallel: two processes do what one does, and agree before they change anything."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from torchgraft import MorphError
from torchgraft.morph import Growth, grow

RANKS = 2
INPUTS = torch.randn(16, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.arange(16) % 3


def net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)).double()


def growing_run(rank: int, ranks: int) -> dict[str, Any]:
    """Train with two micro-batches a step, and grow three times, once between them; one process has all the data."""
    model: Any = net(0 if ranks == 1 else rank)  # the wrapper gives all ranks the weights of the first one
    if ranks > 1:
        options: dict[str, Any] = {"gradient_as_bucket_view": True, "bucket_cap_mb": 1, "broadcast_buffers": False}
        model = DistributedDataParallel(model, find_unused_parameters=True, **options)
        model.register_comm_hook(None, allreduce_hook)
    inner = model.module if ranks > 1 else model
    average = AveragedModel(inner, use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    growth = Growth(
        model, optimizer, {3: "widen 0 width=12", 6: ["deepen 0", "widen 0 width=16"]}, ema=average, rehearse=False
    )
    before, losses = model, []
    for step in range(10):
        total = 0.0
        optimizer.zero_grad()
        for number in range(2):
            part = slice(8 * number + rank, 8 * number + 8, ranks)
            with model.no_sync() if ranks > 1 and number == 0 else nullcontext():
                loss: Tensor = F.cross_entropy(model(INPUTS[part]), LABELS[part]) / 2
                loss.backward()
                total += float(loss.detach())
                if step == 4 and number == 0:
                    growth.grow("deepen 0")
                    assert ranks == 1 or not model.require_backward_grad_sync
        optimizer.step()
        average.update_parameters(inner)
        growth.step()
        losses.append(total)
    assert model is before
    told = {"losses": losses, "weights": inner.state_dict(), "average": average.state_dict(), "options": {}}
    if ranks > 1:
        assert model.module is inner
        names = (*options, "find_unused_parameters", "bucket_bytes_cap")
        told["options"] = {name: getattr(model, name) for name in names if hasattr(model, name)}
        told["hooks"] = [hook.__name__ for hook, _ in model._comm_hooks]
    told["moments"] = [optimizer.state[one]["exp_avg"] for one in model.parameters()]
    told["gradients"] = [one.grad for one in model.parameters()]
    return copy.deepcopy(told)


def refusals(rank: int) -> list[str]:
    """Ask for what cannot be, each time in another way, and return the messages."""
    found = []
    for edit in ("widen 0 width=12", "widen 9 width=12", "narrow 0 width=4")[: RANKS + 1]:
        model = DistributedDataParallel(net(0))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = list(model.parameters())
        mine = edit if rank == 1 else "widen 0 width=10"
        try:
            grow(model, optimizer, mine)
        except MorphError as error:
            found.append(str(error))
        assert all(one is other for one, other in zip(model.parameters(), before, strict=True))
    pieces = fully_shard(net(0), mesh=init_device_mesh("cpu", (RANKS,)))
    with pytest.raises(MorphError) as raised:
        grow(pieces, torch.optim.SGD(pieces.parameters(), lr=0.1), "widen 0 width=10")
    return [*found, str(raised.value)]


def work(rank: int, folder: str) -> None:
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", meeting, timeout=timedelta(minutes=2), rank=rank, world_size=RANKS)
    torch.save({"run": growing_run(rank, RANKS), "refusals": refusals(rank)}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    start: Callable[..., Any] = spawn
    start(work, (str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def test_all_ranks_are_the_same_model_with_the_same_optimizer(ranks: list[dict[str, Any]]) -> None:
    one, other = (rank["run"] for rank in ranks)
    assert one["weights"]["0.weight"].shape == (16, 4) and one["weights"].keys() == other["weights"].keys()
    for name in ("weights", "average"):
        assert all(torch.equal(one[name][key], value) for key, value in other[name].items())
    for name in ("moments", "gradients"):
        assert all(map(torch.equal, one[name], other[name]))
    assert one["losses"] != other["losses"]  # each has its own data


def test_they_do_what_one_process_with_all_the_data_does(ranks: list[dict[str, Any]]) -> None:
    alone, runs = growing_run(0, 1), [rank["run"] for rank in ranks]
    together = [sum(losses) / RANKS for losses in zip(*(run["losses"] for run in runs), strict=True)]
    assert together == pytest.approx(alone["losses"], rel=1e-9)
    assert together[-1] < together[0]
    for key, value in alone["weights"].items():
        assert torch.allclose(value, runs[0]["weights"][key], rtol=1e-7, atol=1e-9)


def test_the_wrapper_keeps_its_options(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["run"]["options"] == {
            "gradient_as_bucket_view": True,
            "find_unused_parameters": True,
            "broadcast_buffers": False,
            "bucket_bytes_cap": 1024 * 1024,
        }
        assert rank["run"]["hooks"] == ["allreduce_hook"]


def test_ranks_that_do_not_agree_all_say_so_and_stay_as_they_are(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["refusals"] for rank in ranks)
    assert first[0].startswith("rank 1 does 'widen 0: width=12' and this one 'widen 0: width=10'")
    assert second[0].startswith("rank 0 does 'widen 0: width=10'")
    assert first[1] == f"rank 1 cannot grow: {second[1]}" and "no module '9'" in second[1]
    assert first[2].startswith("rank 1 cannot grow: narrow 0: width=4 would change the function")


def test_sharded_parameters_are_refused(ranks: list[dict[str, Any]]) -> None:
    assert all("are sharded: grow the model first, then shard it" in rank["refusals"][3] for rank in ranks)
