# SPDX-License-Identifier: Apache-2.0
"""What `make tf-test` runs: do TensorFlow and we read the same in each other's files?

python tests/check_tensorflow.py write FOLDER      in the project's environment: records, samples and checkpoints
python tests/check_tensorflow.py answer FOLDER     in one with TensorFlow, where the project is not installed: reads
                                                   them, and writes records and checkpoints of its own
python tests/check_tensorflow.py read FOLDER       in the project's environment: reads those
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PARITY = ROOT.parent / "shared" / "parity" / "tf_checkpoint"
SIDE, COUNT, STEP = 8, 5, 450_000


def write(folder: Path) -> None:
    """Writes our files, and as arrays what TensorFlow has to find in them and in the original's checkpoints."""
    from coltran.original.bundle import open_bundle, read_tensor
    from coltran.original.records import Record, write_records
    from coltran.original.variables import to_tf_layout
    from tests.tf_bundle import numbered, tensors_of, write_bundle
    from tests.tiny import tiny_networks

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    write_records(folder / "gen0.tfrecords", (Record(image, n - 1) for n, image in enumerate(images)))
    np.savez(folder / "gen0.records.npz", images=images, labels=np.arange(COUNT) - 1)
    _write_samples(folder)
    networks = tiny_networks()
    write_bundle(folder / "tiny" / "model-1", tensors_of(networks[0]), shards=2)
    for source in [folder / "tiny", *(sorted(p for p in PARITY.glob("*") if p.is_dir()) if PARITY.is_dir() else [])]:
        bundle = open_bundle(source)
        keys = [key for key in bundle.entries if key != "_CHECKPOINTABLE_OBJECT_GRAPH"]
        arrays = {f"array{n}": read_tensor(bundle, key) for n, key in enumerate(keys)}
        np.savez(folder / f"{source.name}.bundle.npz", prefix=str(bundle.prefix), keys=np.array(keys), **arrays)
    for n, network in enumerate(networks):
        layout = to_tf_layout(network, network.state_dict())
        np.savez(folder / f"network{n}.npz", **{numbered(name): array for name, array in layout.items()})


def _write_samples(folder: Path) -> None:
    """What `coltran.sample` writes for a tiny colorizer, and the images that it draws."""
    import torch

    from coltran import checkpoint, networks
    from coltran.config import DataConfig, part
    from coltran.image import center_square, load_photo, rgb_to_gray
    from coltran.sample import write_samples
    from coltran.sampling import named_seed, sample
    from coltran.training.data import prepare
    from tests.tiny_training import whole_config, write_photos

    photos = write_photos(folder / "photos", COUNT)
    options = {"num_outputs": COUNT, "num_samples": 1, "batch_size": 2, "mode": "sample", "gen_file": "sampled"}
    config = whole_config(dataset="custom", sample=options).to_dict()
    network = networks.build(networks.model_config(config)).eval()
    checkpoint.save(network, folder / "log", config=config)
    path = write_samples(config, folder / "log", photos, "test", seed=3)
    path.rename(folder / "sampled.tfrecords")
    paths = sorted(photos.iterdir())
    data = part(DataConfig, config)
    squares = [prepare(center_square(load_photo(photo)), data, "coltran_core") for photo in paths]
    gray = torch.from_numpy(rgb_to_gray(np.stack([square["rgb"] for square in squares])))
    seeds = [named_seed(3, photo.name) for photo in paths]
    drawn = sample(network, gray, seed=seeds, image_index=[0] * COUNT)  # type: ignore[arg-type]
    np.savez(folder / "sampled.records.npz", images=drawn.rgb.numpy(), labels=np.arange(COUNT))


def answer(folder: Path) -> None:
    """Raises AssertionError at the first thing that TensorFlow reads differently; then writes files of its own."""
    import tensorflow as tf  # type: ignore[import-not-found, import-untyped, unused-ignore]

    features = {
        "image": tf.io.FixedLenFeature([SIDE * SIDE * 3], tf.int64),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    for path in sorted(folder.glob("*.records.npz")):
        expected = np.load(path)
        records = tf.data.TFRecordDataset(str(path).replace(".records.npz", ".tfrecords"))
        found = [tf.io.parse_example(record, features) for record in records]
        np.testing.assert_array_equal([r["image"].numpy().reshape(SIDE, SIDE, 3) for r in found], expected["images"])
        np.testing.assert_array_equal([r["label"].numpy() for r in found], expected["labels"])
        print(f"{path.stem}: TensorFlow finds the same {len(found)}")
    for path in sorted(folder.glob("*.bundle.npz")):
        arrays = np.load(path)
        reader = tf.train.load_checkpoint(str(arrays["prefix"]))
        for n, key in enumerate(arrays["keys"]):
            np.testing.assert_array_equal(reader.get_tensor(str(key)), arrays[f"array{n}"])
        print(f"{path.stem}: TensorFlow finds the same {len(arrays['keys'])} tensors")

    images = np.load(folder / "gen0.records.npz")["images"]
    with tf.io.TFRecordWriter(str(folder / "tensorflow.tfrecords")) as writer:
        for n, image in enumerate(images):
            values = {"image": image.ravel(), "label": [10 * n]}
            of_integers = {k: tf.train.Feature(int64_list=tf.train.Int64List(value=v)) for k, v in values.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=of_integers)).SerializeToString())
    import tf_keras  # type: ignore[import-not-found, import-untyped, unused-ignore]

    optimizers = {"older": tf_keras.optimizers.legacy.RMSprop, "newer": tf_keras.optimizers.RMSprop}
    for path in sorted(folder.glob("network*.npz")):
        for age, optimizer in optimizers.items():
            _write_checkpoint(folder / f"tensorflow-{path.stem}-{age}", dict(np.load(path)), optimizer(0.1))


