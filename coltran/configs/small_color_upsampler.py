# SPDX-License-Identifier: Apache-2.0
"""A colour upsampler that a laptop trains: two layers of 128 channels.

python -m coltran.train --config=coltran/configs/small_color_upsampler.py --logdir=DIR --data_dir=PHOTOS
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """0.65 M parameters."""
    return ConfigDict(
        {
            "dataset": "custom",
            "downsample": True,
            "downsample_res": 64,
            "resolution": [256, 256],
            "random_channel": True,
            "batch_size": 4,
            "max_train_steps": 42000,
            "save_checkpoint_secs": 300,
            "num_epochs": -1,
            "random_flip": True,
            "random_resized_crop": 0.6,  # the least share of a photograph's square that is kept
            "prepare_photographs": 256,  # coltran.training.initialization: what the initial frequencies are counted on
            "polyak_decay": 0.99,
            "eval_batch_size": 16,
            "optimizer": {"type": "rmsprop", "learning_rate": 1e-3, "schedule": "linear", "warmup_steps": 50},
            "model": {
                "name": "color_upsampler",
                "hidden_size": 128,
                "ff_size": 256,
                "num_heads": 4,
                "num_encoder_layers": 2,
                "resolution": [64, 64],
            },
        }
    )
