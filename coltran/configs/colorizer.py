# SPDX-License-Identifier: Apache-2.0
"""The colorizer at the paper's size: 46.3 M parameters, 512 coarse colours for each of 64 x 64 pixels.

    python -m coltran.train --config=coltran/configs/colorizer.py --logdir=DIR --data_dir=PHOTOS

Any key can be overridden on the command line, e.g. `--config.batch_size=4`. `batch_size` counts the images of
one process; the paper trained on a 4 x 4 slice of TPU v2 with one such batch a core. Weights, gradients, the
optimizer's slot and the moving average take 0.74 GB in float32, activations not counted. All three networks
together reach an FID of 19.37 on ImageNet in the paper.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns a fresh, mutable configuration of the colorizer (paper section 4, original values)."""
    return ConfigDict(
        {
            # Data.
            "dataset": "imagenet",
            "downsample": True,
            "downsample_res": 64,
            "resolution": [256, 256],
            # Training.
            "batch_size": 7,
            "max_train_steps": 450_000,
            "save_checkpoint_secs": 900,
            "num_epochs": -1,
            "polyak_decay": 0.999,
            "optimizer": {"type": "rmsprop", "learning_rate": 3e-4},
            "loss_factor": 0.99,
            "encoder_loss_factor": 0.01,
            # Evaluation.
            "eval_num_examples": 20_000,
            "eval_batch_size": 16,
            "eval_checkpoint_wait_secs": -1,
            # The network.
            "model": {
                "name": "coltran_core",
                "stage": "encoder_decoder",
                "hidden_size": 512,
                "resolution": [64, 64],
                "encoder": {
                    "hidden_size": 512,
                    "ff_size": 512,
                    "num_heads": 4,
                    "num_encoder_layers": 4,
                    "dropout": 0.0,
                },
                "decoder": {
                    "hidden_size": 512,
                    "ff_size": 512,
                    "resolution": [64, 64],
                    "num_heads": 4,
                    "num_outer_layers": 2,
                    "num_inner_layers": 2,
                    "dropout": 0.0,
                    "skip": True,
                    # Which parts the grayscale encoding conditions, and how.
                    "cond_mlp": "affine",
                    "cond_mlp_act": "identity",
                    "cond_ln": True,
                    "cond_ln_act": "identity",
                    "cond_ln_seq": "sc",
                    "cond_ln_sp_ave": "learnable",
                    "cond_ln_init": "glorot_uniform",
                    "cond_att_init": "glorot_uniform",
                    "cond_att_q": True,
                    "cond_att_k": True,
                    "cond_att_v": True,
                    "cond_att_scale": True,
                    "cond_att_act": "identity",
                },
            },
            # Sampling.
            "sample": {
                "log_dir": "",
                "batch_size": 1,
                "mode": "sample",
                "num_samples": 1,
                "num_outputs": 1,
                "skip_batches": 0,
                "gen_file": "gen0",
            },
        }
    )
