# SPDX-License-Identifier: Apache-2.0
"""Colours photographs.

    python -m coltran.colorize old.jpg -o coloured
    python -m coltran.colorize album/ scan.png -o coloured --samples 4 --seed 7
    python -m coltran.colorize old.jpg -o coloured --samples 16 --best 3 --format png
    python -m coltran.colorize old.jpg -o coloured --hint 120,45,#c03020 --particles 32
    python -m coltran.colorize old.jpg -o coloured --stage coarse --size network --checkpoint trained/
    python -m coltran.colorize album/ -o coloured --ray

The result is the photograph, at its own size and with its own luminance; the networks give the colours. Colours
it may have are not used. For old.jpg, the output folder gets old-0.jpg, old-1.jpg, ... (the likeliest first, by
the model's own probability) and old-sheet.png: the gray photograph and all colourings side by side, small. A run
of several photographs also gets contact_sheet.png, the sheets of the first 16 one above the other.
colourings.json says of each file its sample, its seed and its bits a pixel (less is likelier). Results of the same
name from an earlier run are replaced, any other file never. A folder is searched with its subfolders.
A photograph that cannot be read is reported at the end (exit code 1), and the others are coloured all the same.

Wishes for one photograph: --hint and --hints impose colours, --particles makes what lies above them agree as well,
--redraw draws a part of a colouring anew; docs/hints.md. `python -m coltran.score --ask` says where a hint helps most.

The same seed gives the same colours, whatever else is coloured in the same run. Unless --temperature 1 and
--top-p 1 are given, unlikely colours are left out: the default --top-p 0.9 spares the networks in the package the
stray pixels that they still draw now and then, and colourings are then no longer draws from the plain
distribution. The bits a pixel are under the plain distribution in any case.

With --ray the machines of a Ray cluster colour any number of photographs, from folders, addresses that fsspec
reaches (s3://bucket/album) or lists (a .txt file with a path on each line, a .parquet file with a column path), into
a folder that all of them share: docs/scaling-out.md. Then album/x/old.jpg becomes x/old.jpg-0.jpg, ..., its seed is
made of --seed and its name, manifest.parquet has a row for each result and each photograph that failed, and a rerun
leaves what is done.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from coltran import cli, wishes
from coltran.album import colour_album, find_photos
from coltran.console import LOG, Parser
from coltran.devices.choose import PRECISIONS, require_bfloat16
from coltran.errors import UsageError, UserError
from coltran.files import check_output
from coltran.photo import files
from coltran.photo.results import RECORD, load_record
from coltran.pipeline import ESTIMATE, STAGES, from_pretrained
from coltran.sampling.estimates import ESTIMATES
from coltran_kernels.shapes import LARGEST, SMALLEST

# Options of `Pipeline.colour`.
DRAWING = ("seed", "temperature", "top_p", "mode", "stage", "estimate", "norm", "fit", "size", "precision")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a usage error leaves the program with exit code 2."""
    parser = Parser("colorize", __doc__)
    count = cli.at_least(1)
    temperature = cli.number(float, lambda value: SMALLEST <= value <= LARGEST, "a number from 1e-30 to 1e30")
    quality = cli.number(int, lambda value: 1 <= value <= 100, "a whole number from 1 to 100")
    share = cli.number(float, lambda value: SMALLEST <= value <= 1, "a number from 1e-30 to 1")

    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="a photograph, or a folder of photographs")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR",
        help="folder with colorizer/, color_upsampler/ and spatial_upsampler/; owner/name on the Hugging Face Hub; or "
        "published, which python -m coltran.download fetches (default: the weights that come with the package)",
    )  # fmt: skip
    parser.add_argument("--samples", type=count, default=1, metavar="N", help="colourings a photograph (1)")
    parser.add_argument("--best", type=count, metavar="K", help="keep the K likeliest of them (default: all)")
    parser.add_argument(
        "--diverse", type=count, metavar="K",
        help="keep the likeliest and the K that differ most from it and from each other",
    )  # fmt: skip
    parser.add_argument("--seed", type=cli.seed, default=0, metavar="S", help="of the random numbers (0)")
    parser.add_argument(
        "--temperature", type=temperature, default=1.0, metavar="T",
        help="below 1 keeps to likelier colours, above 1 is bolder (1.0)",
    )  # fmt: skip
    parser.add_argument(
        "--top-p", type=share, default=0.9, metavar="P",
        help="draw from the likeliest colours that together have this probability; 1 takes them all (0.9)",
    )  # fmt: skip
    parser.add_argument(
        "--mode", choices=("sample", "argmax"), default="sample",
        help="draw the coarse colours, or take the likeliest at each pixel: less colourful (sample)",
    )  # fmt: skip
    parser.add_argument(
        "--stage", choices=STAGES, default="final",
        help="whose colours: coarse (512 colours) and color are of 64 x 64 pixels (final)",
    )  # fmt: skip
    parser.add_argument(
        "--estimate", choices=tuple(ESTIMATES), default=ESTIMATE,
        help=f"which value of the fine colours' distributions; argmax is the original program's ({ESTIMATE})",
    )  # fmt: skip
    parser.add_argument(
        "--fit", choices=("stretch", "crop"), default="stretch",
        help="colour the whole photograph, or the central square as the paper does (stretch)",
    )  # fmt: skip
    parser.add_argument(
        "--size", choices=("original", "network"), default="original",
        help="the photograph's own size and sharpness, or the images that the networks draw (original)",
    )  # fmt: skip
    parser.add_argument("--format", choices=tuple(files.FORMATS), help="of the results (default: the photograph's)")
    parser.add_argument("--quality", type=quality, default=95, metavar="Q", help="of JPEG and WebP, 1 to 100 (95)")
    parser.add_argument("--batch", type=count, default=16, metavar="N", help="colourings that are drawn together (16)")
    parser.add_argument("--skip-existing", action="store_true", help="leave photographs whose results are all there")
    parser.add_argument(
        "--norm", choices=("exact", "rowcontext"), default="exact",
        help="exact samples what was trained; rowcontext is what the original program does with its own "
        "checkpoints (exact)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32",
        help="of the matrix products; bfloat16 is faster where a CPU or GPU has units for it, and not exact (float32)",
    )  # fmt: skip
    cli.add_machine_arguments(parser)
    parser.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS",
        help="colour on a Ray cluster: its address, auto for the one that this machine belongs to, or local "
        "for one of this machine alone (local)",
    )  # fmt: skip
    parser.add_argument(
        "--actors", type=count, metavar="N", help="with --ray: how many work at once (default: one a GPU, or a machine)"
    )
    wishes.add_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.diverse is not None and arguments.best is not None:
        parser.error("--best and --diverse cannot be combined")
    if arguments.diverse is not None and arguments.diverse >= arguments.samples:
        parser.error(f"--diverse {arguments.diverse} needs more than --samples {arguments.samples}")
    wishes.check(parser, arguments)
    if arguments.ray is None and arguments.actors is not None:
        parser.error("--actors is for --ray")
    if arguments.ray is not None and arguments.skip_existing:
        parser.error("--ray leaves what its manifest says is done: --skip-existing is not for it")
    if arguments.ray is not None and (arguments.diverse is not None or wishes.are_given(arguments)):
        parser.error("--ray takes neither --diverse nor wishes for one photograph")
    if arguments.best is not None and arguments.best > arguments.samples:
        parser.error(f"--best {arguments.best} of --samples {arguments.samples} cannot be kept")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    arguments = parse_arguments(argv)
    if arguments.ray is not None:
        return _report((), _on_ray(arguments), arguments)
    device = cli.use_machine(arguments)
    if arguments.precision == "bfloat16":
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"--precision=bfloat16 colours on a CPU or a GPU; {device} takes --precision=float32.")
        require_bfloat16(device)
    photos, problems = find_photos(arguments.photos, arguments.output)
    finished: list[Path] = []
    if wishes.are_given(arguments) and len(photos) > 1:
        raise UsageError(f"Hints and --redraw are for one photograph, and there are {len(photos)}.")
    if photos:
        check_output(arguments.output)
        pipeline = from_pretrained(arguments.checkpoint).to(device)
        if arguments.stage not in pipeline.stages:
            reached = f"it reaches --stage {pipeline.stages[-1]}"
            raise UserError(f"The checkpoint has no network for --stage {arguments.stage}: {reached}.")
        drawing = {name: getattr(arguments, name) for name in DRAWING}
        wished = wishes.of_photograph(arguments, pipeline, photos[0], drawing) if wishes.are_given(arguments) else None
        arguments.output.mkdir(parents=True, exist_ok=True)
        finished, failed = colour_album(
            pipeline,
            photos,
            arguments.output,
            drawing=wishes.drawing(arguments, drawing),
            samples=arguments.samples,
            best=arguments.best,
            batch=arguments.batch,
            format=arguments.format,
            quality=arguments.quality,
            skip_existing=arguments.skip_existing,
            diverse=arguments.diverse,
            wishes=wished,
            noted=wishes.noted(arguments) | {"checkpoint": _everywhere(arguments.checkpoint)},
        )
        problems += failed
    return _report(finished, problems, arguments)


