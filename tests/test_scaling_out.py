# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/scaling-out.md are understood. What they do is tested in test_processes.py and tests/ray."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from torch.distributed.run import parse_args

from coltran import cli, colorize, evaluate, train

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "scaling-out.md"
TEXT = DOCUMENT.read_text(encoding="utf-8").replace("\\\n", "")
COMMANDS = re.findall(r"^    (?:PJRT_DEVICE=TPU )?((?:torchrun|python) .*)$", TEXT, re.MULTILINE)


def test_the_commands_are_found() -> None:
    assert len(COMMANDS) == 9


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(command)
    if program == "torchrun":
        options = parse_args(arguments)
        assert options.module
        module, arguments = options.training_script, options.training_script_args
    else:
        module, arguments = arguments[1], arguments[2:]
    if module == "coltran.train":
        assert cli.parse_flags(arguments, "", train.define_flags).data_dir[0].endswith("photos")
    elif module == "coltran.colorize":
        assert colorize.parse_arguments(arguments).ray in ("local", "auto")
    else:
        given: dict[str, object] = {}
        monkeypatch.setattr(evaluate, "evaluate_checkpoint", lambda *_, **options: given.update(options) or {})
        monkeypatch.setattr(evaluate, "_measure_colorings", lambda options: given.update(vars(options)))
        monkeypatch.setattr(evaluate, "show", lambda *_: None)
        monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
        evaluate.main()
        assert given["device"] == "cuda"
