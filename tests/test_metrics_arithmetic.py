# SPDX-License-Identifier: Apache-2.0
"""The metrics are those of the literature: against scipy, scikit-image and values known in closed form."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from coltran.metrics import arithmetic
from coltran.metrics.calibration import BINS, plot, reliability, tally


def _image(seed: int, height: int = 40, width: int = 33) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _frechet_by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    linalg = pytest.importorskip("scipy.linalg")
    covariances = [np.cov(z, rowvar=False) for z in (a, b)]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    difference = a.mean(0) - b.mean(0)
    return float(difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * root))


@pytest.mark.parametrize(("n", "m", "size"), [(50, 50, 7), (300, 200, 40), (9, 31, 8)])
def test_frechets_distance_is_that_of_scipys_matrix_root(n, m, size):
    rng = np.random.default_rng(n)
    a = rng.normal(size=(n, size)) @ rng.normal(size=(size, size)) + 1
    b = rng.normal(size=(m, size)) @ rng.normal(size=(size, size))
    assert arithmetic.frechet_distance(a, b) == pytest.approx(_frechet_by_scipy(a, b), rel=1e-9)


def test_frechets_distance_of_commuting_covariances_is_known():
    """Axis-aligned points with variances 4 and 9 along one axis, 1 along the other, and means (3, 4) apart."""
    cross = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]) * np.sqrt(1.5)  # unit variances, n - 1 = 3
    a, b = cross * [2, 1], cross * [3, 1] + [3, 4]
    assert arithmetic.frechet_distance(a, b) == pytest.approx(25 + (3 - 2) ** 2, rel=1e-12)


def test_frechets_distance_is_exact_for_fewer_features_than_dimensions():
    """Appended dimensions that are always zero change nothing."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 5)), 2 * rng.normal(size=(8, 5))
    turn = np.linalg.qr(rng.normal(size=(65, 65)))[0]
    wide = [np.concatenate([z, np.zeros((len(z), 60))], 1) @ turn for z in (a, b)]
    assert arithmetic.frechet_distance(*wide) == pytest.approx(arithmetic.frechet_distance(a, b), rel=1e-9)


def test_colourfulness_of_gray_is_none_and_of_red_and_green_halves_known():
    """rg is 255 and -255, yb 127.5 in both: deviation 255, mean length 127.5."""
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, :2, 0] = image[:, 2:, 1] = 255
    assert arithmetic.colorfulness(image) == pytest.approx(255 + 0.3 * 127.5, rel=1e-12)
    assert arithmetic.colorfulness(np.repeat(_image(0)[..., :1], 3, axis=2)) == 0


def test_psnr_ssim_and_chroma_are_those_of_scikit_image():
    """Which crops 5 pixels (the window's reach) before it takes the mean of SSIM, as the paper does."""
    metrics, color = pytest.importorskip("skimage.metrics"), pytest.importorskip("skimage.color")
    a = _image(1)
    b = (0.7 * a + 0.3 * _image(2)).astype(np.uint8)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 2}
    assert arithmetic.psnr(a, b) == pytest.approx(metrics.peak_signal_noise_ratio(b, a), rel=1e-12)
    assert arithmetic.ssim(a, b) == pytest.approx(metrics.structural_similarity(a, b, **options), rel=1e-6)
    assert (arithmetic.psnr(a, a), arithmetic.ssim(a, a)) == (float("inf"), pytest.approx(1))
    np.testing.assert_allclose(arithmetic.chroma(a), color.rgb2lab(a)[..., 1:], atol=0.02)


def test_the_ab_error_ignores_lightness_and_measures_distance():
    gray, lighter = np.full((3, 3, 3), 50, np.uint8), np.full((3, 3, 3), 200, np.uint8)
    red = np.zeros((3, 3, 3), np.uint8)
    red[..., 0] = 255
    assert arithmetic.ab_error(gray, lighter) == pytest.approx(0, abs=1e-9)
    assert arithmetic.ab_error(red, gray) == pytest.approx(np.hypot(80.09, 67.20), abs=0.02)  # CIELAB of sRGB's red


def test_diversity_is_the_mean_over_pairs():
    a, b, c = (_image(seed) for seed in range(3))
    pairs = [arithmetic.ab_error(*pair) for pair in ((a, b), (a, c), (b, c))]
    assert arithmetic.diversity([a, b, c]) == pytest.approx(np.mean(pairs))


def _drawn(sharpness: float) -> dict[str, object]:
    """The reliability of a model that says softmax(sharpness * x) where labels come from softmax(x)."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 6, generator=generator)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    halves = zip((sharpness * logits).softmax(-1).chunk(2), labels.chunk(2), strict=True)
    return reliability(sum(tally(p.view(100, 100, 6), true.view(100, 100)) for p, true in halves))


def test_a_model_that_labels_are_drawn_from_is_calibrated():
    result = _drawn(1.0)
    assert sum(result["top_count"]) == 20_000 and sum(result["all_count"]) == 120_000
    for kind in ("all", "top"):  # each bin within four standard deviations of a binomial
        bins = (result[f"{kind}_{x}"] for x in ("count", "expected", "actual"))
        for count, expected, actual in zip(*bins, strict=True):
            if count:
                assert abs(actual - expected) <= 4 * np.sqrt(max(expected * (1 - expected), 1e-4) / count)


def test_an_overconfident_model_is_seen():
    calibrated, bold = _drawn(1.0), _drawn(3.0)
    assert calibrated["expected_calibration_error"] < 0.02 < 0.15 < bold["expected_calibration_error"]


def test_the_expected_calibration_error_is_the_mean_gap():
    result = reliability(tally(torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]), torch.tensor([0, 1, 1])))
    assert result["expected_calibration_error"] == pytest.approx((2 * abs(0.9 - 0.5) + abs(0.6 - 1.0)) / 3, rel=1e-6)
    assert len(result["top_expected"]) == BINS and json.dumps(result)


def test_the_reliability_plot_is_an_image(tmp_path):
    pytest.importorskip("matplotlib")
    plot(_drawn(1.0), tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
