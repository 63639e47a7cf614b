# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's files say of themselves, so that others can read them; older files are read as before."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from coltran import checkpoint
from coltran.checkpoint import CheckpointError
from coltran.config import as_dict
from coltran.loading import PRETRAINED
from coltran.pipeline import NETWORKS
from tests.tiny import random_guide, tiny_networks
from tests.tiny_training import whole_config

PACKAGE = Path(checkpoint.__file__).parent
CONFIGS = [path for path in PACKAGE.glob("*configs/*.py") if path.stem != "__init__"]


@pytest.fixture
def saved(tmp_path) -> Path:
    network = tiny_networks()[0]
    state = ({"weights/x": torch.zeros(1)}, {"step": 7})
    checkpoint.save(network, tmp_path / "saved", config=whole_config(), training=state)
    return tmp_path / "saved"


def _rewrite(path: Path, **changes: object) -> None:
    values = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))


def _valid(config: dict) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((PACKAGE / "config.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(config, schema)


def test_a_configuration_names_its_format_first(saved):
    lines = (saved / "config.yaml").read_text().splitlines()
    assert lines[:2] == ["format: coltran", "format_version: 1"]


def test_a_reader_gets_the_configuration_alone(saved):
    assert checkpoint.load_config(saved) == as_dict(whole_config()) | {"model": checkpoint.load(saved).config}


def test_a_configuration_without_a_version_is_read(saved):
    before = checkpoint.load_config(saved)
    _rewrite(saved / "config.yaml", format=None, format_version=None)
    assert checkpoint.load_config(saved) == before


def test_a_json_configuration_is_read(saved):
    """JSON is YAML, so whoever has no YAML at hand may write JSON."""
    before = checkpoint.load_config(saved)
    (saved / "config.yaml").write_text(json.dumps(yaml.safe_load((saved / "config.yaml").read_text())))
    assert checkpoint.load_config(saved) == before


def test_a_version_to_come_is_refused(saved):
    _rewrite(saved / "config.yaml", format_version=2)
    with pytest.raises(CheckpointError, match="reads versions up to 1"):
        checkpoint.load(saved)


@pytest.mark.parametrize("changes", [{"format": "other"}, {"format_version": "one"}])
def test_another_format_is_refused(saved, changes):
    _rewrite(saved / "config.yaml", **changes)
    with pytest.raises(CheckpointError, match="none of coltran's"):
        checkpoint.load(saved)


@pytest.mark.parametrize("index", range(6))
def test_every_network_saved_fits_the_schema(tmp_path, index):
    checkpoint.save([*tiny_networks(), random_guide()][index], tmp_path / "saved")
    _valid(yaml.safe_load((tmp_path / "saved" / "config.yaml").read_text()))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_every_configuration_fits_the_schema(path):
    module = importlib.import_module(f"coltran.{path.parent.name}.{path.stem}")
    _valid(as_dict(module.get_config()))


@pytest.mark.parametrize("name", [name for name in NETWORKS if (PRETRAINED / name).is_dir()])
def test_the_weights_in_the_package_fit_the_schema(name):
    _valid(yaml.safe_load((PRETRAINED / name / "config.yaml").read_text()))


@pytest.mark.parametrize(
    "change", [{"name": "other"}, {"hidden_size": 0}, {"encoder": None}, {"resolution": [64]}], ids=str
)
def test_the_schema_refuses_what_builds_no_network(saved, change):
    jsonschema = pytest.importorskip("jsonschema")
    config = yaml.safe_load((saved / "config.yaml").read_text())
    config["model"] |= change
    with pytest.raises(jsonschema.ValidationError):
        _valid(config)


@pytest.mark.parametrize(
    ("file", "content"), [("model", "weights"), ("training", "weights in training and optimizer state")]
)
def test_tensors_say_what_they_are(saved, file, content):
    with safe_open(saved / f"{file}.safetensors", "pt") as tensors:
        about = tensors.metadata()
    assert about.keys() == {"coltran"}
    assert json.loads(about["coltran"]) == {"format_version": 1, "network": "coltran_core", "content": content}


def test_the_same_checkpoint_is_the_same_bytes(saved, tmp_path):
    """Eight times, as what depends on the order of a hash table may come out the same once."""
    network = checkpoint.load(saved)
    for number in range(8):
        checkpoint.save(network, tmp_path / str(number), config=whole_config())
    assert len({(tmp_path / str(number) / "model.safetensors").read_bytes() for number in range(8)}) == 1
