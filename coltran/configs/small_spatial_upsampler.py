# SPDX-License-Identifier: Apache-2.0
"""A spatial upsampler that a laptop trains: one layer of 64 channels.

The one in the package starts from a trained network of half its width, `narrow_spatial_upsampler.py`:

python -m coltran.train --config=coltran/configs/small_spatial_upsampler.py --logdir=DIR --data_dir=PHOTOS \\
    --pretrain_dir=NARROW
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """0.2 M parameters."""
    return ConfigDict(
        {
            "dataset": "custom",
            "downsample": True,
            "downsample_res": 64,
            "resolution": [256, 256],
            "random_channel": True,
            "batch_size": 2,
            "max_train_steps": 12100,
            "save_checkpoint_secs": 300,
            "num_epochs": -1,
            "random_flip": True,
            "random_resized_crop": 0.7,  # the least share of a photograph's square that is kept
            "prepare_photographs": 256,  # coltran.training.first_weights: what the first frequencies are counted on
            "polyak_decay": 0.995,
            "eval_batch_size": 1,
            "optimizer": {"type": "rmsprop", "learning_rate": 5e-4, "schedule": "linear", "warmup_steps": 50},
            "model": {
                "name": "spatial_upsampler",
                "hidden_size": 64,
                "ff_size": 128,
                "num_heads": 2,
                "num_encoder_layers": 1,
                "resolution": [256, 256],
            },
        }
    )
