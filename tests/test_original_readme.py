# SPDX-License-Identifier: Apache-2.0
"""The commands of the original's README at their real image sizes, with its small configurations, one after another.

A command stands here as it stands there. What a test adds: the small configurations in place of the paper's, folders
of its own, where the photographs are, and few steps and images.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coltran.original.records import read_generated
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


def _small(command: str, folder: Path) -> list[Any]:
    """The program of a command and its arguments, with small networks and the directories of a test."""
    _, _, module, *words = command.replace("coltran/configs/", "coltran/test_configs/").split()
    main = importlib.import_module(module).main
    return [main, *(word.replace("=/", f"={folder}/") for word in words), "--threads=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs laid out as ImageNet, and the log directories of three trainings of one step."""
    here = tmp_path_factory.mktemp("original")
    for number in range(2):
        write_photo(here / "imagenet" / "val" / f"n{number}" / f"v{number}.png", number, 300, 280)
        write_photo(here / "imagenet" / "train" / f"n{number}" / f"t{number}.png", 2 + number, 280, 300)
    with pytest.MonkeyPatch.context() as patch:
        for stage, directory in STAGES.items():
            data = ["--dataset=custom", f"--data_dir={here / 'imagenet'}", "--workers=0"]
            command = TRAIN.replace("colorizer.py", f"{stage}.py").replace("/colorizer_", f"/{directory}_")
            main, *argv = _small(command, here)
            patch.setattr(sys, "argv", ["run", *argv, *data, "--config.max_train_steps=1"])
            assert main() == 0
    return here


def test_the_commands_are_those_of_the_readme():
    if not README.is_file():
        pytest.skip("../shared/original-README.md is not there")
    found = re.findall(r"^python -m coltran.*$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(found) == sorted([TRAIN, EVALUATE, *SAMPLE])


def test_evaluation_prints_the_bits_of_what_a_training_left(program, folder, capsys):
    for directory in STAGES.values():
        names = {path.name for path in (folder / f"{directory}_ckpt_dir").iterdir()}
        assert {"checkpoint-000001", "config.yaml", "train_summaries"} <= names
    few = ["--config.eval_num_examples=2", "--config.eval_checkpoint_wait_secs=1", "--workers=0"]
    assert program(*_small(EVALUATE, folder), "--dataset=custom", f"--data_dir={folder / 'imagenet'}", *few) == 0
    assert re.search(r"^Bits/Dim: \d+\.\d{4}, 2 photographs, ", capsys.readouterr().out, re.MULTILINE)


def test_three_stages_of_sampling_end_at_256_pixels(program, folder):
    """The first stage in two parts, as when two machines share the work."""
    data = [f"--data_dir={folder / 'imagenet'}"]
    for n in (0, 1):
        part = [f"--config.sample.skip_batches={n}", f"--config.sample.gen_file=gen{n}"]
        assert program(*_small(SAMPLE[0], folder), *data, *part, "--config.sample.log_dir=halves") == 0
    logs = folder / "colorizer_ckpt_dir"
    before = logs / "halves"
    for command in SAMPLE[1:]:
        both = ["--config.sample.num_outputs=2", f"--config.sample.gen_data_dir={before}"]
        # The original names the colour upsampler's directory for the spatial one too; each has its own here.
        command = command.replace("/cup", "/sup") if "spatial" in command else command
        assert program(*_small(command, folder), *data, *both) == 0
        before = folder / ("sup_ckpt_dir" if "spatial" in command else "cup_ckpt_dir") / "samples"
    coarse, finer, final = (
        list(read_generated(path, (side, side)))
        for path, side in ((logs / "halves", 64), (folder / "cup_ckpt_dir" / "samples", 64), (before, 256))
    )
    assert [[record.label for record in records] for records in (coarse, finer, final)] == 3 * [[0, 1]]
    assert all((record.image % 32 == 0).all() for record in coarse)
    assert not np.array_equal(final[0].image, final[1].image)
