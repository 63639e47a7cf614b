# SPDX-License-Identifier: Apache-2.0
"""Training: the data loader, initialization, optimizers, a step, summaries, and resuming."""
