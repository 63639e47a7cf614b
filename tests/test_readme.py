# SPDX-License-Identifier: Apache-2.0
"""Every command and the Python example of README.md run, on small photographs and with small networks."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coltran import loading
from coltran.original import download
from coltran_kernels import native

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (python -m coltran\..*)$", README, re.MULTILINE)
SMALL = [f"--config.{option}" for option in ("batch_size=1", "max_train_steps=1", "eval_batch_size=2")]
SMALL += ["--workers=0", "--threads=1"]
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


def test_the_commands_are_found() -> None:
    modules = [command.split()[2] for command in COMMANDS]
    assert modules == [
        f"coltran.{name}" for name in ("colorize", "download", "colorize", "train", "evaluate", "export", "colorize")
    ]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_commands_run_one_after_another(folder: Path, networks_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tiny networks in place of those of the package and of the archive, which would be fetched."""

    def install(output: Path, *_: object) -> dict[Path, object]:
        shutil.copytree(networks_dir, output)
        return {}

    native.unavailable()  # built and loaded before the cache directory is another
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(loading, "PRETRAINED", networks_dir)
    monkeypatch.setattr(download, "install", install)
    monkeypatch.chdir(folder)
    for command in COMMANDS:
        module, *arguments = shlex.split(command)[2:]
        training = module == "coltran.train"
        for network, sizes in NETWORKS.items() if training else [("", [])]:
            named = [argument.replace("colorizer", network) for argument in arguments] if training else arguments
            monkeypatch.setattr(sys, "argv", [module, *named, *(SMALL if training else []), *sizes])
            with pytest.raises(SystemExit) as left:
                runpy.run_module(module, run_name="__main__")
            assert left.value.code == 0, command
    assert {path.name for path in (folder / "coloured").iterdir()} >= {"old-0.jpg", "old-3.jpg", "contact_sheet.png"}


def test_the_python_example_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(folder)
    found: dict[str, Any] = {}
    exec(example, found)
    assert found["result"].images[0].shape == (40, 30, 3)
