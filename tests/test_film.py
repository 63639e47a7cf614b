# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
import numpy as np
import pytest

from coltran.film.canvas import canvas_of, canvas_size
from coltran.film.film import Film
from coltran.film.resume import pack, unpack
from coltran.film.shots import find_shots
from tests.film_clips import HEIGHT, WIDTH, Painter, colored, hue, pan, texture

WORLD = texture(1)
BLACK = np.zeros((HEIGHT, WIDTH), np.uint8)
STILL = pan(WORLD, [0])[0]


def _frames(images):
    size = canvas_size(*images[0].shape[:2])
    return [(number, canvas_of(image, size)) for number, image in enumerate(images)]


def _shots(images):
    return [frame.shot for frame in find_shots(_frames(images))]


def _flashes(images):
    return [frame.item for frame in find_shots(_frames(images)) if frame.flash]


def _off(found, wanted):
    """The mean distance of chroma, in levels a channel."""
    return float(np.abs(found - wanted).mean())


def test_every_frame_keeps_its_own_luminance():
    frames = pan(WORLD, range(0, 25, 5))
    luma = [f @ np.array([0.299, 0.587, 0.114]) for f in Film(Painter())(frames)]  # type: ignore[arg-type]
    assert max(np.abs(found - frame).max() for found, frame in zip(luma, frames, strict=True)) < 0.51


def test_a_still_shot_is_drawn_once():
    painter = Painter()
    found = colored(painter, [STILL] * 8)
    assert len(painter.grays) == 1
    assert max(_off(frame, hue(0)) for frame in found) < 0.6


