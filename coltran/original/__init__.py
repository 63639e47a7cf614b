# SPDX-License-Identifier: Apache-2.0
"""The original TensorFlow program's files: checkpoints, variables, configurations, records, the published archive."""
