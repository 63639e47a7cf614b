# SPDX-License-Identifier: Apache-2.0
"""These tests need torch_xla, which asks for a torch of its own: `make test-xla` runs them, `make test` does not.

They run on PJRT's CPU device. Where torch_xla is missing they fail.
"""

from __future__ import annotations

import pytest
import torch
import torch_xla
import torch_xla.debug.metrics as metrics

torch_xla.device()  # autograd counts the devices at the first backward pass, wherever that runs


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The XLA device."""
    return torch_xla.device()


def compilations() -> int:
    """Graphs compiled so far."""
    return metrics.counter_value("UncachedCompile") or 0
