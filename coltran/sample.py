# SPDX-License-Identifier: Apache-2.0
"""Colours a data set with one of the three networks, stage by stage through TFRecords, as the original program does.

    python -m coltran.sample --config=coltran/configs/colorizer.py --mode=sample_test --logdir=DIR --data_dir=IMAGENET
    python -m coltran.sample --config=coltran/configs/color_upsampler.py --mode=sample_test --logdir=DIR2 \\
        --data_dir=IMAGENET --config.sample.gen_data_dir=DIR/samples

Writes config.sample.num_outputs records to LOGDIR/`sample.log_dir`/`sample.gen_file`.tfrecords, each with `image`,
the `sample.num_samples` colourings side by side, and `label`. The upsamplers read the previous stage's gen0.tfrecords,
gen1.tfrecords, ... in `sample.gen_data_dir`; without it they start from the photographs' own colours.
`sample.skip_batches` batches of `sample.batch_size` are left out, of the photographs and of the records alike: runs
that share the work give, together, exactly what one run gives.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from absl import flags
from torch import Tensor, nn

from coltran import cli, networks
from coltran.config import EvalConfig, SampleConfig, part
from coltran.console import LOG
from coltran.errors import UserError
from coltran.image import area_resize, center_square, load_photo, rgb_to_gray, to_bits
from coltran.networks.colorizer import Colorizer
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.original.records import Record, RecordError, generated_files, read_generated, write_records
from coltran.sampling import named_seed, sample, uniforms, upsample_color, upsample_space
from coltran.training.data import prepare
from coltran.training.datasets import labels, photographs
from coltran.training.restore import restore

SUBSETS = {"sample_valid": "valid", "sample_test": "test", "sample_train": "eval_train"}


class Source(NamedTuple):
    """The inputs of a stage, on the network's device."""

    gray: Tensor  # integers [B, H, W]
    colours: Tensor | None  # uint8 [B, H, W, 3] of the previous stage, at the network's size; None for the colorizer


@torch.no_grad()
def draw(network: ColorUpsampler | SpatialUpsampler, channels: Tensor, gray: Tensor, numbers: Tensor) -> Tensor:
    """A value of every channel drawn from an upsampler's distribution, rather than the most probable one.

    Args:
        channels: integers [B, H, W, 3] as the network takes them.
        gray: integers [B, H, W].
        numbers: one of [0, 1) for each value, [B, H, 3 W]: a pixel's three beside each other.

    Returns:
        uint8 [B, H, W, 3].
    """
    values = []
    for channel in range(3):
        index = torch.full((len(gray),), channel, device=gray.device)
        logits = network(channels[..., channel : channel + 1], gray, index)[..., 0, :]
        below = logits.double().softmax(-1).cumsum(-1)
        number = numbers[:, :, channel::3, None].to(below)
        values.append((below <= number).sum(-1).clamp(max=255))
    return torch.stack(values, -1).to(torch.uint8)


def colour(
    network: nn.Module, source: Source, *, mode: str, norm: str, seed: int | list[int], indices: list[int]
) -> np.ndarray:
    """One colouring of each image of a batch by one of the three networks: uint8 [B, H, W, 3].

    Args:
        mode: "sample" or "argmax".
        norm: of the colorizer, see `coltran.sampling.sample`.
        seed: one for all images, or one for each.
        indices: which of the seed's streams of random numbers each image draws from.
    """
    if isinstance(network, Colorizer):
        drawn = sample(network, source.gray, mode=mode, norm=norm, seed=seed, image_index=indices)
        return drawn.rgb.cpu().numpy()
    assert source.colours is not None and isinstance(network, (ColorUpsampler, SpatialUpsampler))
    if mode == "sample":
        height, width = source.gray.shape[1:]
        bits = to_bits(source.colours, 8, 3) if isinstance(network, ColorUpsampler) else source.colours
        return draw(network, bits, source.gray, uniforms(seed, indices, height, 3 * width)).cpu().numpy()
    upsample = upsample_color if isinstance(network, ColorUpsampler) else upsample_space
    return upsample(network, source.colours, source.gray).cpu().numpy()  # type: ignore[arg-type]


def sources(
    config: EvalConfig, photos: Sequence[Path], previous: list[np.ndarray] | None, device: torch.device
) -> Source:
    """The inputs of a configuration's network for a batch of photographs.

    Args:
        previous: what the stage before made of them, uint8 [h, w, 3]; the photographs' own colours where None.

    Raises:
        PhotoError: a photograph cannot be read.
    """
    name = config.network
    arrays = [prepare(center_square(load_photo(path)), config, name) for path in photos]
    rgb = np.stack([a["rgb"] for a in arrays])
    gray = torch.from_numpy(rgb_to_gray(rgb)).to(device)
    if name == "coltran_core":
        return Source(gray, None)
    if previous is None:
        previous = [a["low_res" if name == "spatial_upsampler" else "rgb"] for a in arrays]
    if name == "spatial_upsampler":
        previous = [area_resize(image, image_size(config)) for image in previous]
    return Source(gray, torch.from_numpy(np.stack(previous)).to(device))


def image_size(config: EvalConfig) -> tuple[int, int]:
    """Height and width of the images that the network of a configuration makes."""
    height, width = networks.model_config(config)["resolution"]
    return height, width


