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
from coltran.training.file_index import list_folder
from coltran.training.initialization import prepare
from coltran.training.memory import keep_memory
from coltran.training.optimizer import build_average, shortened
from coltran.training.report import Board, Report
from coltran.training.restore import restore
from coltran.training.resume import resume, save
from coltran.training.signals import caught_signals
from coltran.training.step import Training, start, take_step


def _find_checkpoints(training: Training, logdir: Path) -> list[Path]:
    """The checkpoints in a log directory, oldest first; of the original's the newest, made one of ours."""
    if (logdir / "model.safetensors").exists():
        raise UserError(f"{logdir} is a checkpoint, not a log directory; --pretrain_dir={logdir} starts from it.")
    if processes.rank() == 0 and logdir.is_dir() and not checkpoint.numbered(logdir):
        prefix = bundle.latest(logdir)
        if prefix is not None:
            averaged = bool(training.config.polyak_decay)
            step = bundle.read_step(bundle.open_bundle(prefix)) or 0
            target, config = logdir / f"checkpoint-{step:06d}", training.saved_config
            convert(prefix, target, config=config, optimizer=True, ema=averaged, seed=training.seed)
    processes.barrier()
    found = checkpoint.numbered(logdir)
    newest = found[-1].name if found else ""
    if processes.broadcast_from_rank0(newest) != newest:
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
        seed: decides the initial weights, the order, crops and channels of the photographs, and dropout.
        steps_per_summaries: steps between lines of `train.jsonl`.
        keep: how many checkpoints to keep.
        save_every_steps: steps between checkpoints, beside those of config.save_checkpoint_secs; 0: none.
        workers: processes that read photographs.
        device: torch device; "xla" is all devices of torch_xla's runtime.
        precision, accumulate, recompute, compiled: see `start`.

    Returns:
        0 when the last step is reached, 128 + the signal's number after a SIGINT or SIGTERM.

    Raises:
        UserError, CheckpointError, PhotoError, OSError: see `start`, `resume`, `train_batches`, `save`.
    """
    training = start(config, seed, cli.device(device), precision, accumulate, recompute, compiled)
    logdir = Path(logdir)
    settings = training.config
    name, last_step = settings.network, settings.max_train_steps
    writes = processes.rank() == 0
    processes.rank0_first(partial(train_batches, settings, data_dir, name))  # what it keeps of them, the others find
    found = _find_checkpoints(training, logdir)
    if found:
        resume(training, found[-1])
    elif pretrain_dir is not None:
        restored = restore(config, pretrain_dir, training.train_device.device, widen=True)
        checkpoint.load_tensors(training.network, restored.network.state_dict(), restored.source)
        training.average = build_average(settings.polyak_decay, training.network)
        if writes:
            after = f", after {restored.step} training steps" if restored.step else ""
            LOG.info("%s", f"Weights of {restored.source}{after}")
    elif settings.prepare_photographs:
        with contextlib.closing(train_batches(settings, data_dir, name, seed, 0, workers)) as batches:
            count = math.ceil(settings.prepare_photographs / settings.batch_size)
            prepare(training.network, itertools.islice(batches, count))
        training.average = build_average(settings.polyak_decay, training.network)
    if training.step >= last_step:
        if writes:
            checkpoint.prune(logdir, keep)  # a run that was killed when it had saved its last step did not come to it
            LOG.info("%s", f"{found[-1] if found else name} has reached config.max_train_steps={last_step} already.")
        return 0
    share = processes.rank(), processes.world_size()
    batches = train_batches(settings, data_dir, name, seed, training.step, workers, share)
    board = report = None
    if writes:
        logdir.mkdir(parents=True, exist_ok=True)
        checkpoint.save_config(training.saved_config, logdir / "config.yaml")
        size = sum(p.numel() for p in training.network.parameters())
        origin = found[-1] if found else "the start"
        where = f", {training.train_device.text}" if training.train_device.text else ""
        LOG.info("%s", f"{name}, {size / 1e6:.2f} M parameters, from {origin}{where}")
        board = Board(logdir / "train_summaries", training.step) if tensorboard else None
        report = Report(
            logdir / "train.jsonl",
            settings,
            steps_per_summaries,
            training.step,
            board,
            between=training.train_device.eager,
        )
    last_save = time.monotonic()
    with caught_signals() as caught, report or contextlib.nullcontext(), contextlib.closing(batches):
        for batch in batches:
            losses = take_step(training, batch)
            if report is not None:
                report.add(training.step, losses)
            late = writes and time.monotonic() - last_save > settings.save_checkpoint_secs
            stop, due = processes.all_reduce_max([caught[0] if caught else 0, int(late)])
            finished = bool(stop) or training.step >= last_step
            if finished or due or (save_every_steps and training.step % save_every_steps == 0):
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
    text = "weights to start from, in a log directory: of the same network or of one of half the width"
    flags.DEFINE_string("pretrain_dir", None, text, flag_values=values)
    text = "of matrix products; default: bfloat16 on a TPU, else float32"
    flags.DEFINE_enum("precision", None, PRECISIONS, text, flag_values=values)
    text = "compute layers again for the gradients: less memory, up to a third more time"
    flags.DEFINE_boolean("recompute", False, text, flag_values=values)
    text = "use torch.compile for a step's losses and gradients, which takes up to minutes at the start"
    flags.DEFINE_boolean("compile", False, text, flag_values=values)
    flags.DEFINE_boolean("tensorboard", tensorboard, "write summaries for TensorBoard", flag_values=values)


def train_by_flags(values: flags.FlagValues, photos: Photos, device: str) -> int:
    """`train` with the configuration and options of a command line; the process keeps its memory from now on."""
    keep_memory()
    names = ("pretrain_dir", "tensorboard", "seed", "steps_per_summaries", "keep", "save_every_steps", "workers")
    options: dict[str, Any] = {name: values[name].value for name in (*names, "precision", "accumulate", "recompute")}
    config = shortened(values.config, values.shorten)
    return train(config, values.logdir, photos, device=device, compiled=values.compile, **options)


def define_flags(values: flags.FlagValues) -> None:
    """Defines this program's flags, beside `--config`."""
    flags.DEFINE_string("logdir", None, "where checkpoints and summaries go", required=True, flag_values=values)
    text = "folder of photographs; more than one: --data_dir=A --data_dir=B"
    flags.DEFINE_multi_string("data_dir", None, text, required=True, flag_values=values)
    define_training_flags(values, keep=3, tensorboard=False)
    flags.DEFINE_integer("seed", 0, "decides everything random", 0, 2**64 - 1, flag_values=values)
    flags.DEFINE_integer("threads", None, "threads that compute (default: torch decides)", 1, flag_values=values)
    flags.DEFINE_string("device", "cpu", "cpu, cuda or xla", flag_values=values)


def main() -> int:
    """The program; returns its exit code."""
    values = cli.parse_flags(sys.argv[1:], __doc__ or "", define_flags)
    if values.threads:
        torch.set_num_threads(values.threads)
    with processes.init_distributed():
        folders = values.data_dir
        photos = folders[0] if len(folders) == 1 else [path for folder in folders for path in list_folder(folder)]
        return train_by_flags(values, photos, values.device)


if __name__ == "__main__":
    cli.run(main)
