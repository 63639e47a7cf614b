# SPDX-License-Identifier: Apache-2.0
"""Measures a trained network on photographs: bits a pixel (colorizer) or a channel value (upsamplers).

    python -m coltran.evaluate --checkpoint LOGDIR --data_dir PHOTOS
    python -m coltran.evaluate --checkpoint LOGDIR --data_dir VALID --train_dir TRAIN
    python -m coltran.evaluate --metrics --data_dir VALID --samples 4 --frechet
    python -m coltran.evaluate --metrics --data_dir VALID --results COLOURED --fid_weights inception.pth

The weights are those that the checkpoint samples with, the moving averages. The photographs are cropped
centrally, the upsamplers are measured on all three channels. With --train_dir, the colorizer stands beside
the best that one can do without looking at more than one pixel: the distribution of the 512 coarse colours
given that pixel's gray level, counted on the photographs in TRAIN. The last line of the output is the result
as JSON.

Under torchrun (torchrun --nproc-per-node=8 -m coltran.evaluate ... --device=cuda) the processes share the photographs;
the figures are the same.

With --metrics, colourings are measured: those that the three networks in --checkpoint (default: in the package) draw of
the photographs' central squares, or those that lie in COLOURED. docs/metrics.md says what the figures are.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coltran import checkpoint, cli
from coltran.config import ConfigError, EvalConfig, LossConfig, part
from coltran.console import LOG, Parser
from coltran.devices import processes
from coltran.devices.choose import PRECISIONS, require_bfloat16
from coltran.errors import UserError
from coltran.image import PhotoError, colors_to_labels, rgb_to_gray, to_bits
from coltran.metrics import report
from coltran.metrics.measure import PROTOCOLS
from coltran.networks.colorizer import LABELS
from coltran.networks.dense import use_bfloat16
from coltran.networks.losses import compute_losses
from coltran.training.data import Batch, eval_batches

GRAYS = 256
PER_PIXEL = {"coltran_core": "autoregressive decoder", "guide": "given the gray photograph alone"}


@torch.no_grad()  # XLA has no inference mode
def evaluate(network: nn.Module, batches: Iterable[Batch], config: LossConfig | Mapping[str, Any]) -> dict[str, float]:
    """The losses of a network, averaged over photographs, each weighing the same whatever its batch.

    Args:
        network: in evaluation mode.
        batches: as `coltran.training.data.eval_batches` yields them; of several processes each brings its share.
        config: whole configuration.

    Returns:
        `photos`, their number; `loss`, bits a pixel or channel value; for a colorizer with a parallel head
        `encoder`, that head's bits a pixel.

    Raises:
        PhotoError: there are no batches.
    """
    device = next(network.parameters()).device
    names = ["loss", "encoder"] if getattr(network, "parallel_logits", None) is not None else ["loss"]
    rows = []  # of each batch the number of photographs, and their losses
    for batch in batches:
        on_device = {name: tensor.to(device) for name, tensor in batch.items()}
        losses = compute_losses(network, on_device, config, training=False)
        values = torch.stack([losses[name] for name in names]).tolist()  # at once: each look at XLA is a program
        rows.append([len(batch["rgb"]), *values])
    table = processes.gather_interleaved(torch.tensor(rows, dtype=torch.float64).view(-1, 1 + len(names))).tolist()
    photos = sum(int(count) for count, *_ in table)
    if not photos:
        raise PhotoError("None of the photographs can be read.")
    sums = {name: sum(row[0] * row[i] for row in table) for i, name in enumerate(names, 1)}
    return {"photos": photos, **{name: sums[name] / photos for name in names}}


def gray_counts(batches: Iterable[Batch]) -> Tensor:
    """How often each coarse colour occurs at each gray level, in the batches of all processes: int64 [256, 512]."""
    counts = torch.zeros(GRAYS * LABELS, dtype=torch.int64)
    for batch in batches:
        labels = colors_to_labels(to_bits(batch["rgb"], 8, 3))
        cells = rgb_to_gray(batch["rgb"]).long() * LABELS + labels
        counts += torch.bincount(cells.flatten(), minlength=GRAYS * LABELS)
    return processes.all_reduce_sum(counts).view(GRAYS, LABELS)


def baseline_bits(train_counts: Tensor, counts: Tensor) -> float:
    """Mean bits a pixel of the constant colour distribution given the gray level, with add-one smoothing.

    `p(label | gray) = (n(gray, label) + 1) / (n(gray) + 512)`, so that a colour never seen costs finitely
    many bits.

    Args:
        train_counts: int64 [256, 512], what the distribution is counted on.
        counts: int64 [256, 512], what it is measured on, with at least one pixel.
    """
    smoothed = train_counts.double() + 1
    bits = -(smoothed / smoothed.sum(1, keepdim=True)).log2()
    return float((counts * bits).sum() / counts.sum())


def evaluate_checkpoint(
    directory: str | Path,
    data_dir: str | Path,
    *,
    train_dir: str | Path | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    workers: int = 1,
    device: str = "cpu",
    precision: str = "float32",
) -> dict[str, Any]:
    """Evaluates a checkpoint on a folder of photographs.

    Args:
        directory: a checkpoint or a log directory.
        data_dir: folder of photographs to measure on.
        train_dir: for the colorizer, photographs to count the baseline on; no baseline where it is None.
        batch_size: photographs in a batch; the configuration's `eval_batch_size` where it is None.
        limit: the first so many photographs of `data_dir` only.
        workers: processes that read photographs.
        device: torch device.
        precision: "bfloat16": the dense layers' products, on a CPU or a GPU.

    Returns:
        What `evaluate` returns, with `model` (the network's name), `checkpoint`, and with `train_dir` also
        `baseline` (bits a pixel) and `baseline_pixels`, how many it is counted on.

    Raises:
        UserError, CheckpointError, PhotoError: a device, a checkpoint or photographs that cannot be used.
    """
    path = checkpoint.find(directory)
    where = cli.device(device)
    network = checkpoint.load(path).to(where)
    if precision == "bfloat16":
        require_bfloat16(where)
        use_bfloat16(network)
    try:
        config = part(EvalConfig, checkpoint.load_config(path))
    except ConfigError as error:
        raise UserError(f"{path / 'config.yaml'} cannot be evaluated: {error}.") from error
    name = config.network
    if train_dir is not None and name not in PER_PIXEL:
        raise UserError(f"{path} holds a {name}: the baseline of --train_dir is for the colorizer and the guide.")
    share = processes.rank(), processes.world_size()
    batches = eval_batches(config, data_dir, name, batch_size, limit, workers, share)
    if train_dir is None:
        return {"model": name, "checkpoint": str(path), **evaluate(network, batches, config)}
    train_counts = gray_counts(eval_batches(config, train_dir, name, workers=workers, share=share))
    counts = gray_counts(eval_batches(config, data_dir, name, limit=limit, workers=workers, share=share))
    baseline = {"baseline": baseline_bits(train_counts, counts), "baseline_pixels": int(train_counts.sum())}
    return {"model": name, "checkpoint": str(path), **evaluate(network, batches, config), **baseline}


def show(results: Mapping[str, Any]) -> None:
    """Prints what `evaluate_checkpoint` found, for a person and, in the last line, for a program."""
    if not math.isfinite(results["loss"]):
        raise UserError(f"The loss of {results['checkpoint']} is not a finite number.")
    unit = "bits/pixel" if results["model"] in PER_PIXEL else "bits/channel value"
    rows = {
        "loss": PER_PIXEL.get(results["model"], results["model"]),
        "encoder": "parallel head, given the gray photograph alone",
        "baseline": "constant distribution given the gray level",
    }
    LOG.info("%s photographs, %s", results["photos"], results["checkpoint"])
    for key, text in rows.items():
        if key in results:
            LOG.info("  %8.4f %s  %s", results[key], unit, text)
    if "baseline" in results:
        LOG.info("  The last is counted on %d pixels, add-one smoothed.", results["baseline_pixels"])
    print(json.dumps(results))


def main() -> int:
    """The program; returns its exit code."""
    parser = Parser("evaluate", __doc__)
    parser.add_argument(
        "--checkpoint", help="a checkpoint, or a log directory (its newest); with --metrics a folder of all networks"
    )
    parser.add_argument("--data_dir", required=True, help="folder of photographs to measure on")
    parser.add_argument("--train_dir", help="folder of photographs to count the colorizer's baseline on")
    parser.add_argument("--batch", type=cli.at_least(1), help="photographs in a batch (default: as configured)")
    parser.add_argument("--limit", type=cli.at_least(1), help="measure on the first so many photographs only")
    parser.add_argument("--workers", type=cli.at_least(0), default=1, help="reading processes (default: 1)")
    cli.add_machine_arguments(parser)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the dense layers' products")
    metrics = parser.add_argument_group("measuring colourings")
    metrics.add_argument("--metrics", action="store_true", help="measure colourings rather than one network's bits")
    metrics.add_argument("--results", type=Path, metavar="DIR", help="measure the colourings in this folder")
    metrics.add_argument("--protocol", choices=PROTOCOLS, help="compare with others (A) or the same (B, the default)")
    metrics.add_argument("--samples", type=cli.at_least(1), metavar="N", help="drawn a photograph (4)")
    metrics.add_argument("--seed", type=cli.seed, help="of the random numbers (0)")
    metrics.add_argument("--fid_weights", type=Path, metavar="FILE", help="FID, with these weights of Inception-v3")
    metrics.add_argument(
        "--frechet", action="store_true", help="Frechet's distance in features of EfficientNet-Lite2, which is no FID"
    )
    metrics.add_argument(
        "--lpips_weights",
        type=Path,
        nargs=2,
        metavar=("VGG", "LPIPS"),
        help="diversity by LPIPS too, with these weights",
    )
    text = "measure the images that the networks draw, without guidance, as the paper does (what a person gets)"
    metrics.add_argument("--paper", action="store_true", help=text)
    metrics.add_argument("--output", type=Path, metavar="DIR", help="put metrics.json and reliability.png there")
    options = parser.parse_args()
    if not options.metrics and not options.checkpoint:
        parser.error("name a --checkpoint, or ask for --metrics of the networks in the package")
    if options.metrics and (options.train_dir or options.precision != "float32"):
        parser.error("--train_dir and --precision are not for --metrics")
    for name in (
        "results",
        "protocol",
        "samples",
        "seed",
        "output",
        "fid_weights",
        "frechet",
        "lpips_weights",
        "paper",
    ):
        given = getattr(options, name)
        if given is not None and given is not False and not options.metrics:
            parser.error(f"--{name} is for --metrics")
    if options.threads:
        torch.set_num_threads(options.threads)
    with processes.init_distributed():
        if options.metrics:
            _measure_colorings(options)
            return 0
        results = evaluate_checkpoint(
            options.checkpoint,
            options.data_dir,
            train_dir=options.train_dir,
            batch_size=options.batch,
            limit=options.limit,
            workers=options.workers,
            device=options.device,
            precision=options.precision,
        )
        if processes.rank() == 0:
            show(results)
    return 0


def _measure_colorings(options: argparse.Namespace) -> None:
    measured = report.colourings(
        options.data_dir,
        checkpoint=options.checkpoint,
        results=options.results,
        protocol=options.protocol or "B",
        samples=options.samples or 4,
        seed=options.seed or 0,
        limit=options.limit,
        batch=options.batch or 16,
        fid_weights=options.fid_weights,
        frechet=options.frechet,
        paper=options.paper,
        lpips_weights=options.lpips_weights,
        device=cli.device(options.device),
    )
    if processes.rank() != 0:
        return
    if options.output is not None:
        report.write(measured, options.output)
    report.show(measured)


if __name__ == "__main__":
    cli.run(main)
