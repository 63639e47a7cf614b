# SPDX-License-Identifier: Apache-2.0
"""Dense layers, and in which precision they multiply.

Without a gradient on the CPU, and in bfloat16 on a GPU, a layer's weights are packed at its first use and kept beside
it until they change (`coltran_kernels.pack_linear`). So is whatever else is made of weights once, by `made_once`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from coltran_kernels import linear, pack_linear
from coltran_kernels.autograd import may_train
from coltran_kernels.linear import bfloat16
from coltran_kernels.linear.cpu import TYPES, PackedLinear

_precision: ContextVar[str] = ContextVar("precision", default="float32")
_call: ContextVar[object] = ContextVar("call", default=None)  # of a function `with_precision`, during which nobody
# changes weights


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Inside, dense layers without a gradient multiply in "float32" or "bfloat16"; in this thread alone.

    Raises:
        ValueError: another precision.
    """
    if precision not in TYPES:
        raise ValueError(f"precision must be one of {', '.join(map(repr, TYPES))}, got {precision!r}")
    token = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(token)


P = ParamSpec("P")
R = TypeVar("R")


def with_precision(function: Callable[P, R]) -> Callable[P, R]:
    """The function with its keyword argument `precision` in force, "float32" where it is not given."""

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R:
        token = _call.set(object())
        try:
            with products_in(str(options.get("precision", "float32"))):
                return function(*arguments, **options)
        finally:
            _call.reset(token)

    return call


@dataclass
class _Made:
    """What was made of tensors, and how to tell whether these are still what they were."""

    value: Any
    stamps: tuple[tuple[int, torch.device, int], ...]
    held: list[Tensor]  # the tensors, so that no other takes their place in memory
    copies: list[Tensor | None]  # of inference tensors, whose changes torch does not count
    seen: object  # the call in which the copies were compared last


def _stamp(tensor: Tensor) -> tuple[int, torch.device, int]:
    return tensor.data_ptr(), tensor.device, 0 if tensor.is_inference() else tensor._version


_made: WeakKeyDictionary[nn.Module, dict[Hashable, _Made]] = WeakKeyDictionary()  # beside the modules: it is not saved


def made_once(module: nn.Module, key: Hashable, tensors: Sequence[Tensor], make: Callable[[], R]) -> R:
    """What `make` gives, kept beside the module under a key until one of the tensors changes.

    torch counts changes in place, but for those of `tensor.data`, which are not seen, and those of inference tensors:
    these are compared with a copy, once in a call of `sample` or one of its like.
    """
    found, stamps = _made.setdefault(module, {}).get(key), tuple(map(_stamp, tensors))
    if found is not None and found.stamps == stamps:
        now = _call.get()
        if (now is not None and found.seen is now) or all(
            copy is None or torch.equal(copy, tensor) for copy, tensor in zip(found.copies, tensors, strict=True)
        ):
            found.seen = now
            return found.value
    value = make()
    copies = [tensor.clone() if tensor.is_inference() else None for tensor in tensors]
    _made[module][key] = _Made(value, stamps, [tensor.detach() for tensor in tensors], copies, _call.get())
    return value


class Dense(nn.Linear):
    """A dense layer: packed where no gradient is wanted, or in mixed precision, see `use_bfloat16`."""

    in_bfloat16 = False

    @property
    def multiplies_bfloat16(self) -> bool:
        """Whether it multiplies bfloat16 values: it then takes them, and can give them."""
        return self.in_bfloat16 or (not torch.compiler.is_compiling() and _precision.get() == "bfloat16")

    def forward(
        self,
        x: Tensor,
        *,
        relu: bool = False,
        out_dtype: torch.dtype | None = None,
        implementation: str | None = None,
    ) -> Tensor:
        """[..., inputs] -> [..., outputs]. Where it `multiplies_bfloat16`, x and the outputs may be bfloat16.

        Unless told otherwise the outputs are float32, but on a GPU they stay bfloat16 where no gradient is wanted.
        """
        if self.in_bfloat16:
            return bfloat16.linear(x, self.weight, self.bias, relu=relu, out_dtype=out_dtype or torch.float32)
        if not torch.compiler.is_compiling() and not may_train(x, self.weight, self.bias):
            packed = self._packed(implementation)
            multiplied = torch.float32 if packed is None else TYPES[packed.precision]
            if packed is not None and x.dtype in (torch.float32, multiplied):
                usual = multiplied if self.weight.device.type == "cuda" else torch.float32
                return packed.multiply(x, relu, out_dtype if out_dtype in (torch.float32, multiplied) else usual)
        return linear(x, self.weight, self.bias, relu=relu, implementation=implementation)

    def _packed(self, implementation: str | None) -> PackedLinear | None:
        precision, tensors = _precision.get(), [t for t in (self.weight, self.bias) if t is not None]
        pack = functools.partial(
            pack_linear, self.weight, self.bias, precision=precision, implementation=implementation
        )
        return made_once(self, (precision, implementation), tensors, pack)


def use_bfloat16(network: nn.Module) -> None:
    """From now on dense layers, and a guide's convolutions, multiply bfloat16 values; weights stay float32."""
    for module in network.modules():
        if hasattr(module, "in_bfloat16"):
            cast(Any, module).in_bfloat16 = True
