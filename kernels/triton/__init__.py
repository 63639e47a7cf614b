# SPDX-License-Identifier: Apache-2.0
"""The operations as Triton kernels, for GPUs. Nothing outside this folder imports triton."""
