# SPDX-License-Identifier: Apache-2.0
"""Draws the losses of trainings over their steps: docs/images/training.png.

    python docs/curves.py runs/colorizer runs/color_upsampler runs/spatial_upsampler
    python docs/curves.py float32=a/0 float32=a/1 bfloat16=b/0 bfloat16=b/1 --output precision.png

Of each log directory the losses in `train.jsonl`, each the mean since the summary before, smoothed over a twentieth of
the training; and as points the losses in `valid.jsonl`, if there is one: last lines of `python -m coltran.evaluate`.
NAME= before a directory is what the legend calls it; those of one name have one colour. Prints the mean loss over the
last quarter of each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coltran import cli
from coltran.errors import UserError
from coltran.files import written_whole

ROOT = Path(__file__).resolve().parent.parent


def _lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def training(logdir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the mean losses up to each since the one before.

    Raises:
        UserError: there is no train.jsonl, or nothing in it.
    """
    path = logdir / "train.jsonl"
    rows = {row["step"]: row["mean_loss"] for row in _lines(path)} if path.is_file() else {}
    if not rows:
        raise UserError(f"{path} holds no summaries of a training.")
    steps = sorted(rows)
    return np.array(steps), np.array([rows[step] for step in steps])


def validation(logdir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of what `coltran.evaluate` printed of checkpoints, in valid.jsonl; none without that file."""
    path = logdir / "valid.jsonl"
    rows: dict[int, float] = {}
    for row in _lines(path) if path.is_file() else []:
        found = re.search(r"checkpoint-(\d+)$", str(row["checkpoint"]))
        if found is not None:
            rows[int(found[1])] = row["loss"]
    steps = sorted(rows)
    return np.array(steps), np.array([rows[step] for step in steps])


def smoothed(losses: np.ndarray) -> np.ndarray:
    """Running means over a twentieth of them."""
    window = max(1, len(losses) // 20)
    sums = np.cumsum(np.concatenate(([0.0], losses)))
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw(runs: Sequence[tuple[str, Path]], output: Path) -> None:
    """Draws named log directories into one PNG."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("Plots need matplotlib: pip install 'coltran[plot]'.") from error
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="steps", ylabel="bits")
    names = list(dict.fromkeys(name for name, _ in runs))
    for name, logdir in runs:
        first = (name, logdir) == next(run for run in runs if run[0] == name)
        color = f"C{names.index(name)}"
        steps, losses = training(logdir)
        axes.plot(steps, smoothed(losses), color=color, linewidth=1, label=name if first else None)
        steps, losses = validation(logdir)
        if len(steps):
            axes.plot(steps, losses, "o", color=color)
    axes.set_title("lines: in training; points: photographs that were not seen", fontsize=9)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    output.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(output) as temporary:
        figure.savefig(temporary, format="png")


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="[NAME=]LOGDIR")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "training.png")
    arguments = parser.parse_args(argv)
    runs = []
    for text in arguments.runs:
        name, equals, folder = text.rpartition("=")
        runs.append((name if equals else Path(folder).name, Path(folder)))
    draw(runs, arguments.output)
    for name, logdir in runs:
        steps, losses = training(logdir)
        tail = losses[-max(1, len(losses) // 4) :]
        print(f"{name:20} {logdir}: {steps[-1]} steps, {tail.mean():.4f} bits over the last {len(tail)} summaries")
    return 0


if __name__ == "__main__":
    cli.run(main)
