# SPDX-License-Identifier: Apache-2.0
"""A colorizer that a laptop trains: the network of `colorizer.py` at a quarter of its width.

The one in the package starts from a trained network of half its width, `narrow_colorizer.py`:

python -m coltran.train --config=coltran/configs/small_colorizer.py --logdir=DIR --data_dir=PHOTOS --pretrain_dir=NARROW
"""

from ml_collections import ConfigDict

from coltran.configs import colorizer


def get_config() -> ConfigDict:
    """1.95 M parameters; the options of the paper's colorizer."""
    model = colorizer.get_config().model
    model.hidden_size = 128
    model.encoder.update(hidden_size=128, ff_size=256, num_encoder_layers=2)
    model.decoder.update(hidden_size=128, ff_size=256, num_inner_layers=1, num_outer_layers=1)
    return ConfigDict(
        {
            "dataset": "custom",
            "downsample": True,
            "downsample_res": 64,
            "resolution": [256, 256],
            "batch_size": 8,
            "max_train_steps": 10100,
            "save_checkpoint_secs": 300,
            "num_epochs": -1,
            "random_flip": True,
            "random_resized_crop": 0.5,  # the least share of a photograph's square that is kept
            "prepare_photographs": 512,  # coltran.training.initialization: what the initial frequencies are counted on
            "polyak_decay": 0.995,
            "eval_batch_size": 16,
            "loss_factor": 0.99,
            "encoder_loss_factor": 0.01,
            "optimizer": {"type": "rmsprop", "learning_rate": 8e-4, "schedule": "linear", "warmup_steps": 50},
            "model": model,
        }
    )
