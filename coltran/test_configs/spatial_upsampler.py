# SPDX-License-Identifier: Apache-2.0
"""The paper's spatial upsampler made small: 32 channels, one head, one layer, batches of one image.

    python -m coltran.train --config=coltran/test_configs/spatial_upsampler.py --logdir=DIR --data_dir=PHOTOS

It shows that a run works from end to end on one core; its pictures mean little.
"""

from ml_collections import ConfigDict

from coltran.configs import spatial_upsampler


def get_config() -> ConfigDict:
    """Returns a fresh, mutable configuration: `coltran.configs.spatial_upsampler` with the sizes changed."""
    config = spatial_upsampler.get_config()
    config.batch_size = 1
    config.max_train_steps = 15_000
    config.model.update(hidden_size=32, ff_size=32, num_heads=1, num_encoder_layers=1)
    config.sample.update(log_dir="samples", gen_data_dir="/tmp/color_upsampler_test/samples")
    return config
