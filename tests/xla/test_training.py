# SPDX-License-Identifier: Apache-2.0
"""A training on a device of XLA is the training on a CPU, within rounding; and goes on from it, and it from this."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from ml_collections import ConfigDict
from safetensors.torch import load_file
from torch_xla.debug import metrics

from coltran import cli
from coltran.evaluate import evaluate_checkpoint
from coltran.image import LUMA, rgb_to_gray
from coltran.train import train
from coltran.training.data import Batch, train_batches
from coltran.training.step import Training, start, take_step
from tests.tiny_training import whole_config, write_photos

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = ["coltran_core", "color_upsampler", "spatial_upsampler"]
CPU = torch.device("cpu")


class Steps(NamedTuple):
    training: Training
    losses: list[dict[str, float]]
    compiled: list[int]  # programs, after each step
    fetched: int  # transfers to the host during the steps


def compilations() -> int:
    found = metrics.metric_data("CompileTime")
    return int(found[0]) if found else 0


def fetches() -> int:
    found = metrics.metric_data("TransferFromDeviceTime")
    return int(found[0]) if found else 0


def photographs(folder: Path, config: ConfigDict) -> Iterator[Batch]:
    return itertools.islice(train_batches(config, folder, config.model.name, workers=0), 5)


def five_steps(config: ConfigDict, folder: Path, device: torch.device, precision: str | None = None) -> Steps:
    training = start(config, 0, device, precision)
    losses, compiled, fetched = [], [], 0
    for batch in photographs(folder, config):
        before = fetches()
        found = take_step(training, batch)
        fetched += fetches() - before
        compiled.append(compilations())
        losses.append({name: float(loss) for name, loss in found.items()})
    return Steps(training, losses, compiled, fetched)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module", params=NAMES)
def both(request, folder) -> tuple[Steps, Steps]:
    """Five steps of each network, on the CPU and on XLA."""
    config = whole_config(request.param)
    return five_steps(config, folder, CPU), five_steps(config, folder, cli.device("xla"))


def test_the_losses_are_those_of_a_cpu(both):
    for ours, theirs in zip(both[1].losses, both[0].losses, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_the_weights_and_their_averages_are_those_of_a_cpu(both):
    for find in (lambda t: dict(t.network.named_parameters()), lambda t: t.average.averages):
        on_cpu, on_xla = find(both[0].training), find(both[1].training)
        for name, tensor in on_cpu.items():
            torch.testing.assert_close(on_xla[name].cpu(), tensor, rtol=0, atol=1e-5, msg=name)


def test_nothing_is_compiled_after_the_first_step(both):
    """The sums of a summary are none of it: `Report` is not in this loop."""
    assert both[1].compiled[0] > 0
    assert set(both[1].compiled) == {both[1].compiled[0]}


def test_a_step_fetches_nothing_from_the_device(both):
    assert fetches() > 0  # by the losses that were looked at: it does count
    assert both[1].fetched == 0


def test_adam_compiles_no_more_after_its_second_step(folder):
    config = whole_config("color_upsampler", optimizer={"type": "adam"})
    compiled = five_steps(config, folder, cli.device("xla")).compiled
    assert set(compiled[1:]) == {compiled[1]}


def test_bfloat16_is_of_products_alone(folder):
    config = whole_config("color_upsampler")
    exact = five_steps(config, folder, CPU)
    rounded = five_steps(config, folder, cli.device("xla"), "bfloat16")
    assert all(parameter.dtype == torch.float32 for parameter in rounded.training.network.parameters())
    for ours, theirs in zip(rounded.losses, exact.losses, strict=True):
        assert 1e-6 < abs(ours["loss"] - theirs["loss"]) < 0.05  # 8 bits a factor, of losses near 8


def run(config: ConfigDict, logdir: Path, folder: Path, steps: int, device: str, **options: Any) -> dict:
    """Trains up to a step; the tensors of the last checkpoint."""
    config = ConfigDict(config.to_dict() | {"max_train_steps": steps})
    assert train(config, logdir, folder, steps_per_summaries=1, workers=0, device=device, **options) == 0
    return load_file(logdir / f"checkpoint-{steps:06d}" / "training.safetensors")


def losses_of(logdir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (logdir / "train.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["rmsprop", "adam"])
@pytest.mark.parametrize(("first", "second"), [("xla", "cpu"), ("cpu", "xla")])
def test_a_training_moves_between_devices(tmp_path, folder, kind, first, second):
    config = whole_config("color_upsampler", optimizer={"type": kind, "learning_rate": 1e-3})
    whole = run(config, tmp_path / "whole", folder, 4, "cpu")
    run(config, tmp_path / "moved", folder, 2, first)
    moved = run(config, tmp_path / "moved", folder, 4, second)
    assert moved.keys() == whole.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(moved[name], tensor, rtol=0, atol=1e-5, msg=name)
    assert losses_of(tmp_path / "moved") == pytest.approx(losses_of(tmp_path / "whole"), abs=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_training_that_goes_on_is_the_one_that_never_stopped(tmp_path, folder, dropout):
    config = whole_config("color_upsampler")
    config.model.dropout = dropout
    whole = run(config, tmp_path / "whole", folder, 4, "xla")
    run(config, tmp_path / "parts", folder, 2, "xla")
    parts = run(config, tmp_path / "parts", folder, 4, "xla")
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")


def test_dropout_does_something(tmp_path, folder):
    """Without this the case with dropout above could pass with dropout that does nothing."""
    found = []
    for dropout in (0.0, 0.3):
        config = whole_config("color_upsampler")
        config.model.dropout = dropout
        run(config, tmp_path / str(dropout), folder, 1, "xla")
        found.append(losses_of(tmp_path / str(dropout)))
    assert found[0] != found[1]


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_gives_the_bits_of_a_cpu(tmp_path, folder, name):
    run(whole_config(name), tmp_path, folder, 1, "cpu")
    ours, theirs = (evaluate_checkpoint(tmp_path, folder, workers=0, device=device) for device in ("xla", "cpu"))
    keys = [key for key in ("photos", "loss", "encoder") if key in theirs]
    assert [ours[key] for key in keys] == pytest.approx([theirs[key] for key in keys], abs=1e-5)


def test_gray_levels_are_exact_where_rounding_decides():
    levels = np.arange(256, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    luma = colours @ np.array(LUMA)
    near = torch.from_numpy(colours[np.abs(luma - np.round(luma)) < 1e-4])
    assert len(near) > 1000
    assert torch.equal(rgb_to_gray(near.to("xla")).cpu(), rgb_to_gray(near))


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from tests.tiny_training import whole_config
def get_config():
    return whole_config("color_upsampler", max_train_steps=100_000)
"""


