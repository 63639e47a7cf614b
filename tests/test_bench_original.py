# SPDX-License-Identifier: Apache-2.0
"""The bench beside the original program, with a stand-in for that: what it is given, and what its answers become."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
from test_bench_programs import _write_configurations
from tf_bundle import numbered

from bench import check, sample_speed, setting
from coltran import cli
from coltran.errors import UserError
from coltran.original.variables import to_tf_layout
from coltran.sampling import sample

CPU = torch.device("cpu")
# What the script in the other environment uses of TensorFlow.
TENSORFLOW = """
import types
import numpy as np

__version__, int32, zeros, constant, keras = "stand-in", np.int32, np.zeros, np.array, None
ignore = lambda threads: None
config = types.SimpleNamespace(threading=types.SimpleNamespace(
    set_intra_op_parallelism_threads=ignore, set_inter_op_parallelism_threads=ignore))
"""
# A network that only looks whether it gets what the test has written down, and then gives what is written there.
NETWORK = """
from pathlib import Path
import numpy as np

FOLDER = Path(__file__).parent


class Answer:
    def __init__(self, value):
        self.numpy = lambda: value


class Variable:
    def __init__(self, name):
        self.name = name

    def assign(self, value):
        self.value = value


class Network:
    def __init__(self, config):
        self.known = np.load(FOLDER / f"{config.name}.npz")
        self.variables = [Variable(n.removeprefix("w ")) for n in self.known.files if n.startswith("w ")]
        assert config.get("no such key", 5) == 5
        if config.name == "coltran_core":
            assert config.decoder.num_inner_layers == 1 and config.get("hidden_size") == 16

    def __call__(self, zero, training, **more):
        print("something that is no answer")

    def sample(self, mode, **given):
        assert mode == "argmax"
        for variable in self.variables:
            np.testing.assert_array_equal(variable.value, self.known["w " + variable.name])
        assert set(given) == {n[2:] for n in self.known.files if n.startswith("i ")}
        for name, value in given.items():
            np.testing.assert_array_equal(value, self.known["i " + name])
        return {n[2:]: Answer(self.known[n]) for n in self.known.files if n.startswith("o ")}


