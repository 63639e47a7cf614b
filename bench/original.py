# SPDX-License-Identifier: Apache-2.0
"""The original program and ours, in turn, on the same image: `sample_speed.py --original DIR`.

A network gets the same random weights in both, draws the most probable colours, with the conditional norms as the
original samples, and the two images are compared pixel by pixel. Rounding may decide between two labels that are as
probable, and all later pixels depend on that one: so the first pixel that differs has to be such a tie.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
from argparse import Namespace
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from bench import machine, record, setting, timing
from bench.check import LOG_TOLERANCE, Disagreement
from coltran.errors import UserError
from coltran.image import colors_to_labels
from coltran.networks.colorizer import Colorizer
from coltran.original.variables import canonical_names, to_tf_layout
from coltran.sampling import sample

TENSORFLOW = machine.ROOT / "build" / "tf-venv" / "bin" / "python"  # of `make tf-test`
IMAGES = {"coltran_core": "auto_argmax", "color_upsampler": "bit_up_argmax", "spatial_upsampler": "high_res_argmax"}
LEAST_EQUAL = 0.999  # of an upsampler's values, each decided by itself


Arrays = dict[str, np.ndarray]


def draw(source: Path, python: Path, network: nn.Module, images: Tensor) -> tuple[Arrays, dict[str, Any]]:
    """Has the original program, whose package is in `source`, draw images uint8 [1, H, W, 3] by a network's weights.

    Returns:
        What its `sample` gives, by its names, and {"seconds", "before" that, version of "tensorflow"}.

    Raises:
        UserError: it does not run, or its network has other variables.
    """
    program = shutil.which(python)
    if program is None:
        raise UserError(f"There is no Python at {python}; name one with TensorFlow, or let `make tf-test` build it.")
    layout: dict[str, Any] = to_tf_layout(network, network.state_dict())
    model: dict[str, Any] = network.config  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as place, open(Path(place, "errors"), "w+", encoding="utf-8") as errors:
        job = {"model": model, "threads": torch.get_num_threads()}
        Path(place, "job.json").write_text(json.dumps(job), encoding="utf-8")
        np.save(Path(place, "images.npy"), images.numpy().astype(np.int32))
        quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | quiet
        command = [program, str(Path(__file__).with_name("original_draw.py")), str(source), place]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        told = ""
        with subprocess.Popen(command, env=environment, text=True, **pipes) as running:
            if names := running.stdout.readline():  # type: ignore[union-attr]
                canonical = canonical_names(json.loads(names))
                if unlike := sorted(set(canonical.values()) ^ set(layout)):
                    running.kill()
                    raise UserError(f"The original's {model['name']} is another network: {unlike[0]} is in one alone.")
                np.savez(Path(place, "weights.npz"), **{name: layout[same] for name, same in canonical.items()})
                told, _ = running.communicate("go on\n")
        if not told:
            errors.seek(0)
            reason = errors.read().strip().splitlines() or [f"exit code {running.returncode}"]
            raise UserError(f"The original program did not run with {python}: {reason[-1]}")
        return dict(np.load(Path(place, "drawn.npz"))), json.loads(told)


def compare(network: nn.Module, ours: Tensor, drawn: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How alike the two images are: {"pixels" or values, "different", "first"}.

    "first" is for a colorizer where they begin to differ, and how probable the original finds its label there and ours.

    Args:
        network: that drew.
        ours: labels [1, H, W] of a colorizer, or uint8 [1, H, W, 3].
        drawn: of the original.

    Raises:
        Disagreement: they differ by more than ties.
    """
    theirs = torch.from_numpy(drawn[IMAGES[network.config["name"]]])  # type: ignore[index]
    if isinstance(network, Colorizer):
        theirs = colors_to_labels(theirs // 32)
    unlike = (ours != theirs).flatten()
    found: dict[str, Any] = {"pixels": unlike.numel(), "different": int(unlike.sum()), "first": None}
    if not isinstance(network, Colorizer):
        if found["different"] > (1 - LEAST_EQUAL) * found["pixels"]:
            raise Disagreement(f"The two draw different images: {found['different']} of {found['pixels']} values.")
    elif found["different"]:
        place = int(unlike.int().argmax())
        probabilities = torch.from_numpy(drawn["proba"]).flatten(0, 2)[place]
        both = probabilities[[int(theirs.flatten()[place]), int(ours.flatten()[place])]].tolist()
        found["first"] = {"at": [place // ours.shape[2], place % ours.shape[2]], "probabilities": both}
        if not abs(np.log(both[0] / both[1])) <= LOG_TOLERANCE:
            raise Disagreement(f"The two draw different images: at {found['first']['at']} of probability {both}.")
    return found


def measure(stage: str, network: nn.Module, source: Path, options: Namespace) -> dict[str, Any]:
    """One image by the original, then by ours: what `table` shows."""
    model, cpu = network.config, torch.device("cpu")
    images = setting.random_images(1, model, cpu)  # type: ignore[arg-type]
    drawn, told = draw(source, options.tensorflow, network, images)
    result: list[Tensor] = []

    def run(clock: timing.StageClock) -> None:
        if isinstance(network, Colorizer):
            result.append(sample(network, images[..., 0], mode="argmax", norm="rowcontext").labels)
        else:
            result.append(setting.upsample(network, images))

    runs = [timed.seconds for _, timed in timing.alternate({record.OURS: run}, cpu, options.repeats)]
    ours = statistics.median(runs)
    found = {"network": stage, "runs": runs, "seconds": ours, "original": told}
    return found | {"ratio": told["seconds"] / ours, "compared": compare(network, result[-1], drawn)}


def table(measurements: list[dict[str, Any]]) -> Table:
    """The ratios, and how alike the images are."""
    rows, notes = [], []
    for m in measurements:
        compared, name = m["compared"], m["network"].replace("_", " ")
        equal = record.percent(1 - compared["different"] / compared["pixels"])
        rows.append((name, m["original"]["seconds"], m["seconds"], record.number(m["ratio"], "x"), equal))
        notes.append(f"{name}: {record.number(m['original']['before'])} s before the original could begin")
        if compared["first"]:
            at, (theirs, ours) = compared["first"]["at"], compared["first"]["probabilities"]
            notes.append(f"first pixel that differs: {at}, of probability {theirs:.9f} there and {ours:.9f} here")
    columns = ("network", "the original program, s", "this one, s", "ratio", "equal pixels or values")
    return record.table("The same image by the original program", columns, rows, "; ".join(notes) + ".")


def main(options: Namespace) -> int:
    """What `sample_speed` does with `--original`; returns its exit code."""
    if options.threads:
        torch.set_num_threads(options.threads)
    source, console, device = options.original, record.console(), torch.device("cpu")
    if not (source / "coltran" / "models" / "colorizer.py").is_file():
        raise UserError(f"The original's package is not in {source}: there is no coltran/models/colorizer.py.")
    found = []
    for stage, model in setting.load_models(options.config, options.stages).items():
        network = setting.build(model, device)
        console.print(f"{stage}: the original program is drawing")
        found.append(measure(stage, network, source, options))
        console.print(f"{stage}: {found[-1]['original']['seconds']:.3g} s there, {found[-1]['seconds']:.3g} s here")
    result = {
        "benchmark": "original",
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "interrupted": False,
        "machine": machine.describe(device),
        "measurements": found,
    }
    record.finish(result, [table(found)], options.results)
    return 0
