# SPDX-License-Identifier: Apache-2.0
"""The operations as a graph compiler wants them. Only `device.py` imports torch_xla."""
