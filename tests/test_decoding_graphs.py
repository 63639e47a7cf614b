# SPDX-License-Identifier: Apache-2.0
"""The rows of an image as one graph, in plain torch on the CPU: those of the other decoder, whatever the options."""

from __future__ import annotations

import pytest
import torch

from coltran.sampling import decoding_graphs, xla_rows
from coltran.sampling.decoding import OuterDecoderCache, RowConditioner
from tests.tiny import OPTIONS, random_colorizer


@pytest.mark.parametrize("norm", ["exact", "rowcontext"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@torch.no_grad()
def test_a_row_whose_number_is_a_tensor_is_the_same_row(options, norm):
    network, labels = random_colorizer(**options).double(), torch.randint(512, (2, 6, 8))
    z = torch.randn(2, 6, 8, 16, dtype=torch.float64)
    inner, outer = RowConditioner(network.inner_decoder, z, norm=norm), OuterDecoderCache(network.outer_decoder, z)
    decoders, image, rows = xla_rows.start(network, z, norm=norm, implementation="reference")
    upper = z.new_zeros(2, 8, 16)
    for row in range(6):
        expected = inner.condition(row, upper, implementation="reference")
        found = decoding_graphs.conditioning(decoders, image, rows)
        torch.testing.assert_close(found.inputs, expected.inputs, rtol=1e-9, atol=1e-9)
        for ours, right in zip(found.layers, expected.layers, strict=True):
            for a, b in zip(ours, right, strict=True):
                assert (a is None) == (b is None)
                assert a is None or torch.allclose(a, b, rtol=1e-9, atol=1e-9)  # norms for all may be each image's
        if row < 5:
            upper = outer.step(row, network.embedding(labels[:, row]), implementation="reference")
            xla_rows.go_on(network, decoders, image, rows, labels[:, row], implementation="reference")
    assert rows.state.rows.tolist() == [4, 5]
