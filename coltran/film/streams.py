# SPDX-License-Identifier: Apache-2.0
"""Films as files: their frames' luma out of them, and films of other chroma written, by PyAV (FFmpeg's libraries).

A frame's luma goes through unchanged, in its own 8 or 10 bits, range and time stamp; only the two planes of chroma,
half as wide and high, are made anew (`coltran.film.planes`).
"""

from __future__ import annotations

import heapq
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame

from coltran.console import LOG
from coltran.errors import UserError
from coltran.files import check_output, written_whole
from coltran.film.canvas import Canvas, canvas_of, canvas_size
from coltran.film.planes import WEIGHTS, black_and_white, chroma_planes

BT709, BT601, FULL_RANGE, LIMITED_RANGE = 1, 6, 2, 1
HIGH_DEFINITION = 720  # lines, from which a film that does not say is taken for one of ITU-R BT.709


@dataclass(frozen=True)
class Picture:
    """One frame of a film."""

    luma: np.ndarray  # uint8 or uint16 [H, W], upright, as it is coded
    pts: int  # in units of the film's time base


@dataclass
class Source:
    """A film that is read."""

    path: Path
    index: int  # of the stream of pictures
    height: int  # upright
    width: int
    bits: int  # 8 or 10
    full_range: bool
    matrix: int  # FFmpeg's number
    primaries: int
    transfer: int
    aspect: Fraction  # width of a pixel to its height, upright
    turns: int  # quarter turns to the left that make it upright
    time_base: Fraction
    rate: Fraction
    frames: int | None  # about how many there are
    interlaced: bool = False  # known once a frame was read
    damaged: list[float] = field(default_factory=list)  # seconds at which something could not be read

    @property
    def black_and_white(self) -> tuple[int, int]:
        """The coded luma of black and of white."""
        return black_and_white(self.bits, self.full_range)

    def pictures(self, skip: int = 0) -> Iterator[Picture]:
        """The frames after the first `skip`, in the order in which they are shown; what is damaged is left out."""
        with _opened(self.path) as container:
            stream = container.streams[self.index]
            stream.thread_type = "AUTO"
            step = max(1, round(1 / (self.rate * self.time_base)))
            number, last = 0, None
            for frame in _decode(container, stream, self.damaged):
                pts = frame.pts if frame.pts is not None else (0 if last is None else last + step)
                if last is not None and pts <= last:
                    pts = last + 1
                last, number = pts, number + 1
                self.interlaced |= bool(frame.interlaced_frame)
                if number > skip:
                    yield Picture(self._luma(frame), pts)

    def _luma(self, frame: VideoFrame) -> np.ndarray:
        coded = (self.height, self.width) if self.turns % 2 else (self.width, self.height)
        if not _has_luma(frame) or (frame.width, frame.height) != coded or _bits(frame) != self.bits:
            levels = FULL_RANGE if self.full_range else LIMITED_RANGE
            kind = "yuv420p" if self.bits == 8 else "yuv420p10le"
            frame = frame.reformat(*coded, format=kind, dst_color_range=levels)
        return np.ascontiguousarray(np.rot90(_plane(frame, 0), self.turns))


def _has_luma(frame: VideoFrame) -> bool:
    """Whether the first plane of a frame is its luma, in 8 or 10 bits."""
    return re.fullmatch(r"(yuv[aj]?4\d\dp|nv12|nv21|nv16|nv24|gray)(10le)?", frame.format.name) is not None


def _bits(frame: VideoFrame) -> int:
    """8 or 10: how many bits of a frame are kept."""
    return 8 if max(component.bits for component in frame.format.components) <= 8 else 10


