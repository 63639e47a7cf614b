# SPDX-License-Identifier: Apache-2.0
"""What `make sanitize` runs: the native kernels under the address, undefined behaviour and thread sanitizers.

    python tests/sanitize.py FOLDER

Builds tests/sanitize.cpp and the kernels in FOLDER, once for each set of sanitizers, and runs both. A finding ends
with the sanitizer's report and a non-zero exit.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETS = {"address,undefined": ["with-openmp"], "thread": []}  # and the program's arguments


def main(folder: Path) -> None:
    """Raises SystemExit with the first command that fails."""
    sys.path.insert(0, str(ROOT))

    from coltran_kernels import native

    compiler = shutil.which("c++")
    if compiler is None:
        raise SystemExit("there is no C++ compiler (c++) on the PATH")
    sources = native.units() | {"main": [str(ROOT / "tests" / "sanitize.cpp"), f"-I{native.SOURCES}"]}
    for kinds, arguments in SETS.items():
        place = folder.resolve() / kinds.replace(",", "-")
        place.mkdir(parents=True, exist_ok=True)
        watched = ["-std=c++17", "-O1", "-g", "-fopenmp", f"-fsanitize={kinds}", "-fno-sanitize-recover=all"]
        commands = [
            [compiler, *watched, "-c", *options, "-o", str(place / f"{name}.o")] for name, options in sources.items()
        ]
        objects = [str(place / f"{name}.o") for name in sources]
        commands += [[compiler, *watched, *objects, "-o", str(place / "run")], [str(place / "run"), *arguments]]
        for command in commands:
            if subprocess.run(command, cwd=native.SOURCES).returncode:
                raise SystemExit(f"failed: {' '.join(command)}")
        print(f"{kinds}: nothing found", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
