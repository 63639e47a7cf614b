# SPDX-License-Identifier: Apache-2.0
"""Colours photographs.

    python -m coltran.colorize old.jpg -o coloured
    python -m coltran.colorize album/ scan.png -o coloured --samples 4 --seed 7
    python -m coltran.colorize old.jpg -o coloured --samples 16 --best 3 --format png
    python -m coltran.colorize old.jpg -o coloured --hint 120,45,#c03020 --particles 32
    python -m coltran.colorize old.jpg -o coloured --stage coarse --size network --checkpoint trained/
    python -m coltran.colorize - < old.jpg > coloured.jpg
    python -m coltran.colorize album/ -o coloured --ray

The result is the photograph, at its own size and with its own luminance; the networks give the colours.
Colours it may have are not used. A faded print is shown to the networks at full range, and gets paler
colours; --levels restore also gives the result that range. The border of a print stays neutral. For old.jpg,
the output folder gets old-0.jpg, old-1.jpg, ... (in --order) and old-sheet.png: the gray
photograph and all colourings side by side, small. A run of several photographs also gets contact_sheet.png,
the sheets of the first 16 one above the other.
colourings.json says of each file its sample, its seed and its bits a pixel (less is likelier). Results of the same
name from an earlier run are replaced, any other file never. A folder is searched with its subfolders.
A photograph that cannot be read is reported at the end (exit code 1), and the others are coloured all the same.

Edits of one photograph: --hint and --hints impose colours, --particles makes what lies above them agree as well,
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

import torch

from coltran import cli, edits, stream
from coltran.album import color_album, find_photos
from coltran.console import LOG, Parser, speak
from coltran.devices.choose import PRECISIONS, require_bfloat16
from coltran.errors import UsageError, UserError
from coltran.files import check_output
from coltran.loading import from_pretrained
from coltran.photo import files
from coltran.photo.decoding import allow_megapixels, most_megapixels
from coltran.photo.results import RECORD, load_record
from coltran.photo.view import BORDERS, LEVELS
from coltran.pipeline import DEFAULT_STAGE, ESTIMATE, MODES, STAGES, Pipeline
from coltran.sampling.estimates import ESTIMATES
from coltran.sampling.ranking import ORDERS
from coltran_kernels.decode_row.shapes import LARGEST, SMALLEST

# Options of `Pipeline.colorize`.
DRAWING = ("seed", "temperature", "top_p", "mode", "guidance", "order", "stage", "estimate", "norm", "fit", "size",
           "levels", "border", "precision")  # fmt: skip


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a usage error leaves the program with exit code 2."""
    parser = Parser("colorize", __doc__)
    count = cli.at_least(1)
    temperature = cli.number(float, lambda value: SMALLEST <= value <= LARGEST, "a number from 1e-30 to 1e30")
    quality = cli.number(int, lambda value: 1 <= value <= 100, "a whole number from 1 to 100")

    parser.add_argument(
        "photos", nargs="+", metavar="PHOTO", help="a photograph, a folder of photographs, or - (standard input)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR",
        help="folder for the results; - is standard output, for the first colouring, in --order, of one photograph",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR",
        help="folder with colorizer/, color_upsampler/ and spatial_upsampler/; owner/name on the Hugging Face Hub; or "
        "published, which python -m coltran.download fetches (default: the weights that come with the package)",
    )  # fmt: skip
    parser.add_argument("--samples", type=count, default=1, metavar="N", help="colourings a photograph (1)")
    parser.add_argument("--best", type=count, metavar="K", help="keep the first K of them in --order (default: all)")
    parser.add_argument(
        "--order", choices=ORDERS,
        help="guide: first the colouring whose colours are nearest to those that the guide expects, which errs less "
        "than the likeliest; likelihood: the likeliest (guide where one steers)",
    )  # fmt: skip
    parser.add_argument(
        "--diverse", type=count, metavar="K",
        help="keep the first and the K that differ most from it and from each other",
    )  # fmt: skip
    cli.add_drawing_arguments(parser)
    parser.add_argument(
        "--temperature", type=temperature, default=1.0, metavar="T",
        help="below 1 keeps to likelier colours, above 1 is bolder (1.0)",
    )  # fmt: skip
    parser.add_argument(
        "--mode", choices=MODES, default="sample",
        help="draw the coarse colours; or take the likeliest at each pixel, which is less colourful; or, without any "
        "drawing, those that the guide expects: one sober answer in a fraction of the time (sample)",
    )  # fmt: skip
    parser.add_argument(
        "--stage", choices=STAGES,
        help="whose colours: coarse (512 colours) and color are of 64 x 64 pixels (color; with --size network final)",
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
    parser.add_argument(
        "--levels", choices=LEVELS,
        help="of a faded print: auto shows it to the networks at full range, restore gives the result that range as "
        "well, keep does neither (auto)",
    )  # fmt: skip
    parser.add_argument(
        "--border", choices=BORDERS,
        help="of a print: auto leaves it neutral and does not show it to the networks, keep colours it (auto)",
    )  # fmt: skip
    parser.add_argument(
        "--pages", choices=("first", "all"), default="first", help="of a file with several pages or frames (first)"
    )
    parser.add_argument("--strict", action="store_true", help="refuse a photograph of which a part is missing")
    parser.add_argument(
        "--megapixels", type=cli.number(float, lambda value: 0 < value <= 1e6, "a number from 0 to 1e6"), metavar="N",
        help=f"how large a photograph may be; more may be a file made to exhaust the memory ({most_megapixels():.0f})",
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
    edits.add_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.diverse is not None and arguments.best is not None:
        parser.error("--best and --diverse cannot be combined")
    if arguments.diverse is not None and arguments.diverse >= arguments.samples:
        parser.error(f"--diverse {arguments.diverse} needs more than --samples {arguments.samples}")
    edits.check(parser, arguments)
    if arguments.mode == "expected" and (arguments.samples > 1 or edits.are_given(arguments)):
        parser.error("--mode expected gives one colouring a photograph, without hints")
    _check_streams(parser, arguments)
    if arguments.size == "network" and arguments.levels == "restore":
        parser.error("--levels restore is for --size original")
    arguments.stage = arguments.stage or DEFAULT_STAGE[arguments.size]
    default = "keep" if (arguments.fit, arguments.size) == ("crop", "network") else "auto"
    arguments.levels, arguments.border = arguments.levels or default, arguments.border or default
    if arguments.ray is None and arguments.actors is not None:
        parser.error("--actors is for --ray")
    if arguments.ray is not None and arguments.skip_existing:
        parser.error("--ray leaves what its manifest says is done: --skip-existing is not for it")
    if arguments.ray is not None and (arguments.diverse is not None or edits.are_given(arguments)):
        parser.error("--ray takes neither --diverse nor edits of one photograph")
    if arguments.best is not None and arguments.best > arguments.samples:
        parser.error(f"--best {arguments.best} of --samples {arguments.samples} cannot be kept")
    return arguments


def _check_streams(parser: Parser, arguments: argparse.Namespace) -> None:
    """Ends the program with a usage error where - makes no sense, or no output is named; `-` alone goes to `-`."""
    if arguments.output is None:
        if arguments.photos != ["-"]:
            parser.error("the following arguments are required: -o/--output")
        arguments.output = Path("-")
    if "-" in arguments.photos and arguments.output != Path("-"):
        parser.error("- reads one photograph and writes it to standard output: -o - or none")
    if arguments.output == Path("-"):
        if len(arguments.photos) > 1 or Path(arguments.photos[0]).is_dir():
            parser.error("standard output has room for one photograph")
        if arguments.ray or arguments.json or arguments.skip_existing or arguments.pages == "all":
            parser.error("--ray, --json, --skip-existing and --pages all are not for standard output")
        if arguments.diverse is not None or (arguments.best or 1) > 1:
            parser.error("standard output has room for one colouring alone")
        stream.check_streams()
        speak(quiet=arguments.quiet, json=True)  # what is said goes to standard error


def _pipeline(arguments: argparse.Namespace, device: torch.device) -> Pipeline:
    """The networks, which have to be able to do what is asked for; fills in the guide's weight."""
    pipeline = from_pretrained(arguments.checkpoint).to(device)
    if arguments.stage not in pipeline.stages:
        reached = f"it reaches --stage {pipeline.stages[-1]}"
        raise UserError(f"The checkpoint has no network for --stage {arguments.stage}: {reached}.")
    cli.resolve_guidance(arguments, pipeline.guide)
    return pipeline


def _color_stream(arguments: argparse.Namespace, device: torch.device) -> int:
    pipeline = _pipeline(arguments, device)
    drawing = {name: getattr(arguments, name) for name in DRAWING}
    stream.color_stream(
        pipeline,
        arguments.photos[0],
        drawing=edits.drawing(arguments, drawing),
        edits=(lambda pixels: edits.of_photograph(arguments, pipeline, pixels, drawing))
        if edits.are_given(arguments)
        else None,
        samples=arguments.samples,
        batch=arguments.batch,
        format=arguments.format,
        quality=arguments.quality,
        strict=arguments.strict,
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    arguments = parse_arguments(argv)
    if arguments.megapixels is not None:
        allow_megapixels(arguments.megapixels)
    if arguments.ray is not None:
        return _report((), _on_ray(arguments), arguments)
    device = cli.use_machine(arguments)
    if arguments.precision == "bfloat16":
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"--precision=bfloat16 colours on a CPU or a GPU; {device} takes --precision=float32.")
        require_bfloat16(device)
    if arguments.output == Path("-"):
        return _color_stream(arguments, device)
    photos, problems = find_photos(arguments.photos, arguments.output)
    finished: list[str] = []
    if edits.are_given(arguments) and len(photos) > 1:
        raise UsageError(f"Hints and --redraw are for one photograph, and there are {len(photos)}.")
    if photos:
        check_output(arguments.output)
        pipeline = _pipeline(arguments, device)
        drawing = {name: getattr(arguments, name) for name in DRAWING}
        imposed = (
            edits.of_photograph(arguments, pipeline, next(iter(photos)), drawing)
            if edits.are_given(arguments)
            else None
        )
        arguments.output.mkdir(parents=True, exist_ok=True)
        finished, failed = color_album(
            pipeline,
            photos,
            arguments.output,
            drawing=edits.drawing(arguments, drawing),
            samples=arguments.samples,
            best=arguments.best,
            batch=arguments.batch,
            format=arguments.format,
            quality=arguments.quality,
            skip_existing=arguments.skip_existing,
            pages=arguments.pages,
            strict=arguments.strict,
            diverse=arguments.diverse,
            edits=imposed,
            noted=edits.noted(arguments) | {"checkpoint": _everywhere(arguments.checkpoint)},
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
        _pipeline(arguments, torch.device("cpu"))  # what it cannot do is told here, and the manifest has the weight
        arguments.output.mkdir(parents=True, exist_ok=True)
        job = cluster.Job(
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
        problems += cluster.color_on_ray(
            photos, job, address=arguments.ray, actors=arguments.actors, threads=arguments.threads
        )
    return problems


def _everywhere(checkpoint: Path | None) -> str | None:
    """The name of a checkpoint for another working directory; on the Hub it has one already."""
    return str(checkpoint.resolve() if checkpoint.exists() else checkpoint) if checkpoint else None


def _report(finished: Sequence[str], problems: Sequence[str], arguments: argparse.Namespace) -> int:
    """Says what went wrong, and for --json what colourings.json holds of these photographs; returns the exit code."""
    for problem in problems:
        LOG.error("%s", problem)
    if arguments.json:
        record = load_record(arguments.output / RECORD)
        photos = {name: record[name] for name in finished if name in record}
        print(json.dumps({"output": str(arguments.output), "photos": photos, "problems": list(problems)}))
    return 1 if problems else 0


if __name__ == "__main__":
    cli.run(main)
