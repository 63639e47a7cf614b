# SPDX-License-Identifier: Apache-2.0
"""The three networks in a row: from a photograph to its colourings.

import coltran
pipeline = coltran.from_pretrained()
result = pipeline("old.jpg", samples=4)
result.images[0]  # uint8 [H, W, 3], as large as the photograph
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from coltran import checkpoint
from coltran.checkpoint import CheckpointError
from coltran.image import PhotoError, area_resize, center_square, image_to_rgb, load_photo, photo_to_gray
from coltran.networks.colorizer import Colorizer
from coltran.networks.layers import choose
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.photo import squares
from coltran.photo.recolour import luminance, recolour
from coltran.sampling import sample, upsample_color, upsample_space

STAGES = ("coarse", "color", "final")
NETWORKS: dict[str, type[nn.Module]] = {
    "colorizer": Colorizer,
    "color_upsampler": ColorUpsampler,
    "spatial_upsampler": SpatialUpsampler,
}
PRETRAINED = Path(__file__).resolve().parent / "pretrained"

Photo = Image.Image | np.ndarray | str | Path
Progress = Callable[[str, int, int], None]  # (stage, done, total): rows of pixels while "coarse", then images


@dataclass(frozen=True)
class Colorized:
    """Colourings of one photograph."""

    images: list[np.ndarray]  # uint8 [H, W, 3] each
    gray: np.ndarray  # uint8 [H, W], what was coloured, at their size
    log_prob: list[float]  # of each image's coarse colours under the colorizer: mean log2 a pixel, so -bits a pixel


@dataclass
class _Work:
    """A photograph between reading and writing: the strip that the networks see, square by square."""

    photo: np.ndarray  # uint8 [H, W, 3]
    gray_high: np.ndarray  # uint8, the strip at the spatial upsampler's scale
    gray_low: np.ndarray  # uint8, at the colorizer's
    axis: int  # along which the squares lie
    begins: list[int]  # of the squares, in pixels of gray_low
    coarse: list[list[Tensor]]  # [sample][square]: uint8 [low, low, 3]
    labels: list[Tensor]  # [sample]: int64, the strip's labels so far, -1 where there are none yet
    log_prob: list[Tensor]  # [sample]: the sum over the pixels drawn so far, natural

    def square(self, strip: np.ndarray | Tensor, k: int, side: int) -> Any:
        """The k-th square of a strip, at the strip's own scale."""
        scale = side // self.gray_low.shape[1 - self.axis]
        begin = self.begins[k] * scale
        return strip[begin : begin + side] if self.axis == 0 else strip[:, begin : begin + side]


