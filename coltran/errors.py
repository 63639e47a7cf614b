# SPDX-License-Identifier: Apache-2.0
"""The errors that a person can mend."""

from __future__ import annotations


class UserError(Exception):
    """Something that the person at the keyboard can mend; its message is one sentence for them."""

    exit_code = 1


class UsageError(UserError):
    """A command line that makes no sense."""

    exit_code = 2
