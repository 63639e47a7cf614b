# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from absl import flags

from coltran import checkpoint, cli, evaluate, networks, train
from coltran import config as configuration
from coltran.checkpoint import CheckpointError
from coltran.devices import choose
from coltran.devices.choose import train_device
from coltran.errors import UsageError, UserError
from coltran.image import PhotoError
from coltran.training.data import train_batches
from tests.tiny import upsampler_config
from tests.tiny_training import whole_config, write_photos

CONFIG = "--config=coltran/test_configs/colorizer.py"


@pytest.fixture(autouse=True)
def _warnings_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


def _raise(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


def _exit_code(main: Callable[[], int | None]) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.run(main)
    return int(exit_.value.code or 0)


def _parse(*argv: str) -> flags.FlagValues:
    def define(values: flags.FlagValues) -> None:
        flags.DEFINE_integer("steps", 5, "how many steps", flag_values=values)

    return cli.parse_flags(list(argv), "What it does.", define)


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3), (130, 130)])
def test_the_exit_code_is_what_the_program_returns(returned, code):
    assert _exit_code(lambda: returned) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("What went wrong."), 1),
        (UsageError("What went wrong"), 2),
        (PhotoError("What went wrong."), 1),
        (CheckpointError("What went wrong."), 1),
        (OSError("What went wrong"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_users_error_is_one_sentence(capsys, error, code):
    assert _exit_code(_raise(error)) == code
    assert capsys.readouterr().err == "What went wrong.\n"


def test_an_error_of_the_system_names_the_file(capsys, tmp_path):
    _exit_code(lambda: (tmp_path / "absent").open())
    assert capsys.readouterr().err == f"{tmp_path / 'absent'}: No such file or directory.\n"


def test_a_device_out_of_memory_is_one_sentence(capsys):
    assert _exit_code(_raise(torch.OutOfMemoryError("no room\nmany\nmore\nlines"))) == 1
    assert capsys.readouterr().err == "Out of memory, a smaller batch may fit: no room.\n"


def test_a_reading_process_that_is_killed_is_one_sentence(capsys, tmp_path):
    def read() -> None:
        batches = train_batches(whole_config(), write_photos(tmp_path / "photos"), "coltran_core", workers=1)
        next(batches)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(60)  # as a step would; torch's handler of SIGCHLD raises in here

    assert _exit_code(read) == 1
    assert "was ended, perhaps as there was too little memory: fewer --workers take less." in capsys.readouterr().err


def test_ctrl_c_is_130(capsys):
    assert _exit_code(_raise(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


@pytest.mark.parametrize("error", [ValueError, KeyError, RuntimeError, AssertionError])
def test_a_bug_is_not_hidden(error):
    with pytest.raises(error):
        cli.run(_raise(error("a bug")))


def test_a_warning_is_one_line(capsys):
    _exit_code(lambda: warnings.warn("Look out.", stacklevel=1))
    assert capsys.readouterr().err == "Look out.\n"


@pytest.mark.parametrize("which", [train, evaluate])
def test_a_device_that_is_not_there_or_lacks_its_package_is_one_sentence(monkeypatch, capsys, tmp_path, program, which):
    with pytest.raises(UserError, match="'warp'"):
        cli.device("warp")
    checkpoint.save(networks.build(upsampler_config("color_upsampler")), tmp_path / "saved")
    flags = {
        train: [CONFIG, f"--logdir={tmp_path / 'log'}", f"--data_dir={tmp_path}"],
        evaluate: ["--checkpoint", tmp_path / "saved", "--data_dir", tmp_path],
    }
    monkeypatch.delitem(sys.modules, "coltran.devices.xla", raising=False)
    monkeypatch.delattr("coltran.devices.xla", raising=False)
    monkeypatch.setitem(sys.modules, "torch_xla", None)  # as if it were not installed
    assert program(which.main, *flags[which], "--device=xla") == 1
    assert capsys.readouterr().err == "The device xla needs the package torch_xla: pip install coltran[xla].\n"


def test_bfloat16_is_refused_where_the_processor_has_no_units_for_it(monkeypatch):
    monkeypatch.setattr(choose, "_has_bfloat16", lambda device: False)
    with pytest.raises(UserError, match="needs a processor that multiplies bfloat16; cpu here does not"):
        train_device(torch.device("cpu"), "bfloat16")


def test_slow_bfloat16_is_warned_of(monkeypatch):
    monkeypatch.setattr(choose, "_has_bfloat16", lambda device: True)
    monkeypatch.setattr(
        choose, "_product_seconds", lambda device, dtype: {torch.float32: 1.0, torch.bfloat16: 2.5}[dtype]
    )
    with pytest.warns(UserWarning, match="take 2.5 times as long"):
        assert train_device(torch.device("cpu"), "bfloat16").bfloat16


def test_a_device_is_named_once():
    values = flags.FlagValues()
    cli.define_machine_flags(values)
    values(["", "--device=cpu", "--accelerator_type=GPU"])
    with pytest.raises(UsageError, match="one of --device and --accelerator_type"):
        cli.machine(values)


@pytest.mark.parametrize(
    "words",
    [[CONFIG], CONFIG.split("="), ["--config=test_configs/colorizer.py"]],
    ids=["=", "two words", "short"],
)
def test_the_projects_configurations_are_found_from_anywhere(monkeypatch, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    assert _parse(*words).config.model.name == "coltran_core"


def test_a_file_in_the_working_directory_comes_first(monkeypatch, tmp_path):
    path = tmp_path / "coltran" / "test_configs" / "colorizer.py"
    path.parent.mkdir(parents=True)
    path.write_text("import ml_collections\ndef get_config(): return ml_collections.ConfigDict({'mine': 1})\n")
    monkeypatch.chdir(tmp_path)
    assert _parse(CONFIG).config.mine == 1


def test_values_and_lists_are_overridden_and_a_programs_own_flags_read():
    values = _parse(CONFIG, "--config.batch_size=4", "--config.optimizer.learning_rate=1e-3", "--steps=7")
    assert (values.config.batch_size, values.config.optimizer.learning_rate) == (4, 1e-3)
    assert (_parse(CONFIG).steps, values.steps) == (5, 7)
    for text in ("[32,16]", "(32, 16)", "32,16"):
        config = _parse(CONFIG, f"--config.model.resolution={text}").config
        assert config.model.resolution == [32, 16] and config.resolution == values.config.resolution


@pytest.mark.parametrize("name", ["random_flip", "random_resized_crop", "jpeg_draft", "memory_map", "valid_examples"])
def test_options_can_be_given_though_the_file_names_none(name):
    assert name not in _parse(CONFIG).config
    value = type(configuration.options()[name])(1)
    assert _parse(CONFIG, f"--config.{name}={value}").config[name] == value


def test_a_section_that_the_file_lacks_can_be_given():
    small = "--config=coltran/configs/small_colorizer.py"
    assert "sample" not in _parse(small).config
    sample = _parse(small, "--config.sample.num_outputs=3").config.sample
    assert (sample.num_outputs, sample.num_samples, sample.mode) == (3, 1, "sample")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], r"--config=FILE"),
        (["--config=absent.py"], r"no configuration file absent\.py"),
        (["--config"], r"--config=FILE"),
        ([CONFIG, "--config.batch_sizes=4"], r"no key 'batch_sizes'; did you mean 'batch_size'\?"),
        ([CONFIG, "--config.optimizer.momentun=4"], r"no key 'momentun'"),
        ([CONFIG, "--config.modle.hidden_size=4"], r"no key 'modle'"),
        ([CONFIG, "--config.batch_size=few"], r"batch_size=few"),
        ([CONFIG, "--config.resolution[0]=32"], r"Give a list whole"),
        ([CONFIG, "--step=4"], r"'step'"),
        ([CONFIG, "--steps=few"], r"--steps=few"),
        ([CONFIG, "stray"], r"'stray'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_line_that_makes_no_sense_is_one_sentence(argv, message):
    with pytest.raises(UsageError, match=message) as error:
        _parse(*argv)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["x = (", "raise ValueError('no')", "def get_config(): return 3", "x = 3"])
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UsageError, match="broken"):
        _parse(f"--config={path}")


def test_help_teaches_the_flags(capsys):
    with pytest.raises(SystemExit) as exit_:
        _parse("--help")
    out = capsys.readouterr().out
    assert exit_.value.code == 0
    assert all(text in out for text in ("What it does.", "how many steps", "--config:", "--version:"))


def test_whole_numbers_from_a_lowest_one_on():
    assert cli.at_least(1)("3") == 3
    with pytest.raises(argparse.ArgumentTypeError, match="'0' is not a whole number from 1"):
        cli.at_least(1)("0")
