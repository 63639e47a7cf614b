# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from coltran.checkpoint import CheckpointError
from coltran.original import bundle
from coltran.original.bundle import latest, open_bundle, read_slots, read_step, read_tensor, read_variables
from tests import tf_bundle
from tests.tf_bundle import VALUE, write_bundle


def _tensors(count: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    shapes = [(), (5,), (2, 3), (4, 1, 2), (0, 3)]
    return {f"layer_{i}.Skernel:0{VALUE}": rng.normal(size=shapes[i % 5]).astype(np.float32) for i in range(count)}


@pytest.mark.parametrize(
    ("shards", "size", "whole_every"), [(1, 1000, 16), (1, 7, 3), (3, 5, 1), (2, 1, 1)], ids=lambda value: str(value)
)
def test_every_tensor_is_read_whatever_the_blocks_and_shards(tmp_path, shards, size, whole_every):
    tensors = _tensors()
    write_bundle(tmp_path / "model-3", tensors, shards=shards, size=size, whole_every=whole_every)
    bundle = open_bundle(tmp_path)
    assert sorted(bundle.entries) == sorted(tensors)
    for key, expected in tensors.items():
        np.testing.assert_array_equal(read_tensor(bundle, key), expected)


@pytest.mark.parametrize("name", ["a/b", "dense_1/kernel", "a.b/c..d", "x.S/y"])
def test_a_name_is_found_in_its_key(name):
    assert bundle.unescape(f"{tf_bundle.escape(name)}:0{VALUE}") == f"{name}:0"


def _variables(folder: Path, values: dict[str, float], ema: bool) -> dict[str, float]:
    tensors = {tf_bundle.key(name): np.float32([value]) for name, value in values.items()}
    write_bundle(folder / "model-1", tensors | {f"save_counter{VALUE}": np.int64(1)})
    return {name: float(array[0]) for name, array in read_variables(open_bundle(folder), ema=ema).items()}


@pytest.mark.parametrize(("ema", "expected"), [(False, 1), (True, 2)])
def test_averages_take_the_place_of_trained_weights_on_request(tmp_path, ema, expected):
    values = {"dense/kernel": 1, "dense/kernel/ExponentialMovingAverage": 2, "norm/normalize/gamma": 3}
    assert _variables(tmp_path, values, ema) == {"dense/kernel:0": expected, "norm/normalize/gamma:0": 3}


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["dense/kernel"], "no moving averages"),
        (["a/kernel", "b/kernel", "a/kernel/ExponentialMovingAverage"], "lacks the moving averages of b/kernel:0"),
        (["a/kernel", "a/kernel/ExponentialMovingAverage", "b/kernel/ExponentialMovingAverage"], "does not hold: b"),
        ([], "holds no variables"),
    ],
)
def test_missing_averages_are_named(tmp_path, names, reason):
    with pytest.raises(CheckpointError, match=reason):
        _variables(tmp_path, dict.fromkeys(names, 1.0), ema=True)


@pytest.mark.parametrize("name", ["optimizer/iter", "optimizer/_iterations"])
def test_the_step_is_read_of_old_and_new_versions(tmp_path, name):
    write_bundle(tmp_path / "model-1", {name + VALUE: np.int64(450_000)})
    assert read_step(open_bundle(tmp_path)) == 450_000


def test_a_checkpoint_without_optimizer_has_no_step_and_no_slots(tmp_path):
    write_bundle(tmp_path / "model-1", _tensors())
    assert (read_step(open_bundle(tmp_path)), read_slots(open_bundle(tmp_path))) == (None, {})


def test_the_checkpoint_file_decides_which_is_the_newest_wherever_it_was_written(tmp_path):
    for step in (9, 10, 8):
        write_bundle(tmp_path / f"model-{step}", _tensors(1))
    assert latest(tmp_path) == tmp_path / "model-8"
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/where/it/was/model-9"\n')
    assert latest(tmp_path) == tmp_path / "model-9"
    (tmp_path / "checkpoint").unlink()
    assert latest(tmp_path) == tmp_path / "model-10"
    assert latest(tmp_path / "model-8") == latest(tmp_path / "model-8.index") == tmp_path / "model-8"


@pytest.mark.parametrize("name", ["", "model-9", "nowhere"])
def test_no_checkpoint_is_one_sentence(tmp_path, name):
    with pytest.raises(CheckpointError, match="holds no TensorFlow checkpoint"):
        open_bundle(tmp_path / name)


INDEX, DATA = "model-1.index", "model-1.data-00000-of-00001"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "model-1", _tensors())
    return tmp_path


def _read_all(folder: Path) -> None:
    bundle = open_bundle(folder)
    for key in bundle.entries:
        read_tensor(bundle, key)


@pytest.mark.parametrize(
    ("name", "left", "reason"),
    [(INDEX, left, r"model-1\.index is damaged: [^\n]+\.$") for left in (0, 10, 47, 200, -1)]
    + [(DATA, left, r"00001 was cut short: it ends before layer_\d+/kernel:0 does\.") for left in (0, 100, -1)],
)
def test_a_truncated_file_is_one_sentence(folder, name, left, reason):
    (folder / name).write_bytes((folder / name).read_bytes()[:left])
    with pytest.raises(CheckpointError, match=reason):
        _read_all(folder)


@pytest.mark.parametrize(
    ("name", "step", "reason"), [(INDEX, 37, "damaged"), (DATA, 500, "checksum of layer_")], ids=["index", "data"]
)
def test_a_flipped_bit_is_noticed(folder, name, step, reason):
    whole = (folder / name).read_bytes()
    for place in range(0, len(whole) - 48, step):
        (folder / name).write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=reason):
            _read_all(folder)


@pytest.mark.parametrize("name", [INDEX, DATA])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        _read_all(folder)


@pytest.mark.parametrize("name", ["colorizer", "color_upsampler", "spatial_upsampler"])
def test_the_originals_slots_are_read_by_the_names_of_its_variables(parity_folder, name):
    bundle = open_bundle(parity_folder / "tf_checkpoint" / name)
    variables = read_variables(bundle, ema=False)
    slots = read_slots(bundle)
    trained = {name: array.shape for name, array in variables.items() if "/normalize/" not in name}
    assert {name: array.shape for name, array in slots["velocity"].items()} == trained
    assert (list(slots), read_step(bundle)) == (["velocity"], 7)


def test_a_damaged_object_graph_is_one_sentence(parity_folder, tmp_path):
    folder = shutil.copytree(parity_folder / "tf_checkpoint" / "spatial_upsampler", tmp_path / "copy")
    bundle, path = open_bundle(folder), folder / DATA
    content = bytearray(path.read_bytes())
    content[bundle.entries["_CHECKPOINTABLE_OBJECT_GRAPH"].offset + 400] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged in its object graph"):
        read_slots(bundle)


@pytest.mark.parametrize("name", ["model\x00-7", "model\n-7", "model-\x1b[2J7", "m" * 5000])
def test_a_name_that_no_file_has_is_one_sentence(tmp_path, name):
    (tmp_path / "checkpoint").write_bytes(f'model_checkpoint_path: "{name}"\n'.encode())
    with pytest.raises(CheckpointError, match="checkpoint is damaged: it names no checkpoint"):
        bundle.latest(tmp_path)
