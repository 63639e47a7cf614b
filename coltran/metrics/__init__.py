# SPDX-License-Identifier: Apache-2.0
"""How good colourings are, measured as the literature does: the arithmetic, the features, and the whole of a report."""
