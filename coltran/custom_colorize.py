# SPDX-License-Identifier: Apache-2.0
"""Colours a folder of photographs with one of the three networks, stage by stage, as the original program does.

    python -m coltran.custom_colorize --config=coltran/configs/colorizer.py --logdir=DIR/colorizer \\
        --img_dir=PHOTOS --store_dir=OUT --mode=colorize
    python -m coltran.custom_colorize --config=coltran/configs/color_upsampler.py --logdir=DIR/color_upsampler \\
        --img_dir=PHOTOS --store_dir=OUT --gen_data_dir=OUT/stage1 --mode=colorize
    python -m coltran.custom_colorize --config=coltran/configs/spatial_upsampler.py --logdir=DIR/spatial_upsampler \\
        --img_dir=PHOTOS --store_dir=OUT --gen_data_dir=OUT/stage2 --mode=colorize

The colorizer writes OUT/stage1, the colour upsampler OUT/stage2, the spatial upsampler OUT/final. Each result has
its photograph's name, whatever the suffix as a PNG, and is found by it in --gen_data_dir. The colours of a photograph
depend on its name and the seed, not on what else is in the folder. --mode=colorize is for grayscale photographs,
--mode=recolorize for coloured ones, whose colours it drops. `coltran.colorize` does all three stages in one command.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from absl import flags

from coltran import cli
from coltran.config import EvalConfig, part
from coltran.console import LOG
from coltran.errors import UserError
from coltran.files import check_output
from coltran.image import PhotoError, area_resize, center_square, list_photos, load_photo, photo_to_gray, rgb_to_gray
from coltran.photo.files import write_png
from coltran.sample import Source, colour, image_size
from coltran.training.restore import restore

STAGES = {"coltran_core": "stage1", "color_upsampler": "stage2", "spatial_upsampler": "final"}
BATCH_SIZES = {"coltran_core": 20, "color_upsampler": 5, "spatial_upsampler": 5}


def read_gray(path: Path, config: EvalConfig, mode: str) -> np.ndarray:
    """The gray square of a photograph at the size of a configuration's network: uint8 [H, W].

    It is resized to `config.resolution` first and from there to the smaller size, as in training. "recolorize"
    takes the gray of the resized colours, "colorize" resizes the gray that there is.

    Raises:
        PhotoError: it cannot be read.
    """
    square = center_square(load_photo(path))
    if mode == "colorize":
        square = photo_to_gray(square)
    full = area_resize(square, config.resolution)
    size = image_size(config)
    resized = full if size == config.resolution else area_resize(full, size)
    return resized if mode == "colorize" else rgb_to_gray(resized)


def previous_stage(folder: str | None, photos: list[Path], side: int) -> list[np.ndarray]:
    """The previous stage's results for these photographs, found by their names: uint8 [side, side, 3] each.

    Raises:
        UserError: no folder is named, or results are missing in it; none of them is used then.
        PhotoError: one cannot be read, or has another size.
    """
    if not folder:
        raise UserError("The upsamplers need the previous stage's results: name their folder with --gen_data_dir=DIR.")
    if missing := [path.name for path in photos if not (Path(folder) / path.name).is_file()]:
        raise UserError(f"{folder} does not match the photographs: it has no {', '.join(missing)}.")
    images = [load_photo(Path(folder) / path.name) for path in photos]
    for path, image in zip(photos, images, strict=True):
        if image.shape[:2] != (side, side):
            size = f"{image.shape[0]} x {image.shape[1]} pixels, not {side} x {side}"
            raise PhotoError(f"{Path(folder) / path.name} is not the previous stage's: it has {size}.")
    return images


def stream(name: str) -> int:
    """The random stream of a photograph, from its name."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8], "little")


