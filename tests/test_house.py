# SPDX-License-Identifier: Apache-2.0
"""The rules of the house: who may import whom, what importing costs, what every file has to have."""

from __future__ import annotations

import ast
import functools
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from coltran import networks

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"coltran_kernels": "kernels", "coltran": "coltran", "bench": "bench", "tests": "tests"}

# Storeys, from the ground. A module stands on the storey of the longest name here that is a prefix of its
# own, and imports from its own storey and from those below.
KERNELS, FOUNDATIONS, NETWORKS, USES, TRAINING, PROGRAMS, ROOF = range(7)
STOREYS = {
    "coltran_kernels": KERNELS,
    "coltran._checkout": FOUNDATIONS,
    "coltran.configs": FOUNDATIONS,
    "coltran.console": FOUNDATIONS,
    "coltran.devices": FOUNDATIONS,
    "coltran.errors": FOUNDATIONS,
    "coltran.files": FOUNDATIONS,
    "coltran.image": FOUNDATIONS,
    "coltran.test_configs": FOUNDATIONS,
    "coltran.networks": NETWORKS,
    "coltran.photo": FOUNDATIONS,
    "coltran.checkpoint": USES,
    "coltran.original": USES,
    "coltran.sampling": USES,
    "coltran.training": TRAINING,
    "coltran.metrics": PROGRAMS,
    "coltran.page": PROGRAMS,
    "coltran": PROGRAMS,
    "bench": ROOF,
    "tests": ROOF,
}


def source_files(*packages: str, suffixes: tuple[str, ...] = (".py",)) -> list[Path]:
    folders = [ROOT / PACKAGES[package] for package in packages]
    return sorted(file for folder in folders for file in folder.rglob("*") if file.suffix in suffixes)


def module_name(file: Path) -> str:
    """`kernels/triton/__init__.py` -> `coltran_kernels.triton`."""
    folder, *rest = file.relative_to(ROOT).with_suffix("").parts
    package = next(name for name, place in PACKAGES.items() if place == folder)
    return ".".join(part for part in (package, *rest) if part != "__init__")


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


def storey(name: str) -> int | None:
    """The storey of a dotted name; None for names of other projects."""
    parts = name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((STOREYS[prefix] for prefix in prefixes if prefix in STOREYS), None)


@functools.cache
def imports_of(file: Path) -> list[str]:
    return list(imported_names(file.read_text(encoding="utf-8"), module_name(file), file.name == "__init__.py"))


def run_python(*options: str, code: str) -> None:
    """Runs code in a fresh interpreter at the root of the checkout; its complaint becomes the test's."""
    command = [sys.executable, *options, "-c", code]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("import a.b as c", "a.b"),
        ("from a.b import c", "a.b.c"),
        ("from . import c", "p.q.c"),
        ("from .b import c", "p.q.b.c"),
        ("from .. import c", "p.c"),
        ("def f():\n    from a import b", "a.b"),
    ],
)
def test_imports_are_read_as_absolute_names(line: str, name: str) -> None:
    assert list(imported_names(line, "p.q.module", is_package=False)) == [name]


def test_a_package_imports_relative_to_itself() -> None:
    assert list(imported_names("from .b import c", "p.q", is_package=True)) == ["p.q.b.c"]


def test_every_package_has_its_storey() -> None:
    packages = {f"coltran.{file.parent.name}" for file in (ROOT / "coltran").glob("*/__init__.py")}
    assert packages <= STOREYS.keys()


def test_nothing_imports_upwards() -> None:
    upwards = [
        f"{module_name(file)} imports {name}"
        for file in source_files(*PACKAGES)
        for name in imports_of(file)
        if (above := storey(name)) is not None and above > (storey(module_name(file)) or KERNELS)
    ]
    assert not upwards


def import_graph(files: Iterable[Path]) -> dict[str, set[str]]:
    """{module: the modules that it imports, anywhere in it}; a name counts for the module that holds it."""
    modules = {module_name(file): imports_of(file) for file in files}

    def holder(name: str) -> str | None:
        return next((found for found in (name, name.rpartition(".")[0]) if found in modules), None)

    # Every module of a package runs after the package's __init__ began, so `coltran` itself is no import of theirs.
    return {m: {h for name in names if (h := holder(name)) is not None} for m, names in modules.items()}


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next and the last the first; empty where there are none."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return way[way.index(module) :]
        if module in done:
            return []
        for name in sorted(graph[module]):
            if found := visit(name, [*way, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := visit(module, []))), [])


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert find_circle(import_graph(source_files(*PACKAGES))) == []


