# SPDX-License-Identifier: Apache-2.0
"""What is measured: each program checks its results first, then times them, and ends with one JSON line."""
