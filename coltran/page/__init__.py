# SPDX-License-Identifier: Apache-2.0
"""The web page: sessions, live previews, layout, server and its guard."""
