# SPDX-License-Identifier: Apache-2.0
"""What sampling should take on cards that are not at hand, counted from datasheets: estimates, not measurements.

    python bench/estimates.py

Counted are the paper's colorizer and bfloat16 weights. The parts that are matrix products over many pixels run at an
assumed half of the datasheet's dense bfloat16 rate, but never faster than their weights are read from memory (once for
the encoder, once a row for the others). The row decoding is counted in two forms of one launch a row:

resident    the weights stay on chip over the row, spread over the processors; a pixel costs its barriers between them
streaming   one processor a batch reads all weights for every pixel, and waits for nobody
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the checkout, in place of bench/

from bench import counting, setting, tables
from bench.sample_speed import PAPER
from coltran import cli
from coltran.cli import at_least


class Card(NamedTuple):
    """A line of a datasheet."""

    name: str
    flops: float  # dense bfloat16, a second
    bandwidth: float  # of its memory, bytes a second
    processors: int  # streaming multiprocessors


CARDS = (Card("A100 SXM 80 GB", 312e12, 2.04e12, 108), Card("H100 SXM", 989e12, 3.35e12, 132))
UTILISATION = 0.5  # assumed share of the rate in large products
BARRIER = 2.5e-6  # assumed seconds of a barrier across the card, through its second-level cache
PROCESSOR_BANDWIDTH = 60e9  # assumed bytes a second that one processor reads from the second-level cache
BARRIERS_A_LAYER = 5  # after queries, keys and values; attention; its projection; both halves of the feed-forward
BYTES = 2  # a weight


def seconds(card: Card, batch: int) -> dict[str, float]:
    """Estimated seconds a batch of each stage, the row decoding in both forms."""
    model = setting.load_models(PAPER, ["colorizer"])["colorizer"]
    work = {stage: batch * counting.flops(macs) for stage, macs in counting.incremental(model).items()}
    height, width = model["resolution"]
    pixels, layers = height * width, model["decoder"]["num_inner_layers"]
    rate = UTILISATION * card.flops
    once_a_pixel = {stage: macs // pixels for stage, macs in counting.incremental(model).items()}  # above the weights
    barriers = pixels * (BARRIERS_A_LAYER * layers + 1) * BARRIER
    streamed = pixels * counting.step_weights(model) * BYTES / PROCESSOR_BANDWIDTH
    return {
        "encoder": max(work["encoder"] / rate, BYTES * once_a_pixel["encoder"] / card.bandwidth),
        **{
            stage: max(work[stage] / rate, height * BYTES * once_a_pixel[stage] / card.bandwidth)
            for stage in ("outer decoder", "conditioning")
        },
        "row decoding, resident": barriers + work["row decoding"] / rate,
        "row decoding, streaming": max(streamed, work["row decoding"] * card.processors / rate),
    }


def table(batches: list[int]) -> tables.Table:
    """The estimates, a line a card and batch size."""
    rows = []
    columns: list[str] = []
    for card in CARDS:
        for batch in batches:
            found = seconds(card, batch)
            columns = list(found)
            fastest = sum(found.values()) - max(found["row decoding, resident"], found["row decoding, streaming"])
            cells = [tables.number(1000 * value) for value in found.values()]
            rows.append((card.name, str(batch), *cells, tables.number(fastest / batch * 1000)))
    heads = ("card", "batch", *(f"{column}, ms" for column in columns), "ms an image, the faster form")
    note = (
        f"Estimates: datasheet rates, {100 * UTILISATION:.0f} % of the arithmetic, {1e6 * BARRIER:.1f} µs a barrier, "
        f"{PROCESSOR_BANDWIDTH / 1e9:.0f} GB/s into one processor. Not measured."
    )
    return tables.Table("Estimates for cards that are not at hand", heads, rows, note)


def main(argv: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=at_least(1), nargs="+", default=[1, 20])
    console = tables.console()
    console.print(tables.to_rich(table(parser.parse_args(argv).batch)))
    return 0


if __name__ == "__main__":
    cli.run(main)
