# SPDX-License-Identifier: Apache-2.0
"""A colorizer for photographs of many kinds: the small one with more layers.

python -m coltran.train --config=coltran/configs/medium_colorizer.py --logdir=DIR --data_dir=PHOTOS
"""

from ml_collections import ConfigDict

from coltran.configs import small_colorizer


def get_config() -> ConfigDict:
    """3.4 M parameters; the small colorizer's options, more steps and smaller crops."""
    config = small_colorizer.get_config()
    config.max_train_steps = 20000
    config.random_resized_crop = 0.3
    config.optimizer.learning_rate = 1e-3
    config.model.encoder.num_encoder_layers = 3
    config.model.decoder.num_inner_layers = 2
    config.model.decoder.num_outer_layers = 2
    return config
