# SPDX-License-Identifier: Apache-2.0
"""The original's checkpoints become ours: every tensor used once, or nothing is written and the reason is said."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from coltran import checkpoint, convert, networks
from coltran.checkpoint import CheckpointError
from coltran.image import to_bits
from coltran.original.variables import to_tf_layout
from tests.networks_of_parity import relative_error
from tests.tf_bundle import changed, key, numbered, tensors_of, write_bundle
from tests.tiny import colorizer_config, tiny_networks


def _filled(network: nn.Module, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.normal_()
    return network


SECTIONS = [network.config for network in tiny_networks()]


@pytest.fixture(params=SECTIONS, ids=["paper", "shift", "plain", "color_upsampler", "spatial_upsampler"])
def network(request) -> nn.Module:
    return _filled(networks.build(request.param), 1)


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    """Of a checkpoint of a tiny color upsampler."""
    return tensors_of(networks.build(SECTIONS[3]))


def _other(network: nn.Module) -> nn.Module:
    """The same network with other trained weights."""
    other = _filled(networks.build(network.config), 2)
    for name, buffer in network.named_buffers():
        other.get_buffer(name).copy_(buffer)
    return other


def _same(network: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_sizes_and_weights_come_back_without_a_configuration(network, tmp_path):
    # What the tensors cannot tell lies beside the checkpoint, as the original writes it.
    (tmp_path / "tf").mkdir()
    (tmp_path / "tf" / "config.yaml").write_text(yaml.safe_dump({"resolution": [9, 9], "model": network.config}))
    write_bundle(tmp_path / "tf" / "model-3", tensors_of(network, _other(network)))
    _, step = convert.convert(tmp_path / "tf", tmp_path / "ours")
    loaded = checkpoint.load(tmp_path / "ours")
    assert _same(loaded, network)
    assert (step, checkpoint.load_step(tmp_path / "ours")) == (7, 7)


def test_every_size_and_switch_that_has_tensors_is_found_from_them_alone(network):
    variables = {numbered(n): a for n, a in to_tf_layout(network, network.state_dict()).items()}
    built = networks.build(convert.find_config("nowhere", variables)["model"])
    assert type(built) is type(network)
    assert {n: t.shape for n, t in built.state_dict().items()} == {n: t.shape for n, t in network.state_dict().items()}


def test_a_switch_that_the_original_left_out_stays_left_out():
    section = colorizer_config()
    for option in ("q", "k", "v", "scale"):
        del section["decoder"][f"cond_att_{option}"]
    network = networks.build(section)
    found = convert.find_config("nowhere", to_tf_layout(network, network.state_dict()))
    assert not [option for option in found["model"]["decoder"] if option.startswith("cond_att_") and "_q" in option]
    assert networks.build(found["model"]).state_dict().keys() == network.state_dict().keys()


def test_raw_weights_on_request(network, tmp_path):
    raw = _other(network)
    write_bundle(tmp_path / "tf" / "model-3", tensors_of(network, raw))
    assert _same(convert.load_tf_network(tmp_path / "tf", ema=False)[0], raw)


def test_a_training_can_go_on_from_a_conversion(network, tmp_path):
    raw = _other(network)
    write_bundle(tmp_path / "tf" / "model-3", tensors_of(network, raw))
    convert.convert(tmp_path / "tf", tmp_path / "ours", optimizer=True)
    tensors, state = checkpoint.load_training(tmp_path / "ours")
    assert state["step"] == 7
    for name, parameter in raw.named_parameters():
        assert torch.equal(tensors[f"weights/{name}"], parameter)
    for name, parameter in network.named_parameters():
        assert torch.equal(tensors[f"optimizer/{name}/mean_square"], parameter**2)


def test_a_conversion_without_optimizer_holds_weights_only(tmp_path, tensors):
    write_bundle(tmp_path / "tf" / "model-3", tensors)
    convert.convert(tmp_path / "tf", tmp_path / "ours")
    with pytest.raises(CheckpointError, match="weights only"):
        checkpoint.load_training(tmp_path / "ours")


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("removed", r"missing col_tran_core\.0/outer_decoder\.0/mask_col_att_0/cond_k/kernel \[16, 2, 16\]"),
        ("added", r"unexpected col_tran_core_5/outer_decoder_5/mask_col_att_0/cond_z/zernel:0 \[3\]"),
        ("reshaped", r"misshapen col_tran_core_5/\S+/cond_k/kernel:0: \[15, 2, 16\], expected \[16, 2, 16\]"),
    ],
)
def test_one_tensor_too_few_too_many_or_misshapen(tmp_path, program, capsys, how, line):
    network = _filled(networks.build(SECTIONS[0]), 1)
    write_bundle(tmp_path / "tf" / "model-3", changed(tensors_of(network), how))
    (tmp_path / "ours").mkdir()
    assert program(convert.main, tmp_path / "tf", "-o", tmp_path / "ours") == 1
    err = capsys.readouterr().err
    assert "1 variables do not fit Colorizer" in err
    assert re.search(line, err)
    assert list((tmp_path / "ours").iterdir()) == []


@pytest.mark.parametrize(
    ("lacks", "options", "reason"),
    [
        ("OPTIMIZER_SLOT", ["--optimizer"], "does not hold the state of RMSprop"),
        ("position_embedding_0", [], "position_embedding_0 is missing, and the network's sizes"),
        ("of the wrong network", ["--config=coltran/test_configs/colorizer.py"], "do not fit Colorizer"),
    ],
)
def test_what_does_not_hold_what_is_asked_for_becomes_nothing(
    tmp_path, program, capsys, tensors, lacks, options, reason
):
    write_bundle(tmp_path / "tf" / "model-3", {n: array for n, array in tensors.items() if lacks not in n})
    assert program(convert.main, tmp_path / "tf", "-o", tmp_path / "ours", *options) == 1
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_a_directory_without_a_checkpoint(tmp_path, program, capsys):
    (tmp_path / "config.yaml").write_text("a: 1\n")
    assert program(convert.main, tmp_path, "-o", tmp_path / "ours") == 1
    assert capsys.readouterr().err == f"{tmp_path} holds no TensorFlow checkpoint.\n"


def test_variables_of_another_program(tmp_path):
    write_bundle(tmp_path / "tf" / "model-3", {key(f"vgg/{n}"): np.ones(2, np.float32) for n in ("a", "a/x")})
    with pytest.raises(CheckpointError, match="none of the three networks"):
        convert.load_tf_network(tmp_path / "tf", ema=False)


def test_what_is_at_the_destination_and_no_checkpoint_stays(tmp_path, tensors):
    write_bundle(tmp_path / "tf" / "model-3", tensors)
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "diary.txt").write_text("Dear diary")
    with pytest.raises(CheckpointError, match="not overwritten"):
        convert.convert(tmp_path / "tf", tmp_path / "ours")
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["diary.txt"]


@pytest.mark.parametrize("name", ["colorizer", "color_upsampler", "spatial_upsampler"])
def test_the_originals_checkpoints_give_its_logits(parity, parity_folder, tmp_path, program, capsys, name):
    expected = parity(f"tf_checkpoint/{name}_expected")
    source = parity_folder / "tf_checkpoint" / name
    assert program(convert.main, source, "-o", tmp_path / "ours", "--optimizer") == 0
    assert "7 training steps" in capsys.readouterr().out
    network = checkpoint.load(tmp_path / "ours")
    section = json.loads(str(expected["config_json"]))
    assert network.config == network.config | section
    rgb, gray = torch.from_numpy(expected["input_rgb"]), torch.from_numpy(expected["gray"])[..., 0]
    with torch.no_grad():
        if name == "colorizer":
            logits = network(rgb).logits
        else:
            logits = network(to_bits(rgb, 8, 3) if name == "color_upsampler" else rgb, gray)
    stride = 32 if name == "spatial_upsampler" else 8
    assert relative_error(logits[:, ::stride, ::stride], expected[f"logits_stride{stride}"]) < 1e-5


def test_the_raw_weights_of_the_original_are_others(parity_folder):
    source = parity_folder / "tf_checkpoint" / "color_upsampler"
    averages, raw = (convert.load_tf_network(source, ema=ema)[0].state_dict() for ema in (True, False))
    assert not any(torch.equal(averages[name], raw[name]) for name in averages)
