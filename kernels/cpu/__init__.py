# SPDX-License-Identifier: Apache-2.0
"""Implementations for tensors in the processor's memory."""
