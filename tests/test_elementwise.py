# SPDX-License-Identifier: Apache-2.0
"""Scale and shift, either of which may be absent: none is ever dropped."""

from __future__ import annotations

import pytest
import torch

from coltran_kernels import affine, reference


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_affine_is_the_specification(scaled, shifted):
    x, scale, shift = (torch.randn(2, 3, 4) for _ in range(3))
    arguments = x, scale if scaled else None, shift if shifted else None
    torch.testing.assert_close(affine(*arguments), reference.condition(*arguments))