def _on_ray(arguments: argparse.Namespace) -> list[str]:
    try:
        from coltran import cluster  # Ray takes a while, and is an extra
    except ModuleNotFoundError as error:
        raise UserError(f"--ray needs the package {error.name}: pip install coltran[ray].") from error
    photos, problems = cluster.find_photos(arguments.photos, arguments.output)
    if photos:
        check_output(arguments.output)
        arguments.output.mkdir(parents=True, exist_ok=True)
        order = cluster.Order(
            output=str(arguments.output.resolve()),
            drawing={name: getattr(arguments, name) for name in DRAWING},
            checkpoint=_everywhere(arguments.checkpoint),
            device=arguments.device,
            samples=arguments.samples,
            best=arguments.best or arguments.samples,
            batch=arguments.batch,
            format=arguments.format,
            quality=arguments.quality,
        )
        problems += cluster.colour_on_ray(
            photos, order, address=arguments.ray, actors=arguments.actors, threads=arguments.threads
        )
    return problems


def _everywhere(checkpoint: Path | None) -> str | None:
    """The name of a checkpoint for another working directory; on the Hub it has one already."""
    return str(checkpoint.resolve() if checkpoint.exists() else checkpoint) if checkpoint else None


def _report(finished: Sequence[Path], problems: Sequence[str], arguments: argparse.Namespace) -> int:
    """Says what went wrong, and for --json what colourings.json holds of these photographs; returns the exit code."""
    for problem in problems:
        LOG.error("%s", problem)
    if arguments.json:
        record = load_record(arguments.output / RECORD)
        photos = {name: record[name] for name in map(str, finished) if name in record}
        print(json.dumps({"output": str(arguments.output), "photos": photos, "problems": list(problems)}))
    return 1 if problems else 0


if __name__ == "__main__":
    cli.run(main)
