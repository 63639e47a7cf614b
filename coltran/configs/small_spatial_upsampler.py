# SPDX-License-Identifier: Apache-2.0
"""A spatial upsampler that a laptop trains: one layer of 64 channels.

The one in the package starts from a trained network of half its width, `narrow_spatial_upsampler.py`:

python -m coltran.train --config=coltran/configs/small_spatial_upsampler.py --logdir=DIR --data_dir=PHOTOS \\
    --pretrain_dir=NARROW
"""

from ml_collections import ConfigDict

from coltran.configs import small_color_upsampler


def get_config() -> ConfigDict:
    """0.2 M parameters; the small colour upsampler's options but for these."""
    config = small_color_upsampler.get_config()
    config.batch_size = 2
    config.max_train_steps = 12100
    config.random_resized_crop = 0.7
    config.polyak_decay = 0.995
    config.eval_batch_size = 1
    config.optimizer.learning_rate = 5e-4
    config.model.update(
        name="spatial_upsampler", hidden_size=64, ff_size=128, num_heads=2, num_encoder_layers=1, resolution=[256, 256]
    )
    return config
