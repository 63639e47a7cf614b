# SPDX-License-Identifier: Apache-2.0
"""How many passes a row takes by fixed point, by guess and window, and how much faster that is than pixel by pixel.

    python bench/settling.py ../shared/photos/valid
    python bench/settling.py ../shared/photos/valid --mode argmax --images 16 --plot build/settling.png

Draws photographs, evenly spaced in the folder's order, with the colorizer in the package, at 64 x 64 pixels. Every row
is settled from each guess with each window, given the true rows above it, and checked to have the labels that
`decode_row` draws. Guesses: the row above; that row one pixel to the right; the parallel head's draw with each pixel's
own uniform number; joined, what two of the row above, the one above that and the parallel head agree on, else the row
above; one colour everywhere; and, as a bound on what any guess could do, the row above with the labels themselves at
four fifths of the pixels. All with the influence of changed labels on those right of them, and the first also without.
The last column is the time of all rows over that of drawing them pixel by pixel, both native: by fixed point image by
image, pixel by pixel up to eight images together. Prints tables and one JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import machine, plots, setting, tables
from coltran import checkpoint, cli
from coltran.errors import UserError
from coltran.image import labels_to_colors
from coltran.networks.colorizer import Colorizer
from coltran.networks.layers import EPS
from coltran.pipeline import PRETRAINED
from coltran.sampling import uniforms
from coltran.sampling.decoding import Rows, decoder_weights, mean_terms
from coltran.sampling.encoding import encode_gray
from coltran_kernels import Settled, decode_row, left_influence, prepare_decoder, reference, settle_row

WINDOWS = (2, 4, 8, 16, 64)
KNOWN = 0.8  # share of the pixels


class Found(NamedTuple):
    """All rows from one guess with one window."""

    guess: str
    window: int
    right: float  # share of the guess
    passes: list[list[int]]  # of each row, by image
    computed: float  # pixels for each one kept
    seconds: float


PLAIN = "row above, no influence"


def guesses(above: list[Tensor], parallel: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The guesses of a row [B, W], from the rows above it, the parallel head's draw and, for the last, its labels."""
    last, before = above[-1], above[-2]
    known = torch.rand(labels.shape, generator=torch.Generator().manual_seed(len(above))) < KNOWN
    return {
        "row above": last,
        PLAIN: last,
        "row above, shifted": torch.cat((last[:, :1], last[:, :-1]), 1),
        "parallel head": parallel,
        "joined": torch.where(parallel == before, parallel, last),
        "one colour": torch.zeros_like(last),
        "row above, labels known": torch.where(known, labels, last),
    }


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds that it took."""
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def measure(network: Colorizer, gray: Tensor, options: dict[str, Any]) -> tuple[list[Found], dict[str, Any]]:
    """Settles every row from the third on; also the passes of one row, for a picture."""
    batch, height, width = gray.shape
    weights = decoder_weights(network)
    prepared = prepare_decoder(weights)
    z, numbers = encode_gray(network, gray), uniforms(0, range(batch), height, width)
    assert network.parallel_logits is not None
    flat = network.parallel_logits(z).flatten(0, 2), numbers.flatten()
    parallel = reference.draw(*flat, **options).view(numbers.shape)
    rows = Rows(network, z, norm="exact", finished=lambda stage: None, implementation=None)
    influence = left_influence(weights, mean_terms(network.inner_decoder, z), eps=EPS)
    above: list[Tensor] = []
    results: dict[tuple[str, int], list[tuple[Settled, float, float]]] = {}
    sequential, picture = 0.0, {}
    for row in range(height):
        settings = {"prepared": prepared, "eps": EPS, **options}
        call = (weights, rows.terms, numbers[:, row])
        (labels, _, _), seconds = timed(partial(decode_row, *call, **settings))
        if row >= 2:
            sequential += seconds
            for name, guess in guesses(above, parallel[:, row], labels).items():
                used = None if name == PLAIN else influence
                for window in WINDOWS:
                    run = partial(settle_row, *call, guess, window=window, influence=used, **settings)
                    found, seconds = timed(run)
                    if not torch.equal(found.labels, labels):
                        raise UserError(f"Row {row} settles on other labels from {name!r}. Nothing is shown.")
                    right = (guess == labels).double().mean().item()
                    results.setdefault((name, window), []).append((found, seconds, right))
            if row == height // 2:
                picture = {"steps": settling(call, above[-1], labels, influence, options)}
        above.append(labels)
        if row + 1 < height:
            rows.advance(labels)
    return [
        Found(
            *key,
            right=sum(right for *_, right in runs) / len(runs),
            passes=torch.stack([found.passes for found, *_ in runs]).tolist(),
            computed=sum(found.computed.sum().item() for found, *_ in runs) / (len(runs) * batch * width),
            seconds=sum(seconds for _, seconds, _ in runs),
        )
        for key, runs in results.items()
    ], picture | {"sequential": sequential}


def settling(
    call: tuple[Any, ...], guess: Tensor, labels: Tensor, influence: Tensor, options: dict[str, Any]
) -> list[list[int]]:
    """The first image's row as each pass over all of it leaves it, from the guess to the labels."""
    weights, terms, numbers = call
    steps = [guess[0]]
    while not torch.equal(steps[-1], labels[0]):
        given = torch.cat((steps[-1][None], labels[1:]))
        probabilities = decode_row(weights, terms, numbers, given=given, return_probabilities=True)[2]
        assert probabilities is not None
        logits = probabilities[0].log()
        drawn = reference.draw(logits, numbers[0], **options)
        steps.append(reference.expect(logits, drawn, steps[-1], numbers[0], None, influence, **options))
    return [step.tolist() for step in steps]


