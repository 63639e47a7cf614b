# SPDX-License-Identifier: Apache-2.0
"""The configurations of the paper, and narrow, small and medium ones: `get_config()` gives a `ConfigDict`."""