def _previous(options: SampleConfig, size: tuple[int, int], first: int, wanted: list[int]) -> list[np.ndarray]:
    """The previous stage's images of the photographs with these labels."""
    folder = options.gen_data_dir
    records = list(islice(read_generated(folder, size), first, first + len(wanted)))
    if len(records) < len(wanted):
        raise RecordError(
            f"{folder} does not match: it holds {first + len(records)} records, {first + len(wanted)} are needed for "
            "this num_outputs and skip_batches."
        )
    for number, (record, label) in enumerate(zip(records, wanted, strict=True), first):
        if record.label != label:
            raise RecordError(
                f"{folder} does not match: record {number} has the label {record.label}, its photograph {label}."
            )
    return [record.image for record in records]


def write_samples(
    config: Mapping[str, Any],
    logdir: str | Path,
    data_dir: str | Path | None,
    subset: str,
    *,
    seed: int = 0,
    norm: str = "exact",
    device: torch.device | None = None,
) -> Path:
    """Colours `config.sample.num_outputs` images and writes them as one file of records; returns its path.

    Args:
        config: whole configuration.
        logdir: with the network's checkpoint; the records go to its folder `config.sample.log_dir`.
        data_dir: see `coltran.training.datasets.photographs`.
        subset: "valid", "test" or "eval_train".
        seed: 0 or above; with a photograph's name it decides what is random in its colourings, whatever the run.
        norm: of the colorizer, see `coltran.sampling.sample`.

    Raises:
        UserError, CheckpointError, PhotoError, RecordError, OSError: nothing is written; a file that is there stays.
    """
    device = device or torch.device("cpu")
    settings = part(EvalConfig, config)
    options, name = settings.sample, settings.network
    batch_size, mode, count, repeats = options.batch_size, options.mode, options.num_outputs, options.num_samples
    if mode not in ("sample", "argmax"):
        raise UserError(f"config.sample.mode must be sample or argmax, not {mode!r}.")
    first = options.skip_batches * batch_size
    photos = photographs(settings.dataset, data_dir, subset, settings.valid_examples)
    if first + count > len(photos):
        raise UserError(
            f"config.sample asks for {count} outputs after {first} skipped ones: there are {len(photos)} photographs."
        )
    numbers = labels(settings.dataset, photos, str(data_dir))[first : first + count]
    photos = photos[first : first + count]
    previous = None
    if name == "coltran_core":
        LOG.info("%s", f"{count} photographs, from number {first} on")
    elif options.gen_data_dir:
        previous = _previous(options, (settings.downsample_res,) * 2, first, numbers)
        LOG.info(
            "%s", f"{count} images of {', '.join(map(str, generated_files(options.gen_data_dir)))}, from {first} on"
        )
    else:
        LOG.info("config.sample.gen_data_dir is not set: starting from the photographs' own colours.")
    network, step, path = restore(config, logdir, device)
    LOG.info("%s", f"Producing samples{f' after {step} training steps' if step else ''}: {path}")

    def coloured() -> Iterator[Record]:
        for start in range(0, count, batch_size):
            chunk = slice(start, min(start + batch_size, count))
            source = sources(settings, photos[chunk], None if previous is None else previous[chunk], device)
            images = []
            seeds = [named_seed(seed, path.name) for path in photos[chunk]]
            for k in range(repeats):  # the k-th colouring of a photograph draws from a stream of its own
                indices = [k] * len(seeds)
                images.append(colour(network, source, mode=mode, norm=norm, seed=seeds, indices=indices))
            for image, label in zip(np.concatenate(images, axis=2), numbers[chunk], strict=True):
                yield Record(image, label)
            LOG.info("%s", f"{chunk.stop} of {count} images")

    target = Path(logdir) / options.log_dir / f"{options.gen_file}.tfrecords"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_records(target, coloured())
    LOG.info("%s", f"Wrote {target}")
    return target


def define_flags(values: flags.FlagValues) -> None:
    """Defines this program's flags, beside `--config`."""
    flags.DEFINE_enum("mode", "sample_test", list(SUBSETS), "which photographs to colour", flag_values=values)
    flags.DEFINE_string("logdir", "/tmp/svt", "directory of the checkpoint; samples go below it", flag_values=values)
    flags.DEFINE_string("data_dir", None, "folder of photographs", flag_values=values)
    flags.DEFINE_string("dataset", None, "imagenet or custom; config.dataset where not given", flag_values=values)
    flags.DEFINE_enum("norm", "exact", ["exact", "rowcontext"], "what conditional norms average", flag_values=values)
    flags.DEFINE_integer("steps_per_summaries", 100, "of the original; has no effect", 1, flag_values=values)
    cli.define_machine_flags(values)


def main() -> int:
    """The program; returns its exit code."""
    values = cli.parse_flags(sys.argv[1:], __doc__ or "", define_flags)
    device = cli.machine(values)
    config = values.config
    if values.dataset:
        with config.unlocked():
            config.dataset = values.dataset
    write_samples(
        config, values.logdir, values.data_dir, SUBSETS[values.mode], seed=values.seed, norm=values.norm, device=device
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
