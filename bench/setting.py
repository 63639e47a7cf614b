# SPDX-License-Identifier: Apache-2.0
"""What is measured, and the options that say so: random networks and images, and the implementations that can run.

Speed does not depend on what the weights are, so none need to be trained or fetched.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from bench import plots, record, tables
from bench.recomputing import sample as recompute
from bench.timing import Run, StageClock
from coltran import cli, networks
from coltran.errors import UserError
from coltran.image import area_resize, list_photos, load_photo, rgb_to_gray
from coltran.networks.colorizer import Colorizer
from coltran.networks.upsamplers import ColorUpsampler
from coltran.sampling import Sample, sample, upsample_color, upsample_space
from coltran_kernels.choose import IMPLEMENTATIONS

PAPER = Path(__file__).resolve().parent.parent / "coltran" / "configs" / "colorizer.py"
DEFAULT = "default"  # what is used where no implementation is named
SMALL_SIDE = 8  # pixels, of the small images that implementations are asked to colour first


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The command line of a program that times implementations side by side, with the options that all of them have."""
    found = cli.parser(doc)
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    found.add_argument("--threads", type=cli.at_least(1), help="threads that compute (default: torch's choice)")
    found.add_argument(
        "--implementation", nargs="+", default=[DEFAULT],
        help="of the kernels; 'default' is what is used where none is named, 'all' are those that can run here; "
        "'xla' runs on torch_xla's device, with PJRT_DEVICE=CPU only a check of its overhead a step",
    )  # fmt: skip
    found.add_argument(
        "--repeats", type=cli.at_least(1), default=3, help="timed rounds, after one that warms up (default: 3)"
    )
    found.add_argument("--results", type=Path, default=record.RESULTS, help="where the JSON line and the plot go")
    found.add_argument("--plot", action="store_true", help="draw the result as well (needs matplotlib)")
    return found


def prepare(options: argparse.Namespace) -> torch.device:
    """Sets the threads, and what is better known now than in some minutes: the device, and that plots can be drawn.

    Raises:
        UserError: the device cannot be used, or matplotlib is missing.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.plot:
        plots.pyplot()
    return cli.device(options.device)


def finish(
    result: Mapping[str, Any],
    shown: Iterable[tables.Table],
    options: argparse.Namespace,
    console: Console,
    draw: Callable[[Mapping[str, Any], Path], None],
) -> int:
    """Prints the tables that have rows, adds the record to the results, draws it if asked; returns the exit code."""
    for table in shown:
        if table.rows:
            console.print(tables.to_rich(table))
    path = options.results / f"{result['benchmark']}.jsonl"
    record.append(result, path)
    console.print(f"one line added to {path}")
    if options.plot:
        draw(result, path.with_suffix(".png"))
        console.print(f"{path.with_suffix('.png')} drawn")
    return 130 if result["interrupted"] else 0


def load_models(config: Path, stages: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The `model` sections of the stages, from the colorizer's configuration file and its neighbours.

    Raises:
        UserError: there is no such file, or it is no configuration.
    """
    paths = {stage: config.with_name(config.name.replace("colorizer", stage)) for stage in stages}
    return {stage: networks.model_config(cli.load_config(path)) for stage, path in paths.items()}


