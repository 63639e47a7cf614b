# SPDX-License-Identifier: Apache-2.0
"""Every implementation of the row decoder draws what the specification draws, at every size, switch and option.

"native ..." is the kernel for one instruction set, "jacobi" the specification's other form, which starts from a guess.
Triton is interpreted, and XLA's loop is a plain one where there is no torch_xla. On a GPU: test_gpu.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from coltran_kernels import DecodedRow, RowConditioning, SamplingOptions, decode_row, reference
from coltran_kernels.decode_row import cpu
from coltran_kernels.decode_row import xla as step
from tests.operations import (
    NATIVE,
    ON_XLA,
    SETTINGS,
    SWITCHES,
    TRITON,
    as_double,
    away_from_boundaries,
    device_of,
    each_tensor,
    random_row,
)

INTERPRETED = pytest.param("triton", marks=[*TRITON.marks, pytest.mark.skipif(torch.cuda.is_available(), reason="GPU")])
IMPLEMENTATIONS = ["reference", "jacobi", *NATIVE, INTERPRETED, "xla"]
pytestmark = [pytest.mark.usefixtures("poisoned_memory"), pytest.mark.parametrize("implementation", IMPLEMENTATIONS)]


def plain_scan(function: Any, carry: Any, columns: Any) -> tuple[Any, Any]:
    """What a scan is: the same function once a column, and what it found side by side."""
    found = []
    for j in range(len(columns.number)):
        carry, one = function(carry, tree_map(lambda t, j=j: None if t is None else t[j], columns))
        found.append(one)
    return carry, type(found[0])(*(None if t[0] is None else torch.stack(t) for t in zip(*found, strict=True)))


def draw(implementation: str, row: Any, threads: int = 1, **options: Any) -> DecodedRow:
    """A row by one implementation, Triton's in tiles that hold no more than the images."""
    options = SETTINGS._replace(**options)
    if implementation in NATIVE:
        target, packed = NATIVE.index(implementation), cpu.pack(row[0])
        return cpu.decode_row(packed, *row[1:], options, threads=threads, target=target)
    if implementation == "jacobi":
        guess = torch.randint(len(row[0].embedding), row[2].shape)
        return reference.decode_row_jacobi(*row, guess, options)[0]
    if implementation == "xla" and not ON_XLA:
        return step.decode_row(*row, options, scan=plain_scan)
    if implementation == "triton":
        from coltran_kernels.decode_row import triton

        plan = triton.Plan(1, 16 if len(row[2]) <= 16 else 64, 256, False)
        return triton.decode_row(*row, options, plan=plan)
    row, options = each_tensor((row, options), lambda t: t.to(device_of(implementation)))
    return each_tensor(decode_row(*row, options, implementation=implementation), Tensor.cpu)


def check(implementation: str, row: Any, threads: int = 1, **options: Any) -> None:
    """Labels as of the specification in float64, and numbers near its."""
    weights, terms, uniforms = row
    settings = SETTINGS._replace(**options)
    uniforms, labels, probabilities = away_from_boundaries(weights, terms, uniforms, settings)
    exact = reference.decode_row(*as_double((weights, terms, uniforms)), settings)
    found = draw(implementation, (weights, terms, uniforms), threads, **options)
    assert torch.equal(found.labels, labels)
    torch.testing.assert_close(found.probabilities.double(), probabilities, rtol=0, atol=1e-5)
    for ours, theirs in ((found.log_prob, exact.log_prob), (found.guided_log_prob, exact.guided_log_prob)):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=0, atol=1e-4)


SIZES = [  # batch, width, hidden, feed-forward, heads, labels, layers
    (1, 1, 32, 32, 1, 8, 1),
    (16, 7, 48, 64, 4, 33, 1),
    (20, 3, 32, 32, 4, 64, 3),
    (33, 2, 64, 40, 2, 512, 1),
    (1, 64, 32, 32, 1, 16, 1),
    (3, 16, 64, 64, 2, 20, 1),
    (33, 4, 40, 20, 5, 70, 2),
    (1, 2, 512, 512, 4, 512, 2),
]


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "-".join(map(str, sizes)))
def test_every_size(implementation, sizes):
    for threads in (1, 2) if implementation in NATIVE else (1,):
        check(implementation, random_row(*sizes), threads)


