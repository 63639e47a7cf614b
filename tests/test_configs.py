# SPDX-License-Identifier: Apache-2.0
"""The six configurations hold the original's keys and values, all of them and no others."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from ml_collections import config_flags

from coltran import networks
from coltran.training.net2net import halve_widths

ROOT = Path(__file__).resolve().parent.parent

EXPECTED = json.loads((ROOT / "tests" / "fixtures" / "configs.json").read_text(encoding="utf-8"))


def get_config(name: str) -> Any:
    return importlib.import_module(f"coltran.{name.replace('/', '.')}").get_config()


@pytest.mark.parametrize("name", EXPECTED)
def test_keys_values_and_types_are_the_originals_each_time(name: str) -> None:
    """An override takes the type of the value that it replaces, so 1 and True are not the same here."""
    for _ in range(2):
        config = get_config(name)
        found = config.to_dict()
        assert found == EXPECTED[name]
        assert json.dumps(found, sort_keys=True) == json.dumps(EXPECTED[name], sort_keys=True)
        config.model.hidden_size = config.model.resolution[0] = 8  # which leaves the next one alone


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections' own
@pytest.mark.parametrize("name", EXPECTED)
def test_a_flag_reads_the_file_and_overrides_a_nested_key(name: str) -> None:
    values = flags.FlagValues()
    line = ["program", f"--config={ROOT / 'coltran' / name}.py", "--config.optimizer.learning_rate=0.001"]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=line)
    values(line)
    expected = EXPECTED[name] | {"optimizer": EXPECTED[name]["optimizer"] | {"learning_rate": 0.001}}
    assert values["config"].value.to_dict() == expected


@pytest.mark.parametrize("name", ["colorizer", "spatial_upsampler"])
def test_a_narrow_network_is_half_as_wide_as_the_small_one(name: str) -> None:
    narrow, small = (get_config(f"configs/{size}_{name}").to_dict()["model"] for size in ("narrow", "small"))
    assert narrow == halve_widths(small)


@pytest.mark.parametrize("name", ["colorizer", "color_upsampler", "spatial_upsampler"])
def test_a_medium_network_has_at_most_four_million_weights(name: str) -> None:
    network = networks.build(networks.model_config(get_config(f"configs/medium_{name}")))
    assert 0.5e6 < sum(p.numel() for p in network.parameters()) < 4e6
