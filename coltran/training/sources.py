# SPDX-License-Identifier: Apache-2.0
"""Limits on the share of an epoch that comes from one source of photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from coltran.errors import UserError


class Epochs:
    """The order of the photographs in each epoch, a function of the seed and the epoch's number.

    Of a source with a limit, as many photographs as it allows are drawn anew in each epoch; of others all.

    Args:
        paths: the photographs; the source of one is the longest key of `limits` that its name begins with.
        limits: the largest share of an epoch, in (0, 1), by the beginning of file names.

    Raises:
        UserError: a share out of its range, or limits that no epoch keeps.
    """

    def __init__(self, paths: Sequence[Path], limits: Mapping[str, float]) -> None:
        for prefix, limit in limits.items():
            if not 0 < limit < 1:
                raise UserError(f"config.source_limits: the share of {prefix!r} must lie in (0, 1), not {limit}.")
        self.total = len(paths)
        members: dict[str, list[int]] = {prefix: [] for prefix in limits}
        by_length = sorted(limits, key=len, reverse=True)
        free: list[int] = []
        for n, path in enumerate(paths if limits else ()):
            source = next((prefix for prefix in by_length if path.name.startswith(prefix)), None)
            (free if source is None else members[source]).append(n)
        self.free = np.array(free, np.int64)
        self.members = {source: np.array(found, np.int64) for source, found in members.items() if found}
        self.taken = {source: len(found) for source, found in self.members.items()}
        while over := [s for s, taken in self.taken.items() if taken > limits[s] * self.length]:
            for source in over:
                rest = self.length - self.taken[source]
                self.taken[source] = int(limits[source] / (1 - limits[source]) * rest)
        if not self.length:
            raise UserError("config.source_limits cannot be kept: every photograph is of a source with a limit.")

    @property
    def length(self) -> int:
        """Photographs in an epoch."""
        return len(self.free) + sum(self.taken.values()) if self.members else self.total

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """The photographs of an epoch, int64 [length]."""
        if not self.members:
            return rng.permutation(self.total)
        drawn = [rng.permutation(found)[: self.taken[source]] for source, found in self.members.items()]
        return rng.permutation(np.concatenate([self.free, *drawn]))