# Switches, options, whether labels are imposed and whether the row is guided: each meets each of the others somewhere.
CASES: list[tuple[str, dict[str, Any], bool, bool]] = [
    ("all", {}, False, False),
    ("all", {"mode": "argmax"}, False, True),
    ("all", {"top_p": 0.9}, True, True),
    ("all", {"eps": 0.5}, True, False),
    ("added only", {"temperature": 0.5}, True, False),
    ("added only", {"mode": "argmax"}, True, False),
    ("attention only", {"temperature": 0.7, "top_p": 0.8}, False, True),
    ("feed-forward only", {"top_p": 0.3}, True, True),
    ("not conditioned", {"temperature": 1.7, "top_p": 0.9}, False, False),
    ("not conditioned", {}, True, True),
    ("plain norms", {"top_p": 0.3}, False, False),
    ("plain norms", {"temperature": 1.7}, False, True),
    ("plain norms", {"top_p": 1e-6}, True, True),
]


@pytest.mark.parametrize(("switches", "options", "imposed", "guided"), CASES)
def test_every_switch_and_option(implementation, switches, options, imposed, guided):
    for batch, width, labels in ((10, 5, 40), (1, 1, 17)):
        row = random_row(batch, width, 24, 20, 3, labels, 2, **SWITCHES[switches])
        # Every other column of a wider tensor: any strides will do.
        given = torch.where(torch.rand(batch, 2 * width) < 0.4, torch.randint(labels, (batch, 2 * width)), -1)[:, ::2]
        guidance = (3 * torch.randn(batch, width, 2 * labels))[..., ::2]
        chosen = {"given": given if imposed else None, "guidance": guidance if guided else None}
        check(implementation, row, **options, **chosen)


@pytest.mark.parametrize("options", [{}, {"mode": "argmax"}, {"temperature": 0.7, "top_p": 0.8}], ids=str)
def test_no_guidance_and_a_guidance_of_zeros_are_the_same_to_the_bit(implementation, options):
    row = random_row(3, 5, 16, 12, 2, 40, 2)
    plain = draw(implementation, row, **options)
    zero = draw(implementation, row, guidance=torch.zeros(3, 5, 40), **options)
    assert torch.equal(plain.guided_log_prob, plain.log_prob)
    assert all(torch.equal(a, b) for a, b in zip(plain, zero, strict=True))


def flat_row(logits: Tensor, uniforms: Tensor) -> tuple:
    """A decoder whose logits are the same at each pixel, one image for each uniform number."""
    weights, terms, _ = random_row(len(uniforms), 1, 16, 16, 1, len(logits), 1)
    weights = weights._replace(logits=torch.zeros_like(weights.logits), logits_bias=logits)
    return weights, terms, uniforms[:, None]


@pytest.mark.parametrize("top_p", [0.01, 0.24, 0.26, 0.6, 0.66, 0.7, 0.83, 0.86, 0.99, 1.0])
def test_top_p_keeps_the_first_of_equals(implementation, top_p):
    """Equal labels at 8, 2 and 1 of 32; every top_p is further from a multiple of 1/32 than rounding reaches."""
    counts = torch.tensor([2, 8, 1, 1, 2, 1, 4, 1, 8, 2, 1, 1])
    ranked, order = counts.sort(descending=True, stable=True)
    kept = order[ranked.cumsum(0) - ranked < 32 * top_p]
    left = torch.zeros_like(counts).index_copy(0, kept, counts[kept])
    total = int(left.sum())
    row = flat_row(counts.float().log(), (torch.arange(2 * total) + 0.5) / (2 * total))
    labels = draw(implementation, row, top_p=top_p).labels[:, 0]
    assert torch.equal(labels, torch.arange(len(counts)).repeat_interleave(2 * left))


