# SPDX-License-Identifier: Apache-2.0
"""Compiling Triton kernels for GPUs that are not there, in a process that is not in Triton's interpreter."""

from bench.ahead import TARGETS, Compiled, compile_ahead

__all__ = ["TARGETS", "Compiled", "compile_ahead"]
