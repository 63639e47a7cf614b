# SPDX-License-Identifier: Apache-2.0
"""Trains one of the three networks on a folder of photographs.

    python -m coltran.train --config=coltran/configs/colorizer.py --logdir=DIR --data_dir=PHOTOS
    python -m coltran.train --config=coltran/test_configs/colorizer.py --logdir=DIR --data_dir=PHOTOS \\
        --config.batch_size=8 --config.optimizer.learning_rate=1e-3 --config.max_train_steps=1000

DIR gets `config.yaml`, a line of `train.jsonl` for each summary, and `checkpoint-NNNNNN/`: every
config.save_checkpoint_secs seconds, at the end, and on Ctrl-C or a SIGTERM (exit code 130 or 143). The same
command again goes on from the newest checkpoint, and its losses are those of a training that was never
interrupted: to the bit on a CPU, with the same number of threads.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from absl import flags
from torch import Tensor, nn

from coltran import checkpoint, cli, networks, tf_checkpoint
from coltran.checkpoint import CheckpointError
from coltran.cli import UserError
from coltran.convert import convert
from coltran.data import Batch, Photos, train_batches
from coltran.layers import plain
from coltran.losses import compute_losses
from coltran.optim import MovingAverage, build_average, build_optimizer
from coltran.place import PRECISIONS, Place, place
from coltran.report import Board, Report
from coltran.restore import restore
from coltran.start import prepare


@dataclass
class Training:
    """All that a checkpoint keeps of a training, and where it computes."""

    config: dict[str, Any]
    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    seed: int
    place: Place
    step: int = 0


def start(config: Mapping[str, Any], seed: int, device: torch.device, precision: str | None = None) -> Training:
    """A training before its first step: the network with fresh weights drawn from `seed`.

    Args:
        precision: of the matrix products, see `coltran.place.place`.

    Raises:
        UserError: the configuration builds no network, no optimizer or no moving average; or the device is not served
            with that precision, or the batches cannot be shared evenly.
    """
    for key in ("batch_size", "max_train_steps"):
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise UserError(f"config.{key} must be a whole number from 1 on, not {config.get(key)!r}.")
    where = place(device, precision)
    if config["batch_size"] % where.count:
        raise UserError(f"config.batch_size must be a multiple of {where.count}, the number of devices.")
    torch.manual_seed(seed)
    try:
        network = networks.build(networks.model_config(config)).to(device).train()
        optimizer = build_optimizer(config, network.parameters())
        average = build_average(config, network)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"The configuration cannot be trained: {reason}.") from error
    whole = plain(config) | {"model": network.config}
    return Training(whole, network, optimizer, average, seed, where)


def take_step(training: Training, batch: Batch) -> dict[str, Tensor]:
    """One step of gradient descent on one batch; the losses before it, as scalars on the network's device.

    Dropout is drawn from (seed, step) alone.
    """
    mixed = np.random.SeedSequence([training.seed, training.step]).generate_state(1, np.uint64)
    with training.place.step():
        batch = {name: training.place.put(tensor) for name, tensor in batch.items()}
        training.place.seed(int(mixed[0]))
        one_channel = "channel_index" in batch  # an upsampler without config.random_channel learns all three
        with training.place.forward():
            losses = compute_losses(training.network, batch, training.config, training=one_channel)
        losses["total_loss"].backward()
        training.optimizer.step()
        training.optimizer.zero_grad(set_to_none=True)
        if training.average is not None:
            training.average.update()
    training.step += 1
    return {name: loss.detach() for name, loss in losses.items()}


def save(training: Training, logdir: Path, keep: int) -> Path:
    """Writes `checkpoint-NNNNNN` of the present step, then deletes all but the `keep` newest.

    Raises:
        UserError: a weight is not a finite number: the checkpoints that there are remain.
        OSError: it cannot be written: the checkpoints that there are remain.
    """
    tensors = {f"weights/{name}": tensor.cpu() for name, tensor in training.network.state_dict().items()}
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UserError(
            f"After step {training.step} some weights are not finite numbers, so they are not saved; "
            "a smaller config.optimizer.learning_rate may help."
        )
    for name, parameter in training.network.named_parameters():
        for slot, value in training.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{slot}"] = value
    state = {"step": training.step, "seed": training.seed, "torch": str(torch.__version__)}
    path = logdir / f"checkpoint-{training.step:06d}"
    checkpoint.save(
        training.network,
        path,
        config=training.config,
        weights=training.average.averages if training.average else None,
        training=(tensors, state),
    )
    checkpoint.prune(logdir, keep)
    return path


def resume(training: Training, path: Path) -> None:
    """Brings a fresh training to the state that was saved in `path`.

    Raises:
        UserError: it was saved by a training of another model, optimizer or seed; the sentence names the
            differences.
        CheckpointError: it is damaged or incomplete.
    """
    saved_config = checkpoint.load_config(path)
    tensors, state = checkpoint.load_training(path)
    there = _identity(saved_config, state.get("seed"))
    here = _identity(training.config, training.seed)
    differences = [
        f"{key} ({there.get(key)!r} there, {here.get(key)!r} here)"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differences:
        raise UserError(f"{path} belongs to another training, it differs in {', '.join(differences)}.")
    source = path / "training.safetensors"
    weights = {name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")}
    checkpoint.load_tensors(training.network, weights, source)
    if training.average is not None:
        training.average.load(dict(checkpoint.load(path).named_parameters()))
    parameters = dict(training.network.named_parameters())
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            name, _, slot = key.removeprefix("optimizer/").rpartition("/")
            if name not in parameters or value.shape not in ((), parameters[name].shape):
                raise CheckpointError(f"{source} does not fit its network: {key}.")
            # torch keeps Adam's step counts on the CPU
            target = parameters[name].device if value.shape else torch.device("cpu")
            training.optimizer.state[parameters[name]][slot] = value.to(target, copy=True)
    if not isinstance(state.get("step"), int):
        raise CheckpointError(f"{path / 'training.yaml'} names no step.")
    training.step = state["step"]


def _identity(config: Mapping[str, Any], seed: Any) -> dict[str, Any]:
    """What must not change between the runs of one training, as a flat mapping."""

    def flatten(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping):
            for key, item in value.items():
                yield from flatten(f"{prefix}.{key}", item)
        else:
            yield prefix, value

    optimizer = (config.get("optimizer") or {}).get("type")
    return dict(flatten("model", config["model"])) | {"optimizer.type": optimizer, "seed": seed}


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Gives a list that gets the number of a SIGINT or SIGTERM; one that comes a second later acts as usual.

    Within the second it counts as the same one: `timeout` and a terminal's group of processes deliver it twice.
    """
    caught: list[int] = []
    first = 0.0
    previous: dict[int, Any] = {}

    def note(number: int, _: Any) -> None:
        nonlocal first
        first = first or time.monotonic()
        caught.append(number)
        if time.monotonic() > first + 1:
            as_before()
            signal.raise_signal(number)

    def as_before() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, note)
    try:
        yield caught
    finally:
        as_before()


