# SPDX-License-Identifier: Apache-2.0
"""What is measured: the networks of a configuration with random weights, random images, and who can run them.

Speed does not depend on what the weights are, so none need to be trained or fetched.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coltran import networks
from coltran.errors import UserError
from coltran.networks.colorizer import Colorizer
from coltran.networks.upsamplers import ColorUpsampler, SpatialUpsampler
from coltran.sampling import Sample, sample, upsample_color, upsample_space
from coltran_kernels.ops import IMPLEMENTATIONS

DEFAULT = "default"  # what is used where no implementation is named
SMALL_SIDE = 8  # pixels, of the small images that implementations are asked to colour first
UPSAMPLERS = ("color_upsampler", "spatial_upsampler")
STAGES = ("colorizer", *UPSAMPLERS)


def load_models(config: Path, stages: list[str]) -> dict[str, dict[str, Any]]:
    """The `model` sections of the stages, from the colorizer's configuration file and its neighbours.

    Raises:
        UserError: there is no such file, or it is no configuration.
    """
    models = {}
    for stage in stages:
        path = config.with_name(config.name.replace("colorizer", stage))
        if not path.is_file():
            raise UserError(f"There is no configuration file {path}.")
        found = runpy.run_path(str(path)).get("get_config", lambda: None)()
        if not isinstance(found, Mapping) and not hasattr(found, "to_dict"):
            raise UserError(f"{path} has no get_config() that returns a configuration.")
        models[stage] = networks.model_config(found)
    return models


def build(model: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network of a `model` section, with the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return networks.build(model).to(device, dtype).eval()


def random_gray(batch: int, model: Mapping[str, Any], device: torch.device) -> Tensor:
    """Gray images uint8 [B, H, W], the same every time."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (batch, *model["resolution"]), generator=generator, dtype=torch.uint8).to(device)


def random_colors(batch: int, model: Mapping[str, Any], device: torch.device) -> Tensor:
    """Images uint8 [B, H, W, 3], the same every time."""
    generator = torch.Generator().manual_seed(2)
    size = (batch, *model["resolution"], 3)
    return torch.randint(256, size, generator=generator, dtype=torch.uint8).to(device)


def compile_layers(network: nn.Module) -> None:
    """Lets torch.compile have what runs as modules: encoders, the decoders' layers, norms."""
    for name, module in network.named_children():
        if name in ("gray_encoder", "outer_decoder", "encoder"):
            module.compile()
        elif name == "inner_decoder":
            for layer in (*module.attention, *module.feed_forward):  # type: ignore[misc]
                layer.compile()


def small(model: Mapping[str, Any]) -> dict[str, Any]:
    """The same network for small images."""
    return dict(model) | {"resolution": [SMALL_SIDE, SMALL_SIDE]}


def ask(call: Callable[[str | None], object]) -> dict[str, str | None]:
    """Which implementations serve a call here: for each name None, or the reason why it cannot."""
    answers: dict[str, str | None] = {}
    for name in (DEFAULT, *IMPLEMENTATIONS):
        try:
            call(named(name))
            answers[name] = None
        except NotImplementedError as error:
            answers[name] = str(error)
    return answers


def named(name: str) -> str | None:
    """The `implementation` argument that a name in a table stands for."""
    return None if name == DEFAULT else name


@functools.lru_cache(maxsize=1)
def on_xla(network: nn.Module) -> nn.Module:
    """A copy of a network on torch_xla's device.

    Raises:
        NotImplementedError: torch_xla is not installed.
    """
    if importlib.util.find_spec("torch_xla") is None:
        raise NotImplementedError("torch_xla is not installed")
    import torch_xla

    return copy.deepcopy(network).to(torch_xla.device())


def draw(
    name: str, network: Colorizer, gray: Tensor, finished: Callable[[str], None] = lambda stage: None, **options: Any
) -> Sample:
    """`coltran.sampling.sample` with an implementation; "xla" on a device of its own, the result where `gray` is.

    With "xla" a stage is finished when the device has done it, since issuing it takes next to no time.
    """
    if name != "xla":
        return sample(network, gray, implementation=named(name), finished=finished, **options)
    there = on_xla(network)
    assert isinstance(there, Colorizer)
    from coltran_kernels.xla import device

    def done(stage: str) -> None:
        device.finish()
        finished(stage)

    found = sample(there, gray.to(there.logits.weight.device), implementation=name, finished=done, **options)
    moved = (None if tensor is None else tensor.to(gray.device) for tensor in vars(found).values())
    return Sample(*moved)  # type: ignore[arg-type]


def ask_sampling(model: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, str | None]:
    """Which implementations can sample with this network here, by letting each colour a small image."""
    network, gray = build(small(model), device, dtype), random_gray(1, small(model), device)
    assert isinstance(network, Colorizer)
    return ask(lambda name: draw(name or DEFAULT, network, gray, seed=0))


def upsample(network: nn.Module, colors: Tensor, gray: Tensor, name: str) -> Tensor:
    """What `coltran.sampling` does with an upsampler of either kind; "xla" as in `draw`."""
    if name == "xla":
        there = on_xla(network)
        device = next(there.parameters()).device
        return _upsample(there, colors.to(device), gray.to(device), name).to(colors.device)
    return _upsample(network, colors, gray, named(name))


def _upsample(network: nn.Module, colors: Tensor, gray: Tensor, implementation: str | None) -> Tensor:
    if isinstance(network, ColorUpsampler):
        return upsample_color(network, colors, gray, implementation=implementation)
    assert isinstance(network, SpatialUpsampler)
    return upsample_space(network, colors, gray, implementation=implementation)


def ask_upsampling(model: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, str | None]:
    """Which implementations can run this upsampler here, by letting each have a small image."""
    network = build(small(model), device, dtype)
    gray, colors = random_gray(1, small(model), device), random_colors(1, small(model), device)
    return ask(lambda name: upsample(network, colors, gray, name or DEFAULT))


def pick(answers: Mapping[str, str | None], wanted: list[str]) -> list[str]:
    """The implementations to measure, "all" being those that serve.

    Raises:
        UserError: one that is named cannot serve.
    """
    chosen = []
    for name in wanted:
        if name == "all":
            chosen += [other for other, reason in answers.items() if reason is None]
            continue
        if name not in answers:
            raise UserError(f"There is no implementation {name!r}; there are {', '.join(answers)}.")
        if answers[name] is not None:
            raise UserError(f"The implementation {name!r} cannot run here: {answers[name]}.")
        chosen.append(name)
    return list(dict.fromkeys(chosen))
