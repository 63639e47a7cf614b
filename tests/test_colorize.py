# SPDX-License-Identifier: Apache-2.0
"""The program that colours photographs, run with tiny random networks."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path, PurePath

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from coltran import colorize, loading, pipeline
from coltran.loading import from_pretrained
from coltran.photo import files, sheets
from coltran.photo.recolor import LUMA
from coltran.photo.results import Results

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks_dir: Path) -> Path:
    """An empty working folder; without --checkpoint, the tiny networks are used."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "PRETRAINED", networks_dir)
    return tmp_path


def make_photo(path: str, seed: int = 0) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


def results(folder: str = "out") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def record(folder: str = "out") -> dict:
    return json.loads(Path(folder, "colourings.json").read_text())


def test_each_photograph_gets_its_samples_and_a_sheet(here, capsys):
    make_photo("cat.png")
    assert colorize.main(["cat.png", "-o", "out", "--samples", "2"]) == 0
    assert results() == ["cat-0.png", "cat-1.png", "cat-sheet.png", "colourings.json"]
    assert capsys.readouterr().out == "cat.png -> out/cat-sheet.png\n"


def test_a_run_of_several_photographs_gets_their_sheets_with_their_names_one_above_the_other(here):
    make_photo("cat.png")
    make_photo("dog.png", seed=1)
    colorize.main(["cat.png", "dog.png", "-o", "out"])
    whole = np.asarray(Image.open("out/contact_sheet.png"))
    top, title = 0, sheets.LARGE + 10
    for name in ("cat", "dog"):
        sheet = np.asarray(Image.open(f"out/{name}-sheet.png"))
        assert (whole[top : top + title] < 128).any()
        np.testing.assert_array_equal(whole[top + title : top + title + len(sheet)], sheet)
        top += title + len(sheet) + sheets.GAP
    assert top == len(whole)


def test_the_files_hold_what_the_pipeline_gives(here, networks_dir):
    make_photo("cat.png")
    options = "--samples=2 --seed=6 --temperature=0.8 --top-p=0.9 --norm=rowcontext --stage=color"
    colorize.main(["cat.png", "-o", "out", "--size=network", "--fit=crop", *options.split()])
    expected = from_pretrained(networks_dir)(
        "cat.png", samples=2, seed=6, temperature=0.8, top_p=0.9, norm="rowcontext", stage="color", size="network",
        fit="crop",
    )  # fmt: skip
    likeliest = sorted(range(2), key=lambda s: -expected.log_prob[s])
    for k, s in enumerate(likeliest):
        np.testing.assert_array_equal(np.asarray(Image.open(f"out/cat-{k}.png")), expected.images[s])
    assert [found["sample"] for found in record()["cat.png"]["colourings"]] == likeliest


@pytest.mark.parametrize("batch", ["1", "16"])
def test_a_photograph_does_not_depend_on_its_company_or_on_more_samples(here, batch):
    for seed, name in enumerate(("a.png", "b.png", "c.png")):
        make_photo(name, seed)
    colorize.main(["b.png", "-o", "alone"])
    colorize.main(["a.png", "b.png", "c.png", "-o", "together", "--samples", "3", "--batch", batch])
    (same,) = [found["file"] for found in record("together")["b.png"]["colourings"] if found["sample"] == 0]
    assert Path("alone/b-0.png").read_bytes() == Path("together", same).read_bytes()


def test_the_best_are_the_first_of_all_samples(here):
    make_photo("cat.png")
    colorize.main(["cat.png", "-o", "all", "--samples", "5"])
    colorize.main(["cat.png", "-o", "best", "--samples", "5", "--best", "2"])
    assert results("best") == ["cat-0.png", "cat-1.png", "cat-sheet.png", "colourings.json"]
    of_all = record("all")["cat.png"]["colourings"]
    assert record("best")["cat.png"]["colourings"] == of_all[:2]
    bits = [found["bits_per_pixel"] for found in of_all]
    assert bits == sorted(bits)
    description = Image.open("best/cat-0.png").getexif()[ExifTags.Base.Software]
    assert description == f"Coloured by coltran: seed 0, sample {of_all[0]['sample']}, {bits[0]:.4f} bits a pixel"


