# SPDX-License-Identifier: Apache-2.0
"""Particles against the conditioned distribution of a network so small that all of its images can be counted."""

from __future__ import annotations

from itertools import product
from math import sqrt

import numpy as np
import pytest
import torch

from coltran.networks.colorizer import Colorizer
from coltran.sampling import sample
from coltran.sampling.particles import choose_systematic, effective_size, in_place, sample_particles
from tests.tiny import colorizer_config, random_colorizer

HEIGHT, WIDTH = 3, 2
LIKELY = torch.tensor([5, 77, 300])  # all other labels are as good as impossible
HINTS = {(1, 1): 77, (2, 0): 300}
COUNT = 4000


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    network = Colorizer(colorizer_config(HEIGHT, WIDTH, cond_ln=False)).eval()
    with torch.no_grad():  # so that a colour depends much on those before it
        network.embedding.weight.normal_(std=3)
        network.logits.weight.normal_(std=0.5)
        network.logits.bias.fill_(-1e4)
        network.logits.bias[LIKELY] = 0
    return network


@pytest.fixture(scope="module")
def gray():
    return torch.tensor([[20, 200], [90, 120], [240, 60]], dtype=torch.uint8)


@pytest.fixture(scope="module")
def images(network, gray):
    """All images of likely labels [N, H, W], and the model's probability of each."""
    labels = LIKELY[torch.tensor(list(product(range(3), repeat=HEIGHT * WIDTH)))].view(-1, HEIGHT, WIDTH)
    with torch.no_grad():
        logits = network.decode(labels, network.encode(gray[None]).expand(len(labels), -1, -1, -1))
    log_prob = logits.log_softmax(-1).gather(-1, labels[..., None]).sum((1, 2, 3))
    return labels, log_prob.double().exp().numpy()


def imposed(count):
    given = torch.full((count, HEIGHT, WIDTH), -1)
    for (row, column), label in HINTS.items():
        given[:, row, column] = label
    return given


def marginals(labels, weights):
    """The probability of each likely label at each pixel [H, W, 3]."""
    here = (labels[..., None] == LIKELY).numpy()
    return np.tensordot(weights, here, 1)


def conditioned(images):
    labels, probabilities = images
    agree = np.logical_and.reduce([(labels[:, row, column] == label).numpy() for (row, column), label in HINTS.items()])
    return labels, probabilities * agree


def margin(particles):
    """Five standard errors: each of the rows with hints adds at most 1 / 4 over its effective sample size."""
    return 5 * 0.5 * sqrt((1 + len(HINTS)) / particles.effective)


@pytest.fixture(scope="module")
def particles(network, gray):
    return sample_particles(network, gray, imposed(COUNT), imposed(1)[0] >= 0, seed=1)


def test_all_images_are_counted(images):
    assert images[1].sum() == pytest.approx(1, abs=1e-5)


def test_weighted_particles_are_draws_from_the_conditioned_distribution(images, particles):
    labels, weights = conditioned(images)
    exact = marginals(labels, weights / weights.sum())
    found = marginals(particles.sample.labels, particles.weights)
    assert np.abs(found - exact).max() < margin(particles)
    # Colours that are merely imposed leave what is drawn before them as it was, which is another distribution.
    alone = marginals(labels, images[1])
    assert np.abs(alone - exact)[0].max() > 2 * margin(particles)


def test_pairs_of_pixels_are_those_of_the_conditioned_distribution(images, particles):
    labels, weights = conditioned(images)

    def joint(labels, weights):
        first, last = ((labels[:, row, column, None] == LIKELY).int().argmax(-1) for row, column in ((0, 0), (2, 1)))
        return np.bincount((3 * first + last).numpy(), weights, 9)

    exact = joint(labels, weights / weights.sum())
    assert np.abs(joint(particles.sample.labels, particles.weights) - exact).max() < margin(particles)


def test_the_probability_of_the_hints_is_estimated(images, particles):
    exact = np.log(conditioned(images)[1].sum())
    assert abs(particles.log_evidence - exact) < 2 * margin(particles)


def test_log_probabilities_are_those_of_the_histories_that_were_gone_on_from(network, gray, particles):
    labels = particles.sample.labels[:50]
    with torch.no_grad():
        logits = network.decode(labels, network.encode(gray[None]).expand(50, -1, -1, -1))
    expected = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    assert (particles.origin[:50] != np.arange(50)).any()
    torch.testing.assert_close(particles.sample.log_prob[:50], expected, rtol=0, atol=1e-3)


def test_a_seed_repeats_and_another_differs(network, gray):
    first, again, other = (
        sample_particles(network, gray, imposed(30), imposed(1)[0] >= 0, seed=seed) for seed in (4, 4, 5)
    )
    assert torch.equal(first.sample.labels, again.sample.labels)
    np.testing.assert_array_equal(first.weights, again.weights)
    assert not torch.equal(first.sample.labels, other.sample.labels)


def test_without_hints_particles_are_plain_samples_of_equal_weight(network, gray):
    free = torch.full((5, HEIGHT, WIDTH), -1)
    found = sample_particles(network, gray, free, free[0] >= 0, seed=2)
    assert torch.equal(found.sample.labels, sample(network, gray.expand(5, -1, -1), seed=2).labels)
    np.testing.assert_array_equal(found.weights, [0.2] * 5)
    assert found.effective == pytest.approx(5)
    assert found.log_evidence == 0


def test_what_comes_after_each_row_is_what_has_been_drawn(network, gray):
    seen = []
    found = sample_particles(
        network, gray, imposed(40), imposed(1)[0] >= 0, seed=6, after_row=lambda *call: seen.append(call)
    )
    assert [labels.shape[1] for labels, _, _ in seen] == [1, 2, 3]
    labels, weights, origin = seen[-1]
    assert torch.equal(labels, found.sample.labels)
    np.testing.assert_array_equal(weights, found.weights)
    np.testing.assert_array_equal(origin, found.origin)


@pytest.mark.parametrize(("weights", "size"), [([0.25] * 4, 4), ([1, 0, 0], 1), ([0.5, 0.5, 0, 0], 2)])
def test_the_effective_size_counts_equal_draws(weights, size):
    assert effective_size(np.array(weights)) == pytest.approx(size)


@pytest.mark.parametrize("uniform", [0.0, 0.3, 0.999])
def test_systematic_choice_is_as_even_as_whole_numbers_can_be(uniform):
    weights = np.random.default_rng(0).dirichlet(np.ones(7))
    counts = np.bincount(choose_systematic(weights, 50, uniform), minlength=7)
    assert counts.sum() == 50
    assert (np.abs(counts - 50 * weights) < 1).all()


def test_those_that_are_gone_on_from_keep_their_places():
    chosen = np.array([1, 1, 1, 4, 5, 5])
    origin = in_place(chosen)
    assert sorted(origin) == sorted(chosen)
    assert [origin[k] for k in (1, 4, 5)] == [1, 4, 5]


def test_they_are_weighed_by_the_guided_model():
    network, gray, given = random_colorizer(), torch.randint(256, (6, 8)), torch.full((4, 6, 8), -1)
    given[:, 2, 3] = 77
    found = sample_particles(network, gray, given, given[0] >= 0, seed=0, guidance=torch.randn(6, 8, 512))
    log_prob = found.sample.guided_log_prob[:, 2, 3].double().numpy()
    assert not torch.equal(found.sample.guided_log_prob, found.sample.log_prob)
    assert found.origin.tolist() == [0, 1, 2, 3]  # nothing was drawn again: the weights are the likelihoods
    torch.testing.assert_close(found.weights, np.exp(log_prob) / np.exp(log_prob).sum())
