# SPDX-License-Identifier: Apache-2.0
"""What the programs share: errors that end in one sentence, a progress bar, the `--config` flag with its overrides."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
import runpy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import torch
from absl import flags
from ml_collections import ConfigDict, config_flags
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from coltran.checkpoint import CheckpointError
from coltran.config import options as config_options
from coltran.console import LOG, QUIET, is_quiet, speak, version
from coltran.devices.choose import device, import_xla
from coltran.errors import UsageError, UserError
from coltran.image import PhotoError
from coltran.networks.guide import Guide
from coltran.photo.hints import Hint, HintError, parse_hint
from coltran.sampling.guidance import WEIGHT, check_weight
from coltran_kernels.decode_row.shapes import SMALLEST

N = TypeVar("N", int, float)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Calls `main` and exits with the code that it returns (None is 0).

    Errors that are nobody's bug become one sentence on stderr: `UserError` (exit code 1, or 2 for
    `UsageError`), `PhotoError`, `CheckpointError`, `OSError`, a device out of memory and a reading process that
    was killed (1), Ctrl-C (130). Everything else is a bug and keeps its traceback.
    """
    speak()
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large to be safe is an error
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of tags without sense, by no file's name
    try:
        code = main() or 0
    except UserError as error:
        code = _fail(str(error), error.exit_code)
    except (PhotoError, CheckpointError) as error:
        code = _fail(str(error), 1)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            code = _fail(f"Out of memory, a smaller batch may fit: {str(error).splitlines()[0]}", 1)
        elif str(error).startswith("DataLoader worker"):  # what torch raises wherever the program is just then
            reason = "A process that reads photographs was ended, perhaps as there was too little memory"
            code = _fail(f"{reason}: fewer --workers take less.", 1)
        else:
            raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has no reader
        code = _fail("Nobody reads the output any more.", 1)
    except OSError as error:
        code = _fail(f"{error.filename}: {error.strerror}." if error.filename else f"{error}.", 1)
    except KeyboardInterrupt:
        code = _fail("Interrupted.", 130)
    sys.exit(code)


def _fail(sentence: str, code: int) -> int:
    LOG.error("%s", sentence if sentence.endswith(("?", ".")) else f"{sentence}.")
    return code


def _show_warning(message: Warning | str, *_: object) -> None:
    LOG.warning("%s", message)


def progress_bar(*columns: ProgressColumn) -> Progress:
    """A bar on stderr, where that is a terminal, which goes when the work is done.

    Args:
        columns: what stands to the right of the bar; the share done and the time left where nothing is given.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *(columns or (TaskProgressColumn(), TimeRemainingColumn())),
        console=console,
        transient=True,
        disable=is_quiet() or not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),
    )


def define_machine_flags(values: flags.FlagValues) -> None:
    """Defines the original's device flags; those for TPU clusters are accepted and ignored."""
    flags.DEFINE_enum(
        "accelerator_type", None, ["CPU", "GPU", "TPU"], "where to compute; GPU where there is one", flag_values=values
    )
    flags.DEFINE_string("device", None, "cpu, cuda or xla; in place of --accelerator_type", flag_values=values)
    for name, default in (("master", "local"), ("tpu_worker_name", "tpu_worker"), ("summaries_log_dir", "summaries")):
        flags.DEFINE_string(name, default, "of the original; has no effect", flag_values=values)
    for name in ("devices_per_worker", "num_workers"):
        flags.DEFINE_integer(name, 1, "of the original; 1 is all there is", 1, 1, flag_values=values)
    flags.DEFINE_integer(
        "threads", None, "threads that compute; torch's own choice where not given", 1, flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "decides everything random", 0, 2**64 - 1, flag_values=values)