def _write_checkpoint(folder: Path, arrays: dict[str, np.ndarray], optimizer: Any) -> None:
    """One training step of a network's variables, with moving averages, saved in the manner of the original.

    Older optimizers save what they keep beside each variable under its name, newer ones under numbers.
    """
    import tensorflow as tf

    variables = {name: tf.Variable(array, name=name) for name, array in arrays.items()}
    trained = {name: variable for name, variable in variables.items() if "/normalize/" not in name}
    averages = tf.train.ExponentialMovingAverage(0.9)
    averages.apply(list(trained.values()))
    draw = np.random.default_rng(1).normal
    optimizer.apply_gradients([(draw(size=v.shape).astype(np.float32), v) for v in trained.values()])
    optimizer.iterations.assign(STEP)
    averages.apply(list(trained.values()))
    mean = {name: averages.average(variable) for name, variable in trained.items()}
    saved = {variable.name: variable for variable in [*variables.values(), *mean.values()]}
    checkpoint = tf.train.Checkpoint(optimizer=optimizer, **saved)
    tf.train.CheckpointManager(checkpoint, str(folder), 10, checkpoint_name="model").save(STEP)
    expected = {f"raw {name}": variable.numpy() for name, variable in variables.items()}
    expected |= {f"average {name}": average.numpy() for name, average in mean.items()}
    for n, (name, variable) in enumerate(trained.items()):
        legacy = hasattr(optimizer, "get_slot")
        square = optimizer.get_slot(variable, "rms") if legacy else optimizer._velocities[n]
        expected[f"square {name}"] = square.numpy()
    np.savez(folder / "expected.npz", **expected)


def read(folder: Path) -> None:
    """Raises AssertionError at the first thing that we read differently from what TensorFlow says it wrote."""
    from coltran import checkpoint
    from coltran.convert import convert
    from coltran.original import variables
    from coltran.original.records import read_records

    records = list(read_records(folder / "tensorflow.tfrecords", (SIDE, SIDE)))
    images = np.load(folder / "gen0.records.npz")["images"]
    np.testing.assert_array_equal(np.stack([record.image for record in records]), images)
    assert [record.label for record in records] == [10 * n for n in range(COUNT)]
    print(f"tensorflow.tfrecords: we find the same {len(records)}")
    sources = sorted(folder.glob("tensorflow-*"))
    assert len(sources) == 10, f"TensorFlow has written {len(sources)} of 10 checkpoints"
    for source in sources:
        expected = dict(np.load(source / "expected.npz"))
        network, step = convert(source, folder / f"converted-{source.name}", optimizer=True)
        assert step == STEP
        tensors, _ = checkpoint.load_training(folder / f"converted-{source.name}")
        averages = checkpoint.load(folder / f"converted-{source.name}").state_dict()
        weights = {name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")}
        squares = {name: tensors.get(f"optimizer/{name}/mean_square") for name in weights}
        found = {}
        for kind, state in (("raw", weights), ("average", averages), ("square", squares)):
            layout = variables.to_tf_layout(network, {n: t for n, t in state.items() if t is not None})
            found |= {f"{kind} {name}": array for name, array in layout.items()}
        for kind in ("raw", "average", "square"):
            names = [key.removeprefix(f"{kind} ") for key in expected if key.startswith(f"{kind} ")]
            canonical = variables.canonical_names(names)
            for name in names:
                np.testing.assert_array_equal(found[f"{kind} {canonical[name]}"], expected[f"{kind} {name}"])
        print(f"{source.name}: we find the same {len(expected)} tensors")


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    {"write": write, "answer": answer, "read": read}[sys.argv[1]](Path(sys.argv[2]))
