# SPDX-License-Identifier: Apache-2.0
"""The three networks in a row: from a photograph to its colourings.

import coltran
pipeline = coltran.from_pretrained()
result = pipeline("old.jpg", samples=4)
result.images[0]  # uint8 [256, 256, 3]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from coltran import checkpoint
from coltran.checkpoint import CheckpointError
from coltran.image import PhotoError, area_resize, center_square, image_to_rgb, load_photo, photo_to_gray
from coltran.networks.colorizer import Colorizer
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.sampling import sample, upsample_color, upsample_space

STAGES = ("coarse", "color", "final")
NETWORKS: dict[str, type[nn.Module]] = {
    "colorizer": Colorizer,
    "color_upsampler": ColorUpsampler,
    "spatial_upsampler": SpatialUpsampler,
}
PRETRAINED = Path(__file__).resolve().parent / "pretrained"

Progress = Callable[[str, int, int], None]  # (stage, done, total): rows of pixels while "coarse", then images


@dataclass(frozen=True)
class Colorized:
    """Colourings of one photograph: its central square, at the size of the stage that was asked for."""

    images: list[np.ndarray]  # uint8 [side, side, 3] each
    gray: np.ndarray  # uint8 [side, side], what was coloured
    log_prob: list[float]  # of each image's coarse colours under the colorizer: mean log2 a pixel, so -bits a pixel


class Pipeline:
    """Colours photographs. The upsamplers may be left out; the stages that need them are then not offered.

    Args:
        colorizer: draws coarse colours, at 64 x 64 pixels in the published size.
        color_upsampler: makes them fine, at the same size.
        spatial_upsampler: enlarges the result, to 256 x 256 in the published size.

    Raises:
        ValueError: a network is not square, or the first two differ in size.
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

    def __call__(
        self,
        image: Image.Image | np.ndarray | str | Path,
        *,
        samples: int = 1,
        seed: int | None = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        mode: str = "sample",
        stage: str = "final",
        norm: str = "exact",
        implementation: str | None = None,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> Colorized:
        """Colour the central square of a photograph.

        Colours it may have are dropped first (`photo_to_gray`), so a colour photograph and its grayscale
        version give the same colourings. The gray square is resized to the final side, and from there to the
        colorizer's.

        Args:
            image: a Pillow image, a path, or uint8 [H, W] or [H, W, 3], of any size.
            samples: how many colourings. The k-th depends on the seed and on k alone: more
                samples begin with the same ones.
            seed: 0 .. 2**64 - 1; None takes a fresh one from the system.
            temperature, top_p, mode, norm, implementation: as for `coltran.sampling.sample`.
            stage: "coarse" stops after the colorizer (multiples of 32), "color" after the colour upsampler
                (both at the colorizer's size); "final" goes on to the spatial upsampler's.
            batch_size: colourings that the colorizer draws at once; a matter of memory and speed only.
            progress: called with (stage, done, total) as the work goes on.

        Raises:
            PhotoError: the image cannot be read.
            ValueError: an argument out of its range, or a stage whose network this pipeline does not have.
        """
        if stage not in self.stages:
            raise ValueError(f"the stages of this pipeline are {', '.join(self.stages)}, got {stage!r}")
        if samples < 1 or batch_size < 1:
            raise ValueError(f"samples and batch_size must be at least 1, got {samples} and {batch_size}")
        gray_high = area_resize(photo_to_gray(center_square(_read(image))), self.high)
        gray_low = area_resize(gray_high, self.low)
        report = progress or (lambda stage, done, total: None)

        drawn = []
        for first in range(0, samples, batch_size):
            indices = range(first, min(first + batch_size, samples))

            def report_rows(row: int, rows: int, indices: range = indices) -> None:
                report("coarse", indices.start * rows + row * len(indices), samples * rows)

            drawn.append(
                sample(
                    self.colorizer,
                    self._tensor(gray_low).expand(len(indices), -1, -1),
                    mode=mode,
                    norm=norm,
                    temperature=temperature,
                    top_p=top_p,
                    seed=seed,
                    image_index=indices,
                    implementation=implementation,
                    progress=report_rows,
                )
            )
        rgb = torch.cat([batch.rgb for batch in drawn])
        log_prob = torch.cat([batch.log_prob for batch in drawn]).mean((1, 2)) / log(2)

        images = []
        for k in range(samples):
            images.append(self._upsample(rgb[k : k + 1], gray_low, gray_high, stage, implementation))
            if stage != "coarse":
                report(stage, k + 1, samples)
        return Colorized(images, gray_high if stage == "final" else gray_low, log_prob.tolist())

    def _upsample(
        self,
        coarse: Tensor,
        gray_low: np.ndarray,
        gray_high: np.ndarray,
        stage: str,
        implementation: str | None,
    ) -> np.ndarray:
        """One coarse colouring [1, low, low, 3] as the image of a stage."""
        if stage == "coarse":
            return coarse[0].cpu().numpy()
        assert self.color_upsampler is not None
        gray = self._tensor(gray_low)[None]
        fine = upsample_color(self.color_upsampler, coarse, gray, implementation=implementation)
        if stage == "color":
            return fine[0].cpu().numpy()
        assert self.spatial_upsampler is not None
        enlarged = self._tensor(area_resize(fine[0].cpu().numpy(), self.high))[None]
        gray = self._tensor(gray_high)[None]
        final = upsample_space(self.spatial_upsampler, enlarged, gray, implementation=implementation)
        return final[0].cpu().numpy()

    def _tensor(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(image).to(self.device)


def _side(network: nn.Module) -> int:
    height, width = network.config.get("resolution", [64, 64])  # type: ignore[union-attr, operator]
    if height != width:
        raise ValueError(f"the pipeline works on squares, and a network on {height} x {width} pixels")
    return height


def _read(image: Image.Image | np.ndarray | str | Path) -> np.ndarray:
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