def colorize(
    config: Mapping[str, Any],
    logdir: str | Path,
    img_dir: str | Path,
    store_dir: str | Path,
    *,
    gen_data_dir: str | None = None,
    mode: str = "colorize",
    batch_size: int | None = None,
    seed: int = 0,
    norm: str = "exact",
    device: torch.device | None = None,
) -> list[str]:
    """One stage for every photograph of a folder; returns a sentence for each that could not be read.

    Args:
        config: whole configuration of the stage's network.
        logdir: with its checkpoint.
        img_dir: folder of photographs; its subfolders are left out.
        store_dir: gets the folder `stage1`, `stage2` or `final`.
        gen_data_dir: folder of the stage before.
        mode: "colorize" or "recolorize".
        batch_size: photographs at once; where None, 20 for the colorizer and 5 for the upsamplers.
        seed, norm: see `coltran.sampling.sample`.

    Raises:
        UserError, CheckpointError, PhotoError: a network, folder or previous stage that cannot be used; nothing is
            written then.
    """
    device = device or torch.device("cpu")
    settings = part(EvalConfig, config)
    name = settings.network
    if not Path(img_dir).is_dir():
        raise UserError(f"There is no folder {img_dir} with photographs.")
    photos = [path for path in list_photos([img_dir]) if path.parent == Path(img_dir)]
    if not photos:
        raise PhotoError(f"The folder {img_dir} holds no photographs.")
    target = Path(store_dir) / STAGES[name]
    if target.resolve() == Path(img_dir).resolve():
        raise UserError(f"The results would replace the photographs in {img_dir}: name another --store_dir.")
    check_output(target)
    previous: dict[Path, np.ndarray] = {}
    problems = list[str]()
    if name != "coltran_core" and gen_data_dir:
        for photo in [photo for photo in photos if not (Path(gen_data_dir) / photo.name).is_file()]:
            try:  # what cannot be read had no result in the stage before either
                load_photo(photo)
            except PhotoError as error:
                problems.append(str(error))
                photos.remove(photo)
        if not photos:
            return problems
    if name != "coltran_core":
        before = previous_stage(gen_data_dir, photos, settings.downsample_res)
        previous = dict(zip(photos, before, strict=True))
    network, step, path = restore(config, logdir, device)
    LOG.info("%s", f"Producing samples{f' after {step} training steps' if step else ''}: {path}")
    target.mkdir(parents=True, exist_ok=True)
    size = batch_size or BATCH_SIZES[name]
    for start in range(0, len(photos), size):
        grays: dict[Path, np.ndarray] = {}
        for photo in photos[start : start + size]:
            try:
                grays[photo] = read_gray(photo, settings, mode)
            except PhotoError as error:
                problems.append(str(error))
        if not grays:
            continue
        colours = None
        if previous:
            enlarged = [area_resize(previous[photo], image_size(settings)) for photo in grays]
            colours = torch.from_numpy(np.stack(enlarged)).to(device)
        source = Source(torch.from_numpy(np.stack(list(grays.values()))).to(device), colours)
        indices = [stream(photo.name) for photo in grays]
        sampling = "sample" if name == "coltran_core" else "argmax"
        images = colour(network, source, mode=sampling, norm=norm, seed=seed, indices=indices)
        for photo, image in zip(grays, images, strict=True):
            write_png(image, target / photo.name)
            LOG.info("%s", target / photo.name)
    return problems


def define_flags(values: flags.FlagValues) -> None:
    """Defines this program's flags, beside `--config`."""
    flags.DEFINE_string("img_dir", None, "folder of photographs", required=True, flag_values=values)
    flags.DEFINE_string("logdir", "/tmp/svt", "directory of the checkpoint", flag_values=values)
    flags.DEFINE_string("gen_data_dir", None, "results of the previous stage", flag_values=values)
    flags.DEFINE_string("store_dir", None, "where the results go", required=True, flag_values=values)
    flags.DEFINE_enum("mode", "colorize", ["colorize", "recolorize"], "gray or coloured ones", flag_values=values)
    flags.DEFINE_enum("norm", "exact", ["exact", "rowcontext"], "what conditional norms average", flag_values=values)
    flags.DEFINE_integer("batch_size", None, "photographs at once", 1, flag_values=values)
    flags.DEFINE_integer("steps_per_summaries", 100, "of the original; has no effect", 1, flag_values=values)
    cli.define_machine_flags(values)


def main() -> int:
    """The program; returns its exit code."""
    values = cli.parse_flags(sys.argv[1:], __doc__ or "", define_flags)
    problems = colorize(
        values.config,
        values.logdir,
        values.img_dir,
        values.store_dir,
        gen_data_dir=values.gen_data_dir,
        mode=values.mode,
        batch_size=values.batch_size,
        seed=values.seed,
        norm=values.norm,
        device=cli.machine(values),
    )
    for problem in problems:
        LOG.error("%s", problem)
    return 1 if problems else 0


if __name__ == "__main__":
    cli.run(main)
