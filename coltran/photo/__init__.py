# SPDX-License-Identifier: Apache-2.0
"""Photographs of any size and shape: how they are cut for the networks, and how colours come onto them."""
