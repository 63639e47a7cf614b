# SPDX-License-Identifier: Apache-2.0
"""The commands of the original's README at their real image sizes, with its small configurations, one after another.

A command stands here as it stands there. What a test adds: the small configurations in place of the paper's, folders
of its own, where the photographs are, and few steps and images.
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coltran import cli
from coltran.image import load_photo
from coltran.original.records import Record, read_records
from tests.tiny_training import write_photo

ROOT = Path(__file__).resolve().parent.parent
README = ROOT.parent / "shared" / "original-README.md"
STAGES = {"colorizer": "colorizer", "color_upsampler": "cup", "spatial_upsampler": "sup"}  # and their directories
TRAIN = "python -m coltran.run --config=coltran/configs/colorizer.py --mode=train --logdir=/colorizer_ckpt_dir"
EVALUATE = "python -m coltran.run --config=coltran/configs/colorizer.py --mode=eval_valid --logdir=/colorizer_ckpt_dir"
SAMPLE = [
    "python -m coltran.sample --config=coltran/configs/colorizer.py --mode=sample_test --logdir=/colorizer_ckpt_dir",
    "python -m coltran.sample --config=coltran/configs/color_upsampler.py --mode=sample_test --logdir=/cup_ckpt_dir",
    "python -m coltran.sample --config=coltran/configs/spatial_upsampler.py --mode=sample_test --logdir=/cup_ckpt_dir",
]
COLORIZE = (  # which that README does not mention
    "python -m coltran.custom_colorize --config=coltran/configs/colorizer.py --logdir=/colorizer_ckpt_dir "
    "--img_dir=/photos --store_dir=/coloured --mode=colorize"
)


def _small(command: str, folder: Path) -> list[str]:
    """The arguments of a command, with small networks and the directories of a test."""
    words = shlex.split(command.replace("coltran/configs/", "coltran/test_configs/"))[2:]
    return [re.sub(r"=/(?=\w)", f"={folder}/", word) for word in words] + ["--threads=1"]


def _for(stage: str, command: str) -> str:
    """A command of the colorizer for another network."""
    return command.replace("colorizer.py", f"{stage}.py").replace("/colorizer_ckpt_dir", f"/{STAGES[stage]}_ckpt_dir")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Calls a program with these arguments, the first its module; returns its exit code."""

    def call(program: str, *argv: str) -> int:
        monkeypatch.setattr(sys, "argv", [program, *argv])
        with pytest.raises(SystemExit) as exit_:
            cli.run(importlib.import_module(program).main)
        return int(exit_.value.code or 0)

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs laid out as ImageNet, and the log directories of three trainings of one step."""
    here = tmp_path_factory.mktemp("original")
    for number in range(2):
        write_photo(here / "imagenet" / "val" / f"n{number}" / f"v{number}.png", number, 300, 280)
        write_photo(here / "imagenet" / "train" / f"n{number}" / f"t{number}.png", 2 + number, 280, 300)
    with pytest.MonkeyPatch.context() as patch:
        for stage in STAGES:
            data = ["--dataset=custom", f"--data_dir={here / 'imagenet'}", "--workers=0"]
            argv = [*_small(_for(stage, TRAIN), here), *data, "--config.max_train_steps=1"]
            patch.setattr(sys, "argv", argv)
            assert importlib.import_module(argv[0]).main() == 0
    return here


def test_the_commands_are_those_of_the_readme():
    if not README.is_file():
        pytest.skip("../shared/original-README.md is not there")
    found = re.findall(r"^python -m coltran.*$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(found) == sorted([TRAIN, EVALUATE, *SAMPLE])


def test_training_leaves_a_checkpoint_and_its_configuration(folder):
    for directory in STAGES.values():
        names = {path.name for path in (folder / f"{directory}_ckpt_dir").iterdir()}
        assert {"checkpoint-000001", "config.yaml", "train_summaries"} <= names


@pytest.mark.parametrize("stage", STAGES)
def test_evaluation_prints_bits(run, folder, capsys, stage):
    few = ["--config.eval_num_examples=2", "--config.eval_checkpoint_wait_secs=1", "--workers=0"]
    data = ["--dataset=custom", f"--data_dir={folder / 'imagenet'}"]
    assert run(*_small(_for(stage, EVALUATE), folder), *data, *few) == 0
    assert re.search(r"^Bits/Dim: \d+\.\d{4}, 2 photographs, ", capsys.readouterr().out, re.MULTILINE)


def _read(path: Path, side: int) -> list[Record]:
    return list(read_records(path, (side, side)))


def test_three_stages_of_sampling_end_at_256_pixels(run, folder):
    """The first stage in two parts, as when two machines share the work."""
    data = [f"--data_dir={folder / 'imagenet'}"]
    for n in (0, 1):
        part = [f"--config.sample.skip_batches={n}", f"--config.sample.gen_file=gen{n}"]
        assert run(*_small(SAMPLE[0], folder), *data, *part, "--config.sample.log_dir=halves") == 0
    logs = folder / "colorizer_ckpt_dir"
    before = logs / "halves"
    for command in SAMPLE[1:]:
        both = ["--config.sample.num_outputs=2", f"--config.sample.gen_data_dir={before}"]
        # The original names the colour upsampler's directory for the spatial one too; each has its own here.
        command = command.replace("/cup", "/sup") if "spatial" in command else command
        assert run(*_small(command, folder), *data, *both) == 0
        before = folder / ("sup_ckpt_dir" if "spatial" in command else "cup_ckpt_dir") / "samples"
    coarse = [record for n in (0, 1) for record in _read(logs / "halves" / f"gen{n}.tfrecords", 64)]
    finer = _read(folder / "cup_ckpt_dir" / "samples" / "gen0.tfrecords", 64)
    final = _read(before / "gen0.tfrecords", 256)
    assert [[record.label for record in records] for records in (coarse, finer, final)] == 3 * [[0, 1]]
    assert all((record.image % 32 == 0).all() for record in coarse)
    assert not np.array_equal(final[0].image, final[1].image)


def test_three_stages_on_ones_own_photographs_end_at_256_pixels(run, folder):
    for number, name in enumerate(("b.jpg", "a.png")):
        write_photo(folder / "photos" / name, number, 300, 280)
    before: list[str] = []
    for stage, result in zip(STAGES, ("stage1", "stage2", "final"), strict=True):
        assert run(*_small(_for(stage, COLORIZE), folder), *before) == 0
        before = [f"--gen_data_dir={folder / 'coloured' / result}"]
    sides = {"stage1": 64, "stage2": 64, "final": 256}
    for result, side in sides.items():
        found = {path.name: load_photo(path).shape for path in (folder / "coloured" / result).iterdir()}
        assert found == {"a.png": (side, side, 3), "b.jpg": (side, side, 3)}
