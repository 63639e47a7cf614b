# SPDX-License-Identifier: Apache-2.0
"""Dense layers, and in which precision they multiply.

Without a gradient on the CPU, and in bfloat16 on a GPU, a layer's weights are packed at its first use and kept beside
it until they change (`coltran_kernels.pack_linear`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from coltran_kernels import bfloat16, linear, pack_linear
from coltran_kernels.cpu.linear import TYPES, PackedLinear
from coltran_kernels.operators import may_train

_precision: ContextVar[str] = ContextVar("precision", default="float32")


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
        with products_in(str(options.get("precision", "float32"))):
            return function(*arguments, **options)

    return call


class Dense(nn.Linear):
    """A dense layer: packed where no gradient is wanted, or in mixed precision, see `use_bfloat16`."""

    in_bfloat16 = False

    @property
    def narrows(self) -> bool:
        """Whether it multiplies bfloat16 values: rounding its outputs to them then loses nothing."""
        return self.in_bfloat16 or (not torch.compiler.is_compiling() and _precision.get() == "bfloat16")

    def forward(
        self, x: Tensor, *, relu: bool = False, narrow: bool = False, implementation: str | None = None
    ) -> Tensor:
        """[..., inputs] -> [..., outputs]. Where it `narrows`, x may be bfloat16, and with `narrow` the outputs are."""
        if self.in_bfloat16:
            return bfloat16.linear(x, self.weight, self.bias, relu=relu, narrow=narrow)
        if not torch.compiler.is_compiling() and not may_train(x, self.weight, self.bias):
            packed = self._packed(implementation)
            if packed is not None and x.dtype in (torch.float32, TYPES[packed.precision]):
                return packed.multiply(x, relu, narrow)
        return linear(x, self.weight, self.bias, relu=relu, implementation=implementation)

    def _packed(self, implementation: str | None) -> PackedLinear | None:
        precision = _precision.get()
        kept = _kept.get(self)
        own = "cpu" if self.weight.device.type == "cpu" else "triton"
        if kept is not None and implementation in (None, own) and kept.fits(self.weight, self.bias, precision):
            return kept
        packed = pack_linear(self.weight, self.bias, precision=precision, implementation=implementation)
        if packed is not None:
            _kept[self] = packed
        return packed


_kept: WeakKeyDictionary[Dense, PackedLinear] = WeakKeyDictionary()  # beside the modules: it cannot be copied or saved


def use_bfloat16(network: nn.Module) -> None:
    """From now on the network's dense layers multiply bfloat16 values; the weights stay float32."""
    for module in network.modules():
        if isinstance(module, Dense):
            module.in_bfloat16 = True
