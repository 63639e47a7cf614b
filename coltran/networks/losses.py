# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation losses, in bits a pixel (colorizer) or a channel value (upsamplers)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from coltran.config import LossConfig, part
from coltran.image import colors_to_labels, rgb_to_gray, to_bits
from coltran.networks.colorizer import Colorizer
from coltran.networks.guide import Guide
from coltran.networks.upsamplers import ColorUpsampler


def bits(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of labels [...] under logits [..., S], in bits."""
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1).long()) / math.log(2)


def compute_losses(
    network: nn.Module, batch: Mapping[str, Tensor], config: LossConfig | Mapping[str, Any], training: bool
) -> dict[str, Tensor]:
    """The losses of one batch (ColTran sections 4.2 and 4.3).

    Args:
        network: the guide or one of the paper's three.
        batch: "rgb" uint8 [B, H, W, 3], and for the spatial upsampler "low_res", the same images brought to 64 x 64
            and back; in training of an upsampler "channel_index" [B], the channel to be learned of each image; for the
            guide "gray" uint8 [B, 4 H, 4 H], and in training "pixels" int64 [B, N], those to be learned.
        config: a configuration; `loss_factor` and `encoder_loss_factor` (default 1) weigh the total.
        training: upsamplers learn one channel an image, and are evaluated on all three.

    Returns:
        "loss" in bits, "encoder" for the colorizer's parallel head where there is one, and "total_loss", the
        quantity to minimise.
    """
    weights, rgb = part(LossConfig, config), batch["rgb"]
    if isinstance(network, Colorizer):
        labels = colors_to_labels(to_bits(rgb, 8, 3))
        output = network(rgb)
        losses = {"loss": bits(output.logits, labels)}
        total = weights.loss_factor * losses["loss"]
        if output.parallel_logits is not None:
            losses["encoder"] = bits(output.parallel_logits, labels)
            total = total + weights.encoder_loss_factor * losses["encoder"]
        return losses | {"total_loss": total}

    if isinstance(network, Guide):
        labels, pixels = colors_to_labels(to_bits(rgb, 8, 3)), batch.get("pixels")
        if pixels is not None:
            labels = labels.flatten(1).gather(1, pixels)
        loss = bits(network(batch["gray"], pixels), labels)
        return {"loss": loss, "total_loss": weights.loss_factor * loss}

    inputs = to_bits(rgb, 8, 3) if isinstance(network, ColorUpsampler) else batch["low_res"]
    targets, index = rgb, None
    if training:
        index = batch["channel_index"]
        chosen = index.view(-1, 1, 1, 1).expand(*rgb.shape[:3], 1)
        inputs, targets = inputs.gather(3, chosen), rgb.gather(3, chosen)
    loss = bits(network(inputs, rgb_to_gray(rgb), index), targets)
    return {"loss": loss, "total_loss": weights.loss_factor * loss}
