# SPDX-License-Identifier: Apache-2.0
"""What the XLA path computes, as plain torch on the CPU: all of it but torch_xla's own loop (tests/xla/)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map

from coltran import decoding_static
from coltran.colorizer import Colorizer
from coltran.decoding import InnerRows, OuterRows
from coltran_kernels import decode_row, reference
from coltran_kernels.xla import operations, step
from tests.attention_cases import SWITCHES as ATTENTION_SWITCHES
from tests.decoder_of_tests import SWITCHES, random_row
from tests.tiny import colorizer_config

OPTIONS: dict[str, Any] = {"given": None, "mode": "sample", "temperature": 1.0, "top_p": 1.0, "eps": 1e-3}


def plain_scan(function: Any, carry: Any, columns: Any) -> tuple[Any, Any]:
    """What a scan is: the same function once a column."""
    found = []
    for j in range(len(columns.number)):
        carry, one = function(carry, tree_map(lambda t, j=j: None if t is None else t[j], columns))
        found.append(one)
    return carry, tree_map(lambda *parts: None if parts[0] is None else torch.stack(parts), *found)
