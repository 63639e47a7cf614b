# SPDX-License-Identifier: Apache-2.0
"""The configurations of the paper, and narrow, small and medium ones: `get_config()` gives a `ConfigDict`."""

from typing import Any

# Keys that a configuration need not have, and what holds without them: docs/training.md, docs/from-the-original.md.
OPTIONS: dict[str, Any] = {
    "random_flip": False,
    "random_resized_crop": 0.0,
    "jpeg_draft": False,
    "memory_map": False,
    "sample": {
        "log_dir": "",
        "batch_size": 1,
        "mode": "sample",
        "num_samples": 1,
        "num_outputs": 1,
        "skip_batches": 0,
        "gen_file": "gen0",
        "gen_data_dir": "",
    },
}
