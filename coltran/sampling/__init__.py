# SPDX-License-Identifier: Apache-2.0
"""Drawing colours with trained networks: row by row with a KV cache, and the upsamplers in one pass."""

from coltran.sampling.sampler import Sample, named_seed, sample, uniforms, upsample_color, upsample_space

__all__ = ["Sample", "named_seed", "sample", "uniforms", "upsample_color", "upsample_space"]
