# SPDX-License-Identifier: Apache-2.0
"""What CUDA graphs would repeat draws what is drawn row after row; emulated on the CPU (emulated_graphs.py)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from coltran.networks.upsamplers import ColorUpsampler
from coltran.sampling import cuda_graphs, sample, sampler, upsample_color, upsampler_graphs
from coltran_kernels import triton_common
from tests.emulated_graphs import EmulatedGraph, check
from tests.tiny import OPTIONS, random_colorizer, upsampler_config

if not triton_common.INTERPRETED:
    pytest.skip("on a GPU graphs are captured", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cuda_graphs, "capture", EmulatedGraph)
    monkeypatch.setattr(EmulatedGraph, "made", [], raising=False)
    yield


@pytest.fixture
def by(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`by(implementation)`: rows are drawn in graphs whose operations are of an implementation."""

    def choose(implementation: str) -> None:
        draw = cuda_graphs.draw_images

        def draw_images(*arguments: Any, **options: Any) -> Any:
            return draw(*arguments, **options | {"implementation": implementation})

        monkeypatch.setattr(sampler, "draw_images", draw_images)

    return choose


def both(network: Any, gray: torch.Tensor, **options: Any) -> None:
    """Draws images in graphs and row after row, and compares all that is told of them."""
    options = {"return_probabilities": True} | options
    right = sample(network, gray, implementation="reference", **options)
    found = sample(network, gray, implementation="triton", **options)
    assert torch.equal(found.labels, right.labels) and torch.equal(found.rgb, right.rgb)
    for ours, theirs in (
        (found.log_prob, right.log_prob), (found.guided_log_prob, right.guided_log_prob),
        (found.probabilities, right.probabilities),
    ):  # fmt: skip
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert found.log_prob.untyped_storage().data_ptr() not in {
        t.untyped_storage().data_ptr() for graph in EmulatedGraph.made for t in graph.own
    }


def random_options(generator: random.Random, batch: int, height: int, width: int) -> dict[str, Any]:
    """Any way to draw."""
    options: dict[str, Any] = {
        "norm": generator.choice(["exact", "rowcontext"]), "mode": generator.choice(["sample", "sample", "argmax"]),
        "temperature": generator.uniform(0.5, 2), "top_p": generator.choice([1, 0.9, 0.5]),
    }  # fmt: skip
    if generator.random() < 0.5:
        given = torch.randint(512, (batch, height, width))
        options["given"] = torch.where(torch.rand(given.shape) < 0.3, given, -1)
    if generator.random() < 0.5:
        options["guidance"] = torch.randn(batch, height, width, 512)
    return options


@pytest.mark.parametrize("one_launch", [False, True])
@pytest.mark.parametrize("number", range(8))
def test_labels_are_those_of_one_row_after_the_other(number, one_launch, by, monkeypatch):
    generator = random.Random(f"{number} {one_launch}")
    height, width, batch = generator.randint(1, 7), generator.randint(1, 9), generator.randint(1, 3)
    sizes = {"height": height, "width": width, **generator.choice(list(OPTIONS.values()))}
    layers = {f"num_{part}_layers": generator.randint(0, 2) for part in ("outer", "inner")}
    network = random_colorizer(**sizes, **layers)
    by("reference")
    if one_launch:
        monkeypatch.setattr(cuda_graphs, "passes_win", lambda *_: False)
    options = random_options(generator, batch, height, width)
    for seed in (1, 2):
        both(network, torch.randint(256, (batch, height, width), dtype=torch.uint8), seed=seed, **options)
    begin, draw, *advance = EmulatedGraph.made  # captured for the first image alone
    assert begin.replays == 2 and all(graph.replays == 2 * (height - 1) for graph in advance)
    assert draw.replays == 2 * height if one_launch else draw.replays <= 2 * height * (width + 1)
    check(begin, draw, *advance)


