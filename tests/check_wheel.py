# SPDX-License-Identifier: Apache-2.0
"""What `make wheel-test` runs in an environment with the wheel and without the checkout: is all there?

    python tests/check_wheel.py CHECKOUT

Every source and data file of the checkout's packages must be in the installed ones, and they must import. The wheel
lies in the working directory, and must be one for every system.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

FOLDERS = {"coltran": "coltran", "coltran_kernels": "kernels/coltran_kernels"}
SHIPPED = {".py", ".typed", ".safetensors", ".yaml", ".json", ".jpg", ".md", ".cpp", ".h"}


def shipped(folder: Path) -> set[Path]:
    """The files below a folder that belong in the wheel, relative to it."""
    return {file.relative_to(folder) for file in folder.rglob("*") if file.suffix in SHIPPED}


def main(checkout: Path) -> None:
    """Raises SystemExit with one sentence at the first thing that is not as it should be."""
    for wheel in Path.cwd().glob("*.whl"):
        if not wheel.name.endswith("-py3-none-any.whl"):
            raise SystemExit(f"{wheel.name} is not for every system.")
    for package, folder in FOLDERS.items():
        module = importlib.import_module(package)
        installed = Path(str(module.__file__)).parent
        if not installed.is_relative_to(sys.prefix):
            raise SystemExit(f"{package} was imported from {installed}, not from the wheel.")
        wanted = shipped(checkout / folder)
        if missing := wanted - shipped(installed):
            raise SystemExit(f"the wheel lacks {', '.join(sorted(map(str, missing)))} of {folder}/.")
        print(f"{package}: {len(wanted)} files in place")
    for name in ("colorizer", "color_upsampler", "spatial_upsampler"):
        importlib.import_module(f"coltran.configs.{name}").get_config()
        importlib.import_module(f"coltran.test_configs.{name}").get_config()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
