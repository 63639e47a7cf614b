# SPDX-License-Identifier: Apache-2.0
"""What `make tf-test` runs: does TensorFlow itself read our records, and the same tensors as we do?

python tests/check_tensorflow.py write FOLDER    in the project's environment
python tests/check_tensorflow.py read FOLDER     in one with TensorFlow, where the project is not installed
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

PARITY = Path(__file__).resolve().parent.parent.parent / "shared" / "parity" / "tf_checkpoint"
SIDE = 8


def write(folder: Path) -> None:
    """Writes records and a checkpoint, and as arrays what TensorFlow has to find in them and in the original's."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from coltran import tf_checkpoint
    from coltran.records import Record, write_records
    from tests.tf_bundle import tensors_of, write_bundle
    from tests.tiny import tiny_networks

    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    write_records(folder / "gen0.tfrecords", (Record(image, n - 1) for n, image in enumerate(images)))
    np.savez(folder / "records.npz", images=images, labels=np.arange(5) - 1)
    write_bundle(folder / "tiny" / "model-1", tensors_of(tiny_networks()[0]), shards=2)
    for source in [folder / "tiny", *(sorted(p for p in PARITY.glob("*") if p.is_dir()) if PARITY.is_dir() else [])]:
        bundle = tf_checkpoint.open_bundle(source)
        keys = [key for key in bundle.entries if key != "_CHECKPOINTABLE_OBJECT_GRAPH"]
        arrays = {f"array{n}": tf_checkpoint.read_tensor(bundle, key) for n, key in enumerate(keys)}
        np.savez(folder / f"{source.name}.npz", prefix=str(bundle.prefix), keys=np.array(keys), **arrays)


def read(folder: Path) -> None:
    """Raises AssertionError at the first thing that TensorFlow reads differently."""
    import tensorflow as tf  # type: ignore[import-not-found, import-untyped, unused-ignore]

    expected = np.load(folder / "records.npz")
    features = {
        "image": tf.io.FixedLenFeature([SIDE * SIDE * 3], tf.int64),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    found = [tf.io.parse_example(r, features) for r in tf.data.TFRecordDataset(str(folder / "gen0.tfrecords"))]
    np.testing.assert_array_equal([r["image"].numpy().reshape(SIDE, SIDE, 3) for r in found], expected["images"])
    np.testing.assert_array_equal([r["label"].numpy() for r in found], expected["labels"])
    print(f"{len(found)} records are the same")
    for path in sorted(folder.glob("*.npz")):
        arrays = np.load(path)
        if "prefix" not in arrays:
            continue
        reader = tf.train.load_checkpoint(str(arrays["prefix"]))
        for n, key in enumerate(arrays["keys"]):
            np.testing.assert_array_equal(reader.get_tensor(str(key)), arrays[f"array{n}"])
        print(f"{path.stem}: {len(arrays['keys'])} tensors are the same")


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
