# SPDX-License-Identifier: Apache-2.0
"""The architecture: who may import whom, what importing costs, what every file has to have."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import coltran
import coltran_kernels
from coltran import networks

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"coltran_kernels": "kernels/coltran_kernels", "coltran": "coltran", "bench": "bench", "tests": "tests"}

# Layers, from the bottom. A module is in the layer of the longest name here that is a prefix of its own, and
# imports from its own layer and from those below.
KERNELS, FOUNDATIONS, NETWORKS, USES, TRAINING, PROGRAMS, TOP = range(7)
LAYERS = {
    "coltran_kernels": KERNELS,
    **{
        f"coltran.{name}": FOUNDATIONS
        for name in ("config", "configs", "console", "devices", "errors", "files", "image", "photo", "test_configs")
    },
    "coltran.networks": NETWORKS,
    **{f"coltran.{name}": USES for name in ("checkpoint", "original", "sampling")},
    "coltran.training": TRAINING,
    **{f"coltran.{name}": PROGRAMS for name in ("metrics", "film", "page")},
    "coltran": PROGRAMS,
    "bench": TOP,
    "tests": TOP + 1,
}


def source_files(*packages: str, suffixes: tuple[str, ...] = (".py",)) -> list[Path]:
    folders = [ROOT / PACKAGES[package] for package in packages]
    return sorted(file for folder in folders for file in folder.rglob("*") if file.suffix in suffixes)


def module_name(file: Path) -> str:
    """`kernels/coltran_kernels/linear/__init__.py` -> `coltran_kernels.linear`."""
    parts = file.relative_to(ROOT / "kernels" if file.is_relative_to(ROOT / "kernels") else ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported_names(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Every name that a module imports, anywhere in it, as an absolute dotted name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - is_package
            start = module.split(".")[: -up or None] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def layer(name: str) -> int | None:
    """The layer of a dotted name; None for names of other projects."""
    parts = name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((LAYERS[prefix] for prefix in prefixes if prefix in LAYERS), None)


@functools.cache
def imports_of(file: Path) -> list[str]:
    return list(imported_names(file.read_text(encoding="utf-8"), module_name(file), file.name == "__init__.py"))


def test_every_package_has_its_layer_and_says_what_belongs_there() -> None:
    packages = sorted((ROOT / "coltran").glob("*/__init__.py"))
    assert {f"coltran.{file.parent.name}" for file in packages} <= LAYERS.keys()
    assert not [file for file in packages if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))]


def test_nothing_imports_upwards() -> None:
    upwards = [
        f"{module_name(file)} imports {name}"
        for file in source_files(*PACKAGES)
        for name in imports_of(file)
        if (above := layer(name)) is not None and above > (layer(module_name(file)) or KERNELS)
    ]
    assert not upwards


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Every module of a package runs after the package's __init__ began, so `coltran` itself is no import of theirs."""
    modules = {module_name(file): imports_of(file) for file in source_files(*PACKAGES)}
    graph = {m: {n if n in modules else n.rpartition(".")[0] for n in names} for m, names in modules.items()}
    graphlib.TopologicalSorter({m: names & modules.keys() for m, names in graph.items()}).prepare()


def test_bench_says_which_question_each_of_its_files_answers() -> None:
    text = (ROOT / "bench" / "__init__.py").read_text(encoding="utf-8")
    first_column = re.findall(r"^(\w[\w, ]*?) {2,}\S.*[.?]", text, re.MULTILINE)
    named = {name for names in first_column for name in names.split(", ")}
    assert named == {file.stem for file in source_files("bench")} - {"__init__"}


@pytest.mark.parametrize(
    ("compiler", "modules"), [("torch_xla", {"xla", "xla_device"}), ("triton", {"triton", "triton_common"})]
)
def test_only_the_modules_named_so_import_a_compiler(compiler: str, modules: set[str]) -> None:
    files = [
        file
        for file in source_files("coltran_kernels", "coltran")
        if compiler in {name.split(".")[0] for name in imports_of(file)}
    ]
    assert {file.stem for file in files} == modules
    assert compiler != "torch_xla" or len(files) == 2


