# SPDX-License-Identifier: Apache-2.0
"""The spatial upsampler at the paper's size: 10.9 M parameters, 64 x 64 colours to 256 x 256 pixels.

    python -m coltran.train --config=coltran/configs/spatial_upsampler.py --logdir=DIR --data_dir=PHOTOS

The network works on all 256 x 256 pixels, 16 times as many as the other two, hence a batch of one image a
process. Training takes one random channel of each image (`random_channel`), inference all three. Weights,
gradients, the optimizer's slot and the moving average take 0.17 GB in float32, activations not counted.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns a fresh, mutable configuration of the spatial upsampler (paper section 4, original values)."""
    return ConfigDict(
        {
            # Data.
            "dataset": "imagenet",
            "downsample": True,
            "downsample_res": 64,
            "resolution": [256, 256],
            "random_channel": True,
            # Training.
            "batch_size": 1,
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
                "name": "spatial_upsampler",
                "hidden_size": 512,
                "ff_size": 512,
                "num_heads": 4,
                "num_encoder_layers": 3,
                # Kept as published, and without effect: the network takes its size from its 256 x 256 input.
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
