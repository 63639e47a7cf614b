# SPDX-License-Identifier: Apache-2.0
"""The Triton row decoder draws what the specification draws, in Triton's interpreter (or on a GPU where there is one).

The launcher's cost model and what it asks of a GPU are in test_triton_decode_plan.py.
"""

from __future__ import annotations

import pytest
import torch
from concurrent_programs import concurrent_programs
from decoder_of_tests import SWITCHES, as_double, random_row, with_short_matrices
from tiny import colorizer_config

from coltran.networks.colorizer import Colorizer
from coltran.sampling.decoding import InnerRows, decoder_weights
from coltran_kernels import DecoderWeights, RowTerms, decode_row, reference
from coltran_kernels.triton import decode_launch, tiles
from coltran_kernels.triton.decode_launch import Plan

if not tiles.INTERPRETED:
    pytest.skip("on a GPU the tensors of these tests are in the wrong memory", allow_module_level=True)

DEFAULTS = {
    "given": None,
    "mode": "sample",
    "temperature": 1.0,
    "top_p": 1.0,
    "eps": 1e-3,
    "return_probabilities": True,
}
ONE = Plan(1, 16, 64, False)


pytestmark = pytest.mark.usefixtures("poisoned_memory")


def assert_as_specified(weights, terms, uniforms, plan: Plan = ONE, tolerance: float = 1e-4, **options) -> None:
    options = DEFAULTS | options
    labels, log_probs, probabilities = decode_launch.decode_row(weights, terms, uniforms, plan=plan, **options)
    expected = reference.decode_row(weights, terms, uniforms, **options)
    assert torch.equal(labels, expected[0])
    torch.testing.assert_close(log_probs, expected[1], rtol=0, atol=tolerance)
    torch.testing.assert_close(probabilities, expected[2], rtol=0, atol=tolerance)


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
def test_every_switch(switches):
    assert_as_specified(*random_row(3, 4, 32, 24, 2, 40, 2, **switches))


# Batch, width, hidden, feed-forward, heads, labels, layers; images in a tile.
SIZES = [
    ((1, 1, 32, 32, 1, 8, 1), 16),
    ((16, 7, 48, 64, 4, 33, 1), 16),
    ((20, 3, 32, 32, 4, 64, 3), 16),
    ((33, 2, 64, 40, 2, 512, 1), 32),
    ((2, 64, 32, 32, 1, 16, 1), 16),
    ((3, 16, 64, 64, 2, 20, 1), 16),
    ((1, 2, 512, 512, 4, 512, 2), 16),
    ((2, 3, 32, 32, 2, 16, 0), 16),
]


@pytest.mark.parametrize(("sizes", "tile"), SIZES, ids=["-".join(map(str, sizes)) for sizes, _ in SIZES])
def test_every_size(sizes, tile):
    assert_as_specified(*random_row(*sizes), plan=Plan(1, tile, 256, False))


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "argmax"},
        {"temperature": 0.5},
        {"temperature": 1.7, "top_p": 0.5},
        {"top_p": 0.9},
        {"top_p": 1e-6},
        {"eps": 0.5},
    ],
    ids=str,
)
def test_every_way_to_draw(options):
    assert_as_specified(*random_row(20, 2, 32, 32, 2, 100, 1), plan=Plan(1, 32, 128, False), **options)


def test_float16():
    assert_as_specified(*random_row(3, 3, 32, 32, 2, 16, 1, dtype=torch.float16), tolerance=2e-2)


@pytest.mark.parametrize("resident", [False, True])
def test_programs_that_share_a_tile_meet_at_every_stage(resident):
    # Three programs on each of two tiles, one of them with a single image; slices of 16 do not divide into threes.
    row = random_row(17, 3, 32, 48, 2, 40, 2)
    with concurrent_programs():
        assert_as_specified(*row, plan=Plan(3, 16, 16, resident), top_p=0.9)


def test_one_resident_program_needs_no_barrier():
    assert_as_specified(*random_row(2, 3, 32, 32, 2, 40, 1), plan=Plan(1, 16, 32, True))


def test_more_programs_than_slices():
    with concurrent_programs():
        assert_as_specified(*random_row(2, 2, 32, 32, 2, 16, 1), plan=Plan(5, 16, 64, True))