def test_the_kernels_draw_them_too():
    network = random_colorizer(height=2, width=4)
    guidance, given = torch.randn(2, 2, 4, 512), torch.full((2, 2, 4), -1)
    given[1, 1, 2:4] = 77
    for seed in (1, 2):
        both(network, torch.randint(256, (2, 2, 4), dtype=torch.uint8), seed=seed, guidance=guidance, given=given)
    check(*EmulatedGraph.made)


def test_a_pass_of_the_paper_is_twelve_kernels_and_an_outer_row_at_most_thirty():
    network = random_colorizer(height=2, width=3, num_outer_layers=2, num_inner_layers=2)
    sample(network, torch.zeros(1, 2, 3, dtype=torch.uint8), seed=0, implementation="triton")
    _, draw, advance = EmulatedGraph.made
    a_pass, a_row = (
        [operation.name for operation in graph.operations if not operation.name.startswith("empty")]
        for graph in (draw, advance)
    )
    assert a_pass.pop() == "copy_" and len(a_pass) == 12, a_pass  # the last is the flag's way to the host
    assert len(a_row) <= 30, a_row


def test_temperature_is_no_part_of_a_graph_and_other_weights_are(by):
    network, gray = random_colorizer(), torch.randint(256, (1, 6, 8), dtype=torch.uint8)
    by("reference")
    for temperature in (0.5, 1.5):
        both(network, gray, seed=3, temperature=temperature)
    assert len(EmulatedGraph.made) == 3
    with torch.no_grad():
        network.logits.bias.add_(torch.randn(512))
    both(network, gray, seed=3)
    assert len(EmulatedGraph.made) == 6


def test_graphs_that_were_used_last_are_kept(by):
    network = random_colorizer()
    by("reference")
    for batch in (1, 2, 3, 4, 5, 1, 5):
        sample(network, torch.zeros(batch, 6, 8, dtype=torch.uint8), seed=0, implementation="triton")
    assert len(EmulatedGraph.made) == 3 * 6  # the first batch size was dropped for the fifth


def test_each_row_is_shown_and_images_may_exchange_their_histories(by):
    network, gray = random_colorizer(), torch.randint(256, (6, 8), dtype=torch.uint8).expand(4, 6, 8)
    given = torch.where(torch.rand(4, 6, 8) < 0.2, torch.randint(512, (4, 6, 8)), -1)
    by("reference")
    seen: dict[str, list[torch.Tensor]] = {"reference": [], "triton": []}
    for name, rows in seen.items():

        def after_row(labels: torch.Tensor, log_prob: torch.Tensor, rows: Any = rows) -> torch.Tensor | None:
            rows += [labels.clone(), log_prob.clone()]
            return {2: torch.tensor([0, 0, 2, 0]), 4: torch.tensor([1, 1, 2, 2])}.get(labels.shape[1] - 1)

        found = sample(network, gray, given=given, seed=5, after_row=after_row, implementation=name)
        rows += [found.labels, found.log_prob]
    assert len(seen["triton"]) == 2 * 7
    for ours, right in zip(seen["triton"], seen["reference"], strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-4)


@pytest.mark.parametrize("estimate", ["argmax", "median"])
@torch.no_grad()
def test_an_upsampler_is_one_graph(estimate, monkeypatch):
    network = ColorUpsampler(upsampler_config("color_upsampler", 3, 4)).eval()

    def by_torch(*arguments: Any, **options: Any) -> torch.Tensor:
        return upsampler_graphs.upsample_images(*arguments, **options | {"implementation": "reference"})

    monkeypatch.setattr(sampler, "upsample_images", by_torch)
    for _ in range(2):
        coarse = 32 * torch.randint(8, (3, 3, 4, 3), dtype=torch.uint8)
        gray = torch.randint(256, (3, 3, 4), dtype=torch.uint8)
        expected = upsample_color(network, coarse, gray, estimate=estimate, implementation="reference")
        found = upsample_color(network, coarse, gray, estimate=estimate, implementation="triton")
        assert torch.equal(found, expected)
    (graph,) = EmulatedGraph.made
    assert graph.replays == 6
    check(graph)
