# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of image metrics, on numpy arrays; nothing here knows of networks.

An image is uint8 [H, W, 3], sRGB.
"""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np

SSIM_SIDE, SSIM_SIGMA = 11, 1.5  # of the window

_LEVELS = np.arange(256) / 255
LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)  # light of a level (sRGB)
TO_XYZ = np.array(  # of linear sRGB (IEC 61966-2-1)
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet's distance between the Gaussians fitted to two sets of features (Dowson and Landau, 1982).

        |mean(a) - mean(b)|^2 + trace(A + B - 2 (A B)^(1/2)),   A and B the covariances (divided by n - 1)

    With centred features X and Y, A B has the non-zero eigenvalues of X Y^T Y X^T / ((n - 1)(m - 1)), so the trace of
    its root is the sum of the singular values of X Y^T, and X and Y may be replaced by their triangular factors. That
    is exact for fewer features than dimensions too, where roots of near-singular matrices are not.

    Args:
        a, b: [n, D] and [m, D], at least two each.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    difference = a.mean(0) - b.mean(0)
    x, y = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (a, b))
    triangles = [np.asarray(np.linalg.qr(z, mode="r")) for z in (x, y)]
    roots = np.linalg.svd(triangles[0] @ triangles[1].T, compute_uv=False)
    return float(max(0.0, difference @ difference + (x * x).sum() + (y * y).sum() - 2 * roots.sum()))


def colorfulness(image: np.ndarray) -> float:
    """Colourfulness (Hasler and Suesstrunk, 2003, equation 3); 0 for gray, about 110 for very colourful photographs.

    With rg = R - G and yb = (R + G) / 2 - B: the root of the sum of their variances, plus 0.3 times the length of
    their mean.
    """
    red, green, blue = image.reshape(-1, 3).T.astype(np.float64)
    opponent = np.stack([red - green, (red + green) / 2 - blue])
    return float(np.sqrt(opponent.var(1).sum()) + 0.3 * np.linalg.norm(opponent.mean(1)))


colourfulness = colorfulness  # its name up to 0.1; goes in 0.3


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels and channels; infinite where both are the same."""
    error = np.square(image.astype(np.float64) - truth).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity (Wang et al., 2004), the mean over the channels; 1 where both are the same.

    As in the paper: a Gaussian window of 11 x 11, sigma 1.5, only where it fits into the image; population variances;
    K1 = 0.01, K2 = 0.03. Both sides have at least 11 pixels.
    """
    x, y = image.astype(np.float64), truth.astype(np.float64)

    def mean(z: np.ndarray) -> np.ndarray:
        edge = SSIM_SIDE // 2
        blurred = cv2.GaussianBlur(z, (SSIM_SIDE, SSIM_SIDE), SSIM_SIGMA)
        return blurred[edge:-edge, edge:-edge]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((similarity / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))).mean())


def chroma(image: np.ndarray) -> np.ndarray:
    """The a and b of CIELAB (CIE 15; white is sRGB's, D65): float64 [H, W, 2], about -110..110.

    Not OpenCV's, which interpolates a table and is up to 0.35 off.
    """
    xyz = LINEAR[image] @ (TO_XYZ / TO_XYZ.sum(1, keepdims=True)).T  # relative to white
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def ab_error(image: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the pixels of the distance in CIELAB's a and b."""
    return float(np.linalg.norm(chroma(image) - chroma(truth), axis=-1).mean())


def diversity(images: list[np.ndarray]) -> float:
    """The mean of `ab_error` over all pairs of samples of one photograph, of which there are at least two."""
    return float(np.mean([ab_error(one, other) for one, other in combinations(images, 2)]))
