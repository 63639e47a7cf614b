# SPDX-License-Identifier: Apache-2.0
"""The configurations of the paper, and narrow, small and medium ones: `get_config()` gives a `ConfigDict`."""

from typing import Any

from coltran.configs import colorizer

# Keys that a configuration need not have, and what holds without them: docs/training.md, docs/from-the-original.md.
OPTIONS: dict[str, Any] = {
    "random_flip": False,
    "random_resized_crop": 0.0,
    "jpeg_draft": False,
    "memory_map": False,
    "sample": colorizer.get_config().sample.to_dict() | {"gen_data_dir": ""},
}
