# SPDX-License-Identifier: Apache-2.0
"""Compiles Triton kernels for GPUs that are not there, and says what they need of one.

Triton asks its active driver which GPU to compile for. A driver that only names one makes `kernel.warmup` specialise
and compile exactly as a launch would, up to the machine code; the tools in Triton's wheel then read registers, spills
and instructions from it. That changes a process for good (no kernel can be launched afterwards, and it must not have
TRITON_INTERPRET), so it happens in another one that waits for this.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import math
import multiprocessing
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

KIB = 1024


@dataclass(frozen=True)
class Target:
    """A GPU to compile for, and the limits that decide what fits on it."""

    name: str
    backend: str  # "cuda" or "hip"
    arch: int | str
    warp_size: int
    shared_limit: int  # bytes a block
    shared_total: int  # bytes a multiprocessor
    matrix_instructions: str  # pattern of the instructions that multiply tiles


# Block limits: CUDA C++ programming guide, table of compute capabilities; 64 KiB of LDS on CDNA3.
TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", "cuda", 80, 32, 163 * KIB, 164 * KIB, r"HMMA"),
        Target("sm_90", "cuda", 90, 32, 227 * KIB, 228 * KIB, r"HGMMA|HMMA"),
        Target("sm_100", "cuda", 100, 32, 227 * KIB, 228 * KIB, r"UTC\w*MMA|HMMA"),
        Target("gfx942", "hip", "gfx942", 64, 64 * KIB, 64 * KIB, r"v_mfma_"),
    )
}


@dataclass(frozen=True)
class Compiled:
    """What one kernel needs on one target."""

    target: str
    num_warps: int
    registers: int  # a thread
    spill_bytes: int  # stores and loads, a thread; on AMD 4 bytes for each spilled register
    shared: int  # bytes a block
    instructions: Counter[str] = field(repr=False)  # machine instructions by mnemonic, such as "HMMA" or "LDG"
    ttgir: str = field(repr=False)  # Triton's last text before LLVM: what is loaded, where, and into which layout

    @property
    def matrix_instructions(self) -> int:
        """How many of the instructions multiply tiles on the tensor (matrix) cores."""
        pattern = re.compile(TARGETS[self.target].matrix_instructions)
        return sum(count for name, count in self.instructions.items() if pattern.match(name))

    @property
    def fits(self) -> bool:
        """No spills, and no more shared memory than a block may have."""
        return self.spill_bytes == 0 and self.shared <= TARGETS[self.target].shared_limit

    @property
    def blocks(self) -> int:
        """Blocks at a time on one multiprocessor of an NVIDIA GPU: by registers, shared memory and threads."""
        a_warp = math.ceil(self.registers * 32 / 256) * 256  # registers are handed out 256 at a time
        by_registers = 65536 // (a_warp * self.num_warps)
        by_shared = TARGETS[self.target].shared_total // (self.shared + KIB)  # 1 KiB of each block is the system's
        return min(by_registers, by_shared, 64 // self.num_warps, 32)


def compile_ahead(kernel: str, arguments: Mapping[str, Any], *, target: str, **options: Any) -> Compiled:
    """Compile one kernel as a launch with these arguments would.

    Args:
        kernel: "module:name" of a `@triton.jit` function.
        arguments: every parameter by name. A tensor, its dtype or the name of that stands for a tensor that begins at a
            multiple of 16 bytes; tuples may hold some; anything else is the value itself: whole numbers are
            specialised as in a launch (1, multiples of 16), None and constexpr parameters are compiled in.
        target: one of TARGETS.
        options: num_warps, num_stages and so on.

    Raises:
        KeyError: no such target.
        Exception: whatever Triton raises for a kernel that does not compile.
    """
    types = {name: _types(value) for name, value in arguments.items()}
    return _process().submit(_compile, kernel, types, TARGETS[target], options).result()


def _types(value: Any) -> Any:
    """Tensors as their dtypes, which can go to another process."""
    if isinstance(value, tuple):
        return tuple(map(_types, value))
    if isinstance(value, torch.Tensor):
        return value.dtype
    named = getattr(torch, value, value) if isinstance(value, str) else value
    return named if isinstance(named, torch.dtype) else value


@functools.cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_leave_the_interpreter)


def _leave_the_interpreter() -> None:
    os.environ.pop("TRITON_INTERPRET", None)


def _install_driver(target: Target) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase
    from triton.runtime.driver import driver

    class NamedTarget(DriverBase):
        """Answers what compiling asks; launches nothing. Each target is a device, so that each has its own cache."""

        is_active = map_python_to_cpp_type = get_active_torch_device = get_benchmarker = lambda self, *_: None

        def get_current_target(self) -> Any:
            return GPUTarget(target.backend, target.arch, target.warp_size)

        def get_current_device(self) -> int:
            return list(TARGETS).index(target.name)

        def get_current_stream(self, _: int) -> int:
            return 0

    driver.set_active(NamedTarget())


def _compile(kernel: str, types: Mapping[str, Any], target: Target, options: Mapping[str, Any]) -> Compiled:
    """In the process of its own."""
    from triton import knobs
    from triton.runtime.jit import MockTensor

    _install_driver(target)
    module, _, name = kernel.partition(":")
    function = getattr(importlib.import_module(module), name)

    def mock(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(mock, value))
        return MockTensor(value) if isinstance(value, torch.dtype) else value

    log = io.StringIO()
    with knobs.compilation.scope(), knobs.nvidia.scope(), contextlib.redirect_stdout(log):
        knobs.compilation.always_compile = True  # what came from a cache has no log
        knobs.nvidia.dump_ptxas_log = True
        function.device_caches.clear()  # of this process
        compiled = function.warmup(**{name: mock(value) for name, value in types.items()}, grid=(1,), **options)
    read = _read_nvidia if target.backend == "cuda" else _read_amd
    registers, spills, instructions = read(compiled, log.getvalue())
    needs = (compiled.metadata.num_warps, registers, spills, compiled.metadata.shared)
    return Compiled(target.name, *needs, instructions, compiled.asm["ttgir"])


def _numbers(pattern: str, text: str) -> list[int]:
    return [int(number) for number in re.findall(pattern, text)]


def _read_nvidia(compiled: Any, log: str) -> tuple[int, int, Counter[str]]:
    """Registers and spill bytes from the assembler's log, instructions from the machine code."""
    from triton import knobs

    (registers,) = _numbers(r"Used (\d+) registers", log)
    spills = sum(_numbers(r"(\d+) bytes spill stores", log) + _numbers(r"(\d+) bytes spill loads", log))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compiled.asm["cubin"])
        command = [knobs.nvidia.cuobjdump.path, "-sass", str(file)]
        code = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # "        /*0010*/   @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;" -> LDG
    names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", code, re.MULTILINE)
    return registers, spills, Counter(names)


def _read_amd(compiled: Any, log: str) -> tuple[int, int, Counter[str]]:
    """The same from the metadata and the text of the assembly."""
    code = compiled.asm["amdgcn"]
    (registers,) = _numbers(r"\.vgpr_count:\s+(\d+)", code)
    (spilled,) = _numbers(r"\.vgpr_spill_count:\s+(\d+)", code)
    names = re.findall(r"^\s+([vs]_\w+|ds_\w+|global_\w+|buffer_\w+|scratch_\w+)", code, re.MULTILINE)
    return registers, 4 * spilled, Counter(names)
