# SPDX-License-Identifier: Apache-2.0
"""Running from a checkout with nothing of the project installed.

An installation maps the folder kernels/ to the package `coltran_kernels` (setup.py). In a bare checkout
nobody has done so, and this module does it for the running interpreter: after `import coltran`,
`import coltran_kernels` works.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

PACKAGE = "coltran_kernels"
ROOT = Path(__file__).resolve().parent.parent


class _KernelsFinder(MetaPathFinder):
    """Finds `coltran_kernels` in kernels/ beside this package; its modules follow by its `__path__`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != PACKAGE:
            return None
        folder = ROOT / "kernels"
        return spec_from_file_location(PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)])


def find_kernels() -> None:
    """Makes `import coltran_kernels` take kernels/ of this checkout; changes nothing in an installation.

    The finder goes first, so a checkout never runs with the kernels of another installed version. It is
    left out unless setup.py lies beside kernels/: in an installation, a neighbour named kernels is somebody
    else's. Calling again does nothing.
    """
    checkout = (ROOT / "setup.py").is_file() and (ROOT / "kernels" / "__init__.py").is_file()
    if checkout and not any(isinstance(finder, _KernelsFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KernelsFinder())
