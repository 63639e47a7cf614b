# SPDX-License-Identifier: Apache-2.0
"""Every command and the Python example of README.md run, on small photographs and with small networks."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coltran import download
from coltran.loading import PRETRAINED

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (python -m coltran\..*)$", README, re.MULTILINE)
SMALL = ["--config.batch_size=1", "--config.max_train_steps=1", "--config.eval_batch_size=2", "--workers=0"]
# The README trains one network by name and says how to train the other two.
NETWORKS = {
    "colorizer": ["--config.model.hidden_size=8", "--config.model.encoder.hidden_size=8"]
    + [f"--config.model.{part}.num_heads=1" for part in ("encoder", "decoder")]
    + ["--config.model.decoder.hidden_size=8", "--config.model.encoder.num_encoder_layers=1"]
    + [f"--config.model.decoder.num_{part}_layers=1" for part in ("outer", "inner")],
    "color_upsampler": ["--config.model.hidden_size=8", "--config.model.num_heads=1"],
    "spatial_upsampler": ["--config.model.hidden_size=8", "--config.model.num_heads=1"]
    + ["--config.model.num_encoder_layers=1"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs that the README speaks of."""
    here = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    for name in ("old.jpg", "album/a.png", "photos/b.png", "photos/c.jpg", "valid/d.png"):
        (here / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(here / name)
    return here


def _run(arguments: list[str], folder: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_commands_are_found() -> None:
    modules = [command.split()[2] for command in COMMANDS]
    assert modules == [
        f"coltran.{name}" for name in ("colorize", "download", "colorize", "train", "evaluate", "export", "colorize")
    ]


def _download(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`coltran.download` with the package's weights in place of the archive: tests need no network."""

    def install(output: Path, *_: object) -> dict[Path, object]:
        shutil.copytree(PRETRAINED, output)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(download.download, "install", install)
        patch.setattr(sys, "argv", arguments[1:])
        assert download.main() == 0


def test_the_commands_run_one_after_another(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    for command in COMMANDS:
        arguments = shlex.split(command)[1:]
        if arguments[1] == "coltran.download":
            _download(arguments, monkeypatch)
            continue
        if arguments[1] != "coltran.train":
            _run(arguments, folder)
            continue
        for network, sizes in NETWORKS.items():
            named = [argument.replace("colorizer", network) for argument in arguments]
            _run([*named, *SMALL, *sizes], folder)
    assert {path.name for path in (folder / "coloured").iterdir()} >= {"old-0.jpg", "old-3.jpg", "contact_sheet.png"}


def test_the_python_example_runs(folder: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(example) == 1
    _run(["-c", example[0] + "\nassert result.images[0].shape == (40, 30, 3)"], folder)
