# SPDX-License-Identifier: Apache-2.0
"""The colour upsampler at the paper's size: 13.5 M parameters, 8 levels a channel to 256, on 64 x 64 pixels.

    python -m coltran.train --config=coltran/configs/color_upsampler.py --logdir=DIR --data_dir=PHOTOS

Training takes one random channel of each image (`random_channel`), inference all three. `batch_size` counts
the images of one process. Weights, gradients, the optimizer's slot and the moving average take 0.22 GB in
float32, activations not counted.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns a fresh, mutable configuration of the colour upsampler (paper section 4, original values)."""
    return ConfigDict(
        {
            # Data.
            "dataset": "imagenet",
            "downsample": True,
            "downsample_res": 64,
            "resolution": [256, 256],
            "random_channel": True,
            # Training.
            "batch_size": 24,
            "max_train_steps": 300_000,
            "save_checkpoint_secs": 900,
            "num_epochs": -1,
            "polyak_decay": 0.999,
            "optimizer": {"type": "rmsprop", "learning_rate": 3e-4},
            # Evaluation.
            "eval_num_examples": 20_000,
            "eval_batch_size": 16,
            "eval_checkpoint_wait_secs": -1,
            # The network.
            "model": {
                "name": "color_upsampler",
                "hidden_size": 512,
                "ff_size": 512,
                "num_heads": 4,
                "num_encoder_layers": 4,
                "resolution": [64, 64],
            },
            # Sampling.
            "sample": {
                "gen_data_dir": "",
                "log_dir": "samples_sweep",
                "batch_size": 1,
                "mode": "argmax",
                "num_samples": 1,
                "num_outputs": 1,
                "skip_batches": 0,
                "gen_file": "gen0",
            },
        }
    )
