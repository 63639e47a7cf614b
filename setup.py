# SPDX-License-Identifier: Apache-2.0
"""Which folder is which package. Everything else about the project: pyproject.toml.

The folder kernels/ is installed under the name `coltran_kernels`: the import name `kernels` belongs to
another well-known package.
"""

from __future__ import annotations

from setuptools import find_packages, setup

FOLDERS = {"coltran": "coltran", "coltran_kernels": "kernels"}

setup(
    package_dir=FOLDERS,
    packages=[
        name
        for package, folder in FOLDERS.items()
        for name in (package, *(f"{package}.{inner}" for inner in find_packages(folder)))
    ],
    package_data={
        "coltran": ["py.typed", "config.schema.json"]
        + [
            f"{folder}/**/*{suffix}"
            for folder in ("pretrained", "demo")
            for suffix in (".safetensors", ".yaml", ".jpg", ".md")
        ],
        "coltran_kernels": ["py.typed", "**/*.cpp", "**/*.h"],
    },
    include_package_data=False,
    zip_safe=False,
)
