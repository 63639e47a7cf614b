# SPDX-License-Identifier: Apache-2.0
"""What a GPU that is not there would be given: kernels, copies and waits of a call.

    with on_gpu(META) as issued:
        sample(network_of_meta_tensors, torch.empty(1, 64, 64, dtype=torch.uint8, device=META))

Tensors of one kind say that they are on a GPU, so that the code takes the branches that it takes there: torch's meta
tensors, which have no memory, to count; or those on the CPU, of a network as small as can be, to see how long the host
is at work. Triton's launches are written down and not done. What a GPU would be waited for counts as a synchronisation.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from coltran.sampling import cuda_graphs
from coltran_kernels import triton_common
from coltran_kernels.decode_row import triton as decode_triton

H100 = decode_triton.Device(processors=132, shared=227 * 1024)
META, CPU = torch.device("meta"), torch.device("cpu")
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}


PASSES = 6  # a row, the last of which changes nothing: 5.8 with the package's colorizer (docs/notes/log.md)


def _zeros(x: Tensor) -> Tensor:
    return torch.zeros(x.shape, dtype=x.dtype)


# What waits for a GPU, and what it gives for a meta tensor: zeros, and images that all differ.
READS: dict[str, Callable[[Tensor], Any]] = {
    "aten::_local_scalar_dense": lambda _: 0,
    "aten::nonzero": lambda x: torch.empty(0, x.dim(), dtype=torch.int64, device=META),
    "aten::unique_dim": lambda x: (x, *torch.empty(2, len(x), dtype=torch.int64, device=META)),
}


def tensors_of(arguments: Iterable[Any]) -> list[Tensor]:
    """A kernel's tensors, those in tuples too."""
    return [value for value in tree_leaves(tuple(arguments)) if isinstance(value, Tensor)]


class Launch(NamedTuple):
    """One launch of a Triton kernel."""

    kernel: str  # "module:name"
    arguments: dict[str, Any]
    options: dict[str, Any]
    grid: tuple[int, ...]
    flops: int = 0

    @property
    def name(self) -> str:
        """For a table."""
        return self.kernel.rpartition(":")[2].removesuffix("_kernel")

    @property
    def moved(self) -> int:
        """Bytes of the tensors that are as large as the first."""
        found = tensors_of(self.arguments.values())
        return sum(t.numel() * t.element_size() for t in found if t.numel() >= found[0].numel())


@contextlib.contextmanager
def launches(*, hip: bool = False) -> Iterator[list[Launch]]:
    """Writes down how Triton's kernels are launched, on an NVIDIA GPU or, `hip`, on AMD's; launches nothing."""
    found: list[Launch] = []

    def of_grid(kernel: Any, grid: tuple[int, ...]) -> Any:
        def launch(*positional: Any, **named: Any) -> None:
            everything = dict(zip(kernel.arg_names, positional, strict=False)) | named
            arguments = {name: everything.pop(name) for name in kernel.arg_names}
            for value in tensors_of(arguments.values()):
                if value.dtype == torch.int64 and not value.is_meta:
                    value.zero_()  # labels, which are looked up and which nothing has written
            found.append(Launch(f"{kernel.fn.__module__}:{kernel.fn.__name__}", arguments, everything, grid))

        return launch

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.version, "hip", "any" if hip else None))
        for kind in (JITFunction, InterpretedFunction):
            stack.enter_context(mock.patch.object(kind, "__getitem__", of_grid))
        yield found


@dataclasses.dataclass
class Issued:
    """What was issued so far."""

    launches: list[Launch]
    torch_kernels: int = 0
    host_operations: int = 0  # of torch, views and allocations too
    replays: int = 0  # of CUDA graphs
    flags: int = 0  # that were read one pass behind
    synchronisations: int = 0
    in_graphs: int = 0  # kernels that replays run
    graphs: dict[str, int] = dataclasses.field(default_factory=dict)  # kernels of each that was captured, by name

    @property
    def kernels(self) -> int:
        """torch's and Triton's, outside graphs."""
        return self.torch_kernels + len(self.launches)

    def counts(self) -> dict[str, int]:
        """All that is counted, by name."""
        names = ("kernels", "replays", "host_operations", "synchronisations", "flags", "in_graphs")
        return {name: getattr(self, name) for name in names}

    def capture(self, function: Callable[[], object]) -> Callable[[], None]:
        """What `coltran.sampling.cuda_graphs.capture` does: issues twice, which no image is charged with."""
        function()  # packs weights
        before = dataclasses.replace(self, launches=list(self.launches))
        function()
        name, kernels = function.__name__.removeprefix("_"), self.kernels - before.kernels
        self.graphs[name] = kernels
        for field in ("torch_kernels", "host_operations"):
            setattr(self, field, getattr(before, field))
        self.captured[name] = self.launches[len(before.launches) :]
        del self.launches[len(before.launches) :]

        def replay() -> None:
            self.replays += 1
            self.in_graphs += kernels

        return replay

    captured: dict[str, list[Launch]] = dataclasses.field(default_factory=dict)  # Triton's launches in each


class _Flag(cuda_graphs.Flag):
    """A flag that says after PASSES passes that a row has settled."""

    issued: Issued

    def publish(self) -> None:
        self.issued.torch_kernels += 1

    def mark(self, replay: int) -> None:
        pass

    def read(self, replay: int) -> int:
        self.issued.flags += 1
        return int(replay < PASSES - 1)


class _Gpu(str):
    """A place that says it is a GPU; torch makes tensors there all the same."""

    __slots__ = ()
    type = "cuda"


class _Counts(TorchDispatchMode):
    """Counts torch's operations on meta tensors, and opens ours, whose kernels are launched inside."""

    def __init__(self, issued: Issued) -> None:
        super().__init__()
        self.issued = issued

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, function._schema.name
        self.issued.host_operations += 1
        if function.namespace == "coltran_kernels":
            return torch._library.custom_ops.OPDEFS[name]._init_fn(*args, **kwargs)
        read = name in READS or (name == "aten::_to_copy" and str(kwargs.get("device")) == "cpu")
        if read and args[0].is_meta:
            self.issued.synchronisations += 1
            return READS.get(name, _zeros)(args[0])
        found = function(*args, **kwargs)
        view = any(value.alias_info and not value.alias_info.is_write for value in function._schema.returns)
        made = found if isinstance(found, (tuple, list)) else (found,)
        on_gpu = any(isinstance(tensor, Tensor) and tensor.is_meta for tensor in made)
        self.issued.torch_kernels += on_gpu and not view and name.removeprefix("aten::") not in NO_KERNEL
        return found


@contextlib.contextmanager
def on_gpu(place: torch.device, *, hip: bool = False) -> Iterator[Issued]:
    """Emulates a GPU while inside, for the tensors of a place; torch's operations are counted for META alone."""

    def says_gpu(tensor: Tensor) -> Any:
        return gpu if tensor.is_meta == (place == META) else META if tensor.is_meta else CPU

    gpu = _Gpu(place)

    with contextlib.ExitStack() as stack:
        issued = Issued(stack.enter_context(launches(hip=hip)))
        for owner, name, value in (
            (Tensor, "device", property(says_gpu)),
            (torch.cuda, "device_of", lambda _: contextlib.nullcontext()),
            (torch.cuda, "is_bf16_supported", lambda **_: True),
            (cuda_graphs, "capture", issued.capture),
            (cuda_graphs, "Flag", type("Flag", (_Flag,), {"issued": issued})),
            (decode_triton, "device_of", lambda _: H100),
            (triton_common, "INTERPRETED", False),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        if place == META:
            stack.enter_context(_Counts(issued))
        yield issued
