# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs without a GPU: what a function issues is written down once, and again issued without the function.

A replay runs the same operations on the same memory with the same numbers, as a CUDA graph does: what Python would do
differently the second time does not happen. What a graph cannot hold fails: waiting for a value, memory that nobody
keeps. `check` looks who keeps the memory, runs the functions once more and compares what they issue.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import InterpretedFunction

from coltran.networks import dense

WAITS = {  # for a value, or for how many there are
    "_local_scalar_dense", "nonzero", "unique_dim", "_unique2", "unique_consecutive", "equal", "masked_select",
    "is_nonzero", "_assert_async",
}  # fmt: skip
READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__")


class NotCapturable(AssertionError):
    """A CUDA graph could not hold this."""


@dataclasses.dataclass
class Operation:
    """One thing that was issued: to be called with its arguments, for a result that goes where it went."""

    name: str
    call: Callable[..., Any]
    args: Any
    kwargs: Any
    results: list[Tensor]  # that it fills; none where it changes its arguments

    def again(self) -> None:
        found = [t for t in tree_leaves(self.call(*self.args, **self.kwargs)) if isinstance(t, Tensor)]
        for result, new in zip(self.results, found, strict=False):
            result.copy_(new)

    def told(self, made: dict[int, int]) -> list[Any]:
        """Its name and arguments: tensors by what made them or where they lie, all else as it is."""
        leaves = tree_leaves((self.args, self.kwargs))
        return [self.name] + [
            (made.get(_place(leaf), _place(leaf)), leaf.shape, leaf.stride(), leaf.dtype)
            if isinstance(leaf, Tensor) else leaf
            for leaf in leaves
        ]  # fmt: skip


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.own: list[Tensor] = []  # made inside, in order
        self.depth = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, function._schema.name.removeprefix("aten::")
        by_mask = name.startswith("index") and any(
            isinstance(t, Tensor) and t.dtype == torch.bool for t in tree_leaves(args[1:])
        )
        if name in WAITS or (by_mask and "index_copy" not in name):
            raise NotCapturable(f"{name} waits for a value")
        self.depth += 1
        found = function(*args, **kwargs)
        self.depth -= 1
        returns = function._schema.returns
        changes = any(value.alias_info and value.alias_info.is_write for value in returns)
        views = any(value.alias_info and not value.alias_info.is_write for value in returns)
        tensors = [t for t in tree_leaves(found) if isinstance(t, Tensor)]
        if not views:
            fresh = [] if changes else tensors
            self.own += fresh
            self.operations.append(Operation(name, function, args, kwargs, fresh))
        return found

    def launch(self, kernel: InterpretedFunction, grid: Any, getitem: Any) -> Any:
        """Writes down a launch, and does it."""
        run = getitem(kernel, grid)

        def call(*args: Any, **kwargs: Any) -> None:
            with _disable_current_modes(), mock.patch.object(InterpretedFunction, "__getitem__", getitem):
                run(*args, **kwargs)

        def record(*args: Any, **kwargs: Any) -> None:
            call(*args, **kwargs)
            if self.depth == 0:  # else it is part of an operation of torch's
                self.operations.append(Operation(f"{kernel.fn.__name__}{grid}", call, args, kwargs, []))

        return record


def _record(function: Callable[[], object]) -> _Recorder:
    recorder, getitem = _Recorder(), InterpretedFunction.__getitem__

    def refuse(name: str) -> Callable[..., Any]:
        def read(tensor: Tensor, *_: Any) -> Any:
            raise NotCapturable(f"Tensor.{name} waits for a value")

        return read

    patches = [mock.patch.object(InterpretedFunction, "__getitem__", lambda k, grid: recorder.launch(k, grid, getitem))]
    with torch.no_grad(), recorder, patches[0]:
        originals = {name: getattr(Tensor, name) for name in READS}

        def guarded(name: str) -> Callable[..., Any]:
            refusal = refuse(name)

            def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
                inside = recorder.depth or torch._C._len_torch_dispatch_stack() == 0
                return originals[name](tensor, *args, **kwargs) if inside else refusal(tensor)

            return read

        for name in READS:
            setattr(Tensor, name, guarded(name))
        try:
            function()
        finally:
            for name, original in originals.items():
                setattr(Tensor, name, original)
    return recorder


def _held(root: Any, seen: set[int]) -> Iterator[Tensor]:
    """The tensors that an object keeps."""
    if id(root) in seen:
        return
    seen.add(id(root))
    if isinstance(root, Tensor):
        yield root
    elif isinstance(root, dict):
        for value in root.values():
            yield from _held(value, seen)
    elif isinstance(root, (list, tuple)):
        for value in root:
            yield from _held(value, seen)
    elif isinstance(root, nn.Module):
        yield from root.parameters()
        yield from root.buffers()
        for module in root.modules():
            yield from _held(dict(dense._made.get(module, {})), seen)
    elif dataclasses.is_dataclass(root) or type(root).__module__.startswith("coltran"):
        yield from _held(vars(root), seen)


class EmulatedGraph:
    """What `capture` gives in place of a CUDA graph's replay."""

    made: list[EmulatedGraph]  # all of a test, set by it

    def __init__(self, function: Callable[[], object]) -> None:
        self.function, self.replays = function, 0
        recorder = _record(function)
        self.operations, self.own = recorder.operations, recorder.own
        EmulatedGraph.made.append(self)

    @torch.no_grad()
    def __call__(self) -> None:
        self.replays += 1
        for operation in self.operations:
            operation.again()

    def check_memory(self) -> None:
        """Raises NotCapturable where memory that is read is not kept by what the function belongs to."""
        keeper = getattr(self.function, "__self__", None)
        kept = {_place(t) for t in _held(keeper, set())}
        own = {_place(t) for t in self.own}
        for operation in self.operations:
            for leaf in tree_leaves((operation.args, operation.kwargs)):
                if isinstance(leaf, Tensor) and leaf.numel() and _place(leaf) not in kept | own:
                    raise NotCapturable(f"{operation.name} reads {tuple(leaf.shape)}, which nobody keeps")

    def check_again(self) -> None:
        """Raises NotCapturable where the function would now issue something else."""
        again = _record(self.function)
        told = [
            [operation.told({_place(t): i for i, t in enumerate(run.own)}) for operation in run.operations]
            for run in (self, again)
        ]
        for before, now in zip(*told, strict=True):
            if before != now:
                raise NotCapturable(f"what is issued has changed: {before} {now}")


def check(*graphs: EmulatedGraph) -> None:
    """All checks of graphs of one drawing, in the order in which they were captured."""
    for graph in graphs:
        graph.check_memory()
    for graph in reversed(graphs):  # the first makes memory that the others read
        graphs[0]()  # goes to the first row
        graph.check_again()
