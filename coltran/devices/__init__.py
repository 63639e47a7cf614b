# SPDX-License-Identifier: Apache-2.0
"""Devices: choosing one by name, and what a training does differently on a CPU, a GPU or XLA."""
