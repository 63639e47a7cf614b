# SPDX-License-Identifier: Apache-2.0
"""The configurations of the paper made small, for trying a whole run in minutes rather than days."""