@pytest.mark.parametrize("kept", [1, 7, 128, 511])
def test_top_p_among_equals_only(implementation, kept):
    row = flat_row(torch.zeros(512), (torch.arange(512) + 0.5) / 512)
    assert draw(implementation, row, top_p=kept / 512).labels.unique().tolist() == list(range(kept))


def test_labels_without_probability_are_never_drawn(implementation):
    logits = torch.tensor([-1e4, 0.0, -1e4, 1.0, 2.0, -1e4, -1e4])
    row = flat_row(logits, torch.tensor([0.0, 0.5, 1 - 2**-24]))
    assert draw(implementation, row).labels.flatten().tolist() == [1, 4, 4]


def test_no_later_column_moves_an_earlier_one(implementation):
    weights, terms, uniforms = row = random_row(2, 6, 32, 32, 2, 16, 2)
    before = draw(implementation, row)
    for tensor in (terms.inputs, uniforms, *(t for layer in terms.layers for t in layer[:4])):
        tensor[:, 4:] = torch.rand_like(tensor[:, 4:])
    after = draw(implementation, row)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(old[:, :4], new[:, :4], rtol=0, atol=0 if implementation != "jacobi" else 1e-5)
    assert not torch.equal(before.probabilities[:, 4:], after.probabilities[:, 4:])


@pytest.mark.parametrize("hidden", [32, 256])
def test_an_image_is_drawn_alike_in_any_batch(implementation, hidden):
    weights, terms, uniforms = random_row(33, 3, hidden, hidden, 2, 40, 2)
    uniforms, labels, _ = away_from_boundaries(weights, terms, uniforms, SETTINGS)
    together = draw(implementation, (weights, terms, uniforms))
    for part in (slice(0, 1), slice(32, 33), slice(0, 12), slice(8, 28)):
        layers = tuple(layer._make(t[part] for t in layer) for layer in terms.layers)
        alone = draw(implementation, (weights, RowConditioning(terms.inputs[part], layers), uniforms[part]))
        assert torch.equal(alone.labels, labels[part])
        torch.testing.assert_close(alone.log_prob, together.log_prob[part], rtol=0, atol=1e-5)


def test_operands_of_any_strides_are_read_where_they_lie(implementation):
    def spread(tensor: Tensor) -> Tensor:
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan)
        wide[..., ::2] = tensor
        return wide[..., ::2]

    weights, terms, uniforms = random_row(3, 5, 16, 20, 2, 40, 2)
    layers = tuple(layer._make(map(spread, layer)) for layer in terms.layers)
    row = each_tensor(weights, spread), RowConditioning(terms.inputs[:1].expand(3, -1, -1), layers), spread(uniforms)
    check(implementation, row)


def test_shapes_that_do_not_fit_are_named(implementation):
    weights, terms, uniforms = random_row(2, 4, 16, 20, 2, 40, 1)
    short = RowConditioning(terms.inputs, (terms.layers[0]._replace(ff_shift=torch.zeros(2, 3, 16)),))
    narrow = weights._replace(layers=(weights.layers[0]._replace(ff2=torch.zeros(16, 19)),))
    named = implementation if implementation in ("reference", "triton") else None
    for row, sentence in (
        ((weights, short, uniforms), r"conditioning of layer 0, ff_shift is \(2, 3, 16\), expected \(2, 4, 16\)"),
        ((narrow, terms, uniforms), r"weights of layer 0, ff2 is \(16, 19\), expected \(16, 20\)"),
        ((weights, terms, torch.rand(2, 5)), r"uniforms is \(2, 5\), expected \(2, 4\)"),
    ):
        with pytest.raises(ValueError, match=sentence):
            decode_row(*row, implementation=named)
    with pytest.raises(ValueError, match=r"guidance is \(2, 4, 19\), expected \(2, 4, 40\)"):
        decode_row(weights, terms, uniforms, SamplingOptions(guidance=torch.zeros(2, 4, 19)), implementation=named)
