# SPDX-License-Identifier: Apache-2.0
"""The web page: what one person has in hand, how colours appear while they are drawn, and what is laid out where."""
