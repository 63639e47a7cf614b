# SPDX-License-Identifier: Apache-2.0
"""The configurations of the paper, and narrow, small and medium ones: `get_config()` gives a `ConfigDict`."""

# Keys of a training's data that a configuration need not have, and what holds without them: docs/training.md.
OPTIONS = {"random_flip": False, "random_resized_crop": 0.0, "jpeg_draft": False, "memory_map": False}