def _plane(frame: VideoFrame, index: int) -> np.ndarray:
    """A plane of a frame, uint8 or uint16 [h, w]; what is written to it is written to the frame."""
    plane, kind = frame.planes[index], np.uint8 if _bits(frame) == 8 else np.uint16
    pixels = np.frombuffer(memoryview(plane), kind).reshape(-1, plane.line_size // np.dtype(kind).itemsize)
    return pixels[: plane.height, : plane.width]


def _decode(container: Any, stream: Any, damaged: list[float]) -> Iterator[VideoFrame]:
    """The frames of a stream, as far as they can be read; the seconds at which they cannot are added to a list."""
    packets = container.demux(stream)
    packet = None
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            for frame in packet.decode():
                if frame.is_corrupt:
                    damaged.append(float((frame.pts or 0) * stream.time_base))
                yield frame
        except (av.error.InvalidDataError, av.error.EOFError, av.error.UndefinedError):
            damaged.append(float((packet.pts or 0) * stream.time_base) if packet is not None else 0.0)


def _opened(path: Path) -> Any:
    logging.getLogger("libav").setLevel(logging.CRITICAL)  # what is wrong is told in a sentence
    try:
        return av.open(str(path))
    except (av.error.InvalidDataError, av.error.EOFError):
        raise UserError(f"{path} is no film that can be read.") from None
    except av.error.FFmpegError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def open_film(path: Path) -> Source:
    """What there is to know of a film before its frames are read.

    Raises:
        UserError: it is none, has no pictures that move, or its codec is not here.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    with _opened(path) as container:
        streams = [one for one in container.streams.video if not one.disposition & one.disposition.attached_pic]
        if not streams:
            raise UserError(f"{path} has no moving pictures.")
        stream = streams[0]
        codec = stream.codec_context
        if codec is None:
            raise UserError(f"The pictures of {path} are in a codec that cannot be read here.")
        first = next(_decode(container, stream, []), None)
        if first is None:
            raise UserError(f"{path} has no frame that can be read.")
        turns = round(first.rotation / 90) % 4
        height, width = (first.width, first.height) if turns % 2 else (first.height, first.width)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        name = first.format.name
        full_range = int(first.color_range) == FULL_RANGE or name.startswith(("yuvj", "gray"))
        matrix = int(first.colorspace)
        if matrix not in WEIGHTS:
            matrix = BT709 if height >= HIGH_DEFINITION else BT601
        length = stream.duration and float(stream.duration * stream.time_base)
        length = length or (container.duration and container.duration / av.time_base)
        return Source(
            path, stream.index, height, width, _bits(first), full_range=full_range and _has_luma(first),
            matrix=matrix, primaries=int(first.color_primaries), transfer=int(first.color_trc),
            aspect=1 / aspect if turns % 2 else aspect, turns=turns, time_base=stream.time_base, rate=rate,
            frames=stream.frames or (round(length * rate) if length else None),
        )  # fmt: skip


class Target:
    """A film, and the film of its pictures in other colours.

    Args:
        path: the first.
        output: the second; its ending decides its format.
        codec: FFmpeg's name, such as libx264, libx265, libsvtav1, libvpx-vp9, ffv1.
        crf: the quality, where the codec has that option; smaller is better.

    Raises:
        UserError: there is no such film or codec, or the format does not take it.
    """

    def __init__(self, path: Path, output: Path, codec: str, crf: int | None) -> None:
        self.source, self.output, self.codec, self.crf = open_film(path), output, codec, crf
        self.problems: list[str] = []
        self.frames = self.source.frames
        self.part_format = part_format(codec)
        self.container: Any = None

    def stamp(self) -> list[Any]:
        """What changes when the film does."""
        found = self.source.path.stat()
        return [found.st_size, found.st_mtime_ns]

    def check(self, *, overwrite: bool) -> None:
        """Raises UserError where the output cannot be written, or is there already."""
        if self.output.is_dir():
            raise UserError(f"{self.output} is a folder, and the film a file.")
        if self.output.exists() and self.output.samefile(self.source.path):
            raise UserError(f"{self.output} is the film itself: choose another name.")
        if self.output.exists() and not overwrite:
            raise UserError(f"{self.output} is there already: --overwrite replaces it.")
        check_output(self.output.parent)
        check_format(self.output, self.codec)

    def frame_at(self, when: float) -> np.ndarray | None:
        """The frame that is shown so many seconds after the first, uint8 [H, W, 3]."""
        found, first = None, None
        for picture in self.source.pictures():
            seconds = float(picture.pts * self.source.time_base)
            first = seconds if first is None else first
            if found is not None and seconds - first > when:
                break
            found = picture
        if found is None or first is None or when > seconds - first + 1 / float(self.source.rate):
            return None
        black, white = self.source.black_and_white
        gray = np.clip((found.luma.astype(np.float32) - black) * (255 / (white - black)), 0, 255)
        return np.repeat(np.rint(gray).astype(np.uint8)[..., None], 3, -1)

    def pictures(self, skip: int) -> Iterator[Picture]:
        """The frames after the first `skip`."""
        yield from self.source.pictures(skip)
        if self.source.damaged:
            begin, count = self.source.damaged[0], len(self.source.damaged)
            places = f"{count} places" if count > 1 else "one place"
            self.problems.append(
                f"{self.source.path} is damaged at {places}, first after {begin:.1f} s: what can be read is coloured."
            )

    def canvas(self, picture: Picture) -> Canvas:
        """A frame's canvas."""
        source = self.source
        size = canvas_size(source.height, source.width, float(source.aspect))
        return canvas_of(picture.luma, size, *source.black_and_white)

    def begin(self, path: Path) -> None:
        """Pictures go there from now on."""
        source, stream = self.source, None
        # What codecs other than ffv1 ask of the sides, as chroma is half as wide and high.
        self.size = [side + side % 2 * (self.codec != "ffv1") for side in (source.height, source.width)]
        self.container = av.open(str(path), "w", format=self.part_format)
        options = {} if self.crf is None else {"crf": str(self.crf)}
        stream = self.container.add_stream(self.codec, rate=source.rate, options=options)
        stream.height, stream.width = self.size
        stream.pix_fmt = "yuv420p" if source.bits == 8 else "yuv420p10le"
        stream.time_base = stream.codec_context.time_base = source.time_base
        stream.codec_context.sample_aspect_ratio = source.aspect
        stream.codec_context.flags |= av.codec.context.Flags.global_header  # once for a file, as mp4 wants it
        stream.codec_context.color_range = FULL_RANGE if source.full_range else LIMITED_RANGE
        stream.codec_context.colorspace = source.matrix
        stream.codec_context.color_primaries, stream.codec_context.color_trc = source.primaries, source.transfer
        self.stream = stream

    def write(self, picture: Picture, chroma: np.ndarray) -> None:
        """Adds a frame in colors [h, w, 3], RGB - Y of ITU-R BT.601, of any size."""
        height, width = self.size
        frame = VideoFrame(width, height, self.stream.pix_fmt)
        luma = np.pad(picture.luma, ((0, height - len(picture.luma)), (0, width - picture.luma.shape[1])), mode="edge")
        source = self.source
        planes = chroma_planes(luma, chroma, bits=source.bits, full_range=source.full_range, matrix=source.matrix)
        for index, plane in enumerate((luma, *planes)):
            _plane(frame, index)[:] = plane
        frame.pts, frame.time_base = picture.pts, source.time_base
        self.container.mux(self.stream.encode(frame))

    def end(self) -> None:
        """Writes what the codec still holds."""
        self.container.mux(self.stream.encode(None))
        self.container.close()

    def finish(self, parts: list[Path], whole: bool) -> None:
        """Puts the parts together with the sound and the subtitles of the source, up to where the pictures end."""
        with written_whole(self.output) as path:
            self.problems += join_parts(path, parts, self.source, whole)
        if self.source.interlaced:
            LOG.warning("%s", f"{self.source.path} is interlaced: lines of two moments are coloured as one frame.")
        if self.size != [self.source.height, self.source.width]:
            height, width = self.size
            LOG.warning("%s", f"{self.codec} wants even sides: {self.output} has {width} x {height} pixels.")
        if open_film(self.output).aspect != self.source.aspect:
            shape = f"{self.source.aspect} as wide as high"
            self.problems.append(
                f"{self.codec} does not say that pixels are {shape}: {self.output} is too narrow or wide."
            )


def part_format(codec: str) -> str:
    """The format that keeps time stamps of a codec's packets exactly, those of decoding too.

    Raises:
        UserError: there is no codec of that name to write with, or no such format.
    """
    try:
        name = av.codec.Codec(codec, "w").canonical_name
        for kind in ("mp4", "mov"):
            with av.open(os.devnull, "w", format=kind) as probe:
                if name in probe.supported_codecs:
                    return kind
    except (av.codec.codec.UnknownCodecError, ValueError):
        pass
    known = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "prores_ks")
    here = ", ".join(name for name in known if name in av.codecs_available)
    raise UserError(f"There is no codec {codec!r} to write a film with; there are {here}.")


