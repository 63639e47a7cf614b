# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from coltran import checkpoint, networks
from coltran.checkpoint import CheckpointError
from tests.disks import full_disk
from tests.tiny import colorizer_config, tiny_networks
from tests.tiny_training import whole_config


@pytest.fixture
def network() -> nn.Module:
    return networks.build(colorizer_config())


@pytest.fixture
def saved(network: nn.Module, tmp_path: Path) -> Path:
    checkpoint.save(network, tmp_path / "saved")
    return tmp_path / "saved"


def _same(a: nn.Module, b: nn.Module) -> bool:
    return a.state_dict().keys() == b.state_dict().keys() and all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("index", range(5))
def test_every_network_comes_back_as_it_was(tmp_path, index):
    network = tiny_networks()[index]
    checkpoint.save(network, tmp_path / "saved")
    loaded = checkpoint.load(tmp_path / "saved")
    assert type(loaded) is type(network) and not loaded.training
    assert _same(loaded, network)


def test_loading_leaves_torchs_random_state_alone(saved):
    before = torch.get_rng_state()
    checkpoint.load(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_whole_configuration_is_kept_with_the_networks_own_model_section(network, tmp_path):
    config = whole_config(batch_size=5, model={"name": "something else"})
    checkpoint.save(network, tmp_path / "saved", config=config)
    kept = checkpoint.load_config(tmp_path / "saved")
    assert (kept["batch_size"], kept["model"]) == (5, network.config)


def test_other_weights_can_be_saved_in_place_of_the_networks_own(network, tmp_path):
    name, parameter = next(iter(network.named_parameters()))
    checkpoint.save(network, tmp_path / "saved", weights={name: torch.full_like(parameter, 7.0)})
    state = checkpoint.load(tmp_path / "saved").state_dict()
    assert (state[name] == 7).all()


def test_float16_halves_the_file_and_comes_back_as_float32(network, saved, tmp_path):
    checkpoint.save(network, tmp_path / "half", dtype=torch.float16)
    halves, wholes = (load_file(folder / "model.safetensors").values() for folder in (tmp_path / "half", saved))
    assert 2 * sum(tensor.nbytes for tensor in halves) == sum(tensor.nbytes for tensor in wholes)
    assert {tensor.dtype for tensor in checkpoint.load(tmp_path / "half").state_dict().values()} == {torch.float32}


def test_a_weight_too_large_for_float16_is_named(network, tmp_path):
    name, parameter = next(iter(network.named_parameters()))
    nn.init.constant_(parameter, 1e6)
    with pytest.raises(CheckpointError, match=name):
        checkpoint.save(network, tmp_path / "half", dtype=torch.float16)


def test_everybody_may_read_the_weights_who_may_read_the_configuration(saved):
    modes = {stat.S_IMODE(os.stat(path).st_mode) for path in saved.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize(
    ("present", "newest"),
    [(["000009", "000010"], "000010"), (["999999", "1000000"], "1000000"), (["000003", "000002"], "000003")],
)
def test_a_log_directory_stands_for_its_newest_checkpoint(network, tmp_path, present, newest):
    for number in present:
        checkpoint.save(network, tmp_path / f"checkpoint-{number}")
    assert checkpoint.find(tmp_path) == tmp_path / f"checkpoint-{newest}"


def test_pruning_keeps_the_newest_and_clears_what_a_killed_writer_left(network, tmp_path):
    for step in (1, 2, 10):
        checkpoint.save(network, tmp_path / f"checkpoint-{step:06d}")
    (tmp_path / ".writing-checkpoint-000011-4194305").mkdir()  # no process has so high a number
    ours = tmp_path / f".writing-checkpoint-000012-{os.getppid()}"
    ours.mkdir()
    checkpoint.prune(tmp_path, 2)
    assert ours.exists()  # another process is at it
    ours.rmdir()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-000002", "checkpoint-000010"}


def test_a_checkpoint_can_be_replaced(network, saved):
    nn.init.ones_(next(network.parameters()))
    checkpoint.save(network, saved)
    assert _same(checkpoint.load(saved), network)
    assert _files(saved.parent) == {"saved", "saved/model.safetensors", "saved/config.yaml"}


def test_what_a_killed_writer_of_the_same_number_left_is_no_hindrance(network, tmp_path):
    """In a container the numbers of processes are the same at every start."""
    (tmp_path / f".writing-new-{os.getpid()}" / "half").mkdir(parents=True)
    checkpoint.save(network, tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"config.yaml", "model.safetensors"}


def test_a_folder_of_something_else_is_not_overwritten(network, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.save(network, tmp_path)
    assert _files(tmp_path) == {"thesis.txt"}


def test_a_full_disk_leaves_no_half_checkpoint(network, tmp_path):
    with full_disk(10_000), pytest.raises(OSError, match="model.safetensors"):
        checkpoint.save(network, tmp_path / "saved")
    assert _files(tmp_path) == set()


def test_a_full_disk_leaves_the_old_checkpoint(network, saved):
    changed = networks.build(colorizer_config())
    with full_disk(10_000), pytest.raises(OSError):
        checkpoint.save(changed, saved)
    assert _same(checkpoint.load(saved), network)


def test_one_error_names_every_missing_unexpected_and_misshapen_tensor(saved):
    tensors = load_file(saved / "model.safetensors")
    first, second, third, *_ = tensors
    del tensors[first], tensors[second]
    tensors[third] = torch.zeros(1, 2, 3)
    tensors["stranger"] = torch.zeros(1)
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(saved)
    for part in (f"missing {first}", f"missing {second}", f"misshapen {third} ([1, 2, 3]", "unexpected stranger"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_bytes(b""),
        lambda path: torch.save({"weight": torch.zeros(3)}, path),
    ],
    ids=["cut short", "noise", "empty", "a pickle"],
)
def test_damaged_weights_are_an_error_that_names_the_file(saved, spoil):
    spoil(saved / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        checkpoint.load(saved)


@pytest.mark.parametrize(
    "text", ["{", "- a\n- list\n", "", "\ttab: x", "model: 3\n", "steps: 3\n", "model: !!python/none"]
)
def test_a_configuration_that_is_none_is_an_error_that_names_the_file(saved, text):
    (saved / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        checkpoint.load(saved)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "nonsense"}, r"config\.yaml"),
        ({"hidden_size": "many"}, r"config\.yaml"),
        ({"encoder": None}, r"config\.yaml"),
        ({"hidden_size": -1}, r"config\.yaml"),
        ({"encoder": {"num_heads": 0}}, r"config\.yaml"),
        # Sizes that would take all memory are refused on paper.
        ({"encoder": {"ff_size": 10**9}}, "does not fit its network: misshapen"),
        ({"encoder": {"num_encoder_layers": 10**9}}, "fewer tensors than the network has layers"),
        ({"resolution": [2**15, 2**15]}, "does not fit its network: misshapen"),
    ],
    ids=str,
)
def test_a_configuration_that_builds_no_network_of_these_tensors_is_an_error(saved, change, sentence):
    config = checkpoint.load_config(saved)
    config["model"] |= {k: config["model"][k] | v if isinstance(v, dict) else v for k, v in change.items()}
    (saved / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(CheckpointError, match=sentence):
        checkpoint.load(saved)


def test_what_is_missing_is_named(saved, tmp_path):
    (saved / "config.yaml").unlink()
    for path, sentence in (
        (saved, r"config\.yaml is missing"),
        (tmp_path, "holds no checkpoint"),
        (tmp_path / "nowhere", "no checkpoint directory"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            checkpoint.load(path)


def test_what_the_trainer_saves_comes_back(network, tmp_path):
    training = ({"optimizer/x/slot": torch.arange(3.0)}, {"step": 7, "seed": 3})
    checkpoint.save(network, tmp_path / "saved", training=training)
    tensors, state = checkpoint.load_training(tmp_path / "saved")
    assert state == {"step": 7, "seed": 3}
    assert torch.equal(tensors["optimizer/x/slot"], torch.arange(3.0))
    checkpoint.save(network, tmp_path / "weights")
    with pytest.raises(CheckpointError, match="weights only"):
        checkpoint.load_training(tmp_path / "weights")


@pytest.mark.parametrize("text", ["a: &a [0, *a]\nmodel: {}", "[" * 5000, "9" * 5000 + ": 1"])
def test_yaml_that_has_no_end_is_one_sentence(saved, text):
    (saved / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match="config.yaml is damaged"):
        checkpoint.load_config(saved)


def test_yaml_that_grows_when_it_is_read_is_one_sentence(saved):
    lines = ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(9)]
    (saved / "config.yaml").write_text("\n".join(lines))
    with pytest.raises(CheckpointError, match="more than 10000 values"):
        checkpoint.load_config(saved)