def table(found: list[Found], sequential: float) -> tables.Table:
    """What was measured."""
    rows = []
    for f in found:
        passes = np.array(f.passes)
        rows.append(
            [
                f.guess, str(f.window), tables.percent(f.right), f"{passes.mean():.1f}", f"{np.median(passes):.0f}",
                f"{np.quantile(passes, 0.9):.0f}", f"{passes.max(1).mean():.1f}", f"{f.computed:.2f}",
                f"{f.seconds / sequential:.2f}",
            ]
        )  # fmt: skip
    columns = "guess, window, of it right, passes a row, median, 90 %, of the slowest image, pixels a pixel kept, time"
    return tables.Table("Rows by fixed point", columns.split(", "), rows)


def draw_plot(found: list[Found], steps: list[list[int]], path: Path) -> None:
    """Passes and computed pixels by window, and a row settling."""
    pyplot = plots.pyplot()
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(14, 3.6), width_ratios=(1, 1, 1.6))
    for guess in dict.fromkeys(f.guess for f in found):
        of_guess = [f for f in found if f.guess == guess]
        windows = [f.window for f in of_guess]
        left.plot(windows, [np.mean(f.passes) for f in of_guess], marker="o", label=guess)
        middle.plot(windows, [f.computed for f in of_guess], marker="o")
    for axes, name in ((left, "passes a row"), (middle, "pixels computed for each one kept")):
        axes.set(xscale="log", xlabel="window", title=name)
        axes.set_xticks(WINDOWS, [str(window) for window in WINDOWS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.legend(fontsize=7)
    labels = torch.tensor(steps)
    right.imshow(labels_to_colors(labels).numpy(), aspect="auto", interpolation="nearest")
    wrong = (labels != labels[-1]).nonzero()
    right.scatter(wrong[:, 1], wrong[:, 0], s=4, color="white", edgecolors="black", linewidths=0.4)
    right.set(xlabel="pixel", ylabel="pass", title="a row settling; dots: not yet its label")
    plots.save(figure, path)


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--images", type=cli.at_least(1), default=8, help="photographs to draw (default: 8)")
    parser.add_argument("--mode", choices=("sample", "argmax"), default="sample")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--plot", type=Path, help="draw the result into this file as well (needs matplotlib)")
    options = parser.parse_args(argv)
    if options.plot:
        plots.pyplot()  # that it is missing is better known now than in some minutes
    network = checkpoint.load(PRETRAINED / "colorizer")
    assert isinstance(network, Colorizer)
    draw = {"mode": options.mode, "temperature": 1.0, "top_p": options.top_p}
    with torch.no_grad():
        found, more = measure(network.eval(), setting.gray_photos(options.photos, options.images), draw)
    tables.console().print(tables.to_rich(table(found, more["sequential"])))
    if options.plot:
        draw_plot(found, more["steps"], options.plot)
        tables.console().print(f"{options.plot} drawn")
    described = machine.describe(torch.device("cpu"))
    runs = [f._asdict() | {"passes": float(np.mean(f.passes)), "time": f.seconds / more["sequential"]} for f in found]
    print(json.dumps({"benchmark": "settling", "machine": described, **draw, "images": options.images, "found": runs}))
    return 0


if __name__ == "__main__":
    cli.run(main)
