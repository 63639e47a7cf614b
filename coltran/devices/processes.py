# SPDX-License-Identifier: Apache-2.0
"""Thin wrappers of torch.distributed for the processes that torchrun starts; without it they do nothing.

Process r of n has a share of every batch. Sums over all go through NCCL between GPUs and through gloo between CPUs;
what the processes tell each other besides is on the CPU, so that nobody waits for a GPU.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
import torch.distributed.nn  # DistributedDataParallel would do it later, and it keeps the group that there then is
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from coltran.errors import UserError


def world_size() -> int:
    """The number of processes, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process; rank 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_gpu() -> int:
    """The index of this process's GPU on its host, LOCAL_RANK."""
    return int(os.environ.get("LOCAL_RANK", 0)) if world_size() > 1 else 0


@contextlib.contextmanager
def init_distributed() -> Iterator[None]:
    """Initializes torch.distributed where torchrun started this process, and destroys the process group at the end.

    Raises:
        UserError: they could not meet, or one of them has ended before its time.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    try:
        store, number, size = next(dist.rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=_unused(store, number, size), rank=number, world_size=size)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"The processes could not meet: {str(error).splitlines()[0]}") from error
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise UserError(
                f"Process {rank()} of {world_size()} stops, as another one has ended; the checkpoints before remain."
            ) from error
        raise
    dist.destroy_process_group()


def _unused(store: dist.Store, number: int, size: int) -> dist.Store:
    """A namespace of the store that no earlier start has used: torchrun keeps one store over all its restarts.

    Rank 0 publishes a random namespace; the others register in it, until rank 0 lists them there.
    """
    own = uuid.uuid4().hex
    if number == 0:
        store.set("call", own)
        store.set(f"{own}/heard", " ".join(store.get(f"{own}/{other}").decode() for other in range(1, size)))
        return dist.PrefixStore(own, store)
    while True:
        call = store.get("call").decode()  # an earlier start's, until the first process has called
        store.set(f"{call}/{number}", own)
        if store.check([f"{call}/heard"]) and own.encode() in store.get(f"{call}/heard"):
            return dist.PrefixStore(call, store)
        time.sleep(0.02)


def all_reduce_max(numbers: list[int]) -> list[int]:
    """The elementwise maximum over all processes."""
    if world_size() == 1:
        return numbers
    tensor = torch.tensor(numbers)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def barrier() -> None:
    """Blocks until every process has called it."""
    all_reduce_max([0])


def rank0_first(work: Callable[[], object]) -> None:
    """Runs `work` in rank 0, to leave a file for instance, while the others wait; without torchrun it does nothing."""
    if world_size() > 1:
        if rank() == 0:
            work()
        barrier()


def broadcast_from_rank0(text: str) -> str:
    """The text of rank 0, in every process."""
    if world_size() == 1:
        return text
    said = text.encode() if rank() == 0 else b""
    heard = torch.zeros(*all_reduce_max([len(said)]), dtype=torch.uint8)
    heard[: len(said)] = torch.tensor(list(said))
    return bytes(all_reduce_sum(heard).tolist()).decode()


def all_reduce_mean(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean over all processes of each named scalar."""
    if world_size() == 1:
        return numbers
    return dict(zip(numbers, all_reduce_sum(torch.stack(list(numbers.values()))) / world_size(), strict=True))


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather_interleaved(rows: Tensor) -> Tensor:
    """The rows [N, k] of all processes, on the CPU: the first of each rank, then the second of each, and so on.

    A process without rows need not know k.
    """
    if world_size() == 1:
        return rows
    most, width = all_reduce_max(list(rows.shape))
    table = torch.zeros(most, world_size(), 1 + width, dtype=rows.dtype)
    if len(rows):
        table[: len(rows), rank()] = nn.functional.pad(rows, (1, 0), value=1)  # marks a row that there is
    table = all_reduce_sum(table).flatten(0, 1)
    return table[table[:, 0] == 1, 1:]


def data_parallel(module: nn.Module) -> nn.Module:
    """The module in DistributedDataParallel, where there are several processes."""
    return module if world_size() == 1 else DistributedDataParallel(module, gradient_as_bucket_view=True)


def no_sync(module: nn.Module) -> AbstractContextManager[object]:
    """Inside, a `data_parallel` module accumulates gradients without the all-reduce."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()
