# SPDX-License-Identifier: Apache-2.0
"""Film: colours that are drawn once and carried along the motion; `python -m coltran.film` and `coltran.Film`."""