@pytest.mark.parametrize(
    ("graph", "circle"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"a"}}, ["a"]),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c"]),
    ],
)
def test_a_circle_is_found(graph: dict[str, set[str]], circle: list[str]) -> None:
    assert find_circle(graph) == circle


def test_every_package_says_what_belongs_there() -> None:
    packages = sorted((ROOT / "coltran").glob("*/__init__.py"))
    assert not [file for file in packages if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))]


def test_bench_says_which_question_each_of_its_files_answers() -> None:
    text = (ROOT / "bench" / "__init__.py").read_text(encoding="utf-8")
    first_column = re.findall(r"^(\w[\w, ]*?) {2,}\S.*[.?]", text, re.MULTILINE)
    named = {name for names in first_column for name in names.split(", ")}
    assert named == {file.stem for file in source_files("bench")} - {"__init__"}


def test_one_file_of_each_package_imports_torch_xla() -> None:
    importing = {
        module_name(file)
        for file in source_files("coltran_kernels", "coltran")
        for name in imports_of(file)
        if name.split(".")[0] == "torch_xla"
    }
    assert importing == {"coltran.devices.xla", "coltran_kernels.xla.device"}


def test_bench_does_not_import_the_tests() -> None:
    inward = [
        f"{module_name(file)} imports {name}"
        for file in source_files("bench")
        for name in imports_of(file)
        if name.split(".")[0] == "tests"
    ]
    assert not inward


def test_the_reference_calls_no_optimised_implementation() -> None:
    names = imports_of(ROOT / "kernels" / "reference.py")
    faster = ("triton", *(f"coltran_kernels.{name}" for name in ("triton", "cpu", "xla", "ops")))
    assert not [name for name in names if name.startswith(faster)]


def test_importing_the_packages_imports_no_compiler() -> None:
    run_python(
        code="import sys; from coltran._checkout import find_kernels; find_kernels(); import coltran, coltran_kernels;"
        "assert not {'triton', 'torch_xla'} & set(sys.modules), 'a compiler was imported'"
    )


def test_a_bare_checkout_finds_its_kernels() -> None:
    # -S leaves the installed packages out, this one among them; the finder itself needs none of them.
    run_python(
        "-S",
        code="import runpy, importlib.util, pathlib;"
        "runpy.run_path('coltran/_checkout.py')['find_kernels']();"
        "spec = importlib.util.find_spec('coltran_kernels');"
        "assert pathlib.Path(spec.origin) == pathlib.Path('kernels/__init__.py').resolve()",
    )


def test_the_packages_in_use_are_those_of_this_checkout() -> None:
    import coltran
    import coltran_kernels

    folders = [Path(path) for package in (coltran, coltran_kernels) for path in package.__path__]
    assert folders == [ROOT / "coltran", ROOT / "kernels"]


def build_on_paper(folder: str, name: str) -> torch.nn.Module:
    """The network of a configuration, without memory for its weights."""
    config = importlib.import_module(f"coltran.{folder}.{name}").get_config()
    with torch.device("meta"):
        return networks.build(networks.model_config(config))


CLASSES = {
    "colorizer": "Colorizer",
    "color_upsampler": "ColorUpsampler",
    "spatial_upsampler": "SpatialUpsampler",
}
CONFIGS = [
    (folder, file.stem)
    for folder in ("configs", "test_configs")
    for file in sorted((ROOT / "coltran" / folder).glob("*.py"))
    if file.stem != "__init__"
]


@pytest.mark.parametrize(("folder", "name"), CONFIGS)
def test_every_configuration_builds_its_network(folder: str, name: str) -> None:
    network = next(end for end in CLASSES if name.endswith(end))
    assert type(build_on_paper(folder, name)).__name__ == CLASSES[network]


@pytest.mark.parametrize(
    ("name", "millions"), [("colorizer", 46.3), ("color_upsampler", 13.5), ("spatial_upsampler", 10.9)]
)
def test_the_networks_have_as_many_weights_as_the_papers(name: str, millions: float) -> None:
    weights = sum(weight.numel() for weight in build_on_paper("configs", name).parameters())
    assert round(weights / 1e6, 1) == millions


def test_no_file_is_longer_than_400_lines() -> None:
    suffixes = (".py", ".cpp", ".h")
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for file in source_files("coltran_kernels", "coltran", "bench", suffixes=suffixes)
    }
    assert not {name: length for name, length in lengths.items() if length > 400}


def test_every_source_file_names_its_licence_first() -> None:
    files = [ROOT / "setup.py", *source_files(*PACKAGES, suffixes=(".py", ".cpp", ".h"))]
    without = [
        str(file.relative_to(ROOT))
        for file in files
        if "SPDX-License-Identifier: Apache-2.0" not in file.read_text(encoding="utf-8").split("\n", 1)[0]
    ]
    assert not without
