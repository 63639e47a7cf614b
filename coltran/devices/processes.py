# SPDX-License-Identifier: Apache-2.0
"""Several processes that work as one, as torchrun starts them; a process that is alone asks the same questions.

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


def count() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0; the first one is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def gpu() -> int:
    """The GPU of this process: the processes of a host take one each."""
    return int(os.environ.get("LOCAL_RANK", 0)) if count() > 1 else 0


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Meets the other processes that torchrun has started, where it has, and parts from them at the end.

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
                f"Process {rank()} of {count()} stops, as another one has ended; the checkpoints before remain."
            ) from error
        raise
    dist.destroy_process_group()


def _unused(store: dist.Store, number: int, size: int) -> dist.Store:
    """A part of a store that no earlier start of the processes has written to: torchrun keeps one store for all starts.

    The first process calls under a name of its own; the others answer with theirs, until they find themselves in the
    list of those whom the first has heard.
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


def largest(numbers: list[int]) -> list[int]:
    """Of each of the numbers the largest that any process has."""
    if count() == 1:
        return numbers
    tensor = torch.tensor(numbers)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def wait() -> None:
    """Waits until all processes are here."""
    largest([0])


def first_alone(work: Callable[[], object]) -> None:
    """Work of the first process that leaves something for the others: they wait for it."""
    if count() > 1:
        if rank() == 0:
            work()
        wait()


def of_first(text: str) -> str:
    """What the first process says, for all."""
    if count() == 1:
        return text
    said = text.encode() if rank() == 0 else b""
    heard = torch.zeros(*largest([len(said)]), dtype=torch.uint8)
    heard[: len(said)] = torch.tensor(list(said))
    return bytes(total(heard).tolist()).decode()


def mean(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means over all processes of scalars that each has under the same names."""
    if count() == 1:
        return numbers
    return dict(zip(numbers, total(torch.stack(list(numbers.values()))) / count(), strict=True))


def total(tensor: Tensor) -> Tensor:
    """The sum of the tensors of all processes; it takes the place of this one's."""
    if count() > 1:
        dist.all_reduce(tensor)
    return tensor


def in_turn(rows: Tensor) -> Tensor:
    """Rows [N, k] on the CPU of all processes: the first of each, then the second of each that has one, and so on.

    A process without rows need not know k.
    """
    if count() == 1:
        return rows
    most, width = largest(list(rows.shape))
    table = torch.zeros(most, count(), 1 + width, dtype=rows.dtype)
    if len(rows):
        table[: len(rows), rank()] = nn.functional.pad(rows, (1, 0), value=1)  # marks a row that there is
    table = total(table).flatten(0, 1)
    return table[table[:, 0] == 1, 1:]


def shared(module: nn.Module) -> nn.Module:
    """A module whose gradients will be the means of those of all processes, with the first one's weights."""
    return module if count() == 1 else DistributedDataParallel(module, gradient_as_bucket_view=True)


def unshared(module: nn.Module) -> AbstractContextManager[object]:
    """Within it a `shared` module keeps its gradients to itself, until the next one outside of it."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()
