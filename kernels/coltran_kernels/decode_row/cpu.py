# SPDX-License-Identifier: Apache-2.0
"""`decode_row` by the native kernel in row.cpp: packs the weights, fills in the structs, calls it.

The first layer's products are linear in its input, the sum of a row term and the previous label's embedding. So they
are the sum of two as well: a matrix product a row, made here, and a row of a table, made once with the packing. That
leaves 9 D^2 + S D weights to read for each pixel of two layers, where there were 12 D^2 + S D.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran_kernels import native
from coltran_kernels.decode_row.shapes import weights_in_order
from coltran_kernels.linear.cpu import TYPES, PackedLinear
from coltran_kernels.linear.cpu import pack as pack_linear
from coltran_kernels.native import structures
from coltran_kernels.types import DecodedRow, DecoderWeights, RowConditioning, RowLayer, SamplingOptions

PANEL = 32  # columns of a matrix that a product takes together, as in decode.h


class PackedLayer(NamedTuple):
    """One layer's matrices in panels, its biases filled up to them."""

    qkv: Tensor | None  # None in the first layer
    out: Tensor
    ff1: Tensor
    ff2: Tensor
    ff1_bias: Tensor
    ff2_bias: Tensor
    bias: Tensor


class PackedWeights(NamedTuple):
    """The inner decoder as the kernel reads it: a copy, made from the weights as they were."""

    first: PackedLinear  # the first layer's matrix [3D, D]
    ff: int
    layers: tuple[PackedLayer, ...]
    logits: Tensor
    logits_bias: Tensor
    embedding: Tensor
    table: Tensor  # [S, 3D], the first layer's products with the embedding
    norm_weight: Tensor
    norm_bias: Tensor


def panels(weight: Tensor, precision: str) -> Tensor:
    """[N, K] -> [ceil(N / 32), K, 32], or in bfloat16 [ceil(N / 32), ceil(K / 2), 32, 2]; filled with zeros."""
    together = 2 if precision == "bfloat16" else 1
    filled = F.pad(weight.to(TYPES[precision]), (0, -weight.shape[1] % together, 0, -weight.shape[0] % PANEL))
    found = filled.unflatten(1, (-1, together)).unflatten(0, (-1, PANEL)).transpose(1, 2)
    return found if together > 1 else found[..., 0]


def _filled(bias: Tensor) -> Tensor:
    return F.pad(bias, (0, -bias.shape[0] % PANEL))


