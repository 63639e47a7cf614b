# SPDX-License-Identifier: Apache-2.0
"""torch.compile takes whole networks: one graph, with the operations in it, and the same numbers and gradients.

The graphs run as traced ("aot_eager"): what is tested is that they can be traced, forward and backward.
"""

from __future__ import annotations

import pytest
import torch

from coltran import networks
from coltran.losses import bits
from tests.tiny import colorizer_config, upsampler_config

HEIGHT, WIDTH = 2, 3  # the interpreter is slow


def _loss_and_gradients(network, call):
    network.zero_grad()
    loss = call()
    loss.backward()
    return loss.detach(), [weight.grad.clone() for weight in network.parameters() if weight.grad is not None]


def _call(network, implementation):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(8, (1, HEIGHT, WIDTH, 3), generator=generator)
    gray = torch.randint(256, (1, HEIGHT, WIDTH), generator=generator)

    def call():
        if hasattr(network, "outer_decoder"):
            return bits(network(32 * labels, implementation=implementation).logits, labels[..., 0])
        return bits(network(labels, gray, implementation=implementation), labels)

    return call


@pytest.mark.parametrize("implementation", ["cpu", "triton"])
@pytest.mark.parametrize(
    "section",
    [colorizer_config(HEIGHT, WIDTH), upsampler_config("color_upsampler", HEIGHT, WIDTH)],
    ids=lambda section: section["name"],
)
def test_a_compiled_network_computes_what_the_network_computes(section, implementation):
    network = networks.build(section)
    call = _call(network, implementation)
    expected = _loss_and_gradients(network, call)
    torch._dynamo.reset()
    found = _loss_and_gradients(network, torch.compile(call, backend="aot_eager", fullgraph=True))
    torch.testing.assert_close(found, expected)
