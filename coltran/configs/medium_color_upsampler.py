# SPDX-License-Identifier: Apache-2.0
"""A colour upsampler for photographs of many kinds: the small one's network.

python -m coltran.train --config=coltran/configs/medium_color_upsampler.py --logdir=DIR --data_dir=PHOTOS
"""

from ml_collections import ConfigDict

from coltran.configs import small_color_upsampler


def get_config() -> ConfigDict:
    """0.65 M parameters; the small colour upsampler's options, smaller crops and a longer average."""
    config = small_color_upsampler.get_config()
    config.random_resized_crop = 0.3
    config.polyak_decay = 0.995
    return config
