# SPDX-License-Identifier: Apache-2.0
"""An upsampler on a GPU as one CUDA graph: all channels of an image at once, captured at the first call and kept."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from coltran.networks.dense import made_once
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.sampling import cuda_graphs
from coltran.sampling.encoding import encode_in_place
from coltran.sampling.estimates import Estimate

Upsampler = ColorUpsampler | SpatialUpsampler


class Upsampling:
    """The graph for one estimate, and the memory that it works in."""

    def __init__(self, network: Upsampler, channels: Tensor, estimate: Estimate, implementation: str) -> None:
        """`channels` [B, H, W, c] are as those that will be given."""
        self.network, self.estimate, self.implementation = network, estimate, implementation
        self.channels = torch.zeros_like(channels[:1], dtype=torch.uint8)
        self.gray = torch.zeros_like(self.channels[..., 0])
        self.values = torch.zeros_like(self.channels)
        self.tables = network.tables()
        self.run = cuda_graphs.capture(self._run)

    def _run(self) -> None:
        of_channel, of_gray = self.tables
        count = self.channels.shape[-1]
        offsets = self.network.levels * torch.arange(count, device=self.channels.device)
        x = F.embedding((self.channels.long() + offsets)[0].permute(2, 0, 1).contiguous(), of_channel)
        x += F.embedding(self.gray.long(), of_gray)
        x = encode_in_place(self.network.encoder, x, implementation=self.implementation)
        logits = self.network.logits(x, out_dtype=torch.float32, implementation=self.implementation)
        self.values.copy_(self.estimate(logits).permute(1, 2, 0)[None])


@torch.no_grad()
def upsample_images(
    network: Upsampler, channels: Tensor, gray: Tensor, estimate: Estimate, *, precision: str, implementation: str
) -> Tensor:
    """What `coltran.sampling.encoding.estimate_values` gives, an image after the other: uint8 [B, H, W, c]."""
    captured_from = made_once(network, "graphs", [*network.parameters()], object)
    key = (estimate, channels.shape[1:], precision, implementation)
    lock, graph = cuda_graphs.with_graphs(
        network, key, captured_from, lambda: Upsampling(network, channels, estimate, implementation)
    )
    found = torch.empty(channels.shape, dtype=torch.uint8, device=channels.device)
    with lock:
        for b in range(len(channels)):
            graph.channels.copy_(channels[b : b + 1], non_blocking=True)
            graph.gray.copy_(gray[b : b + 1], non_blocking=True)
            graph.run()
            found[b : b + 1] = graph.values
    return found
