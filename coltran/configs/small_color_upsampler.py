# SPDX-License-Identifier: Apache-2.0
"""A colour upsampler that a laptop trains: one layer of 64 channels.

python -m coltran.train --config=coltran/configs/small_color_upsampler.py --logdir=DIR --data_dir=PHOTOS
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """0.1 M parameters."""
    return ConfigDict(
        {
            "dataset": "custom",
            "downsample": True,
            "downsample_res": 64,
            "resolution": [256, 256],
            "random_channel": True,
            "batch_size": 4,
            "max_train_steps": 1500,
            "save_checkpoint_secs": 300,
            "num_epochs": -1,
            "prepare_photographs": 256,  # coltran.training.first_weights: what the first frequencies are counted on
            "polyak_decay": 0.99,
            "eval_batch_size": 16,
            "optimizer": {"type": "rmsprop", "learning_rate": 1e-3},
            "model": {
                "name": "color_upsampler",
                "hidden_size": 64,
                "ff_size": 128,
                "num_heads": 4,
                "num_encoder_layers": 1,
                "resolution": [64, 64],
            },
        }
    )
