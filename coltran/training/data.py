# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation batches from a folder of photographs.

Sample `n` of the training data is a pure function of the seed and `n`: the order of an epoch is a permutation
drawn from (seed, epoch); the crop, the colour channel and the flip are drawn from (seed, n). Step `s` trains on the
samples `s * batch_size` and up, so a training that resumes needs to know nothing but its step, and the number
of worker processes changes no batch.

What a photograph becomes (by `coltran.image`): a square crop, random in training and central in evaluation; in
training, where the configuration asks for them, a smaller square of it (`random_resized_crop`, the least share of the
area to keep) and its mirror image half of the time (`random_flip`); area resize to `config.resolution`; where
`config.downsample` is set, area resize of that to `config.downsample_res` for the colorizer and the colour upsampler.
The spatial upsampler gets the large image and the small one resized back up. The guide gets the gray image at
`config.resolution` and the colours at `downsample_res`; in training some of its photographs are made to look like old
prints (`coltran.training.degradation`), and some pixels are chosen for it to learn.
"""

from __future__ import annotations

import itertools
import math
import signal
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from coltran import image
from coltran.config import DataConfig, TrainConfig, part, read
from coltran.errors import UserError
from coltran.training.decoded import decode
from coltran.training.degradation import degrade_gray, random_levels
from coltran.training.file_index import list_folder
from coltran.training.sources import Epochs

Batch = dict[str, Tensor]
Photos = str | Path | Sequence[Path]  # a folder, or photographs one by one

_ORDER, _SAMPLE = 0, 1  # which of the two random streams of a seed


def prepare(square: np.ndarray, config: DataConfig, network_name: str) -> dict[str, np.ndarray]:
    """The inputs of a network from a square crop, uint8.

    `rgb` `[H, W, 3]`; for the spatial upsampler also `low_res` of that shape; for the guide also `gray` `[S, S]`.
    """
    full = image.area_resize(square, config.resolution)
    if network_name == "spatial_upsampler":
        low_res = image.area_resize(image.area_resize(full, config.downsample_res), full.shape[:2])
        return {"rgb": full, "low_res": low_res}
    low = {"rgb": image.area_resize(full, config.downsample_res)} if config.downsample else {"rgb": full}
    return low | {"gray": image.rgb_to_gray(full)} if network_name == "guide" else low


class _Photographs(Dataset):
    """Sample number -> (its arrays or None, messages of the files that could not be read)."""

    tries_all = False  # whether a sample is None only where no photograph at all can be read

    def __init__(self, config: DataConfig, photos: Photos, network_name: str) -> None:
        if isinstance(photos, (str, Path)):
            self.folder, self.paths = str(photos), list_folder(photos)
        else:
            self.folder, self.paths = "the list", photos
        self.config = config
        self.network_name = network_name

    def _arrays(self, square: np.ndarray) -> dict[str, np.ndarray]:
        return prepare(square, self.config, self.network_name)


class _TrainingPhotographs(_Photographs):
    tries_all = True

    def __init__(self, config: DataConfig, photos: Photos, network_name: str, seed: int) -> None:
        super().__init__(config, photos, network_name)
        self.seed = seed
        self.random_channel = network_name.endswith("upsampler") and config.random_channel
        self.guide = network_name == "guide"
        self.flip = config.random_flip
        self.least_area = float(config.random_resized_crop or 1)
        if not 0 < self.least_area <= 1:
            raise UserError(f"config.random_resized_crop must lie in (0, 1], or be 0 for none, not {self.least_area}.")
        # What is left of the shorter side by the smallest crop is not to be enlarged.
        side = math.ceil(max(config.resolution) / math.sqrt(self.least_area))
        self.least = side if config.jpeg_draft else 0
        self.decoded = decode(self.paths, self.least) if config.memory_map else None
        self.epochs = Epochs(self.paths, config.source_limits)
        self._epoch = -1
        self._order = np.arange(0)

    def _photo_index(self, n: int) -> int:
        epoch, position = divmod(n, self.epochs.length)
        if epoch != self._epoch:
            self._order = self.epochs.order(np.random.default_rng([self.seed, _ORDER, epoch]))
            self._epoch = epoch
        return int(self._order[position])

    def _photo(self, index: int) -> np.ndarray:
        """A decoded photograph, from the cache where there is one."""
        photo = self.decoded[index] if self.decoded else None
        return image.load_photo(self.paths[index], least=self.least) if photo is None else photo

    def __getitem__(self, n: int) -> tuple[dict[str, np.ndarray] | None, list[str]]:
        unreadable: list[str] = []
        first = self._photo_index(n)
        rng = np.random.default_rng([self.seed, _SAMPLE, n])
        for offset in range(len(self.paths)):  # the next photo stands in for one that cannot be read
            try:
                photo = self._photo((first + offset) % len(self.paths))
            except image.PhotoError as error:
                unreadable.append(str(error))
                continue
            square = image.random_square(photo, rng)
            channel = np.asarray(rng.integers(3)) if self.random_channel else None
            square = self._varied(square, rng)
            arrays = self._old_print(square, rng) if self.guide else self._arrays(square)
            if channel is not None:
                arrays["channel_index"] = channel
            return arrays, unreadable
        return None, unreadable

    def _varied(self, square: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The square smaller and mirrored, as configured; drawn last, so that all else is the same without it."""
        if self.least_area < 1:
            square = image.random_part(square, self.least_area, rng)
        return square[:, ::-1] if self.flip and rng.integers(2) else square

    def _old_print(self, square: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """What the guide learns from: `prepare`, degraded as configured, and `pixels`, int64 `[N]` of its H x H."""
        if rng.random() < self.config.random_levels:
            square = random_levels(square, rng)
        arrays = self._arrays(square)
        gray = degrade_gray(arrays["gray"], self.config.random_degradation, rng)
        count = arrays["rgb"][..., 0].size
        pixels = rng.permutation(count)[: max(1, round(count * self.config.loss_share))]
        return arrays | {"gray": gray, "pixels": np.sort(pixels)}


class _EvaluationPhotographs(_Photographs):
    def __getitem__(self, n: int) -> tuple[dict[str, np.ndarray] | None, list[str]]:
        try:
            photo = image.load_photo(self.paths[n])
        except image.PhotoError as error:
            return None, [str(error)]
        return self._arrays(image.center_square(photo)), []


def _collate(samples: list[tuple[dict[str, np.ndarray] | None, list[str]]]) -> tuple[Batch | None, list[str]]:
    unreadable = [message for _, messages in samples for message in messages]
    read = [arrays for arrays, _ in samples if arrays is not None]
    if not read:
        return None, unreadable
    return {key: torch.from_numpy(np.stack([arrays[key] for arrays in read])) for key in read[0]}, unreadable


def _start_worker(_: int) -> None:
    # Ctrl-C and `timeout` signal the whole process group; the program decides when it and its workers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def _load(dataset: _Photographs, batches: Iterator[list[int]], workers: int) -> Generator[Batch, None, None]:
    """Yields the batches in order; warns once of every photo that cannot be read."""
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        collate_fn=_collate,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # leaves the global random state alone
    )
    told: set[str] = set()
    failures = 0  # in an evaluation one of each photograph
    found = iter(loader)
    try:
        for batch, unreadable in found:
            for message in unreadable:
                if message not in told:
                    told.add(message)
                    warnings.warn(f"Skipped: {message}", stacklevel=2)
            failures += len(unreadable)
            if batch is not None:
                yield batch
            elif dataset.tries_all or failures == len(dataset.paths):
                raise image.PhotoError(f"None of the photographs in {dataset.folder} can be read.")
    finally:
        # An error keeps its frames and so the workers, which no SIGTERM ends: leaving Python would wait for them.
        if isinstance(found, _MultiProcessingDataLoaderIter):
            found._shutdown_workers()


