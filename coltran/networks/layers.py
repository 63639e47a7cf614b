# SPDX-License-Identifier: Apache-2.0
"""The building blocks of the three networks: thin modules over `coltran_kernels`.

Sizes: B images of H x W pixels, D hidden size, F feed-forward size, h heads of C = D / h channels, E context size.
Initial values are those of the original program, whose framework counts the fans of a kernel [in, h, C] as in * h
and in * C.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coltran.networks.config import EncoderConfig
from coltran.networks.dense import Dense
from coltran_kernels import add_layer_norm, affine, packed_attention, takes_bfloat16, unpack_conditioning

EPS = 1e-3  # added to the variance in every layer norm

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def choose(options: Mapping[Any, Any], key: Any, name: str) -> Any:
    """`options[key]`, or a ValueError that names the configuration key and what it may be."""
    if key not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {key!r}")
    return options[key]


Layer = TypeVar("Layer", bound=nn.Module)


def stack(layers: Iterable[Layer]) -> Sequence[Layer]:
    """An nn.ModuleList, typed as the sequence that it is."""
    return cast("Sequence[Layer]", nn.ModuleList(layers))


def glorot_(weight: Tensor, fan_in: int, fan_out: int) -> Tensor:
    """Fill with the uniform distribution on +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    return nn.init.uniform_(weight, -limit, limit)


def initialize_(weight: Tensor, initializer: str, fan_in: int, fan_out: int) -> Tensor:
    """Fill a kernel by the name that a configuration gives its initializer."""
    fill = choose({"glorot_uniform": glorot_, "zeros": lambda w, *_: nn.init.zeros_(w)}, initializer, "initializer")
    return fill(weight, fan_in, fan_out)


