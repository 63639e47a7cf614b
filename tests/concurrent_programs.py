# SPDX-License-Identifier: Apache-2.0
"""Runs the programs of a kernel's grid at once in Triton's interpreter, each in a thread of its own.

The interpreter runs one program after another, so programs that wait for each other would wait for ever.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

from triton.runtime import interpreter


@contextlib.contextmanager
def concurrent_programs() -> Iterator[None]:
    """Within it, kernels in the interpreter run all their programs at the same time."""
    place = threading.local()
    builder = type(interpreter.interpreter_builder)

    def launch(executor, *args, **kwargs):
        given = inspect.getcallargs(executor.fn, *args, **{k: v for k, v in kwargs.items() if k in executor.arg_names})
        converted = {k: v if k in executor.constexprs else interpreter._implicit_cvt(v) for k, v in given.items()}
        grid = (*executor.grid, 1, 1)[:3]
        interpreter.interpreter_builder.set_grid_dim(*grid)
        programs = list(itertools.product(*map(range, grid)))

        def run(index: tuple[int, ...]) -> None:
            place.index = index
            executor.fn(**converted)

        patched = interpreter._patch_lang(executor.fn)
        try:
            with ThreadPoolExecutor(len(programs)) as threads:
                list(threads.map(run, programs))
        finally:
            patched.restore()

    index = property(lambda _: place.index, lambda _, value: setattr(place, "index", value))
    add = builder.create_atomic_rmw

    def add_and_give_way(*arguments):
        result = add(*arguments)
        time.sleep(1e-4)  # a program that waits polls; it is not to keep the others from what it waits for
        return result

    with (
        mock.patch.object(interpreter.GridExecutor, "__call__", launch),
        mock.patch.object(builder, "grid_idx", index, create=True),
        mock.patch.object(builder, "create_atomic_rmw", add_and_give_way),
    ):
        yield