def test_the_reference_calls_no_optimised_implementation() -> None:
    specifications = sorted((ROOT / PACKAGES["coltran_kernels"]).rglob("reference.py"))
    names = {name for file in specifications for name in imports_of(file) if name.startswith(("coltran", "triton"))}
    allowed = ("reference.", "types.")
    assert len(specifications) == 6
    assert not [name for name in names if not any(part in name for part in allowed)]


IMPORTS = """
import importlib, json, logging, sys
import coltran, coltran_kernels
found = {"compilers": sorted({"triton", "torch_xla"} & set(sys.modules))}
found["handlers"] = len(logging.getLogger("coltran").handlers)
unix, extras, modules = json.loads(sys.argv[1])
for name in [name for name in sys.modules if name.split(".")[0] in ("coltran", "coltran_kernels")]:
    del sys.modules[name]
sys.modules.update(dict.fromkeys(unix + extras))
lacking = {}
for name in modules:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        lacking[name] = str(error.name).split(".")[0]
print(json.dumps(found | {"lacking": lacking}))
"""
UNIX = ["fcntl", "grp", "pwd", "readline", "resource", "termios", "triton"]  # for Windows triton has no wheel
EXTRAS = ["av", "pyarrow", "ray", "starlette", "uvicorn"]


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    """What a process finds that imports the packages, and then each module of `coltran` without UNIX and EXTRAS."""
    files = [file for file in source_files("coltran") if file.stem != "xla"]
    names = [UNIX, EXTRAS, [module_name(file) for file in files]]
    command = [sys.executable, "-c", IMPORTS, json.dumps(names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_the_packages_imports_no_compiler(imported: dict[str, Any]) -> None:
    assert imported["compilers"] == []


def test_a_library_says_nothing_by_itself(imported: dict[str, Any]) -> None:
    assert imported["handlers"] == 0


def test_nothing_that_only_unix_has_is_imported(imported: dict[str, Any]) -> None:
    """A dry run of what Windows lacks."""
    assert not {name: lack for name, lack in imported["lacking"].items() if lack not in EXTRAS}


def test_the_program_for_films_is_there_without_pyav(imported: dict[str, Any]) -> None:
    assert "coltran.film.__main__" not in imported["lacking"]


def test_the_packages_in_use_are_those_of_this_checkout() -> None:
    folders = [Path(path) for package in (coltran, coltran_kernels) for path in package.__path__]
    assert folders == [ROOT / "coltran", ROOT / "kernels" / "coltran_kernels"]


def build_on_paper(folder: str, name: str) -> torch.nn.Module:
    """The network of a configuration, without memory for its weights."""
    config = importlib.import_module(f"coltran.{folder}.{name}").get_config()
    with torch.device("meta"):
        return networks.build(networks.model_config(config))


CONFIGS = [
    (folder, file.stem)
    for folder in ("configs", "test_configs")
    for file in sorted((ROOT / "coltran" / folder).glob("*.py"))
    if file.stem != "__init__"
]


@pytest.mark.parametrize(("folder", "name"), CONFIGS)
def test_every_configuration_builds_its_network(folder: str, name: str) -> None:
    kind = type(build_on_paper(folder, name)).__name__
    assert name.replace("_", "").endswith(kind.lower())


@pytest.mark.parametrize(
    ("name", "millions"), [("colorizer", 46.3), ("color_upsampler", 13.5), ("spatial_upsampler", 10.9)]
)
def test_the_networks_have_as_many_weights_as_the_papers(name: str, millions: float) -> None:
    weights = sum(weight.numel() for weight in build_on_paper("configs", name).parameters())
    assert round(weights / 1e6, 1) == millions


def test_no_file_is_longer_than_400_lines_but_one_with_kernels_and_their_launcher() -> None:
    lengths = {
        file: len(file.read_text(encoding="utf-8").splitlines())
        for file in source_files("coltran_kernels", "coltran", "bench", suffixes=(".py", ".cpp", ".h"))
    }
    assert not {file: length for file, length in lengths.items() if length > (700 if file.stem == "triton" else 400)}


def test_every_source_file_names_its_licence_first() -> None:
    files = [ROOT / "setup.py", *source_files(*PACKAGES, suffixes=(".py", ".cpp", ".h"))]
    without = [
        str(file.relative_to(ROOT))
        for file in files
        if "SPDX-License-Identifier: Apache-2.0" not in file.read_text(encoding="utf-8").split("\n", 1)[0]
    ]
    assert not without
