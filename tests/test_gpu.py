# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show: the kernels that wait for each other, bfloat16, and the networks on two kinds of device.

The suites of attention and of the norms (test_attention.py, test_layer_norm.py) run on a GPU where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from coltran import checkpoint
from coltran.devices.choose import PRECISIONS
from coltran.loading import PRETRAINED
from coltran.networks.colorizer import Colorizer
from coltran.networks.dense import use_bfloat16
from coltran.networks.losses import compute_losses
from coltran.sampling import sample, upsample_space
from coltran_kernels import Epilogue, Pending, fused_linear, reference
from coltran_kernels.decode_row import triton as decode_triton
from coltran_kernels.decode_row.triton import Plan
from tests.operations import SETTINGS, SWITCHES, as_double, away_from_boundaries, each_tensor, random_row
from tests.tiny import OPTIONS, colorizer_config, random_colorizer

if not torch.cuda.is_available():
    pytest.skip("there is no GPU here", allow_module_level=True)

PAPER = (64, 512, 512, 4, 512, 2)  # width, hidden, feed-forward, heads, labels, layers


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """What `torch.empty` returns is full of NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def _four_threads() -> Iterator[None]:
    """The specification in float64 takes its time on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def on_gpu(value: Any) -> Any:
    return each_tensor(value, lambda tensor: tensor.cuda())


def assert_draws_as_specified(row: Any, plan: Plan | None = None, **changed: Any) -> None:
    """float32 on the GPU draws the labels of the specification in float64."""
    weights, terms, uniforms = row
    options = SETTINGS._replace(**changed)
    uniforms, labels, probabilities = away_from_boundaries(weights, terms, uniforms, options)
    found = decode_triton.decode_row(*on_gpu((weights, terms, uniforms)), plan=plan, **on_gpu(options))
    assert torch.equal(found[0].cpu(), labels)
    torch.testing.assert_close(found[2].cpu().double(), probabilities, rtol=0, atol=1e-4)


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
def test_every_switch(switches: dict[str, bool]):
    assert_draws_as_specified(random_row(3, 9, 32, 24, 2, 40, 2, **switches))


@pytest.mark.parametrize("sizes", [(1, 1, 32, 32, 1, 8, 1), (20, 7, 48, 64, 4, 33, 1), (33, 5, 128, 128, 4, 512, 2)])
@pytest.mark.parametrize("plan", [None, Plan(3, 16, 8, False), Plan(8, 16, 8, True), Plan(1, 16, 16, False)], ids=str)
def test_every_size_and_plan(sizes: tuple[int, ...], plan: Plan | None):
    assert_draws_as_specified(random_row(*sizes), plan, top_p=0.9)


@pytest.mark.parametrize(
    "options", [{"mode": "argmax"}, {"temperature": 1.7, "top_p": 0.5}, {"top_p": 1e-6}, {"eps": 0.5}], ids=str
)
def test_every_way_to_draw(options: dict[str, Any]):
    assert_draws_as_specified(random_row(20, 5, 32, 32, 2, 100, 1), **options)


@pytest.mark.usefixtures("_four_threads")
@pytest.mark.parametrize("batch", [1, 20, 40])
def test_the_papers_decoder(batch: int):
    assert_draws_as_specified(random_row(batch, *PAPER), top_p=0.95)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 20])
def test_short_numbers_are_within_twice_the_error_of_plain_torch(batch: int, dtype: torch.dtype):
    row = on_gpu(random_row(batch, *PAPER, dtype=dtype))
    options = SETTINGS._replace(given=torch.randint(512, (batch, 64), device="cuda"))
    exact = reference.decode_row(*as_double(row), options)[1]
    plain = reference.decode_row(*row, options)[1].double() - exact
    found = decode_triton.decode_row(*row, options)[1].double() - exact
    assert found.norm() <= 2 * plain.norm()


@pytest.mark.parametrize("plan", [Plan(64, 16, 8, True), Plan(64, 16, 8, False), Plan(1, 16, 16, False)], ids=str)
def test_the_same_row_is_the_same_to_the_bit_every_time(plan: Plan):
    row = on_gpu(random_row(20, *PAPER, dtype=torch.bfloat16))
    first = decode_triton.decode_row(*row, SETTINGS, plan=plan)
    for _ in range(50):
        again = decode_triton.decode_row(*row, SETTINGS, plan=plan)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_cuda_graph_repeats_a_row():
    weights, terms, uniforms = on_gpu(random_row(2, 16, 64, 64, 2, 64, 1))

    def draw() -> torch.Tensor:
        return decode_triton.decode_row(weights, terms, uniforms, SETTINGS)[0]

    draw()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = draw()
    for _ in range(3):
        uniforms.copy_(torch.rand_like(uniforms))
        graph.replay()
        assert torch.equal(found, draw())


@pytest.mark.usefixtures("_four_threads")
@torch.no_grad()
def test_the_networks_in_the_package_give_what_they_give_on_the_cpu():
    network = checkpoint.load(PRETRAINED / "colorizer").eval()
    gray = torch.randint(256, (2, 1, 64), dtype=torch.uint8).expand(2, 64, 64)
    here = sample(network, gray, seed=3)
    there = sample(network.cuda(), gray.cuda(), seed=3, given=here.labels.cuda())
    torch.testing.assert_close(there.log_prob.cpu(), here.log_prob, rtol=0, atol=2e-3)


