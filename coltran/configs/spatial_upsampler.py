# SPDX-License-Identifier: Apache-2.0
"""The spatial upsampler at the paper's size: 10.9 M parameters, 64 x 64 colours to 256 x 256 pixels.

    python -m coltran.train --config=coltran/configs/spatial_upsampler.py --logdir=DIR --data_dir=PHOTOS

The network works on all 256 x 256 pixels, 16 times as many as the other two, hence a batch of one image a
process. Training takes one random channel of each image (`random_channel`), inference all three. Weights,
gradients, the optimizer's slot and the moving average take 0.17 GB in float32, activations not counted.
"""

from ml_collections import ConfigDict

from coltran.configs import color_upsampler


def get_config() -> ConfigDict:
    """The original values (paper section 4): the colour upsampler's but for these."""
    config = color_upsampler.get_config()
    config.batch_size = 1
    # `model.resolution` is kept as published, and has no effect: the network takes its size from its 256 x 256 input.
    config.model.update(name="spatial_upsampler", num_encoder_layers=3)
    return config
