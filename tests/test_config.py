# SPDX-License-Identifier: Apache-2.0
"""Configurations become dataclasses: the original's defaults, and a sentence for what cannot be."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from coltran import checkpoint, config, networks
from coltran.config import ConfigError, DataConfig, EvalConfig, LossConfig, SampleConfig, TrainConfig, part, read
from coltran.networks.config import ColorizerConfig, DecoderConfig, EncoderConfig, GuideConfig, UpsamplerConfig
from tests.tiny import colorizer_config, upsampler_config
from tests.tiny_training import whole_config

PACKAGE = Path(config.__file__).parent
FILES = [path for path in PACKAGE.glob("*configs/*.py") if path.stem != "__init__"]


def _changed(**changes: Any) -> dict[str, Any]:
    return whole_config().to_dict() | changes


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_package_s_configurations_are_read_as_they_are_written(path):
    given = importlib.import_module(f"coltran.{path.parent.name}.{path.stem}").get_config()
    found = read(TrainConfig, given)
    assert (found.batch_size, list(found.resolution)) == (given.batch_size, given.resolution)
    assert found.optimizer.learning_rate == given.optimizer.learning_rate
    assert found.model == given.model.to_dict()


def test_a_mapping_is_read_as_a_config_dict_is_and_does_not_change_once_it_is():
    found = read(TrainConfig, whole_config())
    assert found == read(TrainConfig, whole_config().to_dict())
    assert read(TrainConfig, found) is found and part(DataConfig, found) is found
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.batch_size = 3  # type: ignore[misc]
    assert part(LossConfig, {"loss_factor": 0.5, "mine": 1}) == LossConfig(loss_factor=0.5)  # other keys are left aside
    assert read(DataConfig, ConfigDict({"resolution": (8, 6)})).resolution == (8, 6)  # lists may be tuples


def test_missing_keys_have_the_originals_defaults():
    found = read(EvalConfig, {"resolution": [8, 8], "model": {}})
    assert (found.loss_factor, found.downsample, found.downsample_res, found.polyak_decay) == (1.0, False, 64, 0.0)
    assert read(SampleConfig, {}) == SampleConfig(mode="argmax", gen_file="gen")
    assert found.sample == SampleConfig(mode="sample", gen_file="gen0")  # of the colorizer's configuration


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bach_size": 3}, r"config has an unknown key 'bach_size'; did you mean 'batch_size'\?"),
        ({"zzz": 3}, r"config has an unknown key 'zzz'$"),
        ({"optimizer": {"learning_rat": 3}}, r"config\.optimizer has an unknown key 'learning_rat'; did you mean"),
        ({"optimizer": "adam"}, r"config\.optimizer must be a section of keys and values, not 'adam'"),
        ({"model": 3}, r"config\.model must be a section of keys and values, not 3"),
        ({"resolution": [16]}, r"config\.resolution must be a height and a width"),
        ({"resolution": [16, True]}, r"config\.resolution must be a height and a width"),
        ({"batch_size": True}, r"config\.batch_size must be a whole number from 1 on, not True"),
        ({"sample": {"skip_batches": -1}}, r"config\.sample\.skip_batches must be a whole number from 0 on, not -1"),
        ({"num_epochs": 1.5}, r"config\.num_epochs must be a whole number, not 1\.5"),
        ({"loss_factor": "1"}, r"config\.loss_factor must be a number, not '1'"),
        ({"random_flip": 1}, r"config\.random_flip must be True or False, not 1"),
        ({"dataset": 1}, r"config\.dataset must be text, not 1"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_sentence_with_the_key(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read(TrainConfig, _changed(**changes))


def test_all_missing_keys_are_named():
    with pytest.raises(ConfigError, match=r"config lacks model and batch_size and max_train_steps"):
        read(TrainConfig, {"resolution": [8, 8]})


def test_a_network_names_the_key_of_its_section():
    section = colorizer_config()
    section["decoder"]["cond_lm"] = True
    with pytest.raises(ValueError, match=r"model\.decoder has an unknown key 'cond_lm'; did you mean 'cond_l"):
        networks.build(section)
    del section["decoder"]["cond_lm"], section["encoder"]["ff_size"], section["encoder"]["num_heads"]
    with pytest.raises(ValueError, match=r"model\.encoder lacks ff_size and num_heads"):
        networks.build(section)


def test_a_checkpoint_with_an_unknown_key_names_it(tmp_path):
    checkpoint.save(networks.build(upsampler_config("color_upsampler")), tmp_path / "saved")
    path = tmp_path / "saved" / "config.yaml"
    path.write_text(path.read_text().replace("ff_size", "ff_sise"))
    with pytest.raises(checkpoint.CheckpointError, match="model has an unknown key 'ff_sise'; did you mean 'ff_size'"):
        checkpoint.load(tmp_path / "saved")


def test_the_schema_knows_the_keys_that_networks_read():
    kinds = json.loads((PACKAGE / "config.schema.json").read_text())["properties"]["model"]
    colorizer, upsampler, guide = (set(kind["properties"]) | set(kinds["properties"]) for kind in kinds["oneOf"])
    sections = kinds["oneOf"][0]["properties"]
    expected = (
        (ColorizerConfig, colorizer),
        (UpsamplerConfig, upsampler),
        (GuideConfig, guide),
        (EncoderConfig, set(sections["encoder"]["properties"])),
        (DecoderConfig, set(sections["decoder"]["properties"])),
    )
    for kind, keys in expected:
        assert {one.name for one in dataclasses.fields(kind)} == keys