def test_colours_move_with_what_they_are_on():
    def halves(gray, number):
        return np.where(np.arange(gray.shape[1])[None, :, None] < gray.shape[1] / 2, hue(0), hue(1))

    found = colored(Painter(halves), pan(WORLD, range(0, 33, 4)))
    moved = found[-1][:, : WIDTH // 2 - 32 - 4], found[-1][:, WIDTH // 2 - 32 + 4 : WIDTH - 32 - 4]
    assert _off(moved[0], hue(0)) < 1.5
    assert _off(moved[1], hue(1)) < 1.5


def test_what_comes_into_view_is_drawn_with_what_is_known_imposed():
    painter = Painter()
    found = colored(painter, pan(WORLD, range(0, 52, 6)))
    assert _off(found[-1][:, : WIDTH - 60], hue(0)) < 1.5
    known = {(hint.x, hint.y) for hint in painter.hints[1]}
    assert known
    assert max(x for x, _ in known) < painter.high * 0.9  # the strip on the right is not known


def test_a_cut_begins_with_colours_of_its_own():
    painter = Painter()
    found = colored(painter, [STILL] * 6 + pan(texture(2), [0] * 6))
    assert max(_off(frame, hue(0)) for frame in found[:6]) < 0.6
    assert max(_off(frame, hue(1)) for frame in found[6:]) < 0.6


def test_after_a_cut_frames_are_those_of_a_film_that_begins_there():
    def paint(gray, _):
        return np.broadcast_to(hue(int(gray.astype(int).sum())), (*gray.shape, 3))

    second = pan(texture(2), range(0, 40, 8))
    cut, alone = colored(Painter(paint), pan(WORLD, range(0, 12, 3)) + second), colored(Painter(paint), second)
    assert all(np.array_equal(a, b) for a, b in zip(cut[4:], alone, strict=True))


def test_shots_of_one_frame_are_found():
    assert _shots([pan(texture(seed), [0])[0] for seed in (1, 2, 3)]) == [0, 1, 2]


def test_a_fast_pan_is_one_shot():
    assert set(_shots(pan(WORLD, range(0, 80, 10)))) == {0}


@pytest.mark.parametrize("level", [255, 0])
def test_a_flash_is_no_cut(level):
    frames = [STILL] * 8
    frames[4] = np.full((HEIGHT, WIDTH), level, np.uint8)
    assert _flashes(frames) == [4]
    painter = Painter()
    assert max(_off(frame, hue(0)) for n, frame in enumerate(colored(painter, frames)) if n != 4) < 0.6
    assert len(painter.grays) == 1


def test_a_lost_frame_of_another_film_is_no_cut():
    frames = [*pan(WORLD, range(6)), *pan(texture(9), [0]), *pan(WORLD, range(7, 12))]
    assert set(_shots(frames)) == {0}


def test_a_shot_that_fades_in_is_drawn_where_it_is_clear():
    painter = Painter()
    found = colored(painter, [(STILL * share).astype(np.uint8) for share in np.linspace(0.04, 1, 12)])
    assert len(painter.grays) == 1
    assert painter.grays[0].std() > 0.8 * STILL.std()
    assert _off(found[-1], hue(0)) < 0.6


def test_colours_fade_with_their_picture():
    found = colored(Painter(), [(STILL * share).astype(np.uint8) for share in np.linspace(1, 0.06, 12)])
    strength = [float(np.abs(frame).mean()) for frame in found]
    assert strength[-1] < 0.2 * strength[0]
    assert all(later <= before + 0.3 for before, later in zip(strength, strength[1:], strict=False))


def test_a_scene_after_black_has_none_of_the_colours_before():
    shares = np.linspace(1, 0, 10)
    out = [(STILL * share).astype(np.uint8) for share in shares]
    other = pan(texture(2), [0])[0]
    frames = [*out, BLACK, BLACK, *((other * share).astype(np.uint8) for share in shares[::-1])]
    painter = Painter()
    found = colored(painter, frames)
    assert len(painter.grays) == 2
    assert _off(found[-1], hue(1)) < 0.6


def test_a_scratch_takes_the_colours_around_it():
    large = cv2.resize(STILL, (2 * WIDTH, 2 * HEIGHT))
    frames = [large.copy() for _ in range(5)]
    for n, frame in enumerate(frames[1:]):
        frame[:, 40 + 16 * n] = 235
    painter = Painter()
    found = colored(painter, frames)
    assert len(painter.grays) == 1
    assert max(_off(frame, hue(0)) for frame in found) < 1


def test_brightness_that_flickers_leaves_the_colours_alone():
    gains = 1 + 0.2 * np.sin(np.arange(8) * 2.4)
    painter = Painter()
    found = colored(painter, [np.clip(STILL * gain, 0, 255).astype(np.uint8) for gain in gains])
    assert len(painter.grays) == 1
    assert max(_off(frame, hue(0)) for frame in found) < 1.5


def test_what_comes_back_has_the_colours_that_it_had():
    there = list(range(0, 150, 10))
    painter = Painter()
    found = colored(painter, pan(WORLD, there + there[::-1]))
    middle = slice(10, WIDTH - 10)
    assert there[-1] > WIDTH and len(painter.grays) > 2  # all of it was out of view, and drawn
    assert _off(found[-1][:, middle], hue(0)) < 3


def test_a_reference_gives_its_colours_to_what_it_shows():
    image = np.clip(pan(WORLD, [12])[0][..., None] + hue(2), 0, 255).astype(np.uint8)
    found = colored(Painter(), pan(WORLD, range(0, 5)), references=[image])
    assert _off(found[0][:, 20:], hue(2)) < 1.5


def test_a_reference_of_something_else_gives_none():
    image = np.clip(pan(texture(7), [0])[0][..., None] + hue(2), 0, 255).astype(np.uint8)
    found = colored(Painter(), pan(WORLD, range(0, 5)), references=[image])
    assert _off(found[0], hue(0)) < 0.6


def test_a_film_goes_on_from_a_state_as_if_it_had_not_stopped():
    frames = _frames(pan(WORLD, range(0, 72, 4)))

    def paint(gray, _):
        return np.broadcast_to(hue(int(gray.astype(int).sum())), (*gray.shape, 3))

    reference = np.clip(WORLD[20 : 20 + HEIGHT, 60 : 60 + WIDTH, None] + hue(2), 0, 255).astype(np.uint8)
    film = Film(Painter(paint), references=[reference])  # type: ignore[arg-type]
    whole = list(film.carry(frames))
    stop = [n for n, found in enumerate(whole) if found.state is not None][1]
    state = unpack(pack(whole[stop].state))
    rest = list(film.carry(frames[stop + 1 :], state))
    assert [found.item for found in rest] == list(range(stop + 1, 18))
    # What a float32 sum rounds to depends on where its memory lies.
    assert max(np.abs(a.chroma - b.chroma).max() for a, b in zip(rest, whole[stop + 1 :], strict=True)) < 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (40, 300), (33, 21, 3)])
def test_frames_may_have_any_size(shape):
    frames = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    found = list(Film(Painter())(frames))  # type: ignore[arg-type]
    assert [frame.shape for frame in found] == [(*shape[:2], 3)] * 3


def test_sixteen_bits_stay():
    frame = cv2.resize(STILL, (WIDTH, HEIGHT)).astype(np.uint16) * 257 + 100
    (found,) = Film(Painter())([frame])  # type: ignore[arg-type]
    assert found.dtype == np.uint16
    assert np.abs(found @ np.array([0.299, 0.587, 0.114]) - frame).max() <= 1


def test_a_frame_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\[9, 8\] after one of \[8, 8\]"):
        list(Film(Painter())([np.zeros((8, 8), np.uint8), np.zeros((9, 8), np.uint8)]))  # type: ignore[arg-type]


def test_no_frames_give_none():
    assert list(Film(Painter())([])) == []  # type: ignore[arg-type]