@torch.no_grad()
def test_triton_draws_the_image_of_plain_torch():
    network = checkpoint.load(PRETRAINED / "colorizer").eval().cuda()
    gray = torch.randint(256, (1, 64, 64), dtype=torch.uint8, device="cuda")
    drawn = sample(network, gray, seed=5)
    plain = sample(network, gray, seed=5, given=drawn.labels, implementation="reference")
    torch.testing.assert_close(drawn.log_prob, plain.log_prob, rtol=0, atol=2e-3)


@torch.no_grad()
def test_products_in_bfloat16_change_an_image_by_their_rounding():
    network = checkpoint.load(PRETRAINED / "colorizer").eval().cuda()
    gray = torch.randint(256, (2, 64, 64), dtype=torch.uint8, device="cuda")
    exact = sample(network, gray, seed=5)
    found = sample(network, gray, seed=5, given=exact.labels, precision="bfloat16")
    assert found.log_prob.dtype == torch.float32
    assert 0 < (found.log_prob - exact.log_prob).abs().mean() < 0.01


@torch.no_grad()
def test_an_upsampler_in_bfloat16_is_near_the_one_in_float32():
    network = checkpoint.load(PRETRAINED / "spatial_upsampler").eval().cuda()
    rgb, gray = (torch.randint(256, s, dtype=torch.uint8, device="cuda") for s in ((1, 256, 256, 3), (1, 256, 256)))
    exact, found = (upsample_space(network, rgb, gray, estimate="mean", precision=p) for p in PRECISIONS)
    change = (found.int() - exact.int()).abs()
    assert 0 < change.float().mean() < 0.5


def test_gradients_of_a_network_are_those_on_the_cpu():
    network = Colorizer(colorizer_config(height=9, width=7))
    batch = {"rgb": torch.randint(256, (3, 9, 7, 3), dtype=torch.uint8)}
    config = {"loss_factor": 0.99, "encoder_loss_factor": 0.01, "model": network.config}

    def gradients(device: str) -> list[torch.Tensor]:
        network.to(device).zero_grad()
        losses = compute_losses(network, {name: t.to(device) for name, t in batch.items()}, config, training=True)
        losses["total_loss"].backward()
        return [parameter.grad.cpu().clone() for parameter in network.parameters() if parameter.grad is not None]

    for here, there in zip(gradients("cpu"), gradients("cuda"), strict=True):
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-5)


def test_gradients_in_bfloat16_are_near_those_in_float32():
    config = colorizer_config(height=64, width=64) | {"hidden_size": 64}
    for part in ("encoder", "decoder"):
        config[part] |= {"hidden_size": 64, "ff_size": 64}
    network = Colorizer(config).cuda()
    batch = {"rgb": torch.randint(256, (3, 64, 64, 3), dtype=torch.uint8, device="cuda")}
    factors = {"loss_factor": 0.99, "encoder_loss_factor": 0.01, "model": network.config}

    def gradients() -> torch.Tensor:
        network.zero_grad()
        compute_losses(network, batch, factors, training=True)["total_loss"].backward()
        return torch.cat([p.grad.flatten().clone() for p in network.parameters() if p.grad is not None])

    exact = gradients()
    use_bfloat16(network)
    assert (gradients() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("norm", ["exact", "rowcontext"])
@torch.no_grad()
def test_replayed_graphs_draw_what_plain_torch_draws(options: dict[str, Any], norm: str):
    network = random_colorizer(**options).cuda()
    given = torch.where(torch.rand(3, 6, 8) < 0.2, torch.randint(512, (3, 6, 8)), -1).cuda()
    guidance = torch.randn(3, 6, 8, 512, device="cuda")
    for seed in (1, 2, 3):  # the first captures, the others replay
        gray = torch.randint(256, (3, 6, 8), dtype=torch.uint8, device="cuda")
        drawing = {"given": given, "guidance": guidance, "norm": norm, "top_p": 0.9, "return_probabilities": True}
        found = sample(network, gray, seed=seed, **drawing)
        right = sample(network, gray, seed=seed, **drawing | {"given": found.labels}, implementation="reference")
        torch.testing.assert_close(found.log_prob, right.log_prob, rtol=0, atol=1e-3)
        torch.testing.assert_close(found.probabilities, right.probabilities, rtol=0, atol=1e-4)
        assert torch.equal(found.labels[given >= 0], given[given >= 0])


@pytest.mark.parametrize("sizes", [(1, 64, 512, 512), (3, 7, 48, 65), (20, 64, 512, 1536)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_fused_dense_layer_is_within_twice_the_error_of_plain_torch(sizes: tuple[int, ...], dtype: torch.dtype):
    images, width, inputs, outputs = sizes
    x = torch.randn(images, width, inputs, device="cuda").to(dtype)
    weight = (torch.randn(outputs, inputs, device="cuda") * inputs**-0.5).to(dtype)
    norm = tuple(torch.randn(2, images, inputs, device="cuda").mul(0.3).add(1))
    residual = torch.randn(images, width, outputs, device="cuda").to(dtype)
    for norms in ((), (norm,)):
        exact = fused_linear(
            Pending(x.double(), None, tuple(tuple(t.double() for t in n) for n in norms)), weight.double(),
            Epilogue(residual=residual.double()), implementation="reference",
        )[0]  # fmt: skip
        taken = Pending(x, None, norms), weight, Epilogue(residual=residual)
        plain, found = (
            fused_linear(*taken, implementation=name)[0].double() - exact for name in ("reference", "triton")
        )
        assert found.norm() <= 2 * plain.norm()