def machine(values: flags.FlagValues) -> torch.device:
    """The device of `--device` or `--accelerator_type`; sets the threads.

    Raises:
        UsageError: both are given.
        UserError: a device that cannot be used.
    """
    if values.threads:
        torch.set_num_threads(values.threads)
    if values.device and values.accelerator_type:
        raise UsageError("Give one of --device and --accelerator_type.")
    if values.device:
        return device(values.device)
    kind = values.accelerator_type or ("GPU" if torch.cuda.is_available() else "CPU")
    if kind == "TPU":
        return import_xla().device("xla", kind)
    return device({"CPU": "cpu", "GPU": "cuda"}[kind])


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The command line of a program beside the package: its docstring's first line, the options, the rest of it."""
    summary, _, rest = (doc or "").partition("\n")
    form = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=summary, epilog=rest, formatter_class=form)


def at_least(lowest: int) -> Callable[[str], int]:
    """An argparse type: whole numbers from `lowest` on."""
    return number(int, lambda value: value >= lowest, f"a whole number from {lowest}")


def number(convert: Callable[[str], N], holds: Callable[[N], bool], wanted: str) -> Callable[[str], N]:
    """An argparse type: a number for which `holds` is true; `wanted` describes it in the usage error."""

    def parse(text: str) -> N:
        with contextlib.suppress(ValueError):
            value = convert(text)
            if holds(value):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")

    return parse


def add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """`--device` and `--threads`, for `use_machine`."""
    parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda or xla (cpu)")
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="CPU threads (default: torch decides)")


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    """`--seed`, `--top-p` and `--guidance`, for `resolve_guidance`."""
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="of the random numbers (0)")
    parser.add_argument(
        "--top-p", type=number(float, lambda value: SMALLEST <= value <= 1, f"a number from {SMALLEST:g} to 1"),
        default=0.9, metavar="P",
        help="draw from the likeliest colours that together have this probability; 1 takes them all (0.9)",
    )  # fmt: skip
    parser.add_argument(
        "--guidance", type=number(float, lambda value: 0 <= value < math.inf, "a number from 0 on"), metavar="W",
        help=f"how much what is in the picture steers the drawing; 0: not at all ({WEIGHT:g} where there is a guide)",
    )  # fmt: skip


