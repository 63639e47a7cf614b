# SPDX-License-Identifier: Apache-2.0
"""For tools that ask for a setup.py; everything about the project is in pyproject.toml."""

from setuptools import setup

setup()
