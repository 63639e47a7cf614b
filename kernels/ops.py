# SPDX-License-Identifier: Apache-2.0
"""The public operations: each checks its arguments, picks an implementation and calls it.

`implementation` is explicit. None takes the best that serves the tensors' device; a named one that cannot serve raises
NotImplementedError and says why. Nothing falls back silently.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from coltran_kernels import reference
from coltran_kernels.cpu import columns, decode, native, torch_ops
from coltran_kernels.cpu import linear as dense
from coltran_kernels.shapes import check_decode_row
from coltran_kernels.types import DecoderWeights, RowTerms
from coltran_kernels.xla import operations, step

IMPLEMENTATIONS = ("reference", "triton", "cpu", "xla")
_MODULES: dict[str, Any] = {"reference": reference, "cpu": torch_ops, "xla": operations}


def _choose(name: str, requested: str | None, available: tuple[str, ...], tensor: Tensor) -> str:
    """The implementation of operation `name` that serves `tensor`, out of those `available`."""
    if requested is None:
        best = {"cpu": "cpu", "cuda": "triton", "xla": "xla"}.get(tensor.device.type, "reference")
        return best if best in available else "reference"
    if requested not in IMPLEMENTATIONS:
        raise ValueError(f"{name}: implementation must be one of {IMPLEMENTATIONS} or None, got {requested!r}")
    if requested not in available:
        raise NotImplementedError(f"{name} has no {requested!r} implementation, it has {available}")
    if requested in ("cpu", "xla") and tensor.device.type != requested:
        raise NotImplementedError(f"{name}: implementation {requested!r} cannot serve a tensor on {tensor.device}")
    if requested == "triton" and importlib.util.find_spec("triton") is None:
        raise NotImplementedError(f"{name}: implementation 'triton' needs the package triton, which is not installed")
    if requested == "triton" and not _serves_triton(tensor):
        raise NotImplementedError(f"{name}: implementation 'triton' cannot serve a tensor on {tensor.device}")
    return requested


@functools.cache
def _say_once(reason: str) -> None:
    warnings.warn(f"decoding in plain torch, without the native kernels: {reason}", RuntimeWarning, stacklevel=4)


def _serves_natively(name: str, requested: str | None, unsupported: str | None) -> bool:
    """Whether the native kernel takes this call: where it can, unless another implementation was asked for."""
    if requested not in (None, "cpu"):
        return False
    if unsupported is None and not torch.compiler.is_compiling():
        unsupported = native.why_not()
        if unsupported is not None and requested is None:
            _say_once(unsupported)
    if unsupported is not None and requested == "cpu":
        raise NotImplementedError(f"{name}: implementation 'cpu' cannot serve: {unsupported}")
    return unsupported is None


def _serves_triton(tensor: Tensor) -> bool:
    """Triton's kernels take tensors on a GPU, and any in its interpreter."""
    from coltran_kernels.triton.tiles import INTERPRETED

    return INTERPRETED or tensor.device.type == "cuda"


def _require_choice(requested: str | None, why_not: str) -> None:
    """Raises where an implementation that cannot serve was asked for by name."""
    if requested is not None:
        raise NotImplementedError(why_not)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def check_draw(name: str, mode: str, temperature: float, top_p: float) -> None:
    """Raises ValueError where operation `name` is told to draw in a way that there is not."""
    _require(mode in ("sample", "argmax"), f"{name}: mode must be 'sample' or 'argmax', got {mode!r}")
    _require(temperature > 0, f"{name}: temperature must be positive, got {temperature}")
    _require(0 < top_p <= 1, f"{name}: top_p must be in (0, 1], got {top_p}")


