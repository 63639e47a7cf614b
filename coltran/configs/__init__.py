# SPDX-License-Identifier: Apache-2.0
"""The configurations of the paper, one file a network; `get_config()` of each returns a `ConfigDict`."""
