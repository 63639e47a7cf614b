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
from tests.operations import TRITON

BLOCK, NETWORK = 1e-5, 1e-4  # largest relative errors
IMPLEMENTATIONS = ("reference", "cpu")


@pytest.fixture
def arrays(parity):
    """`arrays(name)`: a network of the original, and the arrays that it gave, as tensors."""

    def read(name):
        data = parity(name)
        numbers = {key: torch.from_numpy(a) for key, a in data.items() if a.dtype.kind in "fiu"}
        return load_network(data), numbers | {"gray": numbers["gray"][..., 0]}

    return read


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", COLORIZERS)
def test_every_part_of_a_colorizer_agrees(arrays, name, implementation):
    network, data = arrays(name)
    e, z, upper = network.embedding(data["labels"]), data["encoder_out"], data["outer_decoder_out"]
    parts = {
        "encoder_out": network.encode(data["gray"], implementation=implementation),
        "outer_decoder_out": network.outer_decoder(e, z, implementation=implementation),
        "inner_decoder_out": network.inner_decoder(e, upper, z, implementation=implementation),
    }
    output = network(data["input_rgb"], implementation=implementation)
    for part, found in parts.items():
        assert relative_error(found, data[part].numpy()) < BLOCK, part
    assert relative_error(output.logits, data["logits"].numpy()) < NETWORK
    if "parallel_logits" in data:
        assert relative_error(output.parallel_logits, data["parallel_logits"].numpy()) < NETWORK
    else:
        assert output.parallel_logits is None
    if "parallel_rgb" in data:
        assert torch.equal(labels_to_colors(output.parallel_logits.argmax(-1)), data["parallel_rgb"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU Triton takes no tensors of the CPU")
@pytest.mark.parametrize("implementation", [TRITON])
def test_outer_decoder_agrees_in_triton(arrays, implementation):
    """Both axes, causal and not, conditioned, and norms for each image; one image, as the interpreter is slow."""
    network, data = arrays("colorizer_affine")
    e = network.embedding(data["labels"][:1])
    upper = network.outer_decoder(e, data["encoder_out"][:1], implementation=implementation)
    assert relative_error(upper, data["outer_decoder_out"][:1].numpy()) < BLOCK


@pytest.mark.parametrize("norm", ["exact", "rowcontext"])
@pytest.mark.parametrize("name", COLORIZERS)
def test_argmax_samples_are_equal_and_their_probabilities_agree(arrays, name, norm):
    network, data = arrays(name)
    drawn = sample(network, data["gray"], mode="argmax", norm=norm, return_probabilities=True)
    assert torch.equal(drawn.rgb, data[f"sample_argmax_{norm}_rgb"])
    assert relative_error(drawn.probabilities, data[f"sample_argmax_{norm}_proba"].numpy()) < NETWORK


@pytest.mark.parametrize("name", COLORIZERS)
def test_labels_are_equal_and_losses_agree(arrays, name):
    network, data = arrays(name)
    np.testing.assert_array_equal(colors_to_labels(to_bits(data["input_rgb"], 8, 3)), data["labels"])
    losses = compute_losses(network, {"rgb": data["input_rgb"]}, {}, training=False)
    assert losses["loss"].item() == pytest.approx(data["loss_bits_per_dim"].item(), rel=BLOCK)
    if "parallel_loss_bits_per_dim" in data:
        assert losses["encoder"].item() == pytest.approx(data["parallel_loss_bits_per_dim"].item(), rel=BLOCK)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", UPSAMPLERS)
def test_an_upsampler_agrees(arrays, name, implementation):
    """The logits of all channels and of one an image, and the image of the most probable values."""
    network, data = arrays(name)
    for inputs, expected in (("input_rgb", "logits"), ("input_slice", "logits_slice")):
        values = to_bits(data[inputs], 8, 3) if name == "color_upsampler" else data[inputs]
        index = data["channel_index"] if expected == "logits_slice" else None
        logits = network(values, data["gray"], index, implementation=implementation)
        assert relative_error(logits, data[expected].numpy()) < NETWORK
    upsample = upsample_color if name == "color_upsampler" else upsample_space
    image = upsample(network, data["input_rgb"], data["gray"], implementation=implementation)
    assert torch.equal(image, data["sample_argmax_rgb"])


@pytest.mark.parametrize("name", UPSAMPLERS)
def test_an_upsamplers_losses_agree(arrays, name):
    network, data = arrays(name)
    batch = {"rgb": data["input_rgb"], "low_res": data["input_rgb"]}
    one = batch | {"channel_index": data["channel_index"].long()}
    for given, training, expected in ((batch, False, "loss_bits_per_dim"), (one, True, "loss_slice_bits_per_dim")):
        loss = compute_losses(network, given, {}, training=training)["loss"]
        assert loss.item() == pytest.approx(data[expected].item(), rel=BLOCK)


def test_coarse_input_of_the_color_upsampler_is_equal(arrays):
    _, data = arrays("color_upsampler")
    assert torch.equal(to_bits(to_bits(data["input_rgb"], 8, 3), 3, 8), data["coarse_rgb"])
