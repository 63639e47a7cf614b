# SPDX-License-Identifier: Apache-2.0
"""Networks whose features images are compared in. Their packages are optional, and nothing is downloaded.

Inception-v3 with the weights of 2015, which is what FID is defined by (Heusel et al., 2017), needs the package
torch-fidelity and a file of weights. EfficientNet-Lite2 comes with its weights in a package of its own; distances in
its features are no FID, and compare only with each other, at the same number of images. (Lite0 is inside the guide, so
it may not judge.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from coltran.errors import UserError
from coltran.training.pretrained import lite_weights, optional_package, read_weights

Extractor = Callable[[np.ndarray], np.ndarray]  # uint8 [B, H, W, 3] -> float32 [B, D]

LITE_SIDE, LITE_MEAN, LITE_SCALE = 260, 127.0, 128.0  # of the photographs that EfficientNet-Lite2 was trained on
RESIZE = {  # of each distance's images
    "fid": "linearly to 299 x 299 as TensorFlow 1 does",
    "frechet_efficientnet_lite2": f"to {LITE_SIDE} x {LITE_SIDE}, by area where it shrinks, else linearly",
}


def efficientnet_lite2() -> Extractor:
    """The 1280 features of EfficientNet-Lite2 before its last layer, averaged over the image.

    Images are resized to 260 x 260 (linear, or the mean of the area where they shrink).

    Raises:
        UserError: a package of the extra `frechet` is not installed.
    """
    network = optional_package("efficientnet_lite_pytorch", "frechet").EfficientNet.from_name("efficientnet-lite2")
    network.load_state_dict(lite_weights(2))
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
    package = optional_package("torch_fidelity", "fid")
    try:
        network = package.FeatureExtractorInceptionV3("inception", ["2048"], weights).eval()
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{weights} are not the weights of Inception-v3 for FID.") from error

    @torch.no_grad()
    def extract(images: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())[0].numpy()

    return extract
