# SPDX-License-Identifier: Apache-2.0
"""Trains one of the three networks on a folder of photographs.

    python -m coltran.train --config=coltran/configs/colorizer.py --logdir=DIR --data_dir=PHOTOS
    python -m coltran.train --config=coltran/test_configs/colorizer.py --logdir=DIR --data_dir=PHOTOS \\
        --config.batch_size=8 --config.optimizer.learning_rate=1e-3 --config.max_train_steps=1000
    torchrun --nproc-per-node=8 -m coltran.train --config=coltran/configs/colorizer.py --logdir=DIR --data_dir=PHOTOS \\
        --device=cuda

DIR gets `config.yaml`, a line of `train.jsonl` for each summary, and `checkpoint-NNNNNN/`: every
config.save_checkpoint_secs seconds, at the end, and on Ctrl-C or a SIGTERM (exit code 130 or 143). The same
command again goes on from the newest checkpoint, and its losses are those of a training that was never
interrupted: to the bit on a CPU, with the same number of threads.

Under torchrun the processes share every batch of config.batch_size photographs evenly. However many they are, the
losses are the same to rounding, and a training goes on with another number of them. The first one writes; DIR has to
be a folder that all see.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from absl import flags

from coltran import checkpoint, cli
from coltran.console import LOG
from coltran.devices import processes
from coltran.devices.choose import PRECISIONS
from coltran.errors import UserError
from coltran.original import bundle
from coltran.original.load import convert
from coltran.training.data import Photos, train_batches
from coltran.training.first_weights import prepare
from coltran.training.memory import keep_memory
from coltran.training.optimizer import build_average, shortened
from coltran.training.report import Board, Report
from coltran.training.restore import restore
from coltran.training.resume import resume, save
from coltran.training.signals import caught_signals
from coltran.training.step import start, take_step


def _find_checkpoints(config: Mapping[str, Any], logdir: Path, seed: int) -> list[Path]:
    """The checkpoints in a log directory, oldest first; of the original's the newest, made one of ours."""
    if (logdir / "model.safetensors").exists():
        raise UserError(f"{logdir} is a checkpoint, not a log directory; --pretrain_dir={logdir} starts from it.")
    if processes.rank() == 0 and logdir.is_dir() and not checkpoint.numbered(logdir):
        prefix = bundle.latest(logdir)
        if prefix is not None:
            averaged = bool(config.get("polyak_decay"))
            step = bundle.read_step(bundle.open_bundle(prefix)) or 0
            convert(prefix, logdir / f"checkpoint-{step:06d}", config=config, optimizer=True, ema=averaged, seed=seed)
    processes.wait()
    found = checkpoint.numbered(logdir)
    newest = found[-1].name if found else ""
    if processes.of_first(newest) != newest:
        raise UserError(f"{logdir} has to be a folder that all processes see: they find different checkpoints there.")
    return found


def train(
    config: Mapping[str, Any],
    logdir: str | Path,
    data_dir: Photos,
    *,
    pretrain_dir: str | Path | None = None,
    tensorboard: bool = False,
    seed: int = 0,
    steps_per_summaries: int = 100,
    keep: int = 3,
    save_every_steps: int = 0,
    workers: int = 1,
    device: str = "cpu",
    precision: str | None = None,
    accumulate: int = 1,
    recompute: bool = False,
    compiled: bool = False,
) -> int:
    """Trains from the newest checkpoint in `logdir`, or from the start, up to `config.max_train_steps`.

    Args:
        config: whole configuration.
        logdir: where checkpoints and summaries go; made where missing.
        data_dir: folder of photographs, or photographs one by one.
        pretrain_dir: a training that has no checkpoint yet starts from the weights in there, ours or the original's, of
            the same network or of one of half the width.
        tensorboard: write summaries for TensorBoard as well, to `logdir`/train_summaries.
        seed: decides the first weights, the order, crops and channels of the photographs, and dropout.
        steps_per_summaries: steps between lines of `train.jsonl`.
        keep: how many checkpoints to keep.
        save_every_steps: steps between checkpoints, beside those that config.save_checkpoint_secs asks for;
            0: none.
        workers: processes that read photographs.
        device: torch device; "xla" is all devices of torch_xla's runtime.
        precision: of the matrix products, see `coltran.devices.choose.place`.
        accumulate: parts of a batch that go through the network one after another, see `start`.
        recompute: keep the inputs of layers alone, see `start`.
        compiled: by `torch.compile`, see `start`.

    Returns:
        0 when the last step is reached, 128 + the signal's number after a SIGINT or SIGTERM.

    Raises:
        UserError, CheckpointError, PhotoError, OSError: see `start`, `resume`, `train_batches`, `save`.
    """
    training = start(config, seed, cli.device(device), precision, accumulate, recompute, compiled)
    logdir = Path(logdir)
    config = training.config
    name, last_step = config["model"]["name"], config["max_train_steps"]
    writes = processes.rank() == 0
    processes.first_alone(partial(train_batches, config, data_dir, name))  # what it keeps of them, the others find
    found = _find_checkpoints(config, logdir, seed)
    if found:
        resume(training, found[-1])
    elif pretrain_dir is not None:
        restored = restore(config, pretrain_dir, training.place.device, widening=True)
        checkpoint.load_tensors(training.network, restored.network.state_dict(), restored.source)
        training.average = build_average(config, training.network)
        if writes:
            LOG.info("%s", f"Weights of {restored.source}, after {restored.step} training steps")
    elif config.get("prepare_photographs"):
        with contextlib.closing(train_batches(config, data_dir, name, seed, 0, workers)) as batches:
            count = math.ceil(config["prepare_photographs"] / config["batch_size"])
            prepare(training.network, itertools.islice(batches, count))
        training.average = build_average(config, training.network)
    if training.step >= last_step:
        if writes:
            checkpoint.prune(logdir, keep)  # a run that was killed when it had saved its last step did not come to it
            LOG.info("%s", f"{found[-1] if found else name} has reached config.max_train_steps={last_step} already.")
        return 0
    share = processes.rank(), processes.count()
    batches = train_batches(config, data_dir, name, seed, training.step, workers, share)
    board = report = None
    if writes:
        logdir.mkdir(parents=True, exist_ok=True)
        checkpoint.save_config(config, logdir / "config.yaml")
        size = sum(p.numel() for p in training.network.parameters())
        origin = found[-1] if found else "the start"
        where = f", {training.place.text}" if training.place.text else ""
        LOG.info("%s", f"{name}, {size / 1e6:.2f} M parameters, from {origin}{where}")
        board = Board(logdir / "train_summaries", training.step) if tensorboard else None
        report = Report(
            logdir / "train.jsonl", config, steps_per_summaries, training.step, board, between=training.place.eager
        )
    last_save = time.monotonic()
    with caught_signals() as caught, report or contextlib.nullcontext(), contextlib.closing(batches):
        for batch in batches:
            losses = take_step(training, batch)
            if report is not None:
                report.add(training.step, losses)
            late = writes and time.monotonic() - last_save > config.get("save_checkpoint_secs", 900)
            stop, late = processes.largest([caught[0] if caught else 0, int(late)])
            finished = bool(stop) or training.step >= last_step
            if finished or late or (save_every_steps and training.step % save_every_steps == 0):
                if writes:
                    path = save(training, logdir, keep)
                last_save = time.monotonic()
                if board is not None:
                    board.images(training.network, batch, training.step)
            if finished:
                break
    if writes:
        LOG.info("%s", f"{'Stopped' if stop else 'Finished'} after step {training.step}; saved {path}.")
    return 128 + stop if stop else 0


