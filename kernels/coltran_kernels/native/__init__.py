# SPDX-License-Identifier: Apache-2.0
"""Builds the native kernels with the machine's C++ compiler, at first use, and loads them.

The library lies in the user's cache directory under a name made from the sources, the flags, the compiler and the
machine, so a change of any of them builds another, and all checkouts with the same sources share one. It is put there
whole or not at all, by one program at a time.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from coltran_kernels.native import structures

SOURCES = Path(__file__).resolve().parent.parent  # each operation has its own in its folder
_LOG = logging.getLogger("coltran.kernels")  # which the programs print
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
TARGETED = ("decode_row/row", "attention/axial", "attention/axial_backward")  # compiled once for each of
TARGETS: dict[str, tuple[str, ...]] = {"plain": ()}
if platform.machine().lower() in ("x86_64", "amd64"):
    TARGETS["avx2"] = ("-mavx2", "-mfma")
    TARGETS["avx512"] = (
        "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma", "-mprefer-vector-width=512",
    )  # fmt: skip
    TARGETS["avx512bf16"] = (*TARGETS["avx512"], "-mavx512bf16")

_building = threading.Lock()


class Unavailable(RuntimeError):
    """The native kernels cannot be built or loaded here; the message says why."""


def cache_directory() -> Path:
    """Where what was built or fetched is kept: `coltran` in the user's cache directory."""
    windows = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    usual = {"darwin": Path.home() / "Library" / "Caches", "win32": windows}.get(sys.platform, Path.home() / ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or usual) / "coltran"


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=SOURCES)
    if done.returncode:
        raise Unavailable(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.returncode}")
    return done.stdout


def units() -> dict[str, list[str]]:
    """What is compiled: the name of each object, its source in `SOURCES` and the options for it."""
    found = {
        f"{Path(source).name}-{name}": [f"{source}.cpp", f"-DTARGET={name}", *options]
        for source in TARGETED
        for name, options in TARGETS.items()
    }
    return found | {"interface": ["native/interface.cpp"]}


def commands(compiler: str, folder: Path) -> list[list[str]]:
    """The commands that build `folder`/library.so: one for each object, then the link."""
    objects = {name: str(folder / f"{name}.o") for name in units()}
    compiles = [[compiler, *FLAGS, "-I.", "-c", *unit, "-o", objects[name]] for name, unit in units().items()]
    return [*compiles, [compiler, "-shared", "-fopenmp", *objects.values(), "-o", str(folder / "library.so")]]


def _build(compiler: str, library: Path) -> None:
    """Compiles beside `library` and moves the result there, so that nobody sees half of it."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder, ThreadPoolExecutor() as pool:
        *compiles, link = commands(compiler, Path(folder))
        list(pool.map(_run, compiles))
        _run(link)
        built = Path(folder) / "library.so"
        _checksum(library).write_text(_digest(built))
        os.replace(built, library)


def _checksum(library: Path) -> Path:
    """Where it is written down what the library's bytes come to."""
    return library.with_suffix(".sha256")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _is_whole(library: Path) -> bool:
    """Whether the library is there as it was built: half of one, after a power cut, may end Python."""
    try:
        return _checksum(library).read_text() == _digest(library)
    except OSError:
        return False


def _key(compiler: str) -> str:
    files = sorted(file for file in SOURCES.rglob("*") if file.suffix in (".cpp", ".h"))
    parts = [file.name.encode() + b"\0" + file.read_bytes() for file in files]
    parts += [repr(commands(compiler, Path("x"))).encode(), _run([compiler, "--version"]).encode()]
    parts += [platform.machine().encode(), platform.system().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def _open(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"{path} cannot be loaded: {error}") from error
    structures.declare(library)
    return library


@functools.cache
def _attempt() -> ctypes.CDLL | Unavailable:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return Unavailable("there is no C++ compiler (c++, g++ or clang++) on the PATH to build it with")
    try:
        directory = cache_directory()
        library = directory / f"kernels-{_key(compiler)}.so"
        if not _is_whole(library):
            from filelock import FileLock  # only where something is built: on a system without locks it warns

            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(directory / "building.lock"):  # the second of two programs finds what the first has built
                if not _is_whole(library):
                    _LOG.info("Compiling the kernels for this processor, once: about half a minute.")
                    _build(compiler, library)
        return _open(library)
    except OSError as error:
        return Unavailable(f"the library cannot be kept in {cache_directory()}: {error}")
    except Unavailable as error:
        return error


def load() -> ctypes.CDLL:
    """The native library, built if this is its first use on this machine; later calls return the same.

    Raises:
        Unavailable: there is no compiler, or it failed.
    """
    with _building:
        found = _attempt()
    if isinstance(found, Unavailable):
        raise Unavailable(str(found))
    return found


def unavailable() -> str | None:
    """Why the native library cannot be had here, or None when it can.

    That is taken for granted where torch.compile traces, which needs a compiler too.
    """
    if torch.compiler.is_compiling():
        return None
    try:
        load()
    except Unavailable as error:
        return str(error)
    return None


def empty(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uninitialised memory that a kernel writes, whatever torch's default type and device are set to."""
    return torch.empty(size, dtype=dtype, device="cpu")


def unsupported_tensors(*tensors: Tensor | None) -> str | None:
    """Why no native kernel reads one of these tensors, or None."""
    for tensor in tensors:
        if tensor is not None and tensor.device.type != "cpu":
            return f"it does not take a tensor on {tensor.device}"
        if tensor is not None and tensor.dtype != torch.float32:
            return f"it computes in float32, not in {tensor.dtype}"
    return None


def unsupported_reason(*tensors: Tensor | None) -> str | None:
    """Why native kernels cannot serve, which read these tensors, or None."""
    return unsupported_tensors(*tensors) or unavailable()


def targets() -> list[str]:
    """The instruction sets, of those the library has code for, that this processor has; the best last."""
    library, found = load(), list[str]()
    while (name := library.coltran_target(len(found))) is not None:
        found.append(name.decode())
    return found
