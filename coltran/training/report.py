# SPDX-License-Identifier: Apache-2.0
"""Progress and summaries of a training: a progress line, train.jsonl, TensorBoard."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text
from torch import Tensor, nn

from coltran.config import TrainConfig
from coltran.console import LOG, is_quiet
from coltran.errors import UserError
from coltran.files import written_whole
from coltran.image import labels_to_colors, rgb_to_gray, to_bits
from coltran.networks.colorizer import Colorizer
from coltran.networks.guide import Guide, expected_colors
from coltran.networks.upsamplers import ColorUpsampler
from coltran.training.data import Batch


class Board:
    """Summaries for TensorBoard under the original's names: `loss`, `encoder`, `total_loss`; and image grids.

    Args:
        folder: where they go.
        first_step: summaries of later steps that are there already are not shown any more.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # most runs do without, and it takes a while

        self.writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes scalars."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def images(self, network: nn.Module, batch: Batch, step: int) -> None:
        """Writes a grid of up to four images of a batch: see `image_grid`."""
        grid = image_grid(network, batch)
        self.writer.add_image("gray_prediction_truth", grid, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self.writer.close()


@torch.no_grad()
def image_grid(network: nn.Module, batch: Batch, count: int = 4) -> np.ndarray:
    """Images of a batch as rows: gray, the most probable colours given the true ones before, the truth.

    Args:
        network: any of them, in training or not.
        batch: as `coltran.training.data` yields them.

    Returns:
        uint8 [min(B, count) * H, 3 W, 3].
    """
    device = next(network.parameters()).device
    rgb = batch["rgb"][:count].to(device)
    gray = rgb_to_gray(rgb)
    was_training = network.training
    network.eval()
    try:
        if isinstance(network, Colorizer):
            predicted = labels_to_colors(network(rgb).logits.argmax(-1))
        elif isinstance(network, Guide):
            predicted = expected_colors(network(batch["gray"][:count].to(device))).round().to(torch.uint8)
        else:
            coarse = isinstance(network, ColorUpsampler)
            inputs = to_bits(rgb, 8, 3) if coarse else batch["low_res"][:count].to(device)
            predicted = network(inputs, gray).argmax(-1).to(torch.uint8)
    finally:
        network.train(was_training)
    rows = torch.cat([gray[..., None].expand_as(rgb), predicted, rgb], dim=2)
    return rows.flatten(0, 1).cpu().numpy()


class Report:
    """The progress line, and the summaries in `train.jsonl`.

    On a terminal the line is redrawn in place, twice a second at most; elsewhere one is printed at each
    summary. Losses are fetched from the device only when they are shown. To be used in a `with` statement.

    Args:
        path: the file of summaries.
        config: of the training.
        every: steps between summaries.
        first_step: the step that the training begins after.
        board: where summaries go as well.
        between: redraw the line between summaries too, which waits for the step.
    """

    def __init__(
        self,
        path: Path,
        config: TrainConfig,
        every: int,
        first_step: int,
        board: Board | None = None,
        between: bool = True,
    ) -> None:
        self.path = path
        self.last_step = config.max_train_steps
        self.batch_size = config.batch_size
        self.every = every
        self.board = board
        self.between = between
        self.console = Console()
        self._redraws = self.console.is_terminal and not is_quiet()
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self._drawn = 0.0
        self._restart()
        _keep_lines(path, first_step)

    def __enter__(self) -> Report:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()
        if self.board is not None:
            self.board.close()

    def _restart(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._since = time.monotonic()

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Takes the losses of step number `step`.

        Raises:
            UserError: at a summary, the mean loss since the last one is not a finite number.
        """
        self._sums = {name: loss + self._sums.get(name, 0.0) for name, loss in losses.items()}
        self._count += 1
        summary = step % self.every == 0 or step == self.last_step
        redraw = self.between and self._redraws and time.monotonic() > self._drawn + 0.5
        if not (summary or redraw):
            return
        mean = float(self._sums["loss"]) / self._count
        rate = self._count * self.batch_size / (time.monotonic() - self._since)
        self._show(step, float(losses["loss"]), mean, rate)
        if summary:
            if not np.isfinite(mean):
                raise UserError(
                    f"The loss is no finite number at step {step}; the checkpoints before it remain, "
                    "a smaller config.optimizer.learning_rate may help."
                )
            values = {name: float(loss) for name, loss in losses.items()}
            line = {"step": step, **values, "mean_loss": mean, "images_per_second": round(rate, 3)}
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            if self.board is not None:
                self.board.scalars({name: float(total) / self._count for name, total in self._sums.items()}, step)
            self._restart()

    def _show(self, step: int, loss: float, mean: float, rate: float) -> None:
        left = timedelta(seconds=round((self.last_step - step) * self.batch_size / rate))
        line = f"step {step}/{self.last_step}  loss {loss:.4f}  mean {mean:.4f} bits  {rate:.1f} images/s  {left} left"
        if self._redraws:
            self.live.update(Text(line), refresh=True)
            self._drawn = time.monotonic()
        else:
            LOG.info("%s", line)


def _keep_lines(path: Path, last_step: int) -> None:
    """Drops the summaries after `last_step`, which a resumed training writes again, and a torn last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] <= last_step:
                kept.append(line + "\n")
    with written_whole(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
