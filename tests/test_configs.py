# SPDX-License-Identifier: Apache-2.0
"""The six configurations hold the original's keys and values, all of them and no others."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from ml_collections import config_flags

from coltran import networks
from coltran.training.widening import narrow_section

ROOT = Path(__file__).resolve().parent.parent

ALL = {
    "dataset": "imagenet",
    "downsample": True,
    "downsample_res": 64,
    "resolution": [256, 256],
    "save_checkpoint_secs": 900,
    "num_epochs": -1,
    "polyak_decay": 0.999,
    "eval_num_examples": 20000,
    "eval_batch_size": 16,
    "eval_checkpoint_wait_secs": -1,
    "optimizer.type": "rmsprop",
    "optimizer.learning_rate": 0.0003,
    "model.resolution": [64, 64],
    "sample.batch_size": 1,
    "sample.num_samples": 1,
    "sample.num_outputs": 1,
    "sample.skip_batches": 0,
    "sample.gen_file": "gen0",
}
COLORIZER = {
    "loss_factor": 0.99,
    "encoder_loss_factor": 0.01,
    "model.name": "coltran_core",
    "model.stage": "encoder_decoder",
    "model.encoder.dropout": 0.0,
    "model.decoder.dropout": 0.0,
    "model.decoder.resolution": [64, 64],
    "model.decoder.skip": True,
    "model.decoder.cond_mlp": "affine",
    "model.decoder.cond_mlp_act": "identity",
    "model.decoder.cond_ln": True,
    "model.decoder.cond_ln_act": "identity",
    "model.decoder.cond_ln_seq": "sc",
    "model.decoder.cond_ln_sp_ave": "learnable",
    "model.decoder.cond_ln_init": "glorot_uniform",
    "model.decoder.cond_att_init": "glorot_uniform",
    "model.decoder.cond_att_v": True,
    "model.decoder.cond_att_q": True,
    "model.decoder.cond_att_k": True,
    "model.decoder.cond_att_scale": True,
    "model.decoder.cond_att_act": "identity",
    "sample.mode": "sample",
}
UPSAMPLER = {"random_channel": True, "sample.mode": "argmax"}


def colorizer_sizes(size: int, heads: int, encoder: int, outer: int, inner: int) -> dict[str, Any]:
    parts = ("model.encoder", "model.decoder")
    return {
        "model.hidden_size": size,
        **{f"{part}.{key}": size for part in parts for key in ("hidden_size", "ff_size")},
        **{f"{part}.num_heads": heads for part in parts},
        "model.encoder.num_encoder_layers": encoder,
        "model.decoder.num_outer_layers": outer,
        "model.decoder.num_inner_layers": inner,
    }


def upsampler_sizes(name: str, size: int, heads: int, layers: int) -> dict[str, Any]:
    return {
        "model.name": name,
        "model.hidden_size": size,
        "model.ff_size": size,
        "model.num_heads": heads,
        "model.num_encoder_layers": layers,
    }


def run(batch_size: int, steps: int, **sample: str) -> dict[str, Any]:
    names = {f"sample.{key}": value for key, value in sample.items()}
    return {"batch_size": batch_size, "max_train_steps": steps, **names}


EXPECTED = {
    "configs/colorizer": ALL | COLORIZER | colorizer_sizes(512, 4, 4, 2, 2) | run(7, 450000, log_dir=""),
    "configs/color_upsampler": ALL
    | UPSAMPLER
    | upsampler_sizes("color_upsampler", 512, 4, 4)
    | run(24, 300000, log_dir="samples_sweep", gen_data_dir=""),
    "configs/spatial_upsampler": ALL
    | UPSAMPLER
    | upsampler_sizes("spatial_upsampler", 512, 4, 3)
    | run(1, 300000, log_dir="samples_sweep", gen_data_dir=""),
    "test_configs/colorizer": ALL | COLORIZER | colorizer_sizes(32, 1, 1, 1, 1) | run(1, 20000, log_dir="samples"),
    "test_configs/color_upsampler": ALL
    | UPSAMPLER
    | upsampler_sizes("color_upsampler", 32, 1, 1)
    | run(1, 15000, log_dir="samples", gen_data_dir=""),
    "test_configs/spatial_upsampler": ALL
    | UPSAMPLER
    | upsampler_sizes("spatial_upsampler", 32, 1, 1)
    | run(1, 15000, log_dir="samples", gen_data_dir="/tmp/color_upsampler_test/samples"),
}


def flatten(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return flat


def get_config(name: str) -> Any:
    return importlib.import_module(f"coltran.{name.replace('/', '.')}").get_config()


@pytest.mark.parametrize("name", EXPECTED)
def test_keys_and_values_are_the_originals(name: str) -> None:
    assert flatten(get_config(name).to_dict()) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_value_has_the_originals_type(name: str) -> None:
    """An override takes the type of the value that it replaces, so 1 and True are not the same here."""
    types = {key: type(value) for key, value in flatten(get_config(name).to_dict()).items()}
    assert types == {key: type(value) for key, value in EXPECTED[name].items()}


@pytest.mark.parametrize("name", EXPECTED)
def test_changing_a_configuration_leaves_the_next_one_alone(name: str) -> None:
    first = get_config(name)
    first.model.hidden_size = 8
    first.model.resolution[0] = 8
    assert flatten(get_config(name).to_dict()) == EXPECTED[name]


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections' own
@pytest.mark.parametrize("name", EXPECTED)
def test_a_flag_reads_the_file_and_overrides_a_nested_key(name: str) -> None:
    values = flags.FlagValues()
    line = ["program", f"--config={ROOT / 'coltran' / name}.py", "--config.optimizer.learning_rate=0.001"]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=line)
    values(line)
    expected = EXPECTED[name] | {"optimizer.learning_rate": 0.001}
    assert flatten(values["config"].value.to_dict()) == expected


@pytest.mark.parametrize("name", ["colorizer", "spatial_upsampler"])
def test_a_narrow_network_is_half_as_wide_as_the_small_one(name: str) -> None:
    narrow, small = (get_config(f"configs/{size}_{name}").to_dict()["model"] for size in ("narrow", "small"))
    assert narrow == narrow_section(small)


@pytest.mark.parametrize("name", ["colorizer", "color_upsampler", "spatial_upsampler"])
def test_a_medium_network_has_at_most_four_million_weights(name: str) -> None:
    network = networks.build(networks.model_config(get_config(f"configs/medium_{name}")))
    assert 0.5e6 < sum(p.numel() for p in network.parameters()) < 4e6