def axial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    axis: str,
    causal: bool,
    q_scale: Tensor | None = None,
    q_shift: Tensor | None = None,
    k_scale: Tensor | None = None,
    k_shift: Tensor | None = None,
    v_scale: Tensor | None = None,
    v_shift: Tensor | None = None,
    implementation: str | None = None,
) -> Tensor:
    """Self-attention along one axis of an image (Ho et al., arXiv 1912.12180; ColTran section 3.2).

    Scores are `q.k / sqrt(C) + bias[head, k - q + L - 1]`; with `causal` a query sees positions up to its own.

    Args:
        q, k, v: [B, H, W, h, C], floating point, any strides.
        bias: [h, 2L] with L = W for "row" and H for "column", or None. Its last entry a head is never used.
        axis: "row" attends over the columns of each row, "column" over the rows of each column.
        causal: hide later positions.
        q_scale, ..., v_shift: [B, H, W, h, C] or None; each input becomes `x * scale + shift` first
            (conditional self-attention, ColTran table 1).
        implementation: "reference", "cpu", "triton" (C up to 128), "xla" or None.

    Returns:
        [B, H, W, h, C].

    Raises:
        ValueError: shapes, dtypes or `axis` that do not fit.
        NotImplementedError: the named implementation cannot serve these tensors.
    """
    _require(axis in ("row", "column"), f"axial_attention: axis must be 'row' or 'column', got {axis!r}")
    _require(q.dim() == 5, f"axial_attention: q must be [B, H, W, h, C], got {tuple(q.shape)}")
    conditions = {
        "k": k, "v": v, "q_scale": q_scale, "q_shift": q_shift, "k_scale": k_scale,
        "k_shift": k_shift, "v_scale": v_scale, "v_shift": v_shift,
    }  # fmt: skip
    for name, tensor in conditions.items():
        if tensor is not None:
            _require(tensor.shape == q.shape, f"axial_attention: {name} is {tuple(tensor.shape)}, q {tuple(q.shape)}")
            _require(tensor.dtype == q.dtype, f"axial_attention: {name} is {tensor.dtype}, q {q.dtype}")
    if bias is not None:
        expected = (q.shape[3], 2 * q.shape[2 if axis == "row" else 1])
        _require(tuple(bias.shape) == expected, f"axial_attention: bias is {tuple(bias.shape)}, expected {expected}")
    chosen = _choose("axial_attention", implementation, ("reference", "cpu", "triton", "xla"), q)
    if chosen == "triton" and q.shape[4] > 128:
        _require_choice(implementation, f"axial_attention: implementation 'triton' serves C <= 128, not {q.shape[4]}")
        chosen = "reference"
    if chosen == "triton":
        from coltran_kernels.triton import attention  # imports triton, so only when wanted

        operands = (q, q_scale, q_shift, k, k_scale, k_shift, v, v_scale, v_shift)
        return attention.axial_attention(operands, bias, axis=axis, causal=causal)
    return _MODULES[chosen].axial_attention(
        q, k, v, bias, axis=axis, causal=causal, q_scale=q_scale, q_shift=q_shift,
        k_scale=k_scale, k_shift=k_shift, v_scale=v_scale, v_shift=v_shift,
    )  # fmt: skip


def cached_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, implementation: str | None = None) -> Tensor:
    """Column attention for one new row, over the KV cache of the rows so far.

    Args:
        q: [B, W, h, C], the queries of the row at position T - 1.
        k, v: [B, T, W, h, C], the rows 0 .. T - 1.
        bias: [h, T], the relative bias of each cached row as seen from this one; minus infinity leaves a row out.
        implementation: "reference", "cpu" (native, float32), "triton", "xla" or None; through "cpu" and "triton" no
            gradient passes.

    Returns:
        [B, W, h, C].

    Raises:
        ValueError: shapes that do not fit.
        NotImplementedError: the named implementation cannot serve these tensors, or not on this machine.
    """
    expected = (q.shape[0], k.shape[1], *q.shape[1:])
    _require(
        tuple(k.shape) == expected and k.shape == v.shape,
        f"cached_attention: k is {tuple(k.shape)}, v {tuple(v.shape)}, expected {expected}",
    )
    _require(
        tuple(bias.shape) == (q.shape[2], k.shape[1]),
        f"cached_attention: bias is {tuple(bias.shape)}, expected {(q.shape[2], k.shape[1])}",
    )
    chosen = _choose("cached_attention", implementation, ("reference", "cpu", "triton", "xla"), q)
    if chosen == "xla":
        return operations.cached_attention(q, k, v, bias)
    if chosen == "triton":
        from coltran_kernels.triton import cached_attention as kept

        return kept.cached_attention(q, k, v, bias)
    if _serves_natively("cached_attention", implementation, columns.unsupported(q, k, v, bias)):
        return columns.cached_attention(q, k, v, bias)
    return reference.cached_attention(q, k, v, bias)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False, implementation: str | None = None
) -> Tensor:
    """A dense layer: `x W^T + bias`, with `relu` negative values replaced by zero.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N] or None.
        relu: take max(y, 0).
        implementation: all take torch's product, but for a gradient "cpu" oneDNN's where faster, differentiable once.

    Returns:
        [..., N].

    Raises:
        ValueError: shapes that do not fit.
        NotImplementedError: the named implementation cannot serve these tensors.
    """
    _require(
        weight.dim() == 2 and x.shape[-1:] == weight.shape[1:],
        f"linear: x is {tuple(x.shape)}, the weight {tuple(weight.shape)}",
    )
    _require(
        bias is None or bias.shape == weight.shape[:1],
        f"linear: bias is {None if bias is None else tuple(bias.shape)}, the weight {tuple(weight.shape)}",
    )
    chosen = _choose("linear", implementation, IMPLEMENTATIONS, x)
    return (torch_ops if chosen == "cpu" else reference).linear(x, weight, bias, relu)


