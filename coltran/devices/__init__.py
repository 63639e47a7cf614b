# SPDX-License-Identifier: Apache-2.0
"""Where to compute: the device of a name, and what a training does on it."""
