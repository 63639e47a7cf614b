# SPDX-License-Identifier: Apache-2.0
"""torch.compile takes whole networks: one graph, with the operations in it, and the same numbers and gradients.

The graphs run as traced ("aot_eager"), forward and backward; those of the smallest network are also compiled to C++
("inductor"), which takes most of half a minute.
"""

from __future__ import annotations

import pytest
import torch
import torch._inductor.config as inductor

from coltran import networks
from coltran.networks.losses import bits
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


COLORIZER, UPSAMPLER = colorizer_config(HEIGHT, WIDTH), upsampler_config("color_upsampler", HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("section", "implementation", "backend"),
    [
        (COLORIZER, "cpu", "aot_eager"),
        (COLORIZER, "triton", "aot_eager"),
        (UPSAMPLER, "triton", "aot_eager"),
        (UPSAMPLER, "cpu", "inductor"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else value,
)
def test_a_compiled_network_computes_what_the_network_computes(section, implementation, backend, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what an earlier run compiled proves nothing
    network = networks.build(section)
    call = _call(network, implementation)
    expected = _loss_and_gradients(network, call)
    torch._dynamo.reset()
    with inductor.patch(compile_threads=1):  # one that waits for others may wait long
        found = _loss_and_gradients(network, torch.compile(call, backend=backend, fullgraph=True))
    torch.testing.assert_close(found, expected)
