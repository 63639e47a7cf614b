# SPDX-License-Identifier: Apache-2.0
"""The three networks in a row: from a photograph to its colourings.

import coltran
pipeline = coltran.from_pretrained()
result = pipeline("old.jpg", samples=4)
result.images[0]  # uint8 [H, W, 3], as large as the photograph
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import log
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from coltran import checkpoint, hub
from coltran.checkpoint import CheckpointError
from coltran.image import PhotoError, area_resize, labels_to_colors
from coltran.networks.colorizer import Colorizer
from coltran.networks.layers import choose
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.original import download
from coltran.photo import files, squares
from coltran.photo.hints import Box, Hint, Wishes
from coltran.photo.recolour import for_photographs, luminance, recolour
from coltran.photo.view import View, look
from coltran.sampling import upsample_color, upsample_space
from coltran.sampling.estimates import ESTIMATES
from coltran.sampling.strips import Preview, Strip, draw_particles, draw_strips
from coltran.sampling.threads import spread

STAGES = ("coarse", "color", "final")
ESTIMATE = "sharp"  # of the upsamplers: what errs least, docs/photographs.md
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

    images: list[np.ndarray]  # uint8 [H, W, 3] each; uint16 at the own size of a photograph of 16 bits
    gray: np.ndarray  # uint8 [H, W], what was coloured, at their size
    log_prob: list[float]  # of each image's coarse colours under the colorizer: mean log2 a pixel, so -bits a pixel
    labels: list[np.ndarray]  # those coarse colours: int64 [h, w] each, for `kept`
    samples: list[int]  # which of the samples that were drawn each one is
    effective: float | None = None  # with particles: the least effective sample size after any row

    def choose(self, order: Sequence[int]) -> Colorized:
        """Some of the colourings, in an order of one's own."""
        return replace(
            self,
            images=[self.images[s] for s in order],
            log_prob=[self.log_prob[s] for s in order],
            labels=[self.labels[s] for s in order],
            samples=[self.samples[s] for s in order],
        )


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

    def __call__(
        self,
        image: Photo,
        *,
        hints: Sequence[Hint] = (),
        kept: np.ndarray | None = None,
        redraw: Box | None = None,
        **options: Any,
    ) -> Colorized:
        """Colour one photograph: `colour([image], [Wishes(hints, kept, redraw)], ...)[0]`."""
        return self.colour([image], [Wishes(hints, kept, redraw)], **options)[0]

    def colour(
        self,
        images: Sequence[Photo],
        wishes: Sequence[Wishes] | None = None,
        *,
        samples: int = 1,
        best: int | None = None,
        particles: int = 1,
        seed: int | Sequence[int] | None = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        mode: str = "sample",
        stage: str = "final",
        estimate: str = ESTIMATE,
        fit: str = "stretch",
        size: str = "original",
        norm: str = "exact",
        precision: str = "float32",
        implementation: str | None = None,
        batch_size: int = 16,
        progress: Progress | None = None,
        preview: Preview | None = None,
    ) -> list[Colorized]:
        """Colour photographs.

        Colours they may have are dropped first (`photo_to_gray`), so a colour photograph and its grayscale version get
        the same colours. A photograph's result depends on nothing but itself and the options: neither on those beside
        it nor on `batch_size`.

        Args:
            images: each a Pillow image, a path, or uint8 [H, W] or [H, W, 3], of any size; or gray of 16 bits,
                uint16 [H, W].
            wishes: what is imposed on each photograph, in its own pixels (`coltran.photo.hints`); default nothing.
            samples: how many colourings. The k-th depends on the seed and on k alone: more
                samples begin with the same ones.
            best: of the samples only the likeliest so many are upsampled and given, the likeliest first; None gives
                all, in the order in which they are numbered.
            particles: beyond 1, so many colourings of each photograph are drawn together, and those that agree with
                what is imposed are gone on from (`coltran.sampling.particles`); the samples are chosen from them at the
                end.
            seed: 0 .. 2**64 - 1, one for all photographs or one for each; None takes a fresh one from the system.
            temperature, top_p, mode, norm, precision, implementation: as for `coltran.sampling.sample`.
            stage: which network's colours: "coarse" stops after the colorizer (multiples of 32), "color" after the
                colour upsampler, "final" goes on to the spatial upsampler.
            estimate: which value of an upsampler's distribution: "sharp", "mean", "median" or, as the original program
                does, "argmax" (`coltran.sampling.upsample_color`).
            fit: "stretch" colours the whole photograph, brought to the networks' square and back; beyond 2 : 1 as
                several squares (`coltran.photo.squares`). "crop" colours the central square, as the paper does.
            size: "original" puts the colours onto the photograph's own luminance, at its own size
                (`coltran.photo.recolour`); "network" gives what the networks drew.
            batch_size: colourings that the colorizer draws at once; a matter of memory and speed only.
            progress: called with (stage, done, total) as the work goes on.
            preview: called after each row with (photograph, sample, labels so far), int64 [h, w], which
                `coltran.photo.overlay.paint` shows; of particles with the heaviest, as sample 0. What it or `progress`
                raises ends the work.

        Raises:
            PhotoError: an image cannot be read.
            HintError: a wish that cannot be followed.
            ValueError: an argument out of its range, or a stage whose network this pipeline does not have.
        """
        choose({"stretch": True, "crop": True}, fit, "fit")
        choose({"original": True, "network": True}, size, "size")
        choose(ESTIMATES, estimate, "estimate")
        if stage not in self.stages:
            raise ValueError(f"the stages of this pipeline are {', '.join(self.stages)}, got {stage!r}")
        if samples < 1 or batch_size < 1:
            raise ValueError(f"samples and batch_size must be at least 1, got {samples} and {batch_size}")
        if best is not None and not 1 <= best <= samples:
            raise ValueError(f"best must be from 1 to the {samples} samples, got {best}")
        if particles < 1 or 1 < particles < samples:
            raise ValueError(f"particles must be 1, or at least the {samples} samples, got {particles}")
        if seed is None:
            seed = secrets.randbits(64)
        report = progress or (lambda stage, done, total: None)
        seeds = [index(number) for number in (seed if isinstance(seed, Sequence) else [seed] * len(images))]
        if len(seeds) != len(images):
            raise ValueError(f"{len(seeds)} seeds for {len(images)} photographs")
        strips = []
        for n, (image, wish) in enumerate(zip(images, wishes or [Wishes()] * len(images), strict=True)):
            view = self.look(image, fit)
            strips.append(Strip.begin(n, seeds[n], view, wish.labels(view), max(samples, particles)))
        options: dict[str, Any] = {
            "mode": mode, "norm": norm, "temperature": temperature, "top_p": top_p, "preview": preview,
            "precision": precision, "implementation": implementation,
        }  # fmt: skip
        upsample = partial(
            self._upsample, stage=stage, estimate=estimate, precision=precision, implementation=implementation
        )
        if particles == 1:
            draw_strips(self.colorizer, strips, batch_size=batch_size, progress=partial(report, "coarse"), **options)
        else:
            for n, strip in enumerate(strips):

                def report_strip(done: int, total: int, n: int = n) -> None:
                    report("coarse", n * total + done, len(strips) * total)

                draw_particles(self.colorizer, strip, samples=samples, progress=report_strip, **options)

        results = []
        orders = [list(range(samples)) for _ in strips]
        if best is not None:
            orders = [sorted(range(samples), key=lambda s: -float(strip.log_prob[s]))[:best] for strip in strips]
        kept = len(orders[0]) if orders else 0
        drawn = [(strip.view, strip.labels[s]) for strip, order in zip(strips, orders, strict=True) for s in order]
        with closing(spread(lambda one: upsample(*one), drawn, self.device)) as upsampled:
            for strip, order in zip(strips, orders, strict=True):
                colours = []
                for image in islice(upsampled, kept):
                    colours.append(image)
                    if stage != "coarse":
                        report(stage, strip.number * kept + len(colours), len(strips) * kept)
                log_prob = [float(strip.log_prob[s]) / log(2) / strip.given.numel() for s in order]
                if size == "original":
                    luma = luminance(strip.view.photo)
                    kind = strip.view.photo.dtype.type
                    colours = [recolour(luma, image, kind) for image in for_photographs(colours, stage)]
                    gray = np.rint(luma).astype(np.uint8)
                else:
                    gray = strip.view.gray_high if stage == "final" else strip.view.gray_low
                labels = [strip.labels[s].numpy() for s in order]
                results.append(Colorized(colours, gray, log_prob, labels, order, strip.effective))
        return results

    def look(self, image: Photo, fit: str = "stretch") -> View:
        """How this pipeline's networks see a photograph; `fit` as for `colour`.

        Raises:
            PhotoError: it cannot be read.
        """
        return look(read_photo(image), fit=fit, low=self.low, high=self.high)

    def _upsample(self, view: View, labels: Tensor, *, stage: str, **options: Any) -> np.ndarray:
        """The colours of a stage for coarse ones, [h, w]: uint8 [h, w, 3], a strip of the stage's scale."""
        images, scale = [], 1
        for k in range(len(view.begins)):
            found = labels_to_colors(view.square(labels, k, self.low)).to(self.device)
            if stage != "coarse":
                assert self.color_upsampler is not None
                gray = self._tensor(view.square(view.gray_low, k, self.low))[None]
                found = upsample_color(self.color_upsampler, found[None], gray, **options)[0]
            if stage == "final":
                assert self.spatial_upsampler is not None
                scale = self.high // self.low
                enlarged = self._tensor(area_resize(found.cpu().numpy(), self.high))[None]
                gray = self._tensor(view.square(view.gray_high, k, self.high))[None]
                found = upsample_space(self.spatial_upsampler, enlarged, gray, **options)[0]
            images.append(found.cpu().numpy())
        return squares.join(images, [scale * begin for begin in view.begins], view.axis)

    def _tensor(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(image)).to(self.device)


