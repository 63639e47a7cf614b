# SPDX-License-Identifier: Apache-2.0
"""--recompute: less is kept for the backward, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from coltran.errors import UserError
from coltran.training import step
from coltran.training.step import start, take_step
from tests.tiny_training import whole_config

BATCH = {"rgb": torch.arange(2 * 8 * 8 * 3, dtype=torch.uint8).view(2, 8, 8, 3)}


def _trained(recompute: bool) -> tuple[dict[str, torch.Tensor], int]:
    """The weights after two steps, and the bytes that the second kept for its backward, shared ones once."""
    training = start(whole_config(dropout=0.3), 0, torch.device("cpu"), recompute=recompute)
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    take_step(training, BATCH)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        take_step(training, BATCH)
    return training.network.state_dict(), sum(kept.values())


def test_the_weights_are_the_same_to_the_bit_and_less_is_kept():
    (expected, whole), (found, part) = _trained(False), _trained(True)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert part < whole


def test_xla_decides_by_itself(monkeypatch):
    here = step.train_device(torch.device("cpu"))
    monkeypatch.setattr(step, "train_device", lambda *_: here)
    with pytest.raises(UserError, match="XLA"):
        start(whole_config(), 0, torch.device("xla"), recompute=True)