def check_format(path: Path, codec: str) -> None:
    """Raises UserError where the format that a film's name ends in does not take a codec, or is none."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with av.open(str(Path(folder, f"film{path.suffix}")), "w") as probe:
                takes = av.codec.Codec(codec, "w").canonical_name in probe.supported_codecs
        except (av.error.FFmpegError, ValueError):
            raise UserError(f"{path.name} does not end in a format of films, such as .mp4, .mkv or .mov.") from None
    if not takes:
        raise UserError(f"A film that ends in {path.suffix} cannot hold what {codec} makes; .mkv can.")


def join_parts(path: Path, parts: Sequence[Path], source: Source, whole: bool) -> list[str]:
    """Puts pictures of one codec together, with the sound, the subtitles and the chapters of their source.

    Args:
        path: the film to write.
        parts: films of pictures alone, in order.
        source: their source.
        whole: to its end; else everything ends with the pictures.

    Returns:
        A sentence for each stream of the source that the format cannot hold.
    """
    left_out, copies = list[str](), dict[int, Any]()
    with _opened(source.path) as original, _opened(parts[-1]) as last, av.open(str(path), "w") as output:
        output.metadata.update({"comment": "Coloured by coltran"} | original.metadata)
        template = last.streams.video[0]
        video = output.add_stream_from_template(template, opaque=True)
        end = float((template.start_time + template.duration) * template.time_base)
        for stream in original.streams:
            if stream.type not in ("audio", "subtitle"):
                continue
            codec = stream.codec_context
            if codec is not None and codec.codec.canonical_name in output.supported_codecs:
                copies[stream.index] = output.add_stream_from_template(stream, opaque=True)
                copies[stream.index].metadata.update(stream.metadata)
            else:
                name = "an unknown codec" if codec is None else codec.name
                what = f"the {stream.type} of {source.path} ({name})"
                left_out.append(f"A film that ends in {path.suffix} cannot hold {what}: it is left out.")
        if whole:
            output.set_chapters(original.chapters())

        def pictures() -> Iterator[tuple[Fraction, Any]]:
            for part in parts:
                with _opened(part) as container:
                    for packet in container.demux(video=0):
                        if packet.dts is not None:
                            packet.stream = video
                            yield packet.dts * packet.time_base, packet

        def others() -> Iterator[tuple[Fraction, Any]]:
            packets = original.demux([stream for stream in original.streams if stream.index in copies])
            for packet in packets if copies else ():
                if packet.dts is not None and (whole or packet.dts * packet.time_base < end):
                    packet.stream = copies[packet.stream.index]
                    yield packet.dts * packet.time_base, packet

        output.start_encoding()
        for _, packet in heapq.merge(pictures(), others(), key=lambda pair: pair[0]):
            output.mux(packet)
    return left_out