@pytest.mark.parametrize(
    ("name", "options", "suffix", "format"),
    [(f"a.{s}", [], f".{s}", f) for f, s in (("jpeg", "jpg"), ("png", "png"), ("tiff", "tif"))]
    + [("a.bmp", [], ".png", "png")]
    + [("a.png", ["--format", f], f".{s}", f) for f, s in (("jpeg", "jpg"), ("webp", "webp"), ("tiff", "tif"))],
)
def test_the_format_is_the_photographs_or_png_or_what_is_asked_for(here, name, options, suffix, format):
    make_photo(name)
    colorize.main([name, "-o", "out", *options])
    with Image.open(f"out/a-0{suffix}") as image:
        assert (image.format.lower(), image.size) == (format, (15, 12))


def test_photographs_whose_results_are_all_there_can_be_left_out(here, capsys):
    for seed, name in enumerate(("a.png", "b.png")):
        make_photo(name, seed)
    colorize.main(["a.png", "b.png", "-o", "out", "--samples", "2"])
    whole = {path: path.read_bytes() for path in Path("out").iterdir()}
    Path("out/b-1.png").unlink()
    Path("out/a-0.png").write_text("looked at")
    capsys.readouterr()
    assert colorize.main(["a.png", "b.png", "-o", "out", "--samples", "2", "--skip-existing"]) == 0
    assert capsys.readouterr().out == "b.png -> out/b-sheet.png\n"
    assert Path("out/a-0.png").read_text() == "looked at"
    for name in ("b-0.png", "b-1.png", "b-sheet.png", "colourings.json"):
        assert Path("out", name).read_bytes() == whole[Path("out", name)]


def test_every_option_of_drawing_reaches_the_pipeline():
    given = set(vars(colorize.parse_arguments(["a.png", "-o", "out"])))
    taken = set(inspect.signature(pipeline.Pipeline.colorize).parameters)
    assert given & taken - {"samples", "best", "particles"} == set(colorize.DRAWING)  # those have a way of their own


def test_folders_are_coloured_with_their_subfolders(here):
    for name in ("album/a.png", "album/more/b.jpg"):
        make_photo(name)
    assert colorize.main(["album", "-o", "out"]) == 0
    assert results() == ["a-0.png", "a-sheet.png", "colourings.json", "contact_sheet.png", "more"]
    assert results("out/more") == ["b-0.jpg", "b-sheet.png"]


def test_results_of_an_earlier_run_are_no_photographs(here):
    make_photo("album/a.png")
    for _ in range(2):
        assert colorize.main(["album", "-o", "album/out"]) == 0
    assert results("album/out") == ["a-0.png", "a-sheet.png", "colourings.json"]


def test_a_folder_of_nothing_but_results_is_reported(here, capsys):
    make_photo("album/out/a-0.png")
    assert colorize.main(["album", "-o", "album/out"]) == 1
    assert "holds no photographs but earlier results" in capsys.readouterr().err


def test_a_file_that_is_no_result_is_never_replaced(here, capsys):
    make_photo("holiday.png")
    make_photo("holiday-1.png", 1)
    before = Path("holiday-1.png").read_bytes()
    assert colorize.main(["holiday.png", "-o", ".", "--samples", "2"]) == 1
    assert Path("holiday-1.png").read_bytes() == before
    assert "its result would replace holiday-1.png" in capsys.readouterr().err
    Path("holiday-1.png").unlink()
    for _ in range(2):  # the second time its own results are there
        assert colorize.main(["holiday.png", "-o", ".", "--samples", "2"]) == 0
    Path("colourings.json").unlink()
    assert colorize.main(["holiday.png", "-o", ".", "--samples", "2"]) == 0  # they say themselves that they are ours


def test_results_in_the_named_folder_itself_are_no_photographs(here):
    make_photo("album/a.png")
    make_photo("album/b.jpg", 1)
    for _ in range(2):
        assert colorize.main(["album", "-o", "album"]) == 0
    assert results("album") == [
        "a-0.png", "a-sheet.png", "a.png", "b-0.jpg", "b-sheet.png", "b.jpg", "colourings.json", "contact_sheet.png",
    ]  # fmt: skip
    for _ in range(2):
        Path("other").mkdir(exist_ok=True)
        assert colorize.main(["album/a.png", "other", "-o", "other"]) in (0, 1)  # the first time it is empty
    assert "a-0-0.png" not in results("other")


