# SPDX-License-Identifier: Apache-2.0
"""The guide made small: 16 channels beside its features, which start from nothing, batches of two photographs.

    python -m coltran.train --config=coltran/test_configs/guide.py --logdir=DIR --data_dir=PHOTOS

It shows that a run works from end to end on one core; it learns little.
"""

from ml_collections import ConfigDict

from coltran.configs import guide


def get_config() -> ConfigDict:
    """Returns a fresh, mutable configuration: `coltran.configs.guide` with the sizes changed."""
    config = guide.get_config()
    config.batch_size = 2
    config.max_train_steps = 1_000
    config.prepare_photographs = 0
    config.model.hidden_size = 16
    return config
