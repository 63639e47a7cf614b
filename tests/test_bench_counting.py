# SPDX-License-Identifier: Apache-2.0
"""The counted work is that of the paper's sizes, and what the matrix products of a real run add up to."""

from __future__ import annotations

import importlib

import pytest
import torch
from tiny import colorizer_config

from bench import counting, recomputing
from coltran import networks
from coltran.networks import model_config


def _paper(name):
    return model_config(importlib.import_module(f"coltran.configs.{name}").get_config())


def test_the_papers_colorizer_needs_its_work():
    # Known to two digits, some of them cut off rather than rounded: less than one in the last digit apart.
    work = {stage: macs / 1e9 for stage, macs in counting.incremental(_paper("colorizer")).items()}
    assert abs(work["encoder"] - 54) < 1
    assert abs(work["outer decoder"] - 60) < 1
    assert abs(work["conditioning"] + work["row decoding"] - 48) < 1
    assert abs(counting.flops(counting.incremental(_paper("colorizer"))) / 1e12 - 0.327) < 0.001


def test_the_original_s_algorithm_needs_43_times_as_much():
    recomputing = counting.flops(counting.recomputing(_paper("colorizer")))
    assert round(recomputing / 1e12) == 14
    assert round(recomputing / counting.flops(counting.incremental(_paper("colorizer")))) == 43


@pytest.mark.parametrize(("name", "tera"), [("color_upsampler", 0.33), ("spatial_upsampler", 4.4)])
def test_the_papers_upsamplers_need_their_work(name, tera):
    assert counting.flops(counting.upsampler(_paper(name))) / 1e12 == pytest.approx(tera, rel=0.02)


def test_a_pixel_reads_two_layers_of_six_matrices_and_the_head():
    assert counting.step_weights(_paper("colorizer")) == 2 * 6 * 512**2 + 512 * 512


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cond_mlp": "shift", "cond_att_scale": False, "cond_ln_seq": "cs"},
        {"cond_ln": False, "cond_att_k": False, "cond_mlp": ""},
    ],
    ids=["paper", "shift", "plain"],
)
def test_the_original_s_algorithm_multiplies_as_often_as_counted(options):
    model = colorizer_config(height=4, width=5, **options)
    network, gray = networks.build(model).eval(), torch.zeros(1, 4, 5, dtype=torch.uint8)
    run = counting.multiply_adds(lambda: recomputing.sample(network, gray, implementation="reference"))
    assert run == sum(counting.recomputing(model).values())


def test_incremental_sampling_counts_teacher_forcing_without_the_masked_pairs():
    height, width, hidden = 4, 5, 16
    model = colorizer_config(height, width)  # one outer layer, two inner ones
    network, gray = networks.build(model).eval(), torch.zeros(1, height, width, dtype=torch.uint8)
    labels = torch.zeros(1, height, width, dtype=torch.int64)
    run = counting.multiply_adds(
        lambda: network.decode(labels, network.encode(gray, implementation="reference"), implementation="reference")
    )
    masked = height * width * hidden * ((height - 1) + 2 * (width - 1))  # 2 hidden a pair, half of the others of a line
    assert run - masked == sum(counting.incremental(model).values())
