# SPDX-License-Identifier: Apache-2.0
"""Four devices with a share of each batch are one device with all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from coltran.train import train
from tests.tiny_training import whole_config, write_photos

ROOT = Path(__file__).resolve().parent.parent.parent

# Devices are made when the runtime starts, so four of them need a process of their own.
PROGRAM = """
import sys
from pathlib import Path
import torch
import torch_xla
from torch_xla.debug import metrics
from coltran import train as program
from coltran.console import speak
from coltran.errors import UserError
from tests.tiny_training import whole_config

folder, out = map(Path, sys.argv[1:])
take_step, compiled, shares, weights = program.take_step, [], set(), set()

def watched(training, batch):
    losses = take_step(training, batch)
    compiled.append(metrics.metric_data("CompileTime")[0])
    shares.add(torch_xla._XLAC._get_xla_sharding_spec(training.train_device.put(batch["rgb"])))
    weights.update(torch_xla._XLAC._get_xla_sharding_spec(p) for p in training.network.parameters())
    return losses

program.take_step = watched
speak()
for name in ("color_upsampler", "coltran_core"):
    config = whole_config(name, batch_size=4, max_train_steps=5)
    compiled.clear()
    assert program.train(config, out / name, folder, workers=0, device="xla") == 0
    print("compiled", name, *(n - compiled[2] for n in compiled[3:]))
print("shares", *shares)
print("weights", weights)
try:
    program.start(whole_config(batch_size=6), 0, torch.device("xla:0"))
except UserError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def four(tmp_path_factory, photographs) -> tuple[Path, str]:
    """Where five steps on four devices were saved, and what the program said."""
    out = tmp_path_factory.mktemp("four")
    command = [sys.executable, "-c", PROGRAM, str(photographs), str(out)]
    environment = os.environ | {"CPU_NUM_DEVICES": "4"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.mark.parametrize("name", ["color_upsampler", "coltran_core"])
@pytest.mark.parametrize("device", ["xla", "cpu"])
def test_four_devices_train_as_one(tmp_path, photographs, four, name, device):
    config = whole_config(name, batch_size=4, max_train_steps=5)
    train(config, tmp_path, photographs, workers=0, device=device)
    ours, theirs = (load_file(out / "checkpoint-000005" / "training.safetensors") for out in (four[0] / name, tmp_path))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_each_has_a_quarter_of_the_images_and_all_weights(four):
    assert "4 CPU devices of XLA" in four[1]
    assert "shares {devices=[4,1,1,1]0,1,2,3}" in four[1]
    assert "weights {'{replicated}'}\n" in four[1] or "weights {''}\n" in four[1], four[1]


@pytest.mark.parametrize("name", ["color_upsampler", "coltran_core"])
def test_they_compile_nothing_after_the_third_step(four, name):
    """The second and the third compile the sums of the losses for the summaries."""
    assert f"compiled {name} 0 0\n" in four[1]


def test_a_batch_that_cannot_be_shared_is_one_sentence(four):
    assert "config.batch_size must be a multiple of 4, the number of devices." in four[1]