class Pipeline:
    """Colours photographs. The upsamplers may be left out; the stages that need them are then not offered.

    Args:
        colorizer: draws coarse colours, at 64 x 64 pixels in the published size.
        color_upsampler: makes them fine, at the same size.
        spatial_upsampler: enlarges the result, to 256 x 256 in the published size.

    Raises:
        ValueError: a network is not square, the first two differ in size, or the last is no multiple of theirs.
    """

    def __init__(
        self,
        colorizer: Colorizer,
        color_upsampler: ColorUpsampler | None = None,
        spatial_upsampler: SpatialUpsampler | None = None,
    ) -> None:
        self.colorizer = colorizer
        self.color_upsampler = color_upsampler
        self.spatial_upsampler = spatial_upsampler
        self.low = _side(colorizer)
        self.high = 4 * self.low if spatial_upsampler is None else _side(spatial_upsampler)
        if self.high % self.low:
            sides = f"{self.high} pixels a side, no multiple of the {self.low} of the others"
            raise ValueError(f"the spatial upsampler works at {sides}")
        if color_upsampler is not None and _side(color_upsampler) != self.low:
            sides = f"{_side(color_upsampler)} pixels a side, the colorizer at {self.low}"
            raise ValueError(f"the colour upsampler works at {sides}")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that the networks at hand can reach: the first one, two or three of `STAGES`."""
        if self.color_upsampler is None:
            return STAGES[:1]
        return STAGES[:2] if self.spatial_upsampler is None else STAGES

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.colorizer.parameters()).device

    def to(self, device: torch.device | str) -> Pipeline:
        """Moves the networks there and returns this pipeline."""
        for network in (self.colorizer, self.color_upsampler, self.spatial_upsampler):
            if network is not None:
                network.to(device)
        return self

    def __call__(self, image: Photo, **options: Any) -> Colorized:
        """Colour one photograph: `colour([image], ...)[0]`."""
        return self.colour([image], **options)[0]

    def colour(
        self,
        images: Sequence[Photo],
        *,
        samples: int = 1,
        seed: int | None = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        mode: str = "sample",
        stage: str = "final",
        fit: str = "stretch",
        size: str = "original",
        norm: str = "exact",
        implementation: str | None = None,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> list[Colorized]:
        """Colour photographs.

        Colours they may have are dropped first (`photo_to_gray`), so a colour photograph and its grayscale version get
        the same colours. A photograph's result depends on nothing but itself and the options: neither on those beside
        it nor on `batch_size`.

        Args:
            images: each a Pillow image, a path, or uint8 [H, W] or [H, W, 3], of any size.
            samples: how many colourings. The k-th depends on the seed and on k alone: more
                samples begin with the same ones.
            seed: 0 .. 2**64 - 1; None takes a fresh one from the system.
            temperature, top_p, mode, norm, implementation: as for `coltran.sampling.sample`.
            stage: which network's colours: "coarse" stops after the colorizer (multiples of 32), "color" after the
                colour upsampler, "final" goes on to the spatial upsampler.
            fit: "stretch" colours the whole photograph, brought to the networks' square and back; beyond 2 : 1 as
                several squares (`coltran.photo.squares`). "crop" colours the central square, as the paper does.
            size: "original" puts the colours onto the photograph's own luminance, at its own size
                (`coltran.photo.recolour`); "network" gives what the networks drew.
            batch_size: colourings that the colorizer draws at once; a matter of memory and speed only.
            progress: called with (stage, done, total) as the work goes on.

        Raises:
            PhotoError: an image cannot be read.
            ValueError: an argument out of its range, or a stage whose network this pipeline does not have.
        """
        choose({"stretch": True, "crop": True}, fit, "fit")
        choose({"original": True, "network": True}, size, "size")
        if stage not in self.stages:
            raise ValueError(f"the stages of this pipeline are {', '.join(self.stages)}, got {stage!r}")
        if samples < 1 or batch_size < 1:
            raise ValueError(f"samples and batch_size must be at least 1, got {samples} and {batch_size}")
        if seed is None:
            seed = secrets.randbits(64)
        report = progress or (lambda stage, done, total: None)
        works = [self._prepare(_read(image), fit, samples) for image in images]
        rounds = max((len(work.begins) for work in works), default=0)
        tasks = [(k, work, s) for k in range(rounds) for work in works if k < len(work.begins) for s in range(samples)]
        done = 0
        for k, group in groupby(tasks, key=lambda task: task[0]):  # a square needs the one before it
            for batch in batched([(work, s) for _, work, s in group], batch_size):

                def report_rows(row: int, rows: int, done: int = done, count: int = len(batch)) -> None:
                    report("coarse", done * rows + row * count, len(tasks) * rows)

                self._draw(
                    batch, k,
                    mode=mode, norm=norm, temperature=temperature, top_p=top_p, seed=seed,
                    implementation=implementation, progress=report_rows,
                )  # fmt: skip
                done += len(batch)

        results = []
        for n, work in enumerate(works):
            colours = []
            for s in range(samples):
                colours.append(self._upsample(work, s, stage, implementation))
                if stage != "coarse":
                    report(stage, n * samples + s + 1, len(works) * samples)
            log_prob = [float(total) / log(2) / work.labels[0].numel() for total in work.log_prob]
            if size == "original":
                luma = luminance(work.photo)
                colours = [recolour(luma, image) for image in colours]
                gray = np.rint(luma).astype(np.uint8)
            else:
                gray = work.gray_high if stage == "final" else work.gray_low
            results.append(Colorized(colours, gray, log_prob))
        return results

    def _prepare(self, photo: np.ndarray, fit: str, samples: int) -> _Work:
        photo = center_square(photo) if fit == "crop" else photo
        height, width = squares.strip(photo.shape[0], photo.shape[1], self.low)
        scale = self.high // self.low
        gray_high = area_resize(photo_to_gray(photo), (height * scale, width * scale))
        gray_low = area_resize(gray_high, (height, width))
        labels = torch.full((height, width), -1, dtype=torch.int64)
        return _Work(
            photo, gray_high, gray_low,
            axis=int(width > height), begins=squares.starts(max(height, width), self.low),
            coarse=[[] for _ in range(samples)], labels=[labels.clone() for _ in range(samples)],
            log_prob=[torch.zeros(()) for _ in range(samples)],
        )  # fmt: skip

    def _draw(self, batch: Sequence[tuple[_Work, int]], k: int, **options: Any) -> None:
        """The k-th square of each photograph and sample of a batch."""
        gray = np.stack([work.square(work.gray_low, k, self.low) for work, _ in batch])
        given = torch.stack([work.square(work.labels[s], k, self.low) for work, s in batch]) if k else None
        drawn = sample(
            self.colorizer,
            self._tensor(gray),
            image_index=[k * 2**32 + s for _, s in batch],  # every square has random numbers of its own
            given=None if given is None else given.to(self.device),
            **options,
        )
        labels, log_prob = drawn.labels.cpu(), drawn.log_prob.cpu()
        for n, (work, s) in enumerate(batch):
            work.coarse[s].append(drawn.rgb[n])
            new = log_prob[n] if given is None else log_prob[n][given[n] < 0]
            work.log_prob[s] = work.log_prob[s] + new.sum()
            work.square(work.labels[s], k, self.low)[:] = labels[n]

    def _upsample(self, work: _Work, s: int, stage: str, implementation: str | None) -> np.ndarray:
        """The colours of a stage for the s-th sample: uint8 [h, w, 3], a strip of the stage's scale."""
        images, scale = [], 1
        for k, coarse in enumerate(work.coarse[s]):
            found = coarse
            if stage != "coarse":
                assert self.color_upsampler is not None
                gray = self._tensor(work.square(work.gray_low, k, self.low))[None]
                found = upsample_color(self.color_upsampler, coarse[None], gray, implementation=implementation)[0]
            if stage == "final":
                assert self.spatial_upsampler is not None
                scale = self.high // self.low
                enlarged = self._tensor(area_resize(found.cpu().numpy(), self.high))[None]
                gray = self._tensor(work.square(work.gray_high, k, self.high))[None]
                found = upsample_space(self.spatial_upsampler, enlarged, gray, implementation=implementation)[0]
            images.append(found.cpu().numpy())
        return squares.join(images, [scale * begin for begin in work.begins], work.axis)

    def _tensor(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(image)).to(self.device)


def batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in order, `size` at a time."""
    return (items[first : first + size] for first in range(0, len(items), size))


def _side(network: nn.Module) -> int:
    height, width = network.config.get("resolution", [64, 64])  # type: ignore[union-attr, operator]
    if height != width:
        raise ValueError(f"the pipeline works on squares, and a network on {height} x {width} pixels")
    return height


def _read(image: Photo) -> np.ndarray:
    """uint8 [H, W, 3] of whatever a pipeline may be called with."""
    if isinstance(image, (str, Path)):
        return load_photo(image)
    if isinstance(image, Image.Image):
        try:
            return image_to_rgb(image)
        except (OSError, ValueError) as error:
            raise PhotoError(f"The image cannot be read: {error}.") from error
    is_image = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not is_image or not image.size:
        raise ValueError(f"an image is uint8 [H, W] or [H, W, 3], not {image.dtype} {list(image.shape)}")
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)


def from_pretrained(directory: str | Path | None = None) -> Pipeline:
    """The pipeline of a folder with checkpoints: `colorizer/`, `color_upsampler/` and `spatial_upsampler/`.

    Each may be a training's log directory too, of which the newest checkpoint is taken. The last two may be
    absent.

    Args:
        directory: the folder; None takes the weights that come with the package.

    Raises:
        CheckpointError: no such folder, no colorizer in it, a damaged checkpoint, or one of another network.
    """
    folder = PRETRAINED if directory is None else Path(directory)
    if not folder.is_dir():
        if directory is None:
            raise CheckpointError("No weights come with this installation, so a checkpoint has to be named.")
        raise CheckpointError(f"There is no folder {folder}.")
    if not (folder / "colorizer").is_dir():
        raise CheckpointError(f"{folder} holds no folder named colorizer with that network's checkpoint.")
    networks: dict[str, nn.Module] = {}
    for name, kind in NETWORKS.items():
        if (folder / name).is_dir():
            networks[name] = checkpoint.load(folder / name)
            if not isinstance(networks[name], kind):
                found = next(other for other, its in NETWORKS.items() if isinstance(networks[name], its))
                raise CheckpointError(f"{folder / name} is the checkpoint of a {found}.")
    try:
        return Pipeline(**networks)  # type: ignore[arg-type]
    except ValueError as error:
        raise CheckpointError(f"The networks in {folder} do not go together: {error}.") from error