@pytest.mark.parametrize("batch", ["1", "16"])
def test_a_result_that_cannot_be_written_keeps_no_other_from_being(here, capsys, batch):
    for seed, name in enumerate(("a", "m" * 249, "z")):
        make_photo(f"album/{name}.png", seed)
    Path("album/b.png").write_text("broken")
    assert colorize.main(["album", "-o", "out", "--batch", batch]) == 1
    assert {"a-0.png", "z-0.png"} <= set(results())
    assert set(record("out")) == {"album/a.png", "album/z.png"}
    told = capsys.readouterr().err
    assert "b.png is not an image" in told and "File name too long" in told


def test_two_runs_into_one_folder_both_stand_in_the_record(here):
    for seed, name in enumerate("ab"):
        make_photo(f"{name}.png", seed)
    first, second = (
        Results({Path(f"{name}.png"): PurePath()}, here, options={}, count=1, format=None, quality=95) for name in "ab"
    )
    for found, name in ((first, "a"), (second, "b")):
        found.made[f"{name}.png"] = {"colourings": [{"file": f"{name}-0.png"}]}
    second.save_record()
    first.save_record()
    assert set(json.loads(Path("colourings.json").read_text())) == {"a.png", "b.png"}


def test_json_tells_of_this_run_alone(here, capsys):
    for seed, name in enumerate("ab"):
        make_photo(f"{name}.png", seed)
    colorize.main(["a.png", "-o", "out", "--quiet"])
    colorize.main(["b.png", "-o", "out", "--quiet", "--json"])
    assert set(json.loads(capsys.readouterr().out)["photos"]) == {"b.png"}


def test_no_photograph_is_replaced_by_a_result(here, capsys):
    for seed, name in enumerate(("a.png", "a-0.png")):
        make_photo(name, seed)
    before = Path("a-0.png").read_bytes()
    assert colorize.main(["a.png", "a-0.png", "-o", "."]) == 1
    assert Path("a-0.png").read_bytes() == before
    assert "a.png is not coloured: its result would replace" in capsys.readouterr().err
    assert Path("a-0-0.png").exists()


def test_bad_files_are_reported_at_the_end_and_the_rest_is_coloured(here, capsys):
    for name in ("album/a.png", "album/c.png"):
        make_photo(name)
    Path("album/b.png").write_text("not an image")
    assert colorize.main(["missing.png", "album", "-o", "out"]) == 1
    assert [name for name in results() if name[1] == "-"] == ["a-0.png", "a-sheet.png", "c-0.png", "c-sheet.png"]
    errors = "missing.png does not exist.\nalbum/b.png is not an image that can be read.\n"
    assert capsys.readouterr().err == errors


def test_an_empty_folder_is_reported_and_nothing_is_made(here, capsys):
    Path("album").mkdir()
    assert colorize.main(["album", "-o", "out"]) == 1
    assert capsys.readouterr().err == "The folder album holds no photographs.\n"
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_scan_of_sixteen_bits_keeps_them(here, name):
    scan = np.linspace(3000, 62000, 12 * 15).astype(np.uint16).reshape(12, 15)
    Image.fromarray(scan).save(name)
    assert colorize.main([name, "-o", "out"]) == 0
    found = cv2.imread(f"out/a-0{Path(name).suffix}", cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert found.dtype == np.uint16
    assert np.abs(found @ LUMA - scan).max() <= 0.51  # half a level and float32's rounding


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_transparency_is_kept(here, fit):
    alpha = np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8)
    Image.fromarray(np.dstack((np.full((12, 16, 3), 90, np.uint8), alpha))).save("a.png")
    assert colorize.main(["a.png", "-o", "out", "--fit", fit]) == 0
    found = np.asarray(Image.open("out/a-0.png"))
    np.testing.assert_array_equal(found[..., 3], alpha if fit == "stretch" else alpha[:, 2:14])


