# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from coltran.errors import UserError
from coltran.film import __main__ as program
from coltran.film import folders, run
from coltran.film.film import Film
from coltran.film.resume import Parts
from tests.disks import full_disk
from tests.film_clips import HEIGHT, WIDTH, Painter, pan, texture

av = pytest.importorskip("av")
from coltran.film import streams  # noqa: E402

WORLD = texture(1)


def write_clip(path, frames, *, codec="ffv1", pix_fmt="yuv420p", pts=None, sound=False, rotation=0, aspect=Fraction(1)):
    """A film of luma planes [H, W]; its time base is a hundredth of a second."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape
        stream.pix_fmt, stream.time_base, stream.codec_context.time_base = pix_fmt, Fraction(1, 100), Fraction(1, 100)
        stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        noise = output.add_stream("pcm_s16le" if path.suffix == ".mkv" else "aac", rate=8000) if sound else None
        for number, luma in enumerate(frames):
            frame = av.VideoFrame(luma.shape[1], luma.shape[0], pix_fmt)
            for index in range(len(frame.planes)):
                streams._plane(frame, index)[:] = luma if not index else 1 << (7 if luma.dtype == np.uint8 else 9)
            frame.pts, frame.time_base = pts[number] if pts else 4 * number, Fraction(1, 100)
            output.mux(stream.encode(frame))
        if noise is not None:
            for number in range(8 * len(frames) * 4 // 100):
                samples = np.zeros((1, 1000), np.int16 if noise.codec_context.name == "pcm_s16le" else np.float32)
                kind = "s16" if samples.dtype == np.int16 else "fltp"
                frame = av.AudioFrame.from_ndarray(samples, format=kind, layout="mono")
                frame.sample_rate, frame.pts = 8000, 1000 * number
                output.mux(noise.encode(frame))
            output.mux(noise.encode(None))
        output.mux(stream.encode(None))
    return path


def color(path, output, *, codec="ffv1", crf=None, painter=None):
    """Colours a film by a `Painter`."""
    target = streams.Target(path, output, codec, crf)
    target.check(overwrite=True)
    return run.color_film(Film(painter or Painter()), target, {})


def lumas(path):
    source = streams.open_film(path)
    return [picture.luma for picture in source.pictures()], [
        float(picture.pts * source.time_base) for picture in source.pictures()
    ]


FRAMES = pan(WORLD, range(0, 40, 4))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv444p", "gray", "gray10le"])
def test_luma_goes_through_a_lossless_film_unchanged(tmp_path, pix_fmt):
    frames = [frame.astype(np.uint16) * 4 + 1 if "10" in pix_fmt else frame for frame in FRAMES[:4]]
    clip = write_clip(tmp_path / "clip.mkv", frames, pix_fmt=pix_fmt)
    assert color(clip, tmp_path / "out.mkv").frames == 4
    found, times = lumas(tmp_path / "out.mkv")
    assert all(np.array_equal(one, other) for one, other in zip(found, frames, strict=True))
    assert times == [pytest.approx(0.04 * n) for n in range(4)]


def test_a_film_gets_the_colours_that_were_painted(tmp_path):
    color(write_clip(tmp_path / "clip.mkv", FRAMES[:2]), tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        frame = next(container.decode(video=0))
    y, u, v = (streams._plane(frame, n).astype(float) for n in range(3))
    red = 1.402 * (v.mean() - 128) * 255 / 224
    blue = 1.772 * (u.mean() - 128) * 255 / 224
    assert (red, blue) == (pytest.approx(7.4, abs=0.6), pytest.approx(-5.8, abs=0.6))


def test_times_of_a_variable_rate_stay(tmp_path):
    pts = [0, 4, 5, 11, 12, 13, 30, 31, 40, 77]
    color(write_clip(tmp_path / "clip.mkv", FRAMES, pts=pts), tmp_path / "out.mp4", codec="libx264", crf=10)
    assert lumas(tmp_path / "out.mp4")[1] == [pytest.approx(time / 100) for time in pts]


def test_sound_stays_and_is_left_out_with_a_word_where_it_cannot(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", FRAMES[:4], sound=True)
    assert color(clip, tmp_path / "out.mkv").problems == []
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert len(container.streams.audio) == 1
    (problem,) = color(clip, tmp_path / "out.webm", codec="libvpx-vp9", crf=30).problems
    assert "cannot hold the audio" in problem


def test_subtitles_stay(tmp_path):
    text = "1\n00:00:00,040 --> 00:00:00,200\nGrandmother\n\n2\n00:00:00,240 --> 00:00:00,320\n1932\n"
    (tmp_path / "a.srt").write_text(text)
    with (
        av.open(str(write_clip(tmp_path / "plain.mkv", FRAMES))) as film,
        av.open(str(tmp_path / "a.srt")) as titles,
        av.open(str(tmp_path / "clip.mkv"), "w") as both,
    ):
        copies = [both.add_stream_from_template(source.streams[0], opaque=True) for source in (film, titles)]
        for source, stream in zip((film, titles), copies, strict=True):
            for packet in source.demux(source.streams[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    both.mux(packet)
    assert color(tmp_path / "clip.mkv", tmp_path / "out.mkv").problems == []
    with av.open(str(tmp_path / "out.mkv")) as container:
        found = [packet for packet in container.demux(subtitles=0) if packet.dts is not None]
        assert [bytes(packet) for packet in found] == [b"Grandmother", b"1932"]
        assert [float(packet.pts * packet.time_base) for packet in found] == [0.04, 0.24]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_film_comes_out_upright(tmp_path, rotation):
    clip = write_clip(tmp_path / "clip.mp4", FRAMES[:2], codec="libx264", rotation=rotation)
    color(clip, tmp_path / "out.mkv")
    with av.open(str(clip)) as container:
        turned = next(container.decode(video=0)).rotation
    with av.open(str(tmp_path / "out.mkv")) as container:
        frame = next(container.decode(video=0))
    expected = np.rot90(FRAMES[0], round(turned / 90))
    assert (frame.height, frame.width) == expected.shape
    assert frame.rotation == 0
    assert np.abs(streams._plane(frame, 0).astype(float) - expected).mean() < 8


def test_pixels_that_are_not_square_stay_so(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", FRAMES[:2], codec="libx264", aspect=Fraction(4, 3))
    assert not color(clip, tmp_path / "out.mp4", codec="libx264", crf=10).problems
    assert streams.open_film(tmp_path / "out.mp4").aspect == Fraction(4, 3)
    (problem,) = color(clip, tmp_path / "out.mkv").problems
    assert "ffv1 does not say that pixels are 4/3 as wide as high" in problem


def test_odd_sides_are_made_even_only_for_codecs_that_want_it(tmp_path, caplog):
    frames = [frame[:89, :119] for frame in FRAMES[:3]]
    clip = write_clip(tmp_path / "clip.mkv", frames)
    color(clip, tmp_path / "out.mkv")
    assert lumas(tmp_path / "out.mkv")[0][0].shape == (89, 119)
    color(clip, tmp_path / "out.mp4", codec="libx264", crf=10)
    assert lumas(tmp_path / "out.mp4")[0][0].shape == (90, 120)


def test_what_can_be_read_of_a_damaged_film_is_coloured(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", FRAMES, codec="mjpeg", pix_fmt="yuvj420p")
    content = bytearray(clip.read_bytes())
    begin = content.find(b"\xff\xd8\xff", len(content) // 2)
    end = content.find(b"\xff\xd9", begin)
    content[begin:end] = bytes(end - begin)
    clip.write_bytes(content)
    summary = color(clip, tmp_path / "out.mkv")
    assert 5 <= summary.frames < 10
    assert len(summary.problems) == 1
    assert "is damaged at one place" in summary.problems[0]


def test_a_stopped_run_leaves_a_film_and_goes_on_to_the_same_one(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SEGMENT", 8)
    frames = pan(WORLD, range(0, 120, 4))
    clip = write_clip(tmp_path / "clip.mkv", frames, sound=True)

    class Impatient(Painter):
        def __call__(self, gray, **options):
            if len(self.grays) == 3:
                raise KeyboardInterrupt
            return super().__call__(gray, **options)

    with pytest.raises(KeyboardInterrupt):
        color(clip, tmp_path / "out.mkv", painter=Impatient())
    stopped = lumas(tmp_path / "out.mkv")[0]
    assert 8 <= len(stopped) < 30
    assert all(np.array_equal(one, other) for one, other in zip(stopped, frames, strict=False))
    done = Parts(tmp_path / "out.mkv", {}).counts
    assert done
    color(clip, tmp_path / "out.mkv")
    assert not Parts.place(tmp_path / "out.mkv").exists()
    found, times = lumas(tmp_path / "out.mkv")
    assert all(np.array_equal(one, other) for one, other in zip(found, frames, strict=True))
    assert times == [pytest.approx(0.04 * n) for n in range(30)]


def test_parts_of_another_order_are_not_gone_on_with(tmp_path):
    parts = Parts(tmp_path / "out.mp4", {"seed": 1})
    film = Film(Painter())
    frames = ((n, folders.canvas_of(frame, (256, 344))) for n, frame in enumerate(FRAMES))
    parts.end(9, next(found.state for found in film.carry(frames) if found.state is not None))
    assert Parts(tmp_path / "out.mp4", {"seed": 1}).done == 9
    assert Parts(tmp_path / "out.mp4", {"seed": 2}).done == 0


def test_a_full_disk_leaves_no_output(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", FRAMES[:4])
    with full_disk(20000), pytest.raises(OSError):
        color(clip, tmp_path / "out.mkv")
    assert not (tmp_path / "out.mkv").exists()


def _main(*arguments):
    return program.main([*map(str, arguments)])


def test_a_folder_of_frames_becomes_one_in_the_order_of_numbers(tmp_path, networks_dir):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(frames / f"f{number}.png")
    Image.fromarray(FRAMES[0]).save(frames / "f10.jpg")
    (frames / "f3.png").write_bytes(b"no image")
    Image.fromarray(FRAMES[0][:50]).save(frames / "f11.png")
    assert _main(frames, "-o", tmp_path / "out", "--checkpoint", networks_dir) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [f"f{n}.png" for n in range(10) if n != 3] + ["f10.jpg"]
    )
    assert [path.name for path in folders.Target(frames, tmp_path / "out").paths][-2:] == ["f10.jpg", "f11.png"]
    assert np.asarray(Image.open(tmp_path / "out" / "f9.png")).shape == (HEIGHT, WIDTH, 3)


def test_files_of_others_are_not_replaced(tmp_path, networks_dir):
    frames = tmp_path / "frames"
    frames.mkdir()
    Image.fromarray(FRAMES[0]).save(frames / "f0.png")
    with pytest.raises(UserError, match="would be replaced"):
        _main(frames, "-o", frames, "--checkpoint", networks_dir)
    clip = write_clip(tmp_path / "clip.mkv", FRAMES[:2])
    with pytest.raises(UserError, match="the film itself"):
        _main(clip, "-o", clip, "--checkpoint", networks_dir)
    (tmp_path / "there.mkv").touch()
    with pytest.raises(UserError, match="--overwrite"):
        _main(clip, "-o", tmp_path / "there.mkv", "--checkpoint", networks_dir)


def test_hints_for_a_time_reach_the_frames_around_it(tmp_path, networks_dir):
    clip = write_clip(tmp_path / "clip.mkv", [WORLD[:HEIGHT, :WIDTH]] * 6)
    hint = f"0.1:{WIDTH // 2},{HEIGHT // 2},#ff0000,100"
    options = ("--codec", "ffv1", "--checkpoint", networks_dir)
    assert _main(clip, "-o", tmp_path / "out.mkv", *options, "--hint", hint) == 0
    with pytest.raises(UserError, match="no frame at 9"):
        _main(clip, "-o", tmp_path / "o.mkv", *options, "--hint", "9:1,1,#ff0000")


@pytest.mark.parametrize("asked", [["--mode", "expected"], ["--guidance", "1"]])
def test_what_needs_a_guide_says_so(tmp_path, networks_dir, asked):
    clip = write_clip(tmp_path / "clip.mkv", FRAMES[:2])
    with pytest.raises(UserError, match="a guide, and"):
        _main(clip, "-o", tmp_path / "out.mkv", "--checkpoint", networks_dir, *asked)


def test_expected_colours_impose_nothing(tmp_path):
    painter = Painter()
    list(Film(painter, mode="expected")(pan(WORLD, range(0, 60, 4))))
    assert len(painter.hints) > 1
    assert not any(painter.hints)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.mp4", None, "does not exist"),
        ("text.mp4", b"This is a text and no film at all.", "is no film that can be read"),
        ("empty.mp4", b"", "is no film that can be read"),
        ("sound.wav", None, "no moving pictures"),
        (".", None, "holds no frames"),
    ],
)
def test_what_is_no_film_is_refused(tmp_path, networks_dir, name, content, said):
    if name == "sound.wav":
        with av.open(str(tmp_path / name), "w") as output:
            stream = output.add_stream("pcm_s16le", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            frame.sample_rate = 8000
            output.mux(stream.encode(frame))
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        _main(tmp_path / name, "-o", tmp_path / "out.mp4", "--checkpoint", networks_dir)


@pytest.mark.parametrize(
    ("output", "codec", "said"),
    [
        ("out.mp4", "h265x", "There is no codec 'h265x' to write a film with; there are libx264"),
        ("out.txt", "libx264", "does not end in a format of films"),
        ("out.webm", "libx264", "cannot hold what libx264 makes"),
    ],
)
def test_codecs_and_formats_that_cannot_be_are_told_first(tmp_path, networks_dir, output, codec, said):
    clip = write_clip(tmp_path / "clip.mkv", FRAMES[:2])
    with pytest.raises(UserError, match=said):
        _main(clip, "-o", tmp_path / output, "--codec", codec, "--checkpoint", networks_dir)