def use_machine(arguments: argparse.Namespace) -> torch.device:
    """Applies `--threads` and returns the device of `--device`.

    Raises:
        UserError: a device that cannot be used.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return device(arguments.device)


def seed(text: str) -> int:
    """An argparse type: a random seed, 0 to 2**64 - 1."""
    if re.fullmatch(r"\d+", text) and int(text) < 2**64:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2**64 - 1")


def hint(text: str) -> Hint:
    """An argparse type: `X,Y,#RRGGBB[,R]`."""
    try:
        return parse_hint(text)
    except HintError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_flags(argv: list[str], usage: str, define: Callable[[flags.FlagValues], None]) -> flags.FlagValues:
    """Reads `--config=FILE`, overrides of it such as `--config.batch_size=4`, and a program's own flags.

    FILE is a Python file with a `get_config()`; one that does not exist relative to the working directory is
    looked for beside the package and in it, so that `--config=coltran/configs/colorizer.py` and
    `--config=configs/colorizer.py` work from anywhere.

    Args:
        argv: the command line without the program's name.
        usage: what `--help` prints above the flags.
        define: defines the program's flags on the values given to it.

    Returns:
        The values: `.config`, a ConfigDict, and one attribute a flag.

    Raises:
        UsageError: an unknown flag or configuration key, a value of the wrong type, a missing or broken FILE.
    """
    values = flags.FlagValues()
    define(values)
    flags.DEFINE_boolean("quiet", False, QUIET, flag_values=values)
    if {"--version", "-version"} & set(argv):
        print(version())
        raise SystemExit(0)
    if {"-h", "--help", "-help"} & set(argv):
        print(usage.strip(), "\n\nFlags:")
        print("  --config: a configuration file; --config.KEY=VALUE changes a value in it")
        print("  --version: say which version this is")
        for name in sorted(set(values) - {"flagfile", "undefok"}):  # absl's own, of no use here
            default = values[name].default
            print(f"  --{name}: {values[name].help}" + ("" if default is None else f" (default: {default})"))
        raise SystemExit(0)
    path, argv = _take_config(argv)
    if any(re.match(r"--?config\.[\w.]+\[", argument) for argument in argv):
        raise UsageError("Give a list whole, as in --config.resolution=[128,128].")
    config = load_config(path)
    _make_lists(tuple, config)  # ml_collections has flags for tuples alone
    with config.unlocked():
        given = {key for argument in argv for key in re.findall(r"^--?config\.(\w+)", argument)}
        missing = {key: default for key, default in config_options().items() if key in given and key not in config}
        config.update(ConfigDict(missing))
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["", *argv])
    except (AttributeError, KeyError) as error:
        unknown, *near = re.findall(r"(?:^|Did you mean \")\W*(\w+)", str(error))
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise UsageError(f"{path} has no key {unknown!r}{hint}") from error
    except flags.Error as error:
        raise UsageError(str(error).splitlines()[0]) from error
    try:
        rest = values(["", *argv])[1:]
    except flags.Error as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{reason[:1].upper()}{reason[1:]} (see --help).") from error
    if rest:
        raise UsageError(f"Cannot make sense of {' '.join(rest)!r} (see --help).")
    speak(quiet=values.quiet)
    _make_lists(list, values.config)
    return values


def _make_lists(kind: type, config: ConfigDict) -> None:
    """Makes the lists and tuples of a configuration, at any depth, of one kind."""
    for key, value in list(config.items()):
        if isinstance(value, ConfigDict):
            _make_lists(kind, value)
        elif isinstance(value, (list, tuple)):
            with config.unlocked():
                del config[key]  # what is assigned to a field takes the type that it has
                config[key] = kind(value)


def _take_config(argv: list[str]) -> tuple[Path, list[str]]:
    """Splits the command line into the configuration's path and the rest."""
    for i, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            rest = argv[:i] + argv[i + 1 :] if equals else argv[:i] + argv[i + 2 :]
            given = value if equals else "".join(argv[i + 1 : i + 2])
            if not given:
                break
            return find_config(given), rest
    raise UsageError("Name a configuration with --config=FILE, such as --config=coltran/configs/colorizer.py.")


def find_config(name: str) -> Path:
    """The configuration file of that name: in the working directory, else beside or in the package."""
    package = Path(__file__).resolve().parent
    beside = [folder / name for folder in (package.parent, package) if (folder / name).exists()]
    return Path(name) if Path(name).exists() or not beside else beside[0]


def load_config(path: Path) -> ConfigDict:
    """Runs a configuration file and calls its `get_config()`.

    Raises:
        UsageError: there is no such file, it fails, or it gives no ConfigDict.
    """
    if not path.is_file():
        raise UsageError(f"There is no configuration file {path}.")
    try:
        config = runpy.run_path(str(path)).get("get_config", lambda: None)()
    except Exception as error:  # the file is the user's program: whatever it raises is about that file
        raise UsageError(f"{path} cannot be read as a configuration: {error}.") from error
    if not isinstance(config, ConfigDict):
        raise UsageError(f"{path} has no get_config() that returns a ConfigDict.")
    return config


def resolve_guidance(arguments: argparse.Namespace, guide: Guide | None) -> None:
    """Sets `arguments.guidance` to the weight that is meant: see `coltran.sampling.guidance.check_weight`.

    Raises:
        UserError: there is no guide for it, for `--mode expected` or for `--order guide`.
    """
    try:
        arguments.guidance = check_weight(arguments.guidance, guide)
    except ValueError as error:
        raise UserError(f"--guidance={arguments.guidance:g}: {error}.") from error
    if arguments.mode == "expected" and guide is None:
        raise UserError("--mode expected needs a guide, and the checkpoint has none.")
    if getattr(arguments, "order", None) == "guide" and guide is None:
        raise UserError("--order guide needs a guide, and the checkpoint has none.")
