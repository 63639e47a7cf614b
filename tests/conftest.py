# SPDX-License-Identifier: Apache-2.0
"""What all tests share: one thread, a fixed seed, data beside the checkout."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from coltran import cli
from coltran.console import speak
from tests.tiny import save_tiny_networks
from tests.tiny_training import write_photos

ROOT = Path(__file__).resolve().parent.parent
collect_ignore = ["xla", "ray", "web"]  # in environments, on a cluster, in a browser of their own: see the Makefile

if importlib.util.find_spec("torch_xla"):
    os.environ["PJRT_DEVICE"] = "CPU"  # read when torch_xla first asks for its device
    # For a training step of the tiny colorizer the compiler's new fusion emitters take minutes, the old ones seconds.
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # triton reads it once, when it is imported
torch.set_num_threads(1)
# Signals act as usual here and in child processes, whatever `nohup`, a script or a supervisor made of them.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _signal in (signal.SIGTERM, signal.SIGCHLD):
    signal.signal(_signal, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD))


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much chance: `make fuzz` and `make kills` take far more of it than the suite."""
    parser.addoption("--times", type=int, default=1, help="as many times the damaged files and kills of the suite (1)")
    parser.addoption("--seed", type=int, default=1, help="of what damage and kills are drawn (1)")


@pytest.fixture
def times(request: pytest.FixtureRequest) -> int:
    """How many times as much of what is drawn at random."""
    return request.config.getoption("--times")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Of what is drawn at random."""
    return request.config.getoption("--seed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that use the parity data, so that `-m "not parity"` leaves them out."""
    for item in items:
        if "parity_folder" in getattr(item, "fixturenames", ()):
            item.add_marker("parity")


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test starts from the same state of torch's generator, alone or in the whole suite."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _speaking() -> None:
    """Every test hears what programs say, whatever was asked for in another."""
    speak()


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`program(main, "--flag", ...)` calls a program as the command line does; its exit code."""

    def call(main: Callable[[], int | None], *argv: object) -> int:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, argv)])
        with pytest.raises(SystemExit) as left:
            cli.run(main)
        return int(left.value.code or 0)

    return call


@pytest.fixture(scope="session")
def networks_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The networks of `tiny_pipeline` as a folder of checkpoints, not to be written to."""
    return save_tiny_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture
def photos_dir(tmp_path: Path) -> Path:
    """Five photographs."""
    return write_photos(tmp_path / "photos")


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """What `torch.empty` returns is full of NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def parity_folder() -> Path:
    """The folder with data of the original program; skips where it is absent."""
    folder = ROOT.parent / "shared" / "parity"
    if not folder.is_dir():
        pytest.skip("../shared/parity is not there")
    return folder


@pytest.fixture
def parity(parity_folder: Path) -> Callable[[str], dict[str, np.ndarray]]:
    """`parity(name)` reads the arrays of `name.npz` of the original program's data."""

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(parity_folder / f"{name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    return read


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder with `train`, `valid` and `demo` photographs; skips where it is absent."""
    folder = ROOT.parent / "shared" / "photos"
    if not folder.is_dir():
        pytest.skip("../shared/photos is not there")
    return folder


@pytest.fixture
def torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """torch-fidelity, which imports torchvision where it does not use it."""
    names = ("", ".datasets", ".models", ".transforms", ".transforms.functional")
    try:
        import torchvision  # type: ignore[import-not-found] # noqa: F401
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        for name in names:
            monkeypatch.setitem(sys.modules, f"torchvision{name}", MagicMock())
    yield pytest.importorskip("torch_fidelity")
    for name in [name for name in sys.modules if name.startswith("torch_fidelity")]:
        del sys.modules[name]