def test_given_labels_are_taken_and_scored():
    weights, terms, uniforms = random_row(3, 5, 32, 32, 2, 16, 1)
    given = torch.randint(-1, 16, (3, 2, 5))[:, 1]  # a row of an image: not contiguous
    given[0], given[1, :2] = -1, 15
    assert_as_specified(weights, terms, uniforms, given=given)
    labels = decode_row(weights, terms, uniforms, given=given, implementation="triton")[0]
    assert torch.equal(labels[given >= 0], given[given >= 0])


def flat_row(logits: torch.Tensor, uniforms: torch.Tensor) -> tuple[DecoderWeights, RowTerms, torch.Tensor]:
    """A decoder of no layers whose logits are the same at each pixel, one image for each uniform number."""
    labels = logits.shape[0]
    weights, terms, _ = random_row(len(uniforms), 1, 16, 16, 1, labels, 0)
    weights = weights._replace(logits=torch.zeros(labels, 16), logits_bias=logits)
    return weights, terms, uniforms[:, None]


@pytest.mark.parametrize("top_p", [0.01, 0.24, 0.26, 0.6, 0.66, 0.7, 0.83, 0.86, 0.99])
def test_top_p_keeps_the_first_of_equals(top_p):
    # Equal labels at 8, 2 and 1 of 32; every top_p is further from a multiple of 1/32 than rounding reaches.
    counts = torch.tensor([2, 8, 1, 1, 2, 1, 4, 1, 8, 2, 1, 1]).float()
    weights, terms, uniforms = flat_row(counts.log(), (torch.arange(64) + 0.5) / 64)
    options = DEFAULTS | {"top_p": top_p}
    labels = decode_launch.decode_row(weights, terms, uniforms, plan=Plan(1, 64, 16, False), **options)[0]
    assert torch.equal(labels, reference.decode_row(weights, terms, uniforms, **options)[0])


@pytest.mark.parametrize("kept", [1, 7, 128, 511])
def test_top_p_among_equals_only(kept):
    weights, terms, uniforms = flat_row(torch.zeros(512), (torch.arange(512) + 0.5) / 512)
    options = DEFAULTS | {"top_p": kept / 512}
    labels = decode_launch.decode_row(weights, terms, uniforms, plan=Plan(1, 512, 128, False), **options)[0]
    assert labels.unique().tolist() == list(range(kept))


def test_draws_are_as_frequent_as_they_are_probable():
    logits = torch.randn(16)
    weights, terms, uniforms = flat_row(logits, torch.rand(20_000))
    drawn = decode_launch.decode_row(weights, terms, uniforms, plan=Plan(1, 4096, 16, False), **DEFAULTS)[0]
    expected = logits.softmax(0) * 20_000
    chi_squared = ((torch.bincount(drawn[:, 0], minlength=16) - expected) ** 2 / expected).sum()
    assert chi_squared < 45  # 15 degrees of freedom: above with probability 1e-4


def test_a_draw_never_passes_the_last_probable_label():
    logits = torch.tensor([0.0, 1.0, 2.0, -1e4, -1e4])
    weights, terms, uniforms = flat_row(logits, torch.tensor([1 - 2**-24, 0.0]))
    labels = decode_row(weights, terms, uniforms, implementation="triton")[0]
    assert labels.flatten().tolist() == [2, 0]


def test_no_later_column_moves_an_earlier_one():
    weights, terms, uniforms = random_row(2, 5, 32, 32, 2, 16, 2)
    before = decode_launch.decode_row(weights, terms, uniforms, plan=ONE, **DEFAULTS)
    for tensor in (terms.inputs, uniforms, *(t for layer in terms.layers for t in layer[:4])):
        tensor[:, 3:] = torch.rand_like(tensor[:, 3:])
    after = decode_launch.decode_row(weights, terms, uniforms, plan=ONE, **DEFAULTS)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[:, :3], new[:, :3])
    assert not torch.equal(before[2][:, 3:], after[2][:, 3:])


