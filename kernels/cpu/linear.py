# SPDX-License-Identifier: Apache-2.0
"""A dense layer, `y = x W^T + b`, whose weights are laid out once for many products; no gradient.

    "packed"     oneDNN's product on weights in its own order, in float32 or bfloat16
    "torch"      torch's product on the weights as they are

Which of them, a short measurement on this machine decides (`choice.py`). A row's result must not depend on how many
rows there are, to the bit: that is measured too. A product that fails takes BLOCK rows at a time, the last filled up.

In bfloat16 the inputs and weights are rounded to it, the sums are float32 and each result is rounded once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran_kernels.cpu import choice

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BLOCK = 64
FORMS = ("packed", "packed in blocks", "torch", "torch in blocks")


def why_not(precision: str, device: torch.device | None = None) -> str | None:
    """Why this processor, or that GPU, does not serve products of that precision, or None."""
    if precision != "bfloat16":
        return None
    if device is not None and device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
        return None if has else f"bfloat16 needs a GPU with units for it; {torch.cuda.get_device_name(device)} has none"
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return None
    return f"bfloat16 needs a processor with units for it (AVX512-BF16 or AMX); {choice.processor()[0]} has none"


def _version(tensor: Tensor | None) -> int:
    """torch's count of the changes made in place; inference tensors have none."""
    return 0 if tensor is None or tensor.is_inference() else tensor._version


@dataclass(frozen=True)
class PackedLinear:
    """A dense layer as its product reads it, and what it was made from."""

    weight: Tensor  # [N, K] float32, as torch keeps it
    bias: Tensor | None  # [N] float32
    versions: tuple[int, int]
    form: str
    precision: str
    laid_out: Tensor
    added: Tensor | None  # the bias in the precision of the product

    def fits(self, weight: Tensor, bias: Tensor | None, precision: str) -> bool:
        """Whether it is made from these, unchanged since, for this precision. (`tensor.data` hides its changes.)"""
        if precision != self.precision or weight.device != self.weight.device or bias is not self.bias:
            return False
        if weight.is_inference() or (bias is not None and bias.is_inference()):
            return False  # torch does not count their changes
        return weight.data_ptr() == self.weight.data_ptr() and (_version(weight), _version(bias)) == self.versions

    def product(self, rows: Tensor) -> Tensor:
        """[M, K] -> [M, N], both in the precision of the product."""
        if self.form.startswith("packed"):
            return torch.ops.mkldnn._linear_pointwise(rows, self.laid_out, self.added, "none", [], "")
        return F.linear(rows, self.laid_out, self.added)

    @torch.no_grad()
    def multiply(self, x: Tensor, relu: bool = False, narrow: bool = False) -> Tensor:
        """[..., K] -> float32 [..., N]; with `relu` negative values become zero.

        x is float32 or of the product's precision, and so with `narrow` is the result.
        """
        rows = x.reshape(-1, x.shape[-1]).to(TYPES[self.precision])
        if self.form.endswith("blocks"):
            count = len(rows)
            blocks = F.pad(rows, (0, 0, 0, -count % BLOCK)).split(BLOCK)
            y = torch.cat([self.product(block) for block in blocks])[:count]
        else:
            y = self.product(rows)
        if relu:
            y.relu_()  # by itself: oneDNN's would make zeros of what is not a number
        return (y if narrow else y.float()).view(*x.shape[:-1], len(self.weight))


def lay_out(weight: Tensor, bias: Tensor | None, precision: str, form: str) -> PackedLinear:
    """A dense layer in one of FORMS: float32 weights [N, K], with K at least 1, and a bias [N] or None."""
    kind, weight = TYPES[precision], weight.detach()
    laid_out = weight.to(kind).contiguous()
    if form.startswith("packed"):
        laid_out = torch.ops.mkldnn._reorder_linear_weight(laid_out, None)
    versions = (_version(weight), _version(bias))
    added = None if bias is None else bias.detach().to(kind).contiguous()
    return PackedLinear(weight, bias, versions, form, precision, laid_out, added)


@torch.no_grad()
def _measure(precision: str) -> str:
    """The form that is fastest, for the rows of one image and for many, among those that this torch has."""
    random = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, 512, generator=random, dtype=torch.float32, device="cpu") for rows in (1024, 1024))
    layers = []
    for form in ("packed", "torch"):
        if form == "packed" and not torch.backends.mkldnn.is_available():
            continue
        layer = lay_out(weight, None, precision, form)
        whole, parts = layer.multiply(x), (x[:1], x[:3], x[:8], x[:50], x[:64], x[:513])
        if not all(torch.equal(layer.multiply(part), whole[: len(part)]) for part in parts):
            layer = lay_out(weight, None, precision, f"{form} in blocks")
        layers.append(layer)
    best = [float("inf")] * len(layers)
    for _ in range(5):
        for i, layer in enumerate(layers):
            best[i] = min(best[i], 16 * _seconds(layer, x[:64]) + _seconds(layer, x))
    return layers[best.index(min(best))].form


def _seconds(layer: PackedLinear, x: Tensor) -> float:
    start = time.perf_counter()
    layer.multiply(x)
    return time.perf_counter() - start


def form(precision: str) -> str:
    """One of FORMS: what serves best here."""
    measure: Callable[[], str] = lambda: _measure(precision)  # noqa: E731
    return choice.chosen(f"dense layers in {precision}", FORMS, measure)


def pack(weight: Tensor, bias: Tensor | None, precision: str = "float32") -> PackedLinear:
    """`lay_out` in the form that serves best here."""
    return lay_out(weight, bias, precision, form(precision))
