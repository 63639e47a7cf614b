# SPDX-License-Identifier: Apache-2.0
"""Training: photographs as batches, first weights, a step, reports, and going on where it stopped."""
