# SPDX-License-Identifier: Apache-2.0
"""The operations as Triton kernels. Importing a module of this package imports triton."""
