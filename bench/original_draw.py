# SPDX-License-Identifier: Apache-2.0
"""What `bench/original.py` runs in an environment with TensorFlow, where this project is not installed.

    PYTHON bench/original_draw.py DIR JOB

DIR holds the original's package; its network is built and called as its own `sample.py` does. JOB is a folder:

    job.json        in: the `model` section, and how many threads compute
    images.npy      in: int32 [1, H, W, 3]; gray is the first channel
    weights.npz     in: {name of a variable: value}, written when the names have been printed
    drawn.npz       out: what the network's `sample` gives, by the original's names

A line on stdout gives the names of the variables, a line on stdin asks to go on, a second line gives the seconds.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


class Section:
    """A part of a configuration, read as the original reads its own."""

    def __init__(self, values: dict[str, Any]) -> None:
        vars(self).update({name: Section(v) if isinstance(v, dict) else v for name, v in values.items()})

    def get(self, name: str, default: Any = None) -> Any:
        """A value, or the default where there is none."""
        return vars(self).get(name, default)


def main() -> None:
    """The program."""
    start, folder = time.perf_counter(), Path(sys.argv[2])
    sys.path[0] = sys.argv[1]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is none
    job = json.loads((folder / "job.json").read_text())
    name, (height, width) = job["model"]["name"], job["model"]["resolution"]
    if importlib.util.find_spec("tf_keras"):
        os.environ["TF_USE_LEGACY_KERAS"] = "1"  # Keras 2, for which the original was written
    import tensorflow as tf  # type: ignore[import-not-found, import-untyped, unused-ignore]

    sys.modules["tensorflow.compat.v2.keras"] = tf.keras  # of which newer versions make no module
    tf.config.threading.set_intra_op_parallelism_threads(job["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(job["threads"])
    colorizer, upsampler = (importlib.import_module(f"coltran.models.{part}") for part in ("colorizer", "upsampler"))
    networks = {
        "coltran_core": colorizer.ColTranCore,
        "color_upsampler": upsampler.ColorUpsampler,
        "spatial_upsampler": upsampler.SpatialUpsampler,
    }
    network, zero = networks[name](Section(job["model"])), tf.zeros((1, height, width, 3), dtype=tf.int32)
    network(zero, training=False, **({} if name == "coltran_core" else {"inputs_slice": zero}))
    print(json.dumps([variable.name for variable in network.variables]), file=answers, flush=True)
    sys.stdin.readline()
    weights = np.load(folder / "weights.npz")
    for variable in network.variables:
        variable.assign(weights[variable.name])
    images = np.load(folder / "images.npy")
    given = {"gray_cond": tf.constant(images[..., :1])}
    if name == "color_upsampler":
        given["bit_cond"] = tf.constant(images // 32)
    elif name == "spatial_upsampler":
        given["inputs"] = tf.constant(images)
    ready = time.perf_counter()
    drawn = {key: value.numpy() for key, value in network.sample(mode="argmax", **given).items()}
    seconds = time.perf_counter() - ready
    np.savez(folder / "drawn.npz", **drawn)
    told = {"seconds": seconds, "before": ready - start, "tensorflow": tf.__version__}
    print(json.dumps(told), file=answers, flush=True)


if __name__ == "__main__":
    main()