def _converted(config: Mapping[str, Any], logdir: Path, seed: int) -> list[Path]:
    """The original's newest checkpoint in a log directory, made one of ours beside it; none where there is none."""
    prefix = tf_checkpoint.latest(logdir) if logdir.is_dir() else None
    if prefix is None:
        return []
    step = tf_checkpoint.read_step(tf_checkpoint.open_bundle(prefix)) or 0
    convert(prefix, logdir / f"checkpoint-{step:06d}", config=config, optimizer=True, seed=seed)
    return checkpoint.numbered(logdir)


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
) -> int:
    """Trains from the newest checkpoint in `logdir`, or from the start, up to `config.max_train_steps`.

    Args:
        config: whole configuration.
        logdir: where checkpoints and summaries go; made where missing.
        data_dir: folder of photographs, or photographs one by one.
        pretrain_dir: a training that has no checkpoint yet starts from the weights in there, ours or the original's.
        tensorboard: write summaries for TensorBoard as well, to `logdir`/train_summaries.
        seed: decides the first weights, the order, crops and channels of the photographs, and dropout.
        steps_per_summaries: steps between lines of `train.jsonl`.
        keep: how many checkpoints to keep.
        save_every_steps: steps between checkpoints, beside those that config.save_checkpoint_secs asks for;
            0: none.
        workers: processes that read photographs.
        device: torch device; "xla" is all devices of torch_xla's runtime.
        precision: of the matrix products, see `coltran.place.place`.

    Returns:
        0 when the last step is reached, 128 + the signal's number after a SIGINT or SIGTERM.

    Raises:
        UserError, CheckpointError, PhotoError, OSError: see `start`, `resume`, `train_batches`, `save`.
    """
    training = start(config, seed, cli.device(device), precision)
    logdir = Path(logdir)
    config = training.config
    name, last_step = config["model"]["name"], config["max_train_steps"]
    found = checkpoint.numbered(logdir) or _converted(config, logdir, seed)
    if found:
        resume(training, found[-1])
    elif pretrain_dir is not None:
        restored = restore(config, pretrain_dir, training.place.device)
        training.network.load_state_dict(restored.network.state_dict())
        training.average = build_average(config, training.network)
        print(f"Weights of {restored.source}, after {restored.step} training steps")
    elif config.get("prepare_photographs"):
        with contextlib.closing(train_batches(config, data_dir, name, seed, 0, workers)) as batches:
            count = math.ceil(config["prepare_photographs"] / config["batch_size"])
            prepare(training.network, itertools.islice(batches, count))
        training.average = build_average(config, training.network)
    if training.step >= last_step:
        print(f"{found[-1] if found else name} has reached config.max_train_steps={last_step} already.")
        return 0
    batches = train_batches(config, data_dir, name, seed, training.step, workers)
    logdir.mkdir(parents=True, exist_ok=True)
    checkpoint.save_yaml(config, logdir / "config.yaml")
    size = sum(p.numel() for p in training.network.parameters())
    origin = found[-1] if found else "the start"
    where = f", {training.place.text}" if training.place.text else ""
    print(f"{name}, {size / 1e6:.2f} M parameters, from {origin}{where}", flush=True)

    board = Board(logdir / "train_summaries", training.step) if tensorboard else None
    report = Report(
        logdir / "train.jsonl", config, steps_per_summaries, training.step, board, between=training.place.eager
    )
    last_save = time.monotonic()
    path = None
    with _signals() as caught, report, contextlib.closing(batches):
        for batch in batches:
            losses = take_step(training, batch)
            report.add(training.step, losses)
            finished = bool(caught) or training.step >= last_step
            late = time.monotonic() - last_save > config.get("save_checkpoint_secs", 900)
            if finished or late or (save_every_steps and training.step % save_every_steps == 0):
                path = save(training, logdir, keep)
                last_save = time.monotonic()
                if board is not None:
                    board.images(training.network, batch, training.step)
            if finished:
                break
    print(f"{'Stopped' if caught else 'Finished'} after step {training.step}; saved {path}.")
    return 128 + caught[0] if caught else 0


