# SPDX-License-Identifier: Apache-2.0
"""Trains or evaluates a network, with the flags of the original program.

    python -m coltran.run --config=coltran/configs/colorizer.py --mode=train --logdir=DIR --data_dir=IMAGENET
    python -m coltran.run --config=coltran/configs/colorizer.py --mode=eval_valid --logdir=DIR --data_dir=IMAGENET
    python -m coltran.run --config=coltran/configs/colorizer.py --mode=train --logdir=DIR \\
        --dataset=custom --data_dir=PHOTOS --pretrain_dir=DIR2

`train` is `coltran.train`, with summaries for TensorBoard in LOGDIR/train_summaries. The other modes wait for
checkpoints in LOGDIR, measure the newest and then each later one in order, on config.eval_num_examples photographs,
with the moving averages, print bits a dimension, and write summaries to LOGDIR/eval_SUBSET_summaries_pyk_True. They end
when no new checkpoint has come for config.eval_checkpoint_wait_secs (below 1: never). A training keeps its last --keep
checkpoints: an evaluation that falls further behind leaves out those that are gone. LOGDIR and --pretrain_dir may hold
checkpoints of the original.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from absl import flags

from coltran import cli
from coltran.checkpoint import CheckpointError, numbered
from coltran.config import EvalConfig, part
from coltran.console import LOG
from coltran.devices import processes
from coltran.errors import UsageError
from coltran.evaluate import evaluate
from coltran.train import define_training_flags, train_by_flags
from coltran.training.data import eval_batches
from coltran.training.datasets import photographs
from coltran.training.report import Board
from coltran.training.restore import newest, restore

SUBSETS = {"train": "train", "eval_train": "train", "eval_valid": "valid", "eval_test": "test"}
POLL = 1.0  # seconds between looks for a checkpoint


def next_checkpoint(logdir: str | Path, seen: Path | None) -> Path | None:
    """The checkpoint to evaluate after `seen`: the next one, or the newest where `seen` is None.

    None where there is none. Of the original's checkpoints, the newest is the only one that is looked for.
    """
    if not Path(logdir).is_dir():
        return None
    if seen is not None and (after := [path for path in numbered(logdir) if _rank(path) > _rank(seen)]):
        return after[0]
    path = newest(logdir)
    return None if path == seen else path


def _rank(path: Path) -> tuple[int, str]:
    return len(path.name), path.name  # checkpoint-1000000 comes after checkpoint-999999


def wait_for_checkpoint(logdir: str | Path, seen: Path | None, seconds: float) -> Path | None:
    """Waits for `next_checkpoint`, that of rank 0 under torchrun; None after `seconds`.

    Args:
        seconds: how long to wait; below 1 without end.
    """
    start = time.monotonic()
    while not (found := processes.broadcast_from_rank0(str(next_checkpoint(logdir, seen) or ""))):
        if any(processes.all_reduce_max([int(1 <= seconds <= time.monotonic() - start)])):
            return None
        time.sleep(POLL)
    return Path(found)


def evaluate_checkpoints(
    config: Mapping[str, Any],
    logdir: str | Path,
    photos: Sequence[Path],
    subset: str,
    *,
    tensorboard: bool = True,
    workers: int = 1,
    device: torch.device | None = None,
) -> int:
    """Evaluates the newest checkpoint, then every later one in order, as they come; returns how many.

    Args:
        config: whole configuration; read are eval_batch_size, eval_num_examples, eval_checkpoint_wait_secs and what
            describes the network.
        logdir: where checkpoints come, and summaries go.
        photos: what to measure on, of which the first `eval_num_examples` are taken.
        subset: its name.

    Raises:
        CheckpointError: none came in time, or one is damaged.
        UserError: one of another network than the configuration's.
    """
    settings = part(EvalConfig, config)
    wait = settings.eval_checkpoint_wait_secs
    wait = settings.save_checkpoint_secs * 100 if wait is None else wait
    path, count = None, 0
    share = processes.rank(), processes.world_size()
    while (path := wait_for_checkpoint(logdir, path, wait)) is not None:
        restored = None
        try:
            restored = restore(config, path, device or torch.device("cpu"))
        except CheckpointError:
            if newest(path) is not None:
                raise
        if any(processes.all_reduce_max([int(restored is None)])) or restored is None:
            continue  # the training has deleted it meanwhile
        network, step, source = restored
        limit = settings.eval_num_examples
        batches = eval_batches(settings, photos, settings.network, limit=limit, workers=workers, share=share)
        results = evaluate(network, batches, settings)
        weighted = settings.loss_factor * results["loss"]
        total = weighted + settings.encoder_loss_factor * results.get("encoder", 0.0)
        count += 1
        if processes.rank() != 0:
            continue
        LOG.info("%s", f"Bits/Dim: {results['loss']:.4f}, {results['photos']} photographs, {source}")
        if tensorboard:
            averaged = bool(settings.polyak_decay)
            board = Board(Path(logdir) / f"eval_{subset}_summaries_pyk_{averaged}", step - 1)
            board.scalars({"loss": results["loss"], "total_loss": total}, step)
            board.close()
    if not count:
        raise CheckpointError(f"No checkpoint came in {logdir} within {wait} seconds.")
    if processes.rank() == 0:
        LOG.info("%s", f"No new checkpoint within {wait} seconds.")
    return count


def define_flags(values: flags.FlagValues) -> None:
    """Defines this program's flags, beside `--config`."""
    flags.DEFINE_enum("mode", "train", list(SUBSETS), "train, or what to evaluate on", flag_values=values)
    flags.DEFINE_string("logdir", "/tmp/svt", "checkpoints and summaries", flag_values=values)
    flags.DEFINE_string("data_dir", None, "folder of photographs", flag_values=values)
    flags.DEFINE_string("dataset", None, "imagenet or custom; config.dataset where not given", flag_values=values)
    define_training_flags(values, keep=10, tensorboard=True)
    cli.define_machine_flags(values)


def main() -> int:
    """The program; returns its exit code."""
    values = cli.parse_flags(sys.argv[1:], __doc__ or "", define_flags)
    with processes.init_distributed():
        return _run(values)


def _run(values: flags.FlagValues) -> int:
    device = cli.machine(values)
    config = values.config
    if values.dataset:
        with config.unlocked():
            config.dataset = values.dataset
    subset = SUBSETS[values.mode]
    settings = part(EvalConfig, config)
    find = partial(photographs, settings.dataset, values.data_dir, subset, settings.valid_examples)
    processes.rank0_first(find)  # of a large folder it keeps the list
    photos = find()
    if values.mode == "train":
        return train_by_flags(values, photos, str(device))
    of_training = ("accumulate", "compile", "precision", "recompute", "shorten")
    if ignored := [f"--{name}" for name in of_training if values[name].present]:
        raise UsageError(f"{' and '.join(ignored)} would have no effect: this is of --mode=train alone.")
    evaluate_checkpoints(
        config, values.logdir, photos, subset, tensorboard=values.tensorboard, workers=values.workers, device=device
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
