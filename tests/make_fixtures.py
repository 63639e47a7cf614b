# SPDX-License-Identifier: Apache-2.0
"""Makes the fixtures by which the tests prove parity without the data of the original program.

    python tests/make_fixtures.py PARITY_FOLDER

`training.npz` is an excerpt of that data: the first weights, images and losses of three training steps. `frozen.npz`
holds what our networks compute, with every option of the data, from weights that `frozen_network` generates, at the
moment when they agree with all of it: this program checks that first.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.networks_of_parity import COLORIZERS, FROZEN, UPSAMPLERS, frozen_network, frozen_outputs

FIXTURES = Path(__file__).resolve().parent / "fixtures"


def main() -> int:
    """Writes both files; returns an exit code."""
    folder = Path(sys.argv[1])
    tests = FIXTURES.parent
    checked = subprocess.run([sys.executable, "-m", "pytest", "-q", str(tests / "test_parity.py")], cwd=tests.parent)
    if checked.returncode:
        return checked.returncode
    with np.load(folder / "training.npz") as data:
        kept = {name: data[name] for name in data if name.startswith(("weights/", "step", "config", "train_config"))}
    np.savez_compressed(FIXTURES / "training.npz", **kept)
    frozen: dict[str, np.ndarray] = {}
    for name in COLORIZERS + UPSAMPLERS:
        with np.load(folder / f"{name}.npz") as data:
            config = str(data["config_json"])
        frozen[f"{name}/config_json"] = np.array(config)
        for key, values in frozen_outputs(frozen_network(json.loads(config))).items():
            frozen[f"{name}/{key}"] = values
    np.savez_compressed(FROZEN, **frozen)
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
