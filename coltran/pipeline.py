# SPDX-License-Identifier: Apache-2.0
"""The networks in a row: from a photograph to its colourings.

import coltran
pipeline = coltran.from_pretrained()
result = pipeline("old.jpg", samples=4)
result.images[0]  # uint8 [H, W, 3], as large as the photograph
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from coltran.image import PhotoError, area_resize, labels_to_colors
from coltran.networks.colorizer import Colorizer
from coltran.networks.guide import Guide
from coltran.networks.layers import choose
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.photo import files, squares
from coltran.photo.hints import Box, Edits, Hint, hinted_labels
from coltran.photo.recolor import for_photographs
from coltran.photo.view import BORDERS, LEVELS, View, look
from coltran.sampling import upsample_color, upsample_space
from coltran.sampling.assess import plausible
from coltran.sampling.estimates import ESTIMATES
from coltran.sampling.guidance import check_weight, expect, probabilities
from coltran.sampling.ranking import Colorized, check_order, ranking
from coltran.sampling.strips import Preview, Strip, draw_particles, draw_strips
from coltran.sampling.threads import spread

STAGES = ("coarse", "color", "final")
# Whose colours are given where nothing is said, by `size`. On a photograph's own luminance those of 64 x 64 pixels look
# better than the enlarged ones, and take a third of the time (docs/guide.md).
DEFAULT_STAGE = {"original": "color", "network": "final"}
MODES = ("sample", "argmax", "expected")
ESTIMATE = "sharp"  # of the upsamplers: what errs least, docs/photographs.md
NETWORKS: dict[str, type[nn.Module]] = {
    "colorizer": Colorizer,
    "color_upsampler": ColorUpsampler,
    "spatial_upsampler": SpatialUpsampler,
    "guide": Guide,
}

Photo = Image.Image | np.ndarray | str | Path
Progress = Callable[[str, int, int], None]  # (stage, done, total): rows of pixels while "coarse", then images


class Pipeline:
    """Colours photographs. The upsamplers may be left out; the stages that need them are then not offered.

    Args:
        colorizer: draws coarse colours, at 64 x 64 pixels in the published size.
        color_upsampler: makes them fine, at the same size.
        spatial_upsampler: enlarges the result, to 256 x 256 in the published size.
        guide: says what each pixel's colour may be, at the colorizer's size; steers what that draws.

    Raises:
        ValueError: a network is not square, the colorizer, the colour upsampler and the guide differ in size, or the
            spatial upsampler's is no multiple of theirs.
    """

    def __init__(
        self,
        colorizer: Colorizer,
        color_upsampler: ColorUpsampler | None = None,
        spatial_upsampler: SpatialUpsampler | None = None,
        guide: Guide | None = None,
    ) -> None:
        self.colorizer = colorizer
        self.color_upsampler = color_upsampler
        self.spatial_upsampler = spatial_upsampler
        self.guide = guide
        self.low = _side(colorizer)
        self.high = 4 * self.low if spatial_upsampler is None else _side(spatial_upsampler)
        if self.high % self.low:
            sides = f"{self.high} pixels a side, no multiple of the {self.low} of the others"
            raise ValueError(f"the spatial upsampler works at {sides}")
        for name, network in (("colour upsampler", color_upsampler), ("guide", guide)):
            if network is not None and _side(network) != self.low:
                raise ValueError(f"the {name} works at {_side(network)} pixels a side, the colorizer at {self.low}")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that the networks at hand can reach: the first one, two or three of `STAGES`."""
        if self.color_upsampler is None:
            return STAGES[:1]
        return STAGES[:2] if self.spatial_upsampler is None else STAGES

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return next(self.colorizer.parameters()).device

    def to(self, device: torch.device | str) -> Pipeline:
        """Moves the networks to a device; returns self."""
        for network in (self.colorizer, self.color_upsampler, self.spatial_upsampler, self.guide):
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
        """Colour one photograph: `colorize([image], [Edits(hints, kept, redraw)], ...)[0]`."""
        return self.colorize([image], [Edits(hints, kept, redraw)], **options)[0]

    def colorize(
        self,
        images: Sequence[Photo],
        edits: Sequence[Edits] | None = None,
        *,
        samples: int = 1,
        best: int | None = None,
        order: str | None = None,
        particles: int = 1,
        seed: int | Sequence[int] | None = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        mode: str = "sample",
        guidance: float | None = None,
        reach: bool = False,
        stage: str | None = None,
        estimate: str = ESTIMATE,
        fit: str = "stretch",
        size: str = "original",
        levels: str | None = None,
        border: str | None = None,
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
            edits: what is imposed on each photograph, in its own pixels (`coltran.photo.hints`); default nothing.
            samples: how many colourings. The k-th depends on the seed and on k alone: more
                samples begin with the same ones.
            best: of the samples only the first so many in the order are upsampled and given, in that order; None gives
                all, as they are numbered.
            order: what `best` and `Colorized.ranking` go by: "guide", how near the drawn colours are to those that the
                guide expects, or "likelihood"; None is "guide" where one steers (`coltran.sampling.ranking`).
            particles: beyond 1, so many colourings of each photograph are drawn together, and those that agree with
                what is imposed are gone on from (`coltran.sampling.particles`); the samples are chosen from them at the
                end.
            seed: 0 .. 2**64 - 1, one for all photographs or one for each; None takes a fresh one from the system.
            temperature, top_p, norm, precision, implementation: as for `coltran.sampling.sample`.
            mode: "sample" and "argmax" as for `coltran.sampling.sample`; "expected" draws nothing: the colours that the
                guide expects, its mean at `temperature`, one colouring in a fraction of the time.
            guidance: how much the guide steers the drawing (`coltran.sampling.guidance`): 0 not at all, which is the
                colorizer's own distribution; None 1 where there is a guide. Particles and hints aim at the guided
                distribution, and `log_prob` stays the plain one's.
            reach: let hints pull on what is like them in gray and joined to them (`coltran.sampling.reach`).
            stage: which network's colours: "coarse" stops after the colorizer (multiples of 32), "color" after the
                colour upsampler, "final" goes on to the spatial upsampler. None is `DEFAULT_STAGE`.
            estimate: which value of an upsampler's distribution: "sharp", "mean", "median" or, as the original program
                does, "argmax" (`coltran.sampling.upsample_color`).
            fit: "stretch" colours the whole photograph, brought to the networks' square and back; beyond 2 : 1 as
                several squares (`coltran.photo.squares`). "crop" colours the central square, as the paper does.
            size: "original" puts the colours onto the photograph's own luminance, at its own size
                (`coltran.photo.recolor`); "network" gives what the networks drew.
            levels: "auto" shows a faded photograph to the networks at full range; it keeps its own luminance and gets
                chroma that fits its contrast. "restore" gives it the full range as well, "keep" does neither
                (`coltran.photo.levels`).
            border: "auto" leaves a print's border neutral and does not show it to the networks
                (`coltran.photo.border`); "keep" colours it. None is "auto" for both, but "keep" for what the paper
                does, `fit` "crop" and `size` "network".
            batch_size: colourings that the colorizer draws at once; a matter of memory and speed only.
            progress: called with (stage, done, total) as the work goes on.
            preview: called after each row with (photograph, sample, labels so far), int64 [h, w], which
                `coltran.photo.overlay.paint` shows; of particles with the heaviest, as sample 0. What it or `progress`
                raises ends the work.

        Raises:
            PhotoError: an image cannot be read.
            HintError: an edit that cannot be followed.
            ValueError: an argument out of its range, or a stage whose network this pipeline does not have.
        """
        choose({"stretch": True, "crop": True}, fit, "fit")
        choose({"original": True, "network": True}, size, "size")
        choose(ESTIMATES, estimate, "estimate")
        choose(dict.fromkeys(MODES, True), mode, "mode")
        guidance = check_weight(guidance, self.guide)
        order = check_order(order, self.guide, guidance)
        if mode == "expected":
            self._check_expected(samples, edits)
        stage = stage or DEFAULT_STAGE[size]
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
        default = "keep" if (fit, size) == ("crop", "network") else "auto"
        strips = []
        for n, (image, edit) in enumerate(zip(images, edits or [Edits()] * len(images), strict=True)):
            view = self.look(image, fit, levels or default, border or default)
            strips.append(Strip.begin(n, seeds[n], view, edit.labels(view), max(samples, particles)))
            if mode != "expected":
                hinted = hinted_labels(edit.hints, view) if reach else None
                strips[-1].steer(self.guide, guidance, order, hinted)
        options: dict[str, Any] = {
            "mode": mode, "norm": norm, "temperature": temperature, "top_p": top_p, "preview": preview,
            "precision": precision, "implementation": implementation,
        }  # fmt: skip
        upsample = partial(
            self.upsample, stage=stage, estimate=estimate, precision=precision, implementation=implementation
        )
        colors: dict[int, np.ndarray] = {}  # of photographs that nothing is drawn of
        if mode == "expected":
            assert self.guide is not None
            for n, strip in enumerate(strips):
                colors[n], mean_labels, strip.log_prob[0] = expect(self.guide, strip.view, temperature)
                strip.labels[0], strip.guided_log_prob[0] = torch.from_numpy(mean_labels), strip.log_prob[0]
                report("coarse", n + 1, len(strips))
        elif particles == 1:
            draw_strips(self.colorizer, strips, batch_size=batch_size, progress=partial(report, "coarse"), **options)
        else:
            for n, strip in enumerate(strips):

                def report_strip(done: int, total: int, n: int = n) -> None:
                    report("coarse", n * total + done, len(strips) * total)

                draw_particles(self.colorizer, strip, samples=samples, progress=report_strip, **options)

        results = []
        orders = [list(range(samples)) for _ in strips]
        if best is not None:
            orders = [ranking(strip.badness())[:best] for strip in strips]
        kept = len(orders[0]) if orders else 0
        drawn = [
            (strip.view, strip.labels[s], colors.get(n))
            for n, (strip, chosen) in enumerate(zip(strips, orders, strict=True))
            for s in chosen
        ]
        with closing(spread(lambda one: upsample(*one), drawn, self.device)) as upsampled:
            for strip, chosen in zip(strips, orders, strict=True):
                colours = []
                for image in islice(upsampled, kept):
                    colours.append(image)
                    if stage != "coarse":
                        report(stage, strip.number * kept + len(colours), len(strips) * kept)
                log_prob, guided = strip.bits(chosen)
                if size == "original":
                    colours = strip.view.recolor(for_photographs(colours, stage))
                    gray = strip.view.gray()
                else:
                    gray = strip.view.gray_high if stage == "final" else strip.view.gray_low
                labels = [strip.labels[s].numpy() for s in chosen]
                bad = [strip.badness()[s] for s in chosen]
                results.append(
                    Colorized(colours, gray, log_prob, labels, guided, guidance, chosen, bad, strip.effective)
                )
        return results

    def colour(self, images: Sequence[Photo], wishes: Sequence[Edits] | None = None, **options: Any) -> list[Colorized]:
        """The name of `colorize` up to 0.1, and `wishes` that of `edits`; goes in 0.3."""
        return self.colorize(images, wishes, **options)

    def look(self, image: Photo, fit: str = "stretch", levels: str = "auto", border: str = "auto") -> View:
        """How this pipeline's networks see a photograph; `fit`, `levels` and `border` as for `colorize`.

        Raises:
            PhotoError: it cannot be read.
        """
        choose(dict.fromkeys(LEVELS, True), levels, "levels")
        choose(dict.fromkeys(BORDERS, True), border, "border")
        return look(read_photo(image), fit=fit, low=self.low, high=self.high, levels=levels, border=border)

    def swatches(self, image: Photo, x: int, y: int, count: int = 6) -> list[tuple[tuple[int, int, int], float]]:
        """Colours that the guide finds plausible for a pixel of a photograph and their probabilities, likeliest first.

        Raises:
            PhotoError: the image cannot be read.
            ValueError: these networks have no guide, or the pixel lies outside of what is coloured.
        """
        if self.guide is None:
            raise ValueError("swatches need a guide, and these networks have none")
        view = self.look(image)
        return plausible(view, probabilities(self.guide, view), x, y, count)

    def _check_expected(self, samples: int, edits: Sequence[Edits] | None) -> None:
        if self.guide is None:
            raise ValueError("expected colours need a guide, and these networks have none")
        if samples > 1 or any(edit != Edits() for edit in edits or ()):
            raise ValueError("expected colours are one colouring a photograph, which follows no hints")

    def upsample(
        self, view: View, labels: Tensor, colors: np.ndarray | None = None, *, stage: str, **options: Any
    ) -> np.ndarray:
        """The colours of a stage: uint8 [h, w, 3], a strip of the stage's scale.

        For coarse ones, labels [h, w]; or for colours uint8 [h, w, 3] of the colour upsampler's scale.
        """
        options = {"estimate": ESTIMATE} | options
        images, scale = [], 1
        for k in range(len(view.begins)):
            if colors is None:
                found = labels_to_colors(view.square(labels, k, self.low)).to(self.device)
            else:
                found = self._tensor(view.square(colors, k, self.low))
            if stage != "coarse" and colors is None:
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
    height, width = network.resolution  # type: ignore[misc]
    if height != width:
        raise ValueError(f"the pipeline works on squares, and a network on {height} x {width} pixels")
    return height


def read_photo(image: Photo) -> np.ndarray:
    """Any input of a pipeline as uint8 [H, W, 3] or uint16 [H, W]."""
    if isinstance(image, (str, Path)):
        return files.read(image).pixels
    if isinstance(image, Image.Image):
        try:
            return files.of_image(image.copy() if image.format == "TIFF" else image).pixels
        except (OSError, ValueError) as error:
            raise PhotoError(f"The image cannot be read: {error}.") from error
    if image.dtype == np.uint16 and image.ndim == 2 and image.size:
        return image
    is_image = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not is_image or not image.size:
        raise ValueError(f"an image is uint8 [H, W] or [H, W, 3], not {image.dtype} {list(image.shape)}")
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)
