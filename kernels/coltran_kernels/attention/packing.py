# SPDX-License-Identifier: Apache-2.0
"""How attention's operands lie side by side in the outputs of dense layers."""

from __future__ import annotations

from torch import Tensor

from coltran_kernels.types import Operand


def _unpack(packed: Tensor, names: str, parts: tuple[str, ...], heads: int) -> dict[str, Tensor]:
    """[..., names * parts * h * C] -> each name's parts, views [..., h, C], by their names together: "q_scale"."""
    found = packed.unflatten(-1, (len(names) * len(parts), heads, -1)).unbind(-3)
    return dict(zip((f"{name}{part}" for name in names for part in parts), found, strict=True))


def unpack_conditioning(projected: Tensor, heads: int, conditioned: str, scaled: bool) -> dict[str, Tensor]:
    """Scales and shifts, or shifts alone, out of what `packed_attention` calls `projected`."""
    return _unpack(projected, conditioned, ("_scale", "_shift") if scaled else ("_shift",), heads)


def unpack_operands(
    qkv: Tensor, projected: Tensor | None, heads: int, conditioned: str, scaled: bool
) -> tuple[Operand, Operand, Operand]:
    """Queries, keys and values, views of what `packed_attention` takes."""
    found = _unpack(qkv, "qkv", ("",), heads)
    if projected is not None:
        found |= unpack_conditioning(projected, heads, conditioned, scaled)
    q, k, v = (Operand(found[x], found.get(f"{x}_scale"), found.get(f"{x}_shift")) for x in "qkv")
    return q, k, v
