# SPDX-License-Identifier: Apache-2.0
"""A training on a device of XLA is the training on a CPU, within rounding; and goes on from it, and it from this."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from ml_collections import ConfigDict
from torch_xla.debug import metrics

from coltran import cli, sample
from coltran.evaluate import evaluate_checkpoint
from coltran.image import LUMA, rgb_to_gray
from coltran.training.data import Batch, train_batches
from coltran.training.step import Training, start, take_step
from tests.tiny_training import assert_same_training, losses_of, train_to, whole_config, write_photos

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


def test_losses_weights_and_their_averages_are_those_of_a_cpu(both):
    for ours, theirs in zip(both[1].losses, both[0].losses, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
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


@pytest.mark.parametrize(("kind", "first", "second"), [("rmsprop", "xla", "cpu"), ("adam", "cpu", "xla")])
def test_a_training_moves_between_devices(tmp_path, folder, kind, first, second):
    config = whole_config("color_upsampler", optimizer={"type": kind, "learning_rate": 1e-3})
    train_to(4, config, tmp_path / "whole", folder, device="cpu")
    train_to(2, config, tmp_path / "moved", folder, device=first)
    train_to(4, config, tmp_path / "moved", folder, device=second)
    assert_same_training(tmp_path / "moved", tmp_path / "whole", 1e-5)


def test_a_training_with_dropout_that_goes_on_is_the_one_that_never_stopped(tmp_path, folder):
    config = whole_config("color_upsampler")
    train_to(1, config, tmp_path / "without", folder, device="xla")
    config.model.dropout = 0.3
    for steps, logdir in ((4, "whole"), (2, "parts"), (4, "parts")):
        train_to(steps, config, tmp_path / logdir, folder, device="xla")
    assert_same_training(tmp_path / "parts", tmp_path / "whole")
    assert losses_of(tmp_path / "without")[0] != losses_of(tmp_path / "whole")[0]  # dropout does something


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_gives_the_bits_of_a_cpu(tmp_path, folder, name):
    train_to(1, whole_config(name), tmp_path, folder, device="cpu")
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


def test_a_tpu_that_is_not_there_is_one_sentence(tmp_path, program, capsys):
    flags = ["--config=coltran/test_configs/colorizer.py", f"--logdir={tmp_path}", "--accelerator_type=TPU"]
    assert program(sample.main, *flags) == 1
    assert "There is no TPU here: torch_xla finds a CPU." in capsys.readouterr().err
