# SPDX-License-Identifier: Apache-2.0
"""The guide: log p(label | photograph) for each pixel, from what a pretrained network sees in the gray photograph.

It is no part of the paper. Features of EfficientNet-Lite0 (Tan and Le, 2019; Lite: without squeeze-and-excitation, with
ReLU6) at strides 4, 8, 16 and 32 are layer-normed and projected to D channels:

    32 x 32    y = P_8 f_8 + up(P_16 f_16) + up(P_32 f_32) + P_all mean(f_32)      y = y + mlp(norm(dw_5 y))
    64 x 64    y = up(y) + P_4 f_4 + embedding(gray)                               y = y + mlp(norm(dw_3 y))
    log p = log_softmax(log q(. | gray) + head(norm(y)))

`up` is bilinear, `dw_k` a depthwise k x k convolution, `mlp` linear to 2 D, GELU, linear to D, and q a table of how
often each label occurs at a gray level, where an untrained guide begins: the head is zero at first.

Sizes: B photographs of S x S pixels, S = 4 H, for labels of H x H pixels; D hidden size. Tensors of features lie
channels last.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coltran.config import as_dict, read
from coltran.image import labels_to_colors
from coltran.networks.colorizer import LABELS
from coltran.networks.config import GuideConfig
from coltran.networks.layers import EPS

GRAYS = 256
SCALE = 4  # pixels a side of the photograph for one of the labels
MEAN, DEVIATION = 127.0, 128.0  # of the photographs that the features were trained on

# Expansion, kernel size, stride, channels of each block (EfficientNet-B0, table 1).
BLOCKS = (
    [(1, 3, 1, 16)]
    + [(6, 3, 2, 24), (6, 3, 1, 24)]
    + [(6, 5, 2, 40), (6, 5, 1, 40)]
    + [(6, 3, 2, 80)] + 2 * [(6, 3, 1, 80)]
    + 3 * [(6, 5, 1, 112)]
    + [(6, 5, 2, 192)] + 3 * [(6, 5, 1, 192)]
    + [(6, 3, 1, 320)]
)  # fmt: skip
STEM = 32  # channels
TAPS = {2: 4, 4: 8, 10: 16, 15: 32}  # blocks whose outputs are used, and their strides
FROZEN = 5  # blocks, with the stem, that are not trained: what they know, edges and textures, is the same here


def _relu6(x: Tensor) -> Tensor:
    """ReLU6, in place where no gradient needs what was there."""
    return F.hardtanh(x, 0.0, 6.0) if x.requires_grad else F.hardtanh_(x, 0.0, 6.0)


class Convolution(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding, and its batch norm folded into weight and bias."""

    def __init__(self, inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, size, stride, padding=(size - 1) // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, outputs, ceil(h / stride), ceil(w / stride)]; of odd padding more is behind."""
        size, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            total = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[-2:]]
            x = F.pad(x, [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2])
        if self.groups == 1 or not x.requires_grad:
            return super().forward(x)
        # Of 5 x 5 oneDNN's gradient takes 5 times as long in bfloat16.
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection, each with its batch norm folded in (Sandler et al., 2018)."""

    def __init__(self, inputs: int, expansion: int, size: int, stride: int, outputs: int) -> None:
        super().__init__()
        inner = expansion * inputs
        self.expand = Convolution(inputs, inner) if expansion > 1 else None
        self.depthwise = Convolution(inner, inner, size, stride, groups=inner)
        self.project = Convolution(inner, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] -> [B, outputs, h / stride, w / stride]."""
        y = x if self.expand is None else _relu6(self.expand(x))
        y = self.project(_relu6(self.depthwise(y)))
        return x + y if self.residual else y