def build(model: Mapping[str, Any], device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network of a `model` section, with the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return networks.build(model).to(device, dtype).eval()


def random_images(batch: int, model: Mapping[str, Any], device: torch.device) -> Tensor:
    """Images uint8 [B, H, W, 3], the same every time."""
    generator = torch.Generator().manual_seed(1)
    size = (batch, *model["resolution"], 3)
    return torch.randint(256, size, generator=generator, dtype=torch.uint8).to(device)


def small(model: Mapping[str, Any]) -> dict[str, Any]:
    """The same network for small images."""
    return dict(model) | {"resolution": [SMALL_SIDE, SMALL_SIDE]}


def named(name: str) -> str | None:
    """The `implementation` argument that a name in a table stands for."""
    return None if name in (DEFAULT, record.FIXED_POINT) else name


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


Marks = Callable[[str], None]


def draw(name: str, network: nn.Module, gray: Tensor, finished: Marks = lambda stage: None, **options: Any) -> Sample:
    """`coltran.sampling.sample` with an implementation; "xla" on a device of its own, the result where `gray` is.

    With "xla" a stage is finished when the device has done it, since issuing it takes next to no time. Rows are drawn
    pixel by pixel where not told otherwise: with random weights they settle sooner than any photograph's, so left to
    itself the sampler might choose what it would not choose in use.
    """
    network, inputs, done = _place(name, network, gray, finished)
    assert isinstance(network, Colorizer)
    options["method"] = "fixed_point" if name == record.FIXED_POINT else "sequential"
    found = sample(network, inputs, implementation=named(name), finished=done, **options)
    return Sample(*(None if tensor is None else tensor.to(gray.device) for tensor in vars(found).values()))  # type: ignore[arg-type]


def upsample(name: str, network: nn.Module, images: Tensor, **options: Any) -> Tensor:
    """What `coltran.sampling` does with an upsampler of either kind, on images [B, H, W, 3]; "xla" as in `draw`."""
    network, inputs, _ = _place(name, network, images, lambda stage: None)
    call: Callable[..., Tensor] = upsample_color if isinstance(network, ColorUpsampler) else upsample_space
    return call(network, inputs, inputs[..., 0], implementation=named(name), **options).to(images.device)


def _place(name: str, network: nn.Module, inputs: Tensor, finished: Marks) -> tuple[nn.Module, Tensor, Marks]:
    if name != "xla":
        return network, inputs, finished
    there = on_xla(network)
    from coltran_kernels.xla import device

    def done(stage: str) -> None:
        device.finish()
        finished(stage)

    return there, inputs.to(next(there.parameters()).device), done


def spaced_photos(folder: Path, count: int) -> list[Path]:
    """So many of a folder's photographs, evenly spaced in its order, again and again where they are few."""
    files = list_photos([folder])
    if not files:
        raise UserError(f"There are no photographs in {folder}.")
    return [files[i * len(files) // count] for i in range(count)]


def gray_photos(folder: Path, count: int) -> Tensor:
    """`spaced_photos` in gray, [count, 64, 64]."""
    chosen = spaced_photos(folder, count)
    side = [area_resize(rgb_to_gray(load_photo(file).astype(np.int64)).astype(np.uint8), 64) for file in chosen]
    return torch.from_numpy(np.stack(side))


def sides(
    network: nn.Module, stage: str, images: Tensor, implementations: list[str], rows: int, precision: str = "float32"
) -> dict[str, Run]:
    """What to time in turn: a network with each implementation, the colorizer after the original's way.

    Args:
        network: one of the three.
        stage: its name, under which an upsampler's time is marked.
        images: [B, H, W, C], of which a colorizer gets the first channel.
        implementations: by name.
        rows: of the original's way, the first ones; with 0 it is left out.
        precision: of our products.
    """

    def side(name: str) -> Run:
        def run(clock: StageClock) -> None:
            if isinstance(network, Colorizer):
                draw(name, network, images[..., 0], finished=clock, seed=0, precision=precision)
            else:
                upsample(name, network, images, precision=precision)
                clock(stage)

        return run

    ours = {name: side(name) for name in implementations}
    if not isinstance(network, Colorizer) or not rows:
        return ours
    return {record.RECOMPUTING: lambda clock: recompute(network, images[..., 0], rows=rows, finished=clock)} | ours


def ask(call: Callable[[str], object]) -> dict[str, str | None]:
    """Which implementations serve a call here: for each name None, or the reason why it cannot."""
    answers: dict[str, str | None] = {}
    for name in (DEFAULT, *IMPLEMENTATIONS):
        try:
            call(name)
            answers[name] = None
        except NotImplementedError as error:
            answers[name] = str(error)
    return answers


def ask_network(model: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, str | None]:
    """Which implementations can run this network here, by letting each have a small image."""
    network, images = build(small(model), device, dtype), random_images(1, small(model), device)
    if isinstance(network, Colorizer):
        return ask(lambda name: draw(name, network, images[..., 0], seed=0))
    return ask(lambda name: upsample(name, network, images))


def pick(answers: Mapping[str, str | None], wanted: list[str]) -> list[str]:
    """The implementations to measure, "all" being those that serve.

    Raises:
        UserError: one that is named cannot serve.
    """
    able = [name for name, reason in answers.items() if reason is None]
    for name in wanted:
        if name != "all" and name not in answers:
            raise UserError(f"There is no implementation {name!r}; there are {', '.join(answers)}.")
        if name != "all" and name not in able:
            raise UserError(f"The implementation {name!r} cannot run here: {answers[name]}.")
    return list(dict.fromkeys(picked for name in wanted for picked in (able if name == "all" else [name])))
