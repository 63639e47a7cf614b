# SPDX-License-Identifier: Apache-2.0
"""The paper's colorizer made small: 32 channels, one head, one layer of each kind, batches of one image.

    python -m coltran.train --config=coltran/test_configs/colorizer.py --logdir=DIR --data_dir=PHOTOS

It shows that a run works from end to end on one core; its colours mean little.
"""

from ml_collections import ConfigDict

from coltran.configs import colorizer


def get_config() -> ConfigDict:
    """Returns a fresh, mutable configuration: `coltran.configs.colorizer` with the sizes changed."""
    config = colorizer.get_config()
    config.batch_size = 1
    config.max_train_steps = 20_000
    config.model.hidden_size = 32
    config.model.encoder.update(hidden_size=32, ff_size=32, num_heads=1, num_encoder_layers=1)
    config.model.decoder.update(hidden_size=32, ff_size=32, num_heads=1, num_outer_layers=1, num_inner_layers=1)
    config.sample.log_dir = "samples"
    return config