def _side(network: nn.Module) -> int:
    height, width = network.config.get("resolution", [64, 64])  # type: ignore[union-attr, operator]
    if height != width:
        raise ValueError(f"the pipeline works on squares, and a network on {height} x {width} pixels")
    return height


def read_photo(image: Photo) -> np.ndarray:
    """uint8 [H, W, 3] or uint16 [H, W] of whatever a pipeline may be called with."""
    if isinstance(image, (str, Path)):
        return files.read(image).pixels
    if isinstance(image, Image.Image):
        try:
            return files.of_image(image.copy()).pixels
        except (OSError, ValueError) as error:
            raise PhotoError(f"The image cannot be read: {error}.") from error
    if image.dtype == np.uint16 and image.ndim == 2 and image.size:
        return image
    is_image = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not is_image or not image.size:
        raise ValueError(f"an image is uint8 [H, W] or [H, W, 3], not {image.dtype} {list(image.shape)}")
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)


def find_networks(source: str | Path | None = None, revision: str | None = None) -> Path:
    """The folder of the networks that `from_pretrained` is asked for; see there."""
    if source is None:
        if not PRETRAINED.is_dir():
            raise CheckpointError("No weights come with this installation, so a checkpoint has to be named.")
        return PRETRAINED
    folder = Path(source)
    if str(source) == "published" and not folder.is_dir() and revision is None:
        if not download.is_installed(download.cached()):
            raise CheckpointError("The published networks are not here yet: python -m coltran.download fetches them.")
        return download.cached()
    on_hub = hub.repository(folder.as_posix(), revision)
    if folder.is_dir() or on_hub is None:
        if revision is not None:
            raise CheckpointError(f"{folder} is no name on the Hub, so it has no revision {revision}.")
        if not folder.is_dir():
            raise CheckpointError(f"There is no folder {folder}.")
        return folder
    return hub.fetch(on_hub)


def from_pretrained(source: str | Path | None = None, *, revision: str | None = None) -> Pipeline:
    """The pipeline of trained networks: `colorizer/`, `color_upsampler/` and `spatial_upsampler/` in one folder.

    Each may be a training's log directory too, of which the newest checkpoint is taken. The last two may be
    absent.

    Args:
        source: a folder; or, where there is no such folder, "published" for the original's authors' networks, which
            `python -m coltran.download` fetches, or a name on the Hugging Face Hub, "owner/name" or
            "owner/name@revision"; None takes the weights that come with the package.
        revision: a branch, tag or commit on the Hub; the newest where None.

    Raises:
        CheckpointError: no such folder or repository, no colorizer in it, a damaged checkpoint, or one of another
            network.
    """
    folder = find_networks(source, revision)
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
