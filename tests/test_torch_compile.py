# SPDX-License-Identifier: Apache-2.0
"""torch.compile takes whole networks: one graph, with the operations in it, and the same numbers and gradients.

The graphs run as traced ("aot_eager"), forward and backward; those of the smallest network are also compiled to C++
("inductor"), which takes most of half a minute. Trainings with --compile run as traced, too.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch._inductor.config as inductor

from coltran import networks
from coltran.errors import UserError
from coltran.networks.losses import bits
from coltran.training import step
from coltran.training.step import start, take_step
from tests.tiny import colorizer_config, upsampler_config
from tests.tiny_training import whole_config

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


INTERPRETED = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU Triton takes no tensors of the CPU")


@pytest.mark.parametrize(
    ("section", "implementation", "backend"),
    [
        (COLORIZER, "cpu", "aot_eager"),
        pytest.param(COLORIZER, "triton", "aot_eager", marks=INTERPRETED),
        pytest.param(UPSAMPLER, "triton", "aot_eager", marks=INTERPRETED),
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


@pytest.mark.parametrize("name", ["coltran_core", "color_upsampler"])
def test_a_compiled_training_takes_the_steps_of_one_that_is_not(name, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    rgb = torch.randint(256, (3, 2, 8, 8, 3), dtype=torch.uint8)
    losses = {}
    for compiled in (False, True):
        training = start(whole_config(name), 0, torch.device("cpu"), compiled=compiled)
        assert isinstance(training.losses, torch._dynamo.OptimizedModule) == compiled
        extra = {} if name == "coltran_core" else {"channel_index": torch.tensor([2, 0])}
        losses[compiled] = [take_step(training, {"rgb": images} | extra)["loss"] for images in rgb]
    torch.testing.assert_close(losses[True], losses[False])


def test_without_a_compiler_a_training_on_a_cpu_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler"):
        start(whole_config(), 0, torch.device("cpu"), compiled=True)


def test_xla_compiles_by_itself(monkeypatch):
    here = step.train_device(torch.device("cpu"))
    monkeypatch.setattr(step, "train_device", lambda *_: here)
    with pytest.raises(UserError, match="--compile is not offered on XLA"):
        start(whole_config(), 0, torch.device("xla"), compiled=True)
