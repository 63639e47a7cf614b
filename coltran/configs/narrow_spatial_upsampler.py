# SPDX-License-Identifier: Apache-2.0
"""What `small_spatial_upsampler.py` starts from: its network at half the width.

python -m coltran.train --config=coltran/configs/narrow_spatial_upsampler.py --logdir=DIR --data_dir=PHOTOS
"""

from ml_collections import ConfigDict

from coltran.configs import small_spatial_upsampler


def get_config() -> ConfigDict:
    """0.1 M parameters; the small spatial upsampler's options, smaller crops and a shorter average."""
    config = small_spatial_upsampler.get_config()
    config.batch_size = 1
    config.max_train_steps = 3600
    config.random_resized_crop = 0.6
    config.optimizer.learning_rate = 1e-3
    config.polyak_decay = 0.98
    config.model.hidden_size = 32
    config.model.ff_size = 64
    return config