def test_an_image_does_not_depend_on_its_batch():
    weights, terms, uniforms = random_row(18, 3, 32, 32, 2, 16, 1)
    together = decode_launch.decode_row(weights, terms, uniforms, plan=ONE, **DEFAULTS)
    layers = tuple(type(layer)(*(tensor[17:] for tensor in layer)) for layer in terms.layers)
    alone = decode_launch.decode_row(weights, RowTerms(terms.inputs[17:], layers), uniforms[17:], plan=ONE, **DEFAULTS)
    assert torch.equal(together[0][17:], alone[0])
    torch.testing.assert_close(together[1][17:], alone[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"cond_mlp": "shift", "cond_att_scale": False}, {"cond_ln": False, "cond_att_k": False, "skip": False}],
    ids=["paper", "shift", "plain norm"],
)
@torch.no_grad()
def test_rows_of_a_network(options):
    network = Colorizer(colorizer_config(height=3, width=4, **options)).eval()
    for tensor in network.state_dict().values():
        tensor.normal_(std=0.3)
    z = network.encode(torch.randint(256, (2, 3, 4)))
    rows = InnerRows(network.inner_decoder, z, norm="exact")
    terms = rows.terms(1, torch.randn(2, 4, 16))
    uniforms = torch.rand(2, 3, 4)[:, 1]
    assert_as_specified(decoder_weights(network), terms, uniforms, plan=Plan(1, 16, 128, False))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_dtype_that_it_cannot_serve_is_refused(dtype):
    with pytest.raises(NotImplementedError, match=str(dtype).removeprefix("torch.")):
        decode_row(*random_row(1, 1, 16, 16, 1, 8, 1, dtype=dtype), implementation="triton")


def test_short_matrices_round_what_they_multiply_and_nothing_else():
    """float16 in bfloat16's place, which the interpreter computes wrongly."""
    weights, terms, uniforms = random_row(2, 5, 32, 32, 2, 40, 2)
    short = with_short_matrices(weights)
    given = torch.randint(40, (2, 5))
    _, exact, _ = reference.decode_row(*as_double((weights, terms, uniforms)), **(DEFAULTS | {"given": given}))
    _, found, _ = decode_row(short, terms, uniforms, given=given, implementation="triton")
    assert found.dtype == torch.float32
    change = (found.double() - exact).abs().max()
    assert 1e-5 < change < 2e-2  # values of about 1 rounded by 2^-12, in eleven products one after another


def test_vectors_of_any_strides_are_read_where_they_lie():
    weights, terms, uniforms = random_row(2, 4, 32, 24, 2, 40, 1)

    def strided(t: torch.Tensor) -> torch.Tensor:
        return torch.stack((t, torch.full_like(t, 7.0)), -1)[..., 0]

    layer = weights.layers[0]
    layer = layer._replace(ff1_bias=strided(layer.ff1_bias), ff2_bias=strided(layer.ff2_bias), bias=strided(layer.bias))
    vectors = {name: strided(getattr(weights, name)) for name in ("norm_weight", "norm_bias", "logits_bias")}
    assert_as_specified(weights._replace(layers=(layer,), **vectors), terms, uniforms)


def test_given_labels_beyond_the_last_read_no_foreign_memory():
    weights, terms, uniforms = random_row(1, 3, 32, 32, 2, 40, 1)
    given = torch.full((1, 3), 10**6)
    labels, _, _ = decode_row(weights, terms, uniforms, given=given, implementation="triton")
    assert labels.tolist() == [[39, 39, 39]]


def test_a_batch_beyond_32_bits_is_refused():
    with torch.device("meta"):
        weights, terms, _ = random_row(30_000, 64, 512, 512, 4, 512, 1)
    assert decode_launch.unsupported(weights, terms) == "it counts in 32 bits, too few for 30000 images"


def test_layers_of_different_sizes_are_refused():
    (one, terms, uniforms), (other, *_) = random_row(1, 1, 16, 16, 1, 8, 2), random_row(1, 1, 16, 24, 1, 8, 1)
    mixed = one._replace(layers=(one.layers[0], other.layers[0]))
    with pytest.raises(NotImplementedError, match="same feed-forward size"):
        decode_row(mixed, terms, uniforms, implementation="triton")


def test_a_device_that_it_cannot_serve_is_refused(monkeypatch):
    monkeypatch.setattr(tiles, "INTERPRETED", False)
    with pytest.raises(NotImplementedError, match="cannot serve a tensor on cpu"):
        decode_row(*random_row(1, 1, 16, 16, 1, 8, 1), implementation="triton")