def _in_one_block(tensors: list[Tensor]) -> list[Tensor]:
    """Copies on cache lines of one piece of memory, in huge pages where the system has them.

    A pixel reads all weights once; on small pages the processor would spend a good part of that on finding them.
    """
    sizes = [-(-tensor.nbytes // 64) * 64 for tensor in tensors]
    size = max(sum(sizes), 1)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Private: most systems grant no huge pages to memory that processes could share, which is mmap's default.
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
    else:
        memory = mmap.mmap(-1, size)
    parts = torch.frombuffer(memory, dtype=torch.uint8).split(sizes)
    return [part[: t.nbytes].view(t.dtype).view(t.shape).copy_(t) for part, t in zip(parts, tensors, strict=True)]


@torch.no_grad()
@torch.autocast("cpu", enabled=False)  # or the table's products would be of another type than the kernel reads
def pack(weights: DecoderWeights, precision: str = "float32") -> PackedWeights:
    """The weights in the order in which the kernel reads them.

    In "bfloat16" the matrices are rounded to it, and the kernel rounds what it multiplies with them; all else stays
    float32, the table of the first layer's products too.
    """
    found: list[Tensor] = []
    for index, layer in enumerate(weights.layers):
        matrices = [*([layer.qkv] if index else []), layer.out, layer.ff1, layer.ff2]
        found += [panels(matrix, precision) for matrix in matrices]
        found += [_filled(layer.ff1_bias), _filled(layer.ff2_bias), layer.bias]
    first = weights.layers[0].qkv
    found += [panels(weights.logits, precision), _filled(weights.logits_bias)]
    found += [weights.embedding, F.linear(weights.embedding, first), weights.norm_weight, weights.norm_bias]
    rest = iter(_in_one_block(found))
    layers = []
    for index in range(len(weights.layers)):
        qkv = next(rest) if index else None
        layers.append(PackedLayer(qkv, *(next(rest) for _ in range(6))))
    return PackedWeights(pack_linear(first, None, precision), weights.layers[0].ff1.shape[0], tuple(layers), *rest)


def unsupported_reason(weights: DecoderWeights, *others: Tensor | None) -> str | None:
    """Why the kernel cannot serve these tensors, or None."""
    if not weights.layers:
        return "it needs at least one layer"
    if len({(layer.ff1.shape[0], layer.bias.shape[0]) for layer in weights.layers}) > 1:
        return "it needs layers of the same feed-forward size and number of heads"
    return native.unsupported_reason(*weights_in_order(weights), *others)


def _rows(tensor: Tensor | None) -> Tensor | None:
    """The tensor with a contiguous last axis."""
    return tensor if tensor is None or tensor.stride(-1) == 1 else tensor.contiguous()


def _first_products(packed: PackedWeights, inputs: Tensor, layer: RowLayer) -> Tensor:
    """The first layer's queries, keys and values [B, W, 3D] of the row terms alone, conditioned."""
    products = packed.first.multiply(inputs)
    if layer.qkv_scale is not None:
        products *= layer.qkv_scale
    if layer.qkv_shift is not None:
        products += layer.qkv_shift
    return products


def _layer(packed: PackedLayer, row: list[Tensor | None]) -> structures.Layer:
    addresses = {name: None if t is None else t.data_ptr() for name, t in packed._asdict().items()}
    terms = {name: structures.term(t) for name, t in zip(RowLayer._fields, row, strict=True)}
    return structures.Layer(**addresses, **terms)


def _useful_threads(packed: PackedWeights, together: int) -> int:
    """As many threads as torch may use, but none for less than about ten microseconds of products of those pixels."""
    products = together * sum(t.numel() for layer in packed.layers for t in layer if t is not None)
    return max(1, min(torch.get_num_threads(), products // 2**16))


@torch.no_grad()
def decode_row(
    packed: PackedWeights,
    conditioning: RowConditioning,
    uniforms: Tensor,
    options: SamplingOptions,
    *,
    threads: int | None = None,
    target: int = -1,
) -> DecodedRow:
    """See `coltran_kernels.decode_row`. `threads` and `target`, an index of `native.targets()`, are for the tests."""
    batch, width, hidden = conditioning.inputs.shape
    labels, heads = packed.embedding.shape[0], packed.layers[0].bias.shape[0]
    given = None if options.given is None else options.given.to(torch.int64).contiguous()
    if given is not None and given.numel() and int(given.max()) >= labels:
        raise ValueError(f"decode_row: given holds label {int(given.max())}, there are {labels}")
    guidance = None if options.guidance is None else options.guidance.to(torch.float32).contiguous()
    inputs, uniforms = _rows(conditioning.inputs), uniforms.contiguous()
    assert inputs is not None
    rows = [[_rows(t) for t in layer] for layer in conditioning.layers]
    first = _first_products(packed, inputs, conditioning.layers[0])
    drawn, log_prob = native.empty(batch, width, dtype=torch.int64), native.empty(batch, width)
    guided_log_prob = log_prob if guidance is None else native.empty(batch, width)
    probabilities = native.empty(batch, width, labels) if options.return_probabilities else None
    layers = (structures.Layer * len(rows))(*map(_layer, packed.layers, rows))

    def address(tensor: Tensor | None) -> int | None:
        return None if tensor is None else tensor.data_ptr()

    # What the struct points to has to live until the kernel has returned: it holds addresses only.
    row = structures.Row(
        batch=batch, width=width, hidden=hidden, ff=packed.ff, heads=heads, labels=labels,
        layers=len(rows), layer=layers, inputs=structures.term(inputs), first=structures.term(first),
        **{name: address(getattr(packed, name)) for name in packed._fields if name not in ("first", "ff", "layers")},
        uniforms=address(uniforms), given=address(given), guidance=address(guidance),
        argmax=options.mode == "argmax", bfloat16=packed.first.precision == "bfloat16",
        temperature=options.temperature, top_p=options.top_p, eps=options.eps, drawn=address(drawn),
        log_prob=address(log_prob), guided_log_prob=address(guided_log_prob), probabilities=address(probabilities),
    )  # fmt: skip
    threads = threads or _useful_threads(packed, batch)
    library = native.load()
    workspace = native.empty(library.coltran_workspace(row, threads))
    row.workspace = workspace.data_ptr()
    library.coltran_decode_row(row, threads, target)
    return DecodedRow(drawn, log_prob, probabilities, guided_log_prob)