def test_a_sigterm_saves_and_says_where(tmp_path, folder):
    (tmp_path / "config.py").write_text(PROGRAM.format(root=str(ROOT)))
    logdir = tmp_path / "log"
    flags = [f"--config={tmp_path / 'config.py'}", f"--logdir={logdir}", f"--data_dir={folder}", "--device=xla"]
    command = [sys.executable, "-m", "coltran.train", *flags, "--steps_per_summaries=1", "--threads=1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 100
        while not (logdir / "train.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=100)
    assert process.returncode == 143, said
    assert "1 CPU device of XLA, products in float32" in said
    stopped = json.loads((logdir / "train.jsonl").read_text().splitlines()[-1])["step"]
    whole = run(whole_config("color_upsampler"), tmp_path / "whole", folder, stopped, "xla")
    saved = load_file(logdir / f"checkpoint-{stopped:06d}" / "training.safetensors")
    assert [name for name in whole if not torch.equal(whole[name], saved[name])] == []


def test_a_tpu_that_is_not_there_is_one_sentence(tmp_path):
    flags = ["--config=coltran/test_configs/colorizer.py", f"--logdir={tmp_path}", "--accelerator_type=TPU"]
    command = [sys.executable, "-m", "coltran.sample", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1
    assert "There is no TPU here: torch_xla finds a CPU." in done.stderr
    assert "Traceback" not in done.stderr