class Dropout(nn.Dropout):
    """Dropout that an image of a batch can have to itself, whatever else is in the batch: see `draw_dropout`."""

    generators: Sequence[torch.Generator] = ()

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [B, ...]."""
        if not self.generators or not self.training or self.p in (0, 1):
            return super().forward(x)
        # Four numbers of 16 bits for one call of the generator: drawing them singly takes a tenth of a step on a CPU.
        count = x.numel() // len(self.generators)  # of an image
        drawn = torch.empty(len(self.generators), -(-count // 4), dtype=torch.int64, device=x.device)
        for image, generator in zip(drawn, self.generators, strict=True):
            image.random_(-(2**63), None, generator=generator)
        dropped = round(self.p * 2**16)
        kept = drawn.view(torch.int16)[:, :count] >= dropped - 2**15
        return x * (kept.reshape(x.shape).to(x.dtype) / (1 - dropped / 2**16))


def draw_dropout(network: nn.Module, generators: Sequence[torch.Generator]) -> None:
    """From now on dropout is drawn for each image of a batch from a generator of its own; for none, as torch does."""
    for module in network.modules():
        if isinstance(module, Dropout):
            module.generators = generators


def dense(fan_in: int, fan_out: int, bias: bool = True) -> Dense:
    """`x @ W + b` with Glorot-uniform W and zero b."""
    layer = Dense(fan_in, fan_out, bias=bias)
    glorot_(layer.weight, fan_in, fan_out)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def embedding(symbols: int, hidden: int) -> nn.Embedding:
    """A dense layer without bias on one-hot inputs, as a table."""
    table = nn.Embedding(symbols, hidden)
    glorot_(table.weight, symbols, hidden)
    return table


def shift_down(x: Tensor) -> Tensor:
    """Row i of the result is row i - 1 of x [B, H, W, D]; row 0 is zero."""
    return F.pad(x[:, :-1], (0, 0, 0, 0, 1, 0))


def shift_right(x: Tensor) -> Tensor:
    """Column j of the result is column j - 1 of x [B, H, W, D]; column 0 is zero."""
    return F.pad(x[:, :, :-1], (0, 0, 1, 0))


class PositionEmbedding(nn.Module):
    """Learned, factorised: adds `row[i] + column[j]` to pixel (i, j)."""

    def __init__(self, height: int, width: int, hidden: int) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.randn(height, hidden) * hidden**-0.5)
        self.column = nn.Parameter(torch.randn(width, hidden) * hidden**-0.5)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images that it fits."""
        return len(self.row), len(self.column)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, D] -> [B, H, W, D]."""
        return x + self.row[:, None] + self.column


class Norm(nn.Module):
    """Residual sum and layer norm with a trained scale and shift."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))

    def affine(self, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scale and shift, each [D]."""
        return self.weight, self.bias

    def forward(
        self, x: Tensor, residual: Tensor | None = None, context: Tensor | None = None, *, implementation: str | None
    ) -> Tensor:
        """[B, H, W, D] -> [B, H, W, D]."""
        return add_layer_norm(x, residual, self.weight, self.bias, EPS, implementation=implementation)


class ConditionalNorm(nn.Module):
    """Residual sum and layer norm whose scale and shift come from the gray image (ColTran table 1).

    One vector an image makes both: the context averaged over the pixels, then projected ("sc"), or the other way
    round ("cs"). The inner affine of the layer norm is kept for the original's checkpoints and never trained.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, height: int, width: int, hidden: int, context: int, *, sequence: str, average: str, act: str, init: str
    ) -> None:
        super().__init__()
        self.project_first = choose({"sc": False, "cs": True}, sequence, "cond_ln_seq")
        learnable = choose({"learnable": True, "mean": False}, average, "cond_ln_sp_ave")
        self.act = choose(ACTIVATIONS, act, "cond_ln_act")
        self.pixel_weight = nn.Parameter(torch.ones(height, width, 1)) if learnable else None
        self.projection = nn.Linear(context, 2 * hidden)  # of one vector an image
        initialize_(self.projection.weight, init, context, 2 * hidden)
        nn.init.zeros_(self.projection.bias)
        self.register_buffer("weight", torch.ones(hidden))
        self.register_buffer("bias", torch.zeros(hidden))

    def affine(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift, each [B, 1, 1, D], from the context [B, H, W, E] (or one row of it, [B, 1, W, E])."""
        if self.project_first:
            context = self.projection(context)
        if self.pixel_weight is not None:  # row by row: sums of few values, as exact as those of the mean
            weight = self.pixel_weight.flatten(1)[:, None]
            if context.shape[1] == 1:  # one row has the weights of all rows
                weight = weight.mean(0, keepdim=True)
            context = weight @ context / context.shape[2]
        vector = context.mean((1, 2), keepdim=True)
        if not self.project_first:
            vector = self.projection(vector)
        scale, shift = vector.chunk(2, -1)
        scale, shift = self.act(scale), self.act(shift)
        return self.weight * scale, self.bias * scale + shift

    def forward(self, x: Tensor, residual: Tensor, context: Tensor, *, implementation: str | None) -> Tensor:
        """[B, H, W, D], context [B, H, W, E] -> [B, H, W, D]."""
        return add_layer_norm(x, residual, *self.affine(context), EPS, implementation=implementation)


class FeedForward(nn.Module):
    """`relu(x W1 + b1) W2 + b2`, then conditioned on a context if asked (ColTran table 1).

    `cond_mlp` "affine": y * act(scale) + act(shift), both linear in the context; "shift": y + shift; None: y.
    """

    def __init__(
        self, hidden: int, ff_size: int, *, context: int = 0, cond_mlp: str | None = None, act: str = "identity"
    ) -> None:
        super().__init__()
        self.inner = dense(hidden, ff_size)
        self.outer = dense(ff_size, hidden)
        self.act = choose(ACTIVATIONS, act, "cond_mlp_act")
        self.parts = choose({None: 0, "shift": 1, "affine": 2}, cond_mlp or None, "cond_mlp")
        self.condition = dense(context, self.parts * hidden) if self.parts else None

    def project(self, context: Tensor | None, *, implementation: str | None) -> Tensor | None:
        """The context [..., E] as `transform` takes it, [..., parts * D]; None if not conditioned."""
        return None if self.condition is None else self.condition(context, implementation=implementation)

    def terms(self, projected: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """(scale, shift) out of the projected context [..., parts * D]: the shift comes first in "affine"."""
        if projected is None or self.parts == 1:
            return None, projected
        shift, scale = projected.chunk(2, -1)
        return self.act(scale), self.act(shift)

    def transform(self, x: Tensor, projected: Tensor | None, *, implementation: str | None) -> Tensor:
        """[..., D] with the projected context [..., parts * D] or None -> [..., D]."""
        out_dtype = torch.bfloat16 if self.inner.multiplies_bfloat16 else torch.float32
        inner = self.inner(x, relu=True, out_dtype=out_dtype, implementation=implementation)
        return affine(self.outer(inner, implementation=implementation), *self.terms(projected))

    def forward(self, x: Tensor, context: Tensor | None = None, *, implementation: str | None) -> Tensor:
        """[B, H, W, D], context [B, H, W, E] -> [B, H, W, D]."""
        projected = self.project(context, implementation=implementation)
        return self.transform(x, projected, implementation=implementation)


class AxialAttention(nn.Module):
    """Self-attention along one axis, with queries, keys and values conditioned on a context if asked.

    `conditioned` says which of "q", "k", "v" are; with `cond_scale` each becomes `x * act(scale) + act(shift)`,
    without it `x + shift`.
    """

    def __init__(
        self,
        hidden: int,
        heads: int,
        *,
        axis: str,
        length: int,
        causal: bool = False,
        context: int = 0,
        conditioned: str = "",
        cond_scale: bool = False,
        act: str = "identity",
        init: str = "glorot_uniform",
    ) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(f"hidden_size {hidden} is not a multiple of num_heads {heads}")
        channels = hidden // heads
        self.heads, self.axis, self.causal = heads, axis, causal
        self.conditioned, self.cond_scale = conditioned, cond_scale
        self.act = choose(ACTIVATIONS, act, "cond_att_act")
        self.qkv = Dense(hidden, 3 * hidden, bias=False)
        glorot_(self.qkv.weight, hidden * heads, hidden * channels)
        self.out = Dense(hidden, hidden, bias=False)
        glorot_(self.out.weight, heads * channels, heads * hidden)
        self.bias = nn.Parameter(torch.zeros(heads, 2 * length))
        self.condition: Dense | None = None
        if conditioned:
            parts = 2 if cond_scale else 1
            self.condition = Dense(context, parts * hidden * len(conditioned), bias=False)
            initialize_(self.condition.weight, init, context * heads, context * channels * parts)

    def project(self, context: Tensor | None, *, implementation: str | None) -> Tensor | None:
        """The context [..., E] as `attend` takes it, [..., parts * D]; bfloat16 if possible; None: not conditioned."""
        if self.condition is None:
            return None
        return self.condition(context, out_dtype=self._out_dtype(implementation), implementation=implementation)

    def _out_dtype(self, implementation: str | None) -> torch.dtype:
        """What the projections hand to attention: bfloat16 where they multiply that and it takes it."""
        weight = self.qkv.weight
        channels = weight.shape[0] // (3 * self.heads)
        short = self.qkv.multiplies_bfloat16 and takes_bfloat16(weight.device.type, channels, implementation)
        return torch.bfloat16 if short else torch.float32

    def terms(self, projected: Tensor | None) -> dict[str, Tensor]:
        """Scales and shifts [..., h, C] by name ("q_scale", ...), out of the projected context."""
        if projected is None:
            return {}
        return unpack_conditioning(self._acted(projected), self.heads, self.conditioned, self.cond_scale)

    def _acted(self, projected: Tensor) -> Tensor:
        return self.act(projected) if self.cond_scale else projected

    def split(self, x: Tensor, *, implementation: str | None) -> tuple[Tensor, Tensor, Tensor]:
        """[..., D] -> queries, keys and values, each [..., h, C], not yet conditioned."""
        q, k, v = self.qkv(x, implementation=implementation).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return q, k, v

    def attend(self, x: Tensor, projected: Tensor | None, *, implementation: str | None) -> Tensor:
        """[B, H, W, D] with the projected context (see `project`) or None -> [B, H, W, D]."""
        y = packed_attention(
            self.qkv(x, out_dtype=self._out_dtype(implementation), implementation=implementation),
            None if projected is None else self._acted(projected),
            self.bias,
            axis=self.axis,
            causal=self.causal,
            conditioned=self.conditioned,
            scaled=self.cond_scale,
            implementation=implementation,
        )
        return self.out(y, implementation=implementation)

    def forward(self, x: Tensor, context: Tensor | None = None, *, implementation: str | None) -> Tensor:
        """[B, H, W, D], context [B, H, W, E] -> [B, H, W, D]."""
        projected = self.project(context, implementation=implementation)
        return self.attend(x, projected, implementation=implementation)


class AxialEncoder(nn.Module):
    """Position embedding, then layers of row attention, feed-forward, column attention, feed-forward, unmasked."""

    def __init__(self, config: EncoderConfig, height: int, width: int) -> None:
        super().__init__()
        hidden, heads = config.hidden_size, config.num_heads
        self.position = PositionEmbedding(height, width, hidden)
        axes = [("row", width), ("column", height)] * config.num_encoder_layers
        self.attention = stack(AxialAttention(hidden, heads, axis=axis, length=length) for axis, length in axes)
        self.feed_forward = stack(FeedForward(hidden, config.ff_size) for _ in axes)
        self.norms = stack(Norm(hidden) for _ in range(2 * len(axes)))
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, *, implementation: str | None = None) -> Tensor:
        """[B, H, W, D] -> [B, H, W, D]."""
        x = self.position(x)
        for i, (attention, feed_forward) in enumerate(zip(self.attention, self.feed_forward, strict=True)):
            y = self.dropout(attention(x, implementation=implementation))
            x = self.norms[2 * i](y, x, implementation=implementation)
            y = self.dropout(feed_forward(x, implementation=implementation))
            x = self.norms[2 * i + 1](y, x, implementation=implementation)
        return x


def use_recomputation(network: nn.Module) -> None:
    """From now on attention and feed-forward keep their inputs alone, and compute the rest again for the backward."""
    for module in network.modules():
        if isinstance(module, (AxialAttention, FeedForward)):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]