def define_training_flags(values: flags.FlagValues, *, keep: int, tensorboard: bool) -> None:
    """Defines the flags that `train_by_flags` reads, with these defaults, but for `--logdir` and `--seed`."""
    for name, default, lowest, text in (
        ("steps_per_summaries", 100, 1, "steps between summaries"),
        ("keep", keep, 1, "checkpoints to keep"),
        ("workers", 1, 0, "processes that read photographs; 0: none besides this one"),
        ("accumulate", 1, 1, "parts of a batch that go through the network one by one, which takes less memory"),
        ("shorten", 1, 1, "train a so-many-th of the configuration's steps, to see what it comes to: docs/training.md"),
        ("save_every_steps", 0, 0, "steps between checkpoints; 0: only by the clock"),
    ):
        flags.DEFINE_integer(name, default, text, lower_bound=lowest, flag_values=values)
    flags.DEFINE_string(
        "pretrain_dir",
        None,
        "weights to start from, in a log directory: of the same network or of one of half the width",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "precision",
        None,
        PRECISIONS,
        "of matrix products; default: bfloat16 on a TPU, else float32",
        flag_values=values,
    )
    text = (
        "compute layers again for the gradients rather than keep what they need: less memory, up to a third more time"
    )
    flags.DEFINE_boolean("recompute", False, text, flag_values=values)
    text = "have torch.compile make programs of a step's losses and gradients, which takes up to minutes at the start"
    flags.DEFINE_boolean("compile", False, text, flag_values=values)
    flags.DEFINE_boolean("tensorboard", tensorboard, "write summaries for TensorBoard", flag_values=values)


def train_by_flags(values: flags.FlagValues, photos: Photos, device: str) -> int:
    """`train` with the configuration and options of a command line; the process keeps its memory from now on."""
    keep_memory()
    return train(
        shortened(values.config, values.shorten),
        values.logdir,
        photos,
        pretrain_dir=values.pretrain_dir,
        tensorboard=values.tensorboard,
        seed=values.seed,
        steps_per_summaries=values.steps_per_summaries,
        keep=values.keep,
        save_every_steps=values.save_every_steps,
        workers=values.workers,
        device=device,
        precision=values.precision,
        accumulate=values.accumulate,
        recompute=values.recompute,
        compiled=values.compile,
    )


def define_flags(values: flags.FlagValues) -> None:
    """Defines this program's flags, beside `--config`."""
    for name, text in (
        ("logdir", "where checkpoints and summaries go"),
        ("data_dir", "folder of photographs"),
    ):
        flags.DEFINE_string(name, None, text, required=True, flag_values=values)
    define_training_flags(values, keep=3, tensorboard=False)
    flags.DEFINE_integer("seed", 0, "decides everything random", 0, 2**64 - 1, flag_values=values)
    flags.DEFINE_integer(
        "threads", None, "threads that compute; torch's own choice where not given", 1, flag_values=values
    )
    flags.DEFINE_string("device", "cpu", "cpu, cuda or xla", flag_values=values)


def main() -> int:
    """The program; returns its exit code."""
    values = cli.parse_flags(sys.argv[1:], __doc__ or "", define_flags)
    if values.threads:
        torch.set_num_threads(values.threads)
    with processes.joined():
        return train_by_flags(values, values.data_dir, values.device)


if __name__ == "__main__":
    cli.run(main)
