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
from torch_xla.core import xla_builder
from torch_xla.experimental.scan import _scan_impl_pytree, tree_flatten_none


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


def loop(step: Callable[[Any], Any], carry: Any) -> Any:
    """`step` again and again as one loop of the graph, for as long as the first tensor that it leaves is true.

    Args:
        step: carry -> carry, of the same tensors in any nesting of tuples; pure.
        carry: what it starts from; its first tensor is one truth value. None anywhere stays None.

    Returns:
        The last carry. No gradient passes.
    """
    leaves, unflatten = tree_flatten_none(carry)
    named = [xla_builder.create_placeholder_tensor(leaf.shape, leaf.dtype) for leaf in leaves]
    left, _ = tree_flatten_none(step(unflatten(named)))
    lowering = torch_xla._XLAC.lowering.LoweringContext("step")
    lowering.build(left)
    body = xla_builder.computation_from_module_proto("step", lowering.hlo())
    # What the body takes, by number: the carry's tensors, and others that the step made out of Python's numbers.
    numbers = [lowering.tensor_parameter_id(tensor) for tensor in named]
    made = lowering.device_parameter_id_tensor_mapping()
    more = {number: tensor for number, tensor in made.items() if number not in numbers}
    numbers, tensors = [*numbers, *more], [*leaves, *more.values()]

    def again(*arguments: Any) -> tuple[Any, ...]:
        of_body = {number: a for number, a in zip(numbers, arguments, strict=True) if number >= 0}
        result = xla_builder.Op.call(body, [of_body[number] for number in sorted(of_body)])
        return (*(result.get_tuple_element(i) for i in range(len(leaves))), *arguments[len(leaves) :])

    builder = xla_builder.create_builder("loop")
    parameters = [xla_builder.mkparam(builder, i, xla_builder.tensor_shape(t)) for i, t in enumerate(tensors)]
    whole = xla_builder.Op.mkwhile(parameters, lambda first, *others: first, again).build("loop")
    return unflatten(torch_xla._XLAC._xla_user_computation("xla::loop", tensors, whole)[: len(leaves)])


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
