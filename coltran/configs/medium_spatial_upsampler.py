# SPDX-License-Identifier: Apache-2.0
"""A spatial upsampler for photographs of many kinds: two layers of 128 channels.

python -m coltran.train --config=coltran/configs/medium_spatial_upsampler.py --logdir=DIR --data_dir=PHOTOS
"""

from ml_collections import ConfigDict

from coltran.configs import small_spatial_upsampler


def get_config() -> ConfigDict:
    """0.8 M parameters; the small spatial upsampler's options and smaller crops."""
    config = small_spatial_upsampler.get_config()
    config.random_resized_crop = 0.3
    config.optimizer.learning_rate = 1e-3
    config.model.hidden_size = 128
    config.model.ff_size = 256
    config.model.num_heads = 4
    config.model.num_encoder_layers = 2
    return config