def define_training_flags(values: flags.FlagValues, *, keep: int, tensorboard: bool) -> None:
    """Defines the flags that `train_by_flags` reads, with these defaults, but for `--logdir` and `--seed`."""
    for name, default, lowest, text in (
        ("steps_per_summaries", 100, 1, "steps between summaries"),
        ("keep", keep, 1, "checkpoints to keep"),
        ("workers", 1, 0, "processes that read photographs; 0: none besides this one"),
        ("save_every_steps", 0, 0, "steps between checkpoints; 0: only by the clock"),
    ):
        flags.DEFINE_integer(name, default, text, lower_bound=lowest, flag_values=values)
    flags.DEFINE_string("pretrain_dir", None, "weights to start from, in a log directory", flag_values=values)
    flags.DEFINE_enum(
        "precision", None, PRECISIONS, "of matrix products; bfloat16 on a TPU, else float32", flag_values=values
    )
    flags.DEFINE_boolean("tensorboard", tensorboard, "write summaries for TensorBoard", flag_values=values)


def train_by_flags(values: flags.FlagValues, photos: Photos, device: str) -> int:
    """`train` with the configuration and options of a command line."""
    return train(
        values.config,
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
    )


def define_flags(values: flags.FlagValues) -> None:
    """Defines this program's flags, beside `--config`."""
    for name, text in (
        ("logdir", "where checkpoints and summaries go"),
        ("data_dir", "folder of photographs"),
    ):
        flags.DEFINE_string(name, None, text, required=True, flag_values=values)
    define_training_flags(values, keep=3, tensorboard=False)
    flags.DEFINE_integer("seed", 0, "decides everything random", 0, flag_values=values)
    flags.DEFINE_integer(
        "threads", None, "threads that compute; torch's own choice where not given", 1, flag_values=values
    )
    flags.DEFINE_string("device", "cpu", "cpu, cuda or xla", flag_values=values)


def main() -> int:
    """The program; returns its exit code."""
    values = cli.parse_flags(sys.argv[1:], __doc__ or "", define_flags)
    if values.threads:
        torch.set_num_threads(values.threads)
    return train_by_flags(values, values.data_dir, values.device)


if __name__ == "__main__":
    cli.run(main)
