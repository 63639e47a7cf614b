# SPDX-License-Identifier: Apache-2.0
"""The networks reproduce every intermediate of the original program, within the rounding of float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coltran.image import colors_to_labels, labels_to_colors, to_bits
from coltran.networks.losses import compute_losses
from coltran.sampling import sample, upsample_color, upsample_space
from tests.networks_of_parity import COLORIZERS, UPSAMPLERS, load_network, relative_error

BLOCK, NETWORK = 1e-5, 1e-4  # largest relative errors
IMPLEMENTATIONS = ("reference", "cpu")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", COLORIZERS)
class TestColorizer:
    def test_encoder_agrees(self, parity, name, implementation):
        data = parity(name)
        z = load_network(data).encode(torch.from_numpy(data["gray"][..., 0]), implementation=implementation)
        assert relative_error(z, data["encoder_out"]) < BLOCK

    def test_outer_decoder_agrees(self, parity, name, implementation):
        data = parity(name)
        network = load_network(data)
        e = network.embedding(torch.from_numpy(data["labels"]))
        upper = network.outer_decoder(e, torch.from_numpy(data["encoder_out"]), implementation=implementation)
        assert relative_error(upper, data["outer_decoder_out"]) < BLOCK

    def test_inner_decoder_agrees(self, parity, name, implementation):
        data = parity(name)
        network = load_network(data)
        e = network.embedding(torch.from_numpy(data["labels"]))
        upper, z = torch.from_numpy(data["outer_decoder_out"]), torch.from_numpy(data["encoder_out"])
        inner = network.inner_decoder(e, upper, z, implementation=implementation)
        assert relative_error(inner, data["inner_decoder_out"]) < BLOCK

    def test_logits_agree(self, parity, name, implementation):
        data = parity(name)
        output = load_network(data)(torch.from_numpy(data["input_rgb"]), implementation=implementation)
        assert relative_error(output.logits, data["logits"]) < NETWORK

    def test_parallel_logits_agree_where_there_are_any(self, parity, name, implementation):
        data = parity(name)
        output = load_network(data)(torch.from_numpy(data["input_rgb"]), implementation=implementation)
        if "parallel_logits" in data:
            assert relative_error(output.parallel_logits, data["parallel_logits"]) < NETWORK
        else:
            assert output.parallel_logits is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU Triton takes no tensors of the CPU")
def test_outer_decoder_agrees_in_triton(parity):
    """Both axes, causal and not, conditioned, and norms for each image; one image, as the interpreter is slow."""
    data = parity("colorizer_affine")
    network = load_network(data)
    e = network.embedding(torch.from_numpy(data["labels"][:1]))
    upper = network.outer_decoder(e, torch.from_numpy(data["encoder_out"][:1]), implementation="triton")
    assert relative_error(upper, data["outer_decoder_out"][:1]) < BLOCK


@pytest.mark.parametrize("norm", ["exact", "rowcontext"])
@pytest.mark.parametrize("name", COLORIZERS)
class TestSampling:
    def test_argmax_samples_are_equal(self, parity, name, norm):
        data = parity(name)
        drawn = sample(load_network(data), torch.from_numpy(data["gray"][..., 0]), mode="argmax", norm=norm)
        np.testing.assert_array_equal(drawn.rgb, data[f"sample_argmax_{norm}_rgb"])

    def test_probabilities_agree(self, parity, name, norm):
        data = parity(name)
        gray = torch.from_numpy(data["gray"][..., 0])
        drawn = sample(load_network(data), gray, mode="argmax", norm=norm, return_probabilities=True)
        assert relative_error(drawn.probabilities, data[f"sample_argmax_{norm}_proba"]) < NETWORK


@pytest.mark.parametrize("name", COLORIZERS)
def test_labels_are_equal(parity, name):
    data = parity(name)
    np.testing.assert_array_equal(colors_to_labels(to_bits(data["input_rgb"], 8, 3)), data["labels"])


@pytest.mark.parametrize("name", COLORIZERS)
def test_colorizer_losses_agree(parity, name):
    data = parity(name)
    losses = compute_losses(load_network(data), {"rgb": torch.from_numpy(data["input_rgb"])}, {}, training=False)
    assert losses["loss"].item() == pytest.approx(float(data["loss_bits_per_dim"]), rel=BLOCK)
    if "parallel_loss_bits_per_dim" in data:
        assert losses["encoder"].item() == pytest.approx(float(data["parallel_loss_bits_per_dim"]), rel=BLOCK)


@pytest.mark.parametrize("name", ["colorizer_affine", "colorizer_plain_ln"])
def test_parallel_image_is_equal(parity, name):
    data = parity(name)
    output = load_network(data)(torch.from_numpy(data["input_rgb"]))
    np.testing.assert_array_equal(labels_to_colors(output.parallel_logits.argmax(-1)), data["parallel_rgb"])


def _upsampler_inputs(data, name, key):
    values = torch.from_numpy(data[key])
    return to_bits(values, 8, 3) if name == "color_upsampler" else values


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", UPSAMPLERS)
class TestUpsampler:
    def test_logits_of_all_channels_agree(self, parity, name, implementation):
        data = parity(name)
        inputs, gray = _upsampler_inputs(data, name, "input_rgb"), torch.from_numpy(data["gray"][..., 0])
        logits = load_network(data)(inputs, gray, implementation=implementation)
        assert relative_error(logits, data["logits"]) < NETWORK

    def test_logits_of_one_channel_an_image_agree(self, parity, name, implementation):
        data = parity(name)
        inputs, gray = _upsampler_inputs(data, name, "input_slice"), torch.from_numpy(data["gray"][..., 0])
        index = torch.from_numpy(data["channel_index"])
        logits = load_network(data)(inputs, gray, index, implementation=implementation)
        assert relative_error(logits, data["logits_slice"]) < NETWORK

    def test_argmax_images_are_equal(self, parity, name, implementation):
        data = parity(name)
        upsample = upsample_color if name == "color_upsampler" else upsample_space
        rgb, gray = torch.from_numpy(data["input_rgb"]), torch.from_numpy(data["gray"][..., 0])
        image = upsample(load_network(data), rgb, gray, implementation=implementation)
        np.testing.assert_array_equal(image, data["sample_argmax_rgb"])


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_upsampler_loss_over_all_channels_agrees(parity, name):
    data = parity(name)
    rgb = torch.from_numpy(data["input_rgb"])
    losses = compute_losses(load_network(data), {"rgb": rgb, "low_res": rgb}, {}, training=False)
    assert losses["loss"].item() == pytest.approx(float(data["loss_bits_per_dim"]), rel=BLOCK)


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_upsampler_loss_over_one_channel_agrees(parity, name):
    data = parity(name)
    rgb, index = torch.from_numpy(data["input_rgb"]), torch.from_numpy(data["channel_index"]).long()
    batch = {"rgb": rgb, "low_res": rgb, "channel_index": index}
    losses = compute_losses(load_network(data), batch, {}, training=True)
    assert losses["loss"].item() == pytest.approx(float(data["loss_slice_bits_per_dim"]), rel=BLOCK)


def test_coarse_input_of_the_color_upsampler_is_equal(parity):
    data = parity("color_upsampler")
    coarse = to_bits(to_bits(torch.from_numpy(data["input_rgb"]), 8, 3), 3, 8)
    np.testing.assert_array_equal(coarse, data["coarse_rgb"])