def pack_linear(
    weight: Tensor, bias: Tensor | None = None, *, precision: str = "float32", implementation: str | None = None
) -> dense.PackedLinear | None:
    """A dense layer laid out once for many products without a gradient: `pack_linear(weight, bias).multiply(x)`.

    What a row gives does not depend on the rows beside it, to the bit.

    Args:
        weight: [N, K].
        bias: [N] or None.
        precision: "float32", or "bfloat16": products of values rounded to it, with sums and results in float32.
        implementation: "cpu" or None; with any other there is nothing to lay out.

    Returns:
        The packed layer, a copy of the weights as they are now; None where `linear` serves as well.

    Raises:
        NotImplementedError: bfloat16 where the weights, the implementation or the processor do not serve it.
    """
    chosen = _choose("pack_linear", implementation, IMPLEMENTATIONS, weight)
    unsuited = native.unsuited(weight, bias)
    if chosen == "cpu" and unsuited is None and weight.shape[1] > 0:
        if (reason := dense.why_not(precision)) is not None:
            raise NotImplementedError(f"pack_linear: {reason}")
        return dense.pack(weight, bias, precision)
    if precision != "float32":
        raise NotImplementedError(f"pack_linear: {precision} is served on the CPU, not by {chosen!r}")
    return None


def add_layer_norm(
    x: Tensor,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-3,
    *,
    implementation: str | None = None,
) -> Tensor:
    """Residual sum, layer norm over the last axis, scale and shift: `normalise(x + residual) * scale + shift`.

    Args:
        x: [..., D].
        residual: the same shape, or None.
        scale, shift: broadcastable to x: [D], or per image [B, 1, 1, D] (conditional layer norm, ColTran table 1).
        eps: added to the variance; the original program uses 1e-3.
        implementation: "reference", "cpu", "triton" (scale and shift of those two shapes, D up to 8192), "xla" or None.

    Returns:
        [..., D].

    Raises:
        ValueError: `residual` of another shape than `x`.
        NotImplementedError: the named implementation cannot serve these tensors.
    """
    if residual is not None:
        _require(residual.shape == x.shape, f"add_layer_norm: residual is {tuple(residual.shape)}, x {tuple(x.shape)}")
    chosen = _choose("add_layer_norm", implementation, ("reference", "cpu", "triton", "xla"), x)
    if chosen == "triton":
        from coltran_kernels.triton import layer_norm

        if layer_norm.serves(x, scale, shift):
            return layer_norm.add_layer_norm(x, residual, scale, shift, eps)
        limits = "D <= 8192, and scale and shift [D] or [B, 1, .., 1, D]"
        _require_choice(implementation, f"add_layer_norm: implementation 'triton' serves {limits}")
        chosen = "reference"
    return _MODULES[chosen].add_layer_norm(x, residual, scale, shift, eps)


class PreparedDecoder(NamedTuple):
    """The inner decoder as one implementation reads it, and what it was made from."""

    weights: DecoderWeights
    versions: tuple[int, ...]
    packed: decode.PackedWeights


def _versions(weights: DecoderWeights) -> tuple[int, ...]:
    """torch's count of the changes made in place to each tensor; inference tensors have none."""
    return tuple(0 if t.is_inference() else t._version for t in decode.weights_in_order(weights))