class Features(nn.Module):
    """EfficientNet-Lite0 up to its last block; stem and the first blocks give no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(1, STEM, 3, 2)  # of three equal channels the sum of their weights is enough
        channels = [STEM, *(outputs for *_, outputs in BLOCKS)]
        self.blocks = nn.ModuleList(
            InvertedResidual(inputs, *block) for inputs, block in zip(channels, BLOCKS, strict=False)
        )
        self.stem.requires_grad_(False)
        self.blocks[:FROZEN].requires_grad_(False)

    def forward(self, gray: Tensor) -> dict[int, Tensor]:
        """Integers [B, S, S] of 0..255 -> features [B, S / stride, S / stride, C], by their stride."""
        x = (gray[:, None].to(self.stem.weight.dtype) - MEAN) / DEVIATION
        x = _relu6(self.stem(x.contiguous(memory_format=torch.channels_last)))
        found = {}
        for n, block in enumerate(self.blocks):
            x = block(x)
            if n in TAPS:
                found[TAPS[n]] = x.permute(0, 2, 3, 1)
        return found


class Mixer(nn.Module):
    """y + mlp(norm(dw y)): what is around a pixel, then what follows from it."""

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.depthwise = Convolution(hidden, hidden, size, groups=hidden)
        self.norm = nn.LayerNorm(hidden, EPS)
        self.mlp = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden))

    def forward(self, y: Tensor, pixels: Tensor | None = None) -> Tensor:
        """[B, h, w, D] -> the same; or [B, N, D], only the `pixels` [B, N] of 0 .. h w - 1."""
        mixed = self.depthwise(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if pixels is not None:
            y, mixed = take(y, pixels), take(mixed, pixels)
        return y + self.mlp(self.norm(mixed))


def take(y: Tensor, pixels: Tensor) -> Tensor:
    """The pixels [B, N] of [B, h, w, D]: [B, N, D]."""
    return y.flatten(1, 2).gather(1, pixels[..., None].expand(-1, -1, y.shape[-1]))


def upsample(y: Tensor, side: int) -> Tensor:
    """[B, h, h, D] -> [B, side, side, D], bilinear between the centres of pixels."""
    resized = F.interpolate(y.permute(0, 3, 1, 2), size=(side, side), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)


class Guide(nn.Module):
    """Gray photographs to the distribution of each pixel's label, all pixels at once.

    Args:
        config: the `model` section: `hidden_size` (D, default 256) and `resolution` (H and H of the labels,
            multiples of 8, default 64).

    Raises:
        ValueError: a resolution that is not square, or no multiple of 8.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = as_dict(config)
        sizes = read(GuideConfig, config, "model")
        self.resolution, hidden = sizes.resolution, sizes.hidden_size
        height, width = self.resolution
        if height != width or height % 8:
            raise ValueError(f"a guide works on squares of a multiple of 8 pixels, not {height} x {width}")
        self.features = Features()
        channels = {stride: BLOCKS[n][-1] for n, stride in TAPS.items()}
        self.norms = nn.ModuleDict({str(s): nn.LayerNorm(c, EPS) for s, c in channels.items()})
        self.projections = nn.ModuleDict({str(s): nn.Linear(c, hidden, bias=s == 8) for s, c in channels.items()})
        self.project_mean = nn.Linear(channels[32], hidden, bias=False)
        self.coarse = Mixer(hidden, 5)
        self.gray_embedding = nn.Embedding(GRAYS, hidden)
        self.fine = Mixer(hidden, 3)
        self.norm = nn.LayerNorm(hidden, EPS)
        self.head = nn.Linear(hidden, LABELS)
        self.register_buffer("table", torch.full((GRAYS, LABELS), 1 / LABELS).log())
        self.table: Tensor  # log q
        nn.init.zeros_(self.gray_embedding.weight)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    in_bfloat16 = False  # set by coltran.networks.dense.use_bfloat16

    def hidden(self, gray: Tensor, pixels: Tensor | None = None) -> Tensor:
        """The last hidden layer, of all pixels [B, H, H, D] or of some [B, N, D]: arguments as of `forward`."""
        features = self.features(gray)
        normed = {stride: self.norms[str(stride)](f) for stride, f in features.items()}
        projected = {stride: self.projections[str(stride)](f) for stride, f in normed.items()}
        y = projected[8] + self.project_mean(normed[32].mean((1, 2), keepdim=True))
        y = y + upsample(projected[16], y.shape[1]) + upsample(projected[32], y.shape[1])
        y = self.coarse(y)
        y = upsample(y, 2 * y.shape[1]) + projected[4] + self.gray_embedding(shrink(gray))
        return self.norm(self.fine(y, pixels))

    def forward(self, gray: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Natural logarithms of the probabilities of the 512 labels.

        Args:
            gray: integers [B, 4 H, 4 H] in 0..255.
            pixels: int64 [B, N] in 0 .. H H - 1, row by row: of these alone; None: of all.

        Returns:
            [B, H, H, 512], or [B, N, 512].
        """
        low = shrink(gray)
        low = low if pixels is None else low.flatten(1).gather(1, pixels)
        with torch.autocast(gray.device.type, torch.bfloat16) if self.in_bfloat16 else nullcontext():
            logits = self.head(self.hidden(gray, pixels))
        return F.log_softmax(logits + F.embedding(low, self.table), -1)


def expected_colors(log_p: Tensor, temperature: float = 1.0) -> Tensor:
    """The mean of the labels' centres, `(r, g, b) * 32 + 16`, under `softmax(log p / T)`.

    Args:
        log_p: [..., 512].
        temperature: T, above 0; 1 is nearest to the truth on average, less is more decided.

    Returns:
        float [..., 3], 16 .. 240.
    """
    centres = labels_to_colors(torch.arange(LABELS, device=log_p.device)).to(log_p.dtype) + 16
    return torch.softmax(log_p / temperature, -1) @ centres


def shrink(gray: Tensor) -> Tensor:
    """Integers [B, 4 H, 4 H] -> int64 [B, H, H], the mean of each square of 16 pixels, half to even."""
    return F.avg_pool2d(gray[:, None].float(), SCALE)[:, 0].round().long()
