# SPDX-License-Identifier: Apache-2.0
"""The operations as a compiler of whole graphs wants them. Only `device.py` imports torch_xla."""