ColTranCore = ColorUpsampler = SpatialUpsampler = Network
"""


@pytest.fixture
def stand_in(tmp_path):
    """(folder of the stand-in, {network: what is written down for it}, options of the bench), all as they should be."""
    config, package = _write_configurations(tmp_path), tmp_path / "other" / "coltran"
    (package / "models").mkdir(parents=True)
    (package.parent / "tensorflow.py").write_text(TENSORFLOW, encoding="utf-8")
    for name in ("colorizer", "upsampler"):
        (package / "models" / f"{name}.py").write_text(NETWORK, encoding="utf-8")
    known = {}
    for stage, model in setting.load_models(config, sample_speed.STAGES).items():
        network, images = setting.build(model, CPU), setting.random_images(1, model, CPU)
        layout = to_tf_layout(network, network.state_dict())
        of_gray, whole = images[..., :1].numpy(), images.numpy()
        if stage == "colorizer":
            drawn = sample(network, images[..., 0], mode="argmax", norm="rowcontext", return_probabilities=True)
            found = {"o auto_argmax": drawn.rgb.numpy(), "o proba": drawn.probabilities.numpy()}
        else:
            up = setting.upsample(setting.DEFAULT, network, images).numpy()
            color = stage == "color_upsampler"
            found = {"o bit_up_argmax": up, "i bit_cond": whole // 32} if color else {"i inputs": whole}
            found |= {} if color else {"o high_res_argmax": up}
        found |= {f"w {numbered(name)}:0": array for name, array in layout.items()} | {"i gray_cond": of_gray}
        known[model["name"]] = found
    options = [f"--original={package.parent}", f"--tensorflow={sys.executable}", f"--config={config}", "--repeats=1"]
    return package, known, [*options, f"--results={tmp_path}", "--device=cpu"]


def _run(stand_in, *more):
    """The record of a run."""
    package, known, options = stand_in
    for name, arrays in known.items():
        np.savez(package / "models" / f"{name}.npz", **arrays)
    assert sample_speed.main([*options, *more]) == 0
    return json.loads((package.parent.parent / "original.jsonl").read_text(encoding="utf-8"))


def test_the_original_gets_the_same_weights_and_image_and_is_timed(stand_in, capsys):
    found = _run(stand_in)["measurements"]
    assert [m["network"] for m in found] == list(sample_speed.STAGES)
    for m in found:
        assert m["compared"]["different"] == 0 and m["original"]["tensorflow"] == "stand-in"
        assert m["ratio"] == pytest.approx(m["original"]["seconds"] / m["seconds"]) and m["original"]["before"] > 0
    assert "The same image by the original program" in capsys.readouterr().out


def _other_label(known, share):
    """Another label for the pixel in row 2, column 3, that is `share` times as probable."""
    colours, probabilities = (known["coltran_core"][name] for name in ("o auto_argmax", "o proba"))
    label = int(probabilities[0, 2, 3].argmax())
    other = (label + 64) % 512
    colours[0, 2, 3, 0] = other // 64 * 32
    probabilities[0, 2, 3, other] = share * probabilities[0, 2, 3, label]


def test_a_tie_that_fell_otherwise_is_told(stand_in, capsys):
    package, known, options = stand_in
    _other_label(known, 1 - 1e-6)
    (found,) = _run((package, known, [*options, "--stages=colorizer"]))["measurements"]
    assert (found["compared"]["different"], found["compared"]["first"]["at"]) == (1, [2, 3])
    assert "first pixel that differs: [2, 3]" in " ".join(capsys.readouterr().out.split())


def test_another_image_is_no_comparison(stand_in):
    _, known, _ = stand_in
    _other_label(known, 0.9)
    with pytest.raises(check.Disagreement, match=r"different images: at \[2, 3\]"):
        _run(stand_in, "--stages=colorizer")
    known["color_upsampler"]["o bit_up_argmax"][0, 0, 0] += 1
    with pytest.raises(check.Disagreement, match="3 of 75 values"):
        _run(stand_in, "--stages=color_upsampler")


def test_another_network_is_one_sentence(stand_in):
    _, known, _ = stand_in
    known["coltran_core"].pop("w col_tran_core_5/auto_logits/bias:0")
    with pytest.raises(UserError, match=r"another network: col_tran_core.0/auto_logits/bias is in one alone"):
        _run(stand_in, "--stages=colorizer")


def test_a_program_that_fails_after_it_began_is_one_sentence(stand_in):
    _, known, _ = stand_in
    known["coltran_core"]["i gray_cond"] = known["coltran_core"]["i gray_cond"] + 1
    with pytest.raises(UserError, match="did not run"):
        _run(stand_in, "--stages=colorizer")


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed here")
def test_a_python_without_tensorflow_is_one_sentence(stand_in):
    (stand_in[0].parent / "tensorflow.py").unlink()
    with pytest.raises(UserError, match="did not run with .*: ModuleNotFoundError: No module named 'tensorflow'"):
        _run(stand_in)


def test_a_python_or_folder_that_is_not_there_is_one_sentence(stand_in, tmp_path):
    with pytest.raises(UserError, match="no Python at /nowhere/python"):
        _run(stand_in, "--tensorflow=/nowhere/python")
    with pytest.raises(UserError, match=r"no coltran/models/colorizer\.py"):
        _run(stand_in, f"--original={tmp_path}")


def test_the_program_ends_with_an_error(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: sample_speed.main([f"--original={tmp_path}", "--device=cpu"]))
    assert ended.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_package_itself_is_found_as_well(stand_in):
    found = _run(stand_in, f"--original={stand_in[0]}", "--stages=colorizer")
    assert found["measurements"][0]["compared"]["different"] == 0


def test_options_that_say_nothing_there_are_refused(stand_in, capsys):
    for option in ("--plot", "--device=cuda", "--implementation=reference"):
        with pytest.raises(SystemExit):
            sample_speed.parse([*stand_in[2], option])
    assert "--original goes with --device cpu" in capsys.readouterr().err