def train_batches(
    config: TrainConfig | Mapping[str, Any],
    data_dir: Photos,
    network_name: str,
    seed: int = 0,
    start_step: int = 0,
    workers: int = 1,
    share: tuple[int, int] = (0, 1),
) -> Generator[Batch, None, None]:
    """Endless training batches of `config.batch_size` photographs, from step `start_step` on.

    A photo that cannot be read is replaced by the next one in name order, with one warning.

    Args:
        config: whole configuration.
        data_dir: a folder of photographs, searched recursively, or photographs one by one.
        network_name: `model.name`, which says what a batch holds.
        seed: 0 or above; together with the sample number it decides everything random.
        workers: processes that read photographs; 0 reads them in this one.
        share: (r, n): of n equal parts of each batch only the r-th, from 0.

    Yields:
        dict with `rgb` uint8 `[B, H, W, 3]`; for the spatial upsampler also `low_res`, of the same shape; for
        an upsampler with `config.random_channel` also `channel_index` int64 `[B]` of 0..2; for the guide also `gray`
        uint8 `[B, S, S]` and `pixels` int64 `[B, N]`.

    Raises:
        PhotoError: the folder is missing or empty, or none of its photographs can be read.
        UserError: `config.random_resized_crop` is no share of an area.
    """
    config = read(TrainConfig, config)
    dataset = _TrainingPhotographs(config, data_dir, network_name, seed)
    number, parts = share
    size = config.batch_size // parts
    first = (step * config.batch_size + number * size for step in itertools.count(start_step))
    numbers = (list(range(n, n + size)) for n in first)
    return _load(dataset, numbers, workers)


def eval_batches(
    config: DataConfig | Mapping[str, Any],
    data_dir: Photos,
    network_name: str,
    batch_size: int | None = None,
    limit: int | None = None,
    workers: int = 1,
    share: tuple[int, int] = (0, 1),
) -> Generator[Batch, None, None]:
    """Every photograph of a folder once, in name order, centrally cropped; all three channels.

    A photo that cannot be read is left out, with one warning; its batch and the last one may be smaller.

    Args:
        config: whole configuration, as for `train_batches`.
        batch_size: photographs in a batch; `config.eval_batch_size` where it is None.
        limit: the first so many photographs only; all where it is None.
        share: (r, n): of the batches only number r, r + n, r + 2 n, ..., from 0.

    Yields:
        dict with `rgb` uint8 `[B, H, W, 3]`, for the spatial upsampler `low_res` of the same shape, and for the guide
        `gray` uint8 `[B, S, S]`.

    Raises:
        PhotoError: the folder is missing or empty, or none of its photographs can be read.
        UserError: `config.eval_batch_size` or the limit is below 1.
    """
    config = part(DataConfig, config)
    dataset = _EvaluationPhotographs(config, data_dir, network_name)
    size = config.eval_batch_size if batch_size is None else batch_size
    if size is None or size < 1:
        raise UserError(f"config.eval_batch_size must be a whole number from 1 on, not {size}.")
    if limit is not None and limit < 1:
        raise UserError(f"config.eval_num_examples must be a whole number from 1 on, not {limit}.")
    dataset.paths = dataset.paths[:limit]
    numbers = range(len(dataset.paths))
    number, parts = share
    chunks = (list(numbers[start : start + size]) for start in range(number * size, len(numbers), parts * size))
    return _load(dataset, chunks, workers)
