# SPDX-License-Identifier: Apache-2.0
"""Questions about this machine that are answered by measuring once: the answers lie in the user's cache.

The file's name is made from the processor, its instruction sets and the version of torch, so another machine or another
torch is measured again, and so is whatever cannot be read. Within a process an answer never changes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from coltran_kernels.cpu.native import cache_directory

_answers: dict[str, str] = {}
_asking = threading.Lock()


@functools.cache
def processor() -> tuple[str, str]:
    """The processor's name and its instruction sets, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in found.items()}
    name = fields.get("model name") or platform.processor() or platform.machine()
    return name, fields.get("flags") or fields.get("Features") or torch.backends.cpu.get_cpu_capability()


def _file() -> Path:
    key = hashlib.sha256("\0".join([torch.__version__, platform.machine(), *processor()]).encode()).hexdigest()
    return cache_directory() / f"choices-{key[:20]}.json"


def _read(path: Path) -> dict[str, str]:
    """What is kept; nothing where that is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(path: Path, question: str, answer: str) -> None:
    """Adds an answer to the file, whole or not at all; where it cannot be written, every process asks for itself."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps({**_read(path), question: answer}, indent=1) + "\n"
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = Path(folder) / path.name
            whole.write_text(text, encoding="utf-8")
            os.replace(whole, path)
    except OSError:
        pass


def chosen(question: str, answers: Sequence[str], measure: Callable[[], str]) -> str:
    """One of the answers: this process's own, or the one kept, or what `measure()` finds."""
    with _asking:
        if question not in _answers:
            path = _file()
            kept = _read(path).get(question)
            if kept is not None and kept in answers:
                _answers[question] = kept
            else:
                _answers[question] = measure()
                _keep(path, question, _answers[question])
        return _answers[question]
