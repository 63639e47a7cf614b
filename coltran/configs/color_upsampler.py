# SPDX-License-Identifier: Apache-2.0
"""The colour upsampler at the paper's size: 13.5 M parameters, 8 levels a channel to 256, on 64 x 64 pixels.

    python -m coltran.train --config=coltran/configs/color_upsampler.py --logdir=DIR --data_dir=PHOTOS

Training takes one random channel of each image (`random_channel`), inference all three. `batch_size` counts
the images of one process. Weights, gradients, the optimizer's slot and the moving average take 0.22 GB in
float32, activations not counted.
"""

from ml_collections import ConfigDict

from coltran.configs import colorizer


def get_config() -> ConfigDict:
    """The original values (paper section 4): the colorizer's but for these."""
    config = colorizer.get_config()
    del config.loss_factor, config.encoder_loss_factor
    config.random_channel = True
    config.batch_size = 24
    config.max_train_steps = 300_000
    config.model = ConfigDict(
        {
            "name": "color_upsampler",
            "hidden_size": 512,
            "ff_size": 512,
            "num_heads": 4,
            "num_encoder_layers": 4,
            "resolution": [64, 64],
        }
    )
    config.sample.update(gen_data_dir="", log_dir="samples_sweep", mode="argmax")
    return config
