# SPDX-License-Identifier: Apache-2.0
"""Quality metrics of colourings: arithmetic, feature networks, and the report of `coltran.evaluate --metrics`."""