def prepare_decoder(
    weights: DecoderWeights, *, precision: str = "float32", implementation: str | None = None
) -> PreparedDecoder | None:
    """What `decode_row` would make of the weights in every call, made once for many rows.

    Args:
        weights: the inner decoder.
        precision: of the products: "float32", or "bfloat16" with sums and all else in float32 (native alone).
        implementation: as for `decode_row`.

    Returns:
        What to pass as `prepared` together with the same weights and implementation, or None where the implementation
        that serves takes the weights as they are.

    Raises:
        NotImplementedError: the named implementation cannot serve these weights, or not on this machine; or bfloat16
            cannot be had.
    """
    _choose("prepare_decoder", implementation, ("reference", "cpu", "triton", "xla"), weights.embedding)
    natively = _serves_natively("prepare_decoder", implementation, decode.unsupported(weights))
    reason = dense.why_not(precision) if natively else f"{precision} is served by the native kernels alone"
    if precision != "float32" and reason is not None:
        raise NotImplementedError(f"prepare_decoder: {reason}")
    return PreparedDecoder(weights, _versions(weights), decode.pack(weights, precision)) if natively else None


def _packed(weights: DecoderWeights, prepared: PreparedDecoder | None) -> decode.PackedWeights:
    if prepared is None:
        return decode.pack(weights)
    tensors, were = decode.weights_in_order(weights), decode.weights_in_order(prepared.weights)
    same = len(tensors) == len(were) and all(a is b for a, b in zip(tensors, were, strict=True))
    _require(same and _versions(weights) == prepared.versions, "decode_row: prepared for other weights than these")
    return prepared.packed


def decode_row(
    weights: DecoderWeights,
    terms: RowTerms,
    uniforms: Tensor,
    *,
    given: Tensor | None = None,
    mode: str = "sample",
    temperature: float = 1.0,
    top_p: float = 1.0,
    eps: float = 1e-3,
    return_probabilities: bool = False,
    prepared: PreparedDecoder | None = None,
    implementation: str | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draw one row of coarse colours with the inner decoder, pixel by pixel (ColTran section 4.1).

    Args:
        weights: the inner decoder.
        terms: what conditions this row.
        uniforms: [B, W] in [0, 1), the one random number of each pixel.
        given: [B, W] labels to impose, -1 where the pixel is to be drawn; or None.
        mode: "sample" or "argmax".
        temperature: divides the logits before the draw; > 0.
        top_p: draw from the most probable labels that together hold this probability; in (0, 1].
        eps: of the layer norms.
        return_probabilities: also return the untempered distributions.
        prepared: `prepare_decoder(weights)`, which spares packing the weights in every call and says in which precision
            they are multiplied; never needed.
        implementation: "reference", "cpu" (native, float32; no gradient passes), "triton" (a GPU; not float64; no
            gradient passes), "xla" (recorded as one loop of the graph; no gradient passes) or None.

    Returns:
        labels [B, W] int64, their natural log-probability under the untempered model [B, W], and the probabilities
        [B, W, S] or None.

    Raises:
        ValueError: an argument out of its range, shapes that do not fit, or weights that have changed since they were
            prepared.
        NotImplementedError: the named implementation cannot serve these tensors, or not on this machine.
    """
    check_draw("decode_row", mode, temperature, top_p)
    check_decode_row(weights, terms, uniforms, given)
    options: dict[str, Any] = {
        "given": given, "mode": mode, "temperature": temperature, "top_p": top_p, "eps": eps,
        "return_probabilities": return_probabilities,
    }  # fmt: skip
    chosen = _choose("decode_row", implementation, ("reference", "cpu", "triton", "xla"), uniforms)
    if chosen == "xla":
        from coltran_kernels.xla import device  # imports torch_xla, so only when wanted

        return step.decode_row(weights, terms, uniforms, scan=device.scan, **options)
    if chosen == "triton":
        from coltran_kernels.triton import decode_launch

        why_not = decode_launch.unsupported(weights, terms)
        if why_not is None:
            return decode_launch.decode_row(weights, terms, uniforms, **options)
        _require_choice(implementation, f"decode_row: implementation 'triton' cannot serve: {why_not}")
    if _serves_natively("decode_row", implementation, decode.unsupported_row(weights, terms, uniforms)):
        return decode.decode_row(_packed(weights, prepared), terms, uniforms, **options)
    return reference.decode_row(weights, terms, uniforms, **options)
