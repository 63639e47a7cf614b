# SPDX-License-Identifier: Apache-2.0
"""What `small_colorizer.py` starts from: its network at half the width.

python -m coltran.train --config=coltran/configs/narrow_colorizer.py --logdir=DIR --data_dir=PHOTOS
"""

from ml_collections import ConfigDict

from coltran.configs import small_colorizer


def get_config() -> ConfigDict:
    """0.6 M parameters; the small colorizer's options, fewer steps and smaller crops."""
    config = small_colorizer.get_config()
    config.max_train_steps = 2900
    config.random_resized_crop = 0.3
    config.optimizer.learning_rate = 1e-3
    config.model.hidden_size = 64
    for part in (config.model.encoder, config.model.decoder):
        part.hidden_size, part.ff_size = 64, 128
    return config
