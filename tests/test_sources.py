# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coltran.errors import UserError
from coltran.training.degradation import degrade_gray, random_levels
from coltran.training.sources import Epochs

PATHS = [Path(f"a/shop-{n}.jpg") for n in range(60)] + [Path(f"b/sky-{n}.jpg") for n in range(40)]


def test_no_source_exceeds_its_share():
    epochs = Epochs(PATHS, {"shop": 0.2})
    order = epochs.order(np.random.default_rng(0))
    shops = sum(PATHS[n].name.startswith("shop") for n in order)
    assert (shops, len(order), epochs.length) == (10, 50, 50)
    assert len(set(order)) == len(order)


def test_another_epoch_takes_others_of_a_limited_source():
    epochs = Epochs(PATHS, {"shop": 0.2})
    first, second = (set(epochs.order(np.random.default_rng(seed))) for seed in (0, 1))
    assert first != second and {n for n in first if n >= 60} == {n for n in second if n >= 60} == set(range(60, 100))


def test_limits_that_bind_together_hold_together():
    epochs = Epochs([*PATHS, *(Path(f"c-{n}") for n in range(20))], {"shop": 0.3, "sky": 0.3})
    order = epochs.order(np.random.default_rng(0))
    assert [int(np.sum((order >= low) & (order < high))) for low, high in ((0, 60), (60, 100), (100, 120))][2] == 20
    assert max(np.mean(order < 60), np.mean((order >= 60) & (order < 100))) <= 0.3


def test_without_limits_an_epoch_is_a_permutation():
    assert sorted(Epochs(PATHS, {}).order(np.random.default_rng(3))) == list(range(100))


@pytest.mark.parametrize("limits", [{"shop": 0.5, "sky": 0.4}, {"shop": 0}, {"sky": 1.5}])
def test_limits_that_cannot_be_kept_are_refused(limits):
    with pytest.raises(UserError, match="config.source_limits"):
        Epochs(PATHS, limits)


def test_a_faded_print_has_a_smaller_range_in_the_same_order():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, -1)
    for seed in range(20):
        found = random_levels(ramp, np.random.default_rng(seed))
        assert found.dtype == np.uint8 and int(found.max()) - int(found.min()) < 256
        assert (np.diff(found[:, 0, 0].astype(int)) >= 0).all()


def test_a_share_of_zero_leaves_the_gray_as_it_is_and_one_does_not():
    gray = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    assert degrade_gray(gray, 0, np.random.default_rng(1)) is gray
    found = degrade_gray(gray, 1, np.random.default_rng(1))
    assert (found.shape, found.dtype) == (gray.shape, gray.dtype) and (found != gray).any()
