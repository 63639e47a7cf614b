# SPDX-License-Identifier: Apache-2.0
"""All that is torch_xla's own: loops inside a graph, and where one graph ends.

Operations on an XLA device are recorded, not run. What has been recorded becomes one graph where `one_graph` ends; it
is compiled at its first use and found by its hash from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch_xla
from torch_xla.experimental.scan import _scan_impl_pytree


def scan(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, columns: Any) -> tuple[Any, Any]:
    """`step` over the leading axis of `columns` as one loop of the graph, compiled once whatever its length.

    This is the part of `torch_xla.experimental.scan` under its gradients: the whole would trace a backward pass, which
    no draw has, and takes no whole numbers. No gradient passes.

    Args:
        step: (carry, column) -> (carry, found), of tensors in any nesting of tuples; pure.
        carry: what it starts from.
        columns: what it runs over, each tensor [W, ...]; None anywhere stays None.

    Returns:
        The last carry, and what was found, each tensor [W, ...].
    """
    return _scan_impl_pytree(step, carry, columns)


@contextmanager
def one_graph(name: str) -> Iterator[None]:
    """What runs inside is one graph, started at the end without waiting for it.

    Raises:
        RuntimeError: something inside needs a value from the device.
    """
    with torch_xla.compile(full_graph=True, name=name):
        yield


def finish() -> None:
    """Runs what has been recorded and waits until the device has done all it was given."""
    torch_xla.sync(wait=True)
