# SPDX-License-Identifier: Apache-2.0
"""What is measured, against what, and how: `python bench/sample_speed.py` is the place to start."""
