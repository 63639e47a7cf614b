# SPDX-License-Identifier: Apache-2.0
"""Incremental sampling is teacher forcing, one position at a time, and its randomness is one number a pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coltran.image import colors_to_labels
from coltran.networks.upsamplers import ColorUpsampler
from coltran.sampling import named_seed, sample, uniforms, upsample_color
from coltran_kernels import native
from coltran_kernels.linear.cpu import unsupported_bfloat16
from tests.operations import TRITON, device_of
from tests.tiny import OPTIONS, random_colorizer, upsampler_config


def _gray(batch=2):
    return torch.randint(256, (batch, 6, 8), dtype=torch.uint8)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("implementation", ["reference", "cpu", TRITON])
@torch.no_grad()
def test_exact_sampling_is_teacher_forcing(options, implementation):
    size = {"height": 2, "width": 3} if implementation == "triton" else {}  # interpreted, it is slow
    network = random_colorizer(**size, **options)
    gray = torch.randint(256, (2, *network.outer_decoder.position.size), dtype=torch.uint8)
    here = device_of(implementation)
    drawn = sample(network.to(here), gray.to(here), seed=0, return_probabilities=True, implementation=implementation)
    forced = network.decode(drawn.labels, network.encode(gray.to(here), implementation="reference")).softmax(-1)
    torch.testing.assert_close(drawn.probabilities, forced, rtol=0, atol=1e-5)


def test_rowcontext_sampling_is_another_distribution():
    network, gray = random_colorizer(), _gray()
    exact, row = (
        sample(network, gray, mode="argmax", norm=norm, return_probabilities=True).probabilities[:, 0, 0]
        for norm in ("exact", "rowcontext")
    )
    assert (exact.log() - row.log()).abs().max() > 0.01  # rounding is below 1e-4


def test_what_is_told_of_a_sample_is_of_its_labels_whatever_the_temperature():
    drawn = sample(random_colorizer(), _gray(), seed=1, temperature=0.5, top_p=0.9, return_probabilities=True)
    expected = drawn.probabilities.gather(-1, drawn.labels[..., None])[..., 0].log()
    torch.testing.assert_close(drawn.log_prob, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(colors_to_labels(drawn.rgb // 32), drawn.labels)
    best = sample(random_colorizer(), _gray(), mode="argmax", return_probabilities=True)
    assert torch.equal(best.labels, best.probabilities.argmax(-1))


def test_a_seed_repeats_another_differs_and_none_draws_afresh():
    network, gray = random_colorizer(), _gray()
    first, again, other = (sample(network, gray, seed=seed).labels for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(sample(network, gray).labels, sample(network, gray).labels)


def test_a_sample_does_not_depend_on_its_batch():
    network, gray = random_colorizer(), _gray(4)
    together = sample(network, gray, seed=3).labels
    alone = torch.cat([sample(network, gray[i : i + 1], seed=3, image_index=[i]).labels for i in range(4)])
    assert torch.equal(together, alone)


def test_sampling_leaves_torchs_generator_and_the_mode_alone_and_applies_no_dropout():
    network, gray = random_colorizer(dropout=0.5).train(), _gray()
    state = torch.get_rng_state()
    drawn = sample(network, gray, seed=0).labels
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training
    assert torch.equal(drawn, sample(network.eval(), gray, seed=0).labels)


def test_given_pixels_are_kept_and_the_rest_is_drawn_after_them():
    network, gray = random_colorizer(), _gray()
    free = sample(network, gray, seed=2).labels
    given = torch.full_like(free, -1)
    given[:, 2, 3] = (free[:, 2, 3] + 1) % 512
    drawn = sample(network, gray, seed=2, given=given, return_probabilities=True)
    assert torch.equal(drawn.labels[:, 2, 3], given[:, 2, 3])
    assert torch.equal(drawn.labels[:, :2], free[:, :2])
    with torch.no_grad():
        forced = network.decode(drawn.labels, network.encode(gray)).log_softmax(-1)
    expected = forced.gather(-1, drawn.labels[..., None])[..., 0]
    torch.testing.assert_close(drawn.log_prob, expected, rtol=0, atol=1e-4)


def test_an_image_is_drawn_row_by_row_with_its_guidance():
    network, gray, guidance = random_colorizer(), _gray(), 2 * torch.randn(2, 6, 8, 512)
    plain = sample(network, gray, seed=3)
    found = sample(network, gray, seed=3, guidance=guidance, return_probabilities=True)
    assert not torch.equal(found.labels, plain.labels)
    again = sample(network, gray, seed=9, given=found.labels, return_probabilities=True)
    torch.testing.assert_close(found.log_prob, again.log_prob)  # of the plain model
    guided = (again.probabilities.log() + guidance).log_softmax(-1).gather(-1, found.labels[..., None])[..., 0]
    torch.testing.assert_close(found.guided_log_prob, guided)


def test_rows_and_stages_are_told_as_they_finish():
    rows, stages = [], []
    told = {"progress": lambda done, of: rows.append((done, of)), "finished": stages.append}
    sample(random_colorizer(), _gray(), seed=0, **told)
    assert rows == [(row, 6) for row in range(1, 7)]
    assert stages == ["encoder", *(6 * ["conditioning", "row decoding", "outer decoder"])[:-1]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mode": "best"}, "mode"),
        ({"norm": "row"}, "norm"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"image_index": [0]}, "1 image indices for 2 images"),
        ({"guidance": torch.zeros(2, 6, 8, 2)}, r"guidance is \[2, 6, 8, 2\], expected \[2, 6, 8, 512\]"),
        ({"precision": "float16"}, "precision must be one of"),
    ],
)
def test_an_argument_out_of_range_is_named(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        sample(random_colorizer(), _gray(), **options)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="works at 6 x 8 pixels, got 8 x 6"):
        sample(random_colorizer(), _gray().transpose(1, 2))


def test_uniforms_are_the_upper_bits_of_philox():
    raw = np.random.Philox(key=[7, 3]).random_raw(12)
    expected = [int(value) // 2**40 / 2**24 for value in raw]
    assert uniforms(7, [1, 3], 3, 4)[1].flatten().tolist() == expected


def test_every_seed_and_index_has_numbers_of_its_own():
    largest = 2**64 - 1
    keys = [(0, largest), (0, largest - 1), (largest, 0), (largest - 1, 0)]
    assert len({tuple(uniforms(seed, [index], 1, 4).flatten().tolist()) for seed, index in keys}) == len(keys)


def test_uniforms_fill_the_unit_interval():
    numbers = uniforms(0, range(16), 64, 64)
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = torch.histc(numbers, 64, 0, 1)
    chi_square = ((counts - 1024) ** 2 / 1024).sum()
    assert 25 < chi_square < 120  # 63 degrees of freedom: outside with probability below 2e-5


def test_color_upsampler_takes_the_most_probable_values_of_each_channel():
    network = ColorUpsampler(upsampler_config("color_upsampler")).eval()
    coarse, gray = torch.randint(8, (2, 6, 8, 3)) * 32, _gray()
    expected = network(coarse // 32, gray).argmax(-1)
    assert torch.equal(upsample_color(network, coarse, gray), expected.to(torch.uint8))


@pytest.mark.parametrize("shape", [(1, 6, 8), (1, 8, 6, 3), (2, 6, 8, 3), (1, 6, 8, 3, 1)])
def test_upsampling_says_which_sizes_it_takes(shape):
    network = ColorUpsampler(upsampler_config("color_upsampler"))
    with pytest.raises(ValueError, match=r"takes gray \[B, 6, 8\] and \[B, 6, 8, 3\], got \[1, 6, 8\]"):
        upsample_color(network, torch.zeros(shape, dtype=torch.int64), torch.zeros(1, 6, 8, dtype=torch.int64))


def test_a_named_seed_comes_of_seed_and_file_name_alone():
    assert named_seed(1, "/album/p.png") == named_seed(1, "s3://other/p.png") == named_seed(1, "p.png")
    assert len({named_seed(seed, name) for seed in (1, 11) for name in ("p.png", "1/q.png", "P.png")}) == 6
    assert named_seed(0, "p.png") == 8009996058858384011


# In bfloat16.

_reason = unsupported_bfloat16() or native.unavailable()
in_bfloat16 = pytest.mark.skipif(_reason is not None, reason=str(_reason))


@in_bfloat16
def test_bfloat16_changes_the_probabilities_by_its_rounding():
    network, gray = random_colorizer(), _gray()
    exact = sample(network, gray, seed=0, return_probabilities=True)
    drawn = sample(network, gray, given=exact.labels, return_probabilities=True, precision="bfloat16")
    change = (drawn.log_prob - exact.log_prob).abs()
    assert 0 < change.max() < 0.2
    assert sample(network, gray, seed=0).log_prob.equal(exact.log_prob)  # and float32 is as before


@in_bfloat16
def test_a_sample_in_bfloat16_does_not_depend_on_its_batch():
    network, gray = random_colorizer(), _gray(4)
    together = sample(network, gray, seed=3, precision="bfloat16")
    for i in range(4):
        alone = sample(network, gray[i : i + 1], seed=3, image_index=[i], precision="bfloat16")
        assert torch.equal(alone.labels[0], together.labels[i])


@in_bfloat16
@pytest.mark.parametrize("implementation", ["reference", "triton"])
def test_bfloat16_is_refused_where_it_cannot_be_had(implementation):
    refused = "bfloat16 is served on the CPU|does not take a tensor on cpu"  # the second by Triton on a GPU
    with pytest.raises(NotImplementedError, match=refused):
        sample(random_colorizer(), _gray(), precision="bfloat16", implementation=implementation)