def test_a_full_disk_is_one_sentence_and_what_was_finished_stays(here, monkeypatch, program, capsys):
    for seed, name in enumerate(("a.png", "b.png")):
        make_photo(name, seed)
    write = files.write_bytes

    def fill(content, path):
        if path.name == "b-0.png":
            raise OSError(28, "No space left on device", str(path))
        write(content, path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", fill)
        assert program(colorize.main, "a.png", "b.png", "-o", "out", "--batch", "1") == 1
    assert capsys.readouterr().err == "out/b-0.png: No space left on device.\n"
    assert results() == ["a-0.png", "a-sheet.png", "colourings.json"]
    assert program(colorize.main, "a.png", "b.png", "-o", "out", "--skip-existing") == 0
    assert capsys.readouterr().out == "b.png -> out/b-sheet.png\n"


def test_a_rerun_with_other_options_draws_anew(here, capsys):
    make_photo("a.png")
    for arguments, lines in ((["--seed=1"], 1), (["--seed=1"], 0), (["--seed=2"], 1), (["--seed=2", "--samples=2"], 1),
        (["--seed=2", "--samples=3", "--best=2"], 1), (["--seed=2", "--estimate=mean"], 1), (["--quality=90"], 1),
    ):  # fmt: skip
        assert colorize.main(["a.png", "-o", "out", "--skip-existing", *arguments]) == 0
        assert capsys.readouterr().out.count("\n") == lines


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["cat.png"],
        ["-o", "out"],
        ["cat.png", "-o", "out", "--samples", "0"],
        ["cat.png", "-o", "out", "--samples", "two"],
        ["cat.png", "-o", "out", "--seed", "-1"],
        ["cat.png", "-o", "out", "--temperature", "0"],
        ["cat.png", "-o", "out", "--temperature", "nan"],
        ["cat.png", "-o", "out", "--top-p", "1.5"],
        ["cat.png", "-o", "out", "--mode", "best"],
        ["cat.png", "-o", "out", "--stage", "colour"],
        ["cat.png", "-o", "out", "--threads", "0"],
        ["cat.png", "-o", "out", "--quality", "101"],
        ["cat.png", "-o", "out", "--samples", "2", "--best", "3"],
        ["cat.png", "-o", "out", "--format", "bmp"],
        ["cat.png", "-o", "out", "--actors", "2"],
        ["cat.png", "-o", "out", "--ray", "--skip-existing"],
    ],
)
def test_usage_errors_exit_2_and_make_nothing(here, program, arguments):
    make_photo("cat.png")
    assert program(colorize.main, *arguments) == 2
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-o", "out", "--checkpoint", "nowhere"], "There is no folder nowhere."),
        (["-o", "out", "--checkpoint", "wrong"], "wrong/colorizer is the checkpoint of a color_upsampler."),
        (["-o", "out", "--checkpoint", "."], ". holds no folder named colorizer with that network's checkpoint."),
        (["-o", "out", "--device", "abacus"], "There is no device 'abacus' here; there is cpu"),
        (["-o", "out", "--checkpoint", "alone"], "no network for --stage color: it reaches --stage coarse."),
        (["-o", "cat.png"], "cat.png cannot be written: "),
        (["-o", "cat.png/out"], "cat.png/out cannot be written: "),
    ],
)
def test_what_the_user_can_mend_is_one_sentence_and_exits_1(here, networks_dir, program, capsys, arguments, sentence):
    make_photo("cat.png")
    Path("wrong").mkdir()
    Path("wrong/colorizer").symlink_to(networks_dir / "color_upsampler")
    Path("alone").mkdir()
    Path("alone/colorizer").symlink_to(networks_dir / "colorizer")
    assert program(colorize.main, "cat.png", *arguments) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_without_ray_its_option_says_what_to_install(here, monkeypatch, program, capsys):
    make_photo("cat.png")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "coltran.cluster", raising=False)
    assert program(colorize.main, "cat.png", "-o", "out", "--ray") == 1
    assert "pip install coltran[ray]" in capsys.readouterr().err
    assert not Path("out").exists()
