# SPDX-License-Identifier: Apache-2.0
"""Colouring on a Ray cluster: one of this machine, for all tests here; actors of one core each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ml_collections import ConfigDict
from PIL import Image

from coltran import cli, cluster, colorize
from coltran.errors import UserError
from coltran.files import WRITING
from coltran.image import load_photo
from coltran.loading import from_pretrained
from coltran.original.records import read_generated
from coltran.photo import manifest
from coltran.pipeline import Pipeline
from coltran.sample import write_samples
from coltran.sampling import named_seed
from tests.tiny import LOW
from tests.tiny_training import whole_config, write_photo

TWO = ("--actors", "2", "--threads", "1")


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=100 * 2**20,
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def pipeline(networks_dir: Path) -> Pipeline:
    return from_pretrained(networks_dir)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photographs in two folders, two of the same name, and one that is broken."""
    folder = tmp_path_factory.mktemp("album")
    for n in range(5):
        write_photo(folder / "a" / f"p{n}.png", n)
        write_photo(folder / "b" / f"p{n + 4}.png", 10 + n, 15, 40)
    (folder / "a" / "broken.png").write_bytes(b"no photograph")
    return folder


def _run(*argv: Any) -> int:
    return colorize.main([*map(str, argv), "--ray"])


@pytest.fixture
def colour(networks_dir: Path, tmp_path: Path) -> Callable[..., int]:
    """`colour(album, ...)` by the tiny networks into the folder `out`; the exit code."""
    return lambda album, *options: _run(album, "-o", tmp_path / "out", "--checkpoint", networks_dir, *options)


def _album(folder: Path, count: int, *size: int) -> Path:
    for n in range(count):
        write_photo(folder / f"p{n:02d}.png", n, *size)
    return folder


def _rows(output: Path) -> list[dict[str, Any]]:
    return manifest.read(output).to_pylist()


def _assert_pixels_of_one_process(
    output: Path, rows: list[dict[str, Any]], pipeline: Pipeline, samples: int = 1
) -> None:
    """Each result is what the pipeline alone draws from the photograph with the seed that the manifest names."""
    for row in rows:
        alone = pipeline(row["path"], samples=samples, seed=row["seed"], top_p=0.9)
        np.testing.assert_array_equal(load_photo(output / row["file"]), alone.images[row["sample"]])
        assert row["log_probability"] == pytest.approx(alone.log_prob[row["sample"]], rel=1e-6)


@pytest.fixture(scope="module")
def coloured(album, networks_dir, tmp_path_factory) -> tuple[Path, int]:
    """The album by two actors, and the program's exit code."""
    output = tmp_path_factory.mktemp("coloured") / "out"
    return output, _run(album, "-o", output, "--checkpoint", networks_dir, "--samples", 2, "--batch", 4, *TWO)


def test_two_actors_draw_the_pixels_of_one_process(coloured, pipeline):
    good = [row for row in _rows(coloured[0]) if row["error"] is None]
    assert len(good) == 20
    _assert_pixels_of_one_process(coloured[0], good, pipeline, samples=2)


def test_results_lie_in_the_folders_of_their_photographs_with_seeds_of_their_names(coloured):
    output, _ = coloured
    seeds = {row["path"]: row["seed"] for row in _rows(output)}
    assert all(seed == named_seed(0, Path(path).name) for path, seed in seeds.items())
    assert len(set(seeds.values())) == len(seeds) - 1  # a/p4.png and b/p4.png
    photos = [("a", n) for n in range(5)] + [("b", n) for n in range(4, 9)]
    expected = {f"{folder}/p{n}.png-{k}.png" for folder, n in photos for k in (0, 1)}
    assert {str(path.relative_to(output)) for path in output.rglob("*.png")} == expected


def test_a_broken_photograph_is_a_row(album, coloured):
    output, code = coloured
    (row,) = [row for row in _rows(output) if row["error"] is not None]
    assert (code, row["path"]) == (1, str(album / "a" / "broken.png"))
    assert row["error"] == f"{row['path']} is not an image that can be read."
    assert (row["file"], row["sample"]) == (None, None)


def test_another_number_of_actors_order_and_batch_change_nothing(coloured, colour, tmp_path):
    good = [row for row in _rows(coloured[0]) if row["error"] is None]
    paths = sorted({row["path"] for row in good}, reverse=True)
    pq.write_table(pa.table({"path": paths}), tmp_path / "list.parquet")
    options = ("--samples", 2, "--batch", 6, "--actors", 1, "--threads", 1)
    assert colour(tmp_path / "list.parquet", *options) == 0
    again = {(row["path"], row["sample"]): row for row in _rows(tmp_path / "out")}
    assert len(again) == len(good)
    for row in good:
        other = again[row["path"], row["sample"]]
        assert (tmp_path / "out" / other["file"]).read_bytes() == (coloured[0] / row["file"]).read_bytes()


def test_a_rerun_colours_what_is_new_and_what_has_failed(colour, tmp_path):
    album = _album(tmp_path / "album", 3)
    (album / "p01.png").write_bytes(b"no photograph")
    assert colour(album, *TWO) == 1
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    assert len(before) == 2
    _album(album, 4)
    assert colour(album, *TWO) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = [(row["file"], row["error"]) for row in _rows(tmp_path / "out")]
    assert found == [(f"p{n:02d}.png-0.png", None) for n in range(4)]


def _actors() -> list[int]:
    """Processes of this machine's Ray that hold the networks and are ready."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(b"ray::") and b"Worker" in command:
            found.append(int(folder.name))
    return found


def test_an_actor_that_is_killed_loses_nothing_and_nothing_is_done_twice(colour, pipeline, tmp_path):
    output, left = tmp_path / "out", []

    def kill() -> None:
        while len(list(output.glob("*.png"))) < 5 or not _actors():
            time.sleep(0.002)
        os.kill(_actors()[0], signal.SIGKILL)
        left.append(60 - len(list(output.glob("*.png"))))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert colour(_album(tmp_path / "album", 60), "--batch", 1, *TWO) == 0
    killer.join(10)
    assert left and left[0] > 0  # it was killed in the middle
    assert [Path(row["path"]).name for row in _rows(output)] == [f"p{n:02d}.png" for n in range(60)]
    assert len(list(output.glob("*.png"))) == 60
    assert not list(output.rglob(f"{WRITING}*"))
    _assert_pixels_of_one_process(output, _rows(output), pipeline)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 96 KiB; it takes the rights of root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "none", folder], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_a_sentence_and_a_rerun_goes_on(networks_dir, pipeline, small_disk, tmp_path, capsys):
    album = _album(tmp_path / "album", 12, 100, 120)
    argv = (album, "-o", small_disk / "out", "--checkpoint", networks_dir, "--batch", 1, *TWO)
    with pytest.raises(SystemExit) as left:
        cli.run(lambda: _run(*argv))
    assert left.value.code == 1
    assert "No space left on device" in capsys.readouterr().err
    written = list((small_disk / "out").glob("*.png"))
    assert 0 < len(written) < 12
    for path in written:
        assert load_photo(path).shape == (100, 120, 3)
    assert not list((small_disk / "out").rglob(f"{WRITING}*"))

    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    assert _run(*argv) == 0
    rows = _rows(small_disk / "out")
    assert len(rows) == 12
    _assert_pixels_of_one_process(small_disk / "out", rows, pipeline)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--actors", 3, "--threads", 1), "has room for 2 actors of 1 cores, not for 3"),
        (("--device", "cuda"), "has no GPU for --device=cuda"),
        (("--guidance", 0.5), "these networks have none"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused_before_any_work(album, colour, tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        colour(album, *options)
    assert not list(tmp_path.rglob("*.png"))
    assert options[0] != "--guidance" or not (tmp_path / "out").exists()


CORES, GPU = {"CPU": 16.0}, {"CPU": 64.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("machines", "asked", "found"),
    [
        ([CORES, CORES], (None, None, "cpu"), (2, 16, 0)),
        ([{}, CORES, CORES], (None, None, "cpu"), (2, 16, 0)),  # the first takes no work
        ([CORES, CORES], (3, None, "cpu"), (3, 8, 0)),
        ([CORES, GPU | {"GPU": 8.0}], (None, None, "cuda"), (8, 8, 1)),
        ([GPU, GPU | {"GPU": 8.0}], (None, None, "cuda"), (9, 8, 1)),
    ],
)
def test_a_cluster_is_shared_among_actors_by_what_its_machines_have(monkeypatch, machines, asked, found):
    nodes = [{"Alive": True, "Resources": machine} for machine in machines]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    assert cluster._shares(*asked) == found


def test_samples_in_shares_are_those_of_a_cluster(networks_dir, colour, tmp_path):
    """`coltran.sample` with `skip_batches`, on photographs of the network's size, which no resizing changes."""
    data, weights = tmp_path / "photographs", Path(shutil.copytree(networks_dir, tmp_path / "networks"))
    for n in range(4):
        pixels = np.random.default_rng(n).integers(0, 256, (LOW, LOW, 3), dtype=np.uint8)
        data.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(data / f"p{n}.png")
    config = whole_config(dataset="custom", resolution=[LOW, LOW])
    options = {"mode": "sample", "batch_size": 1, "num_outputs": 2, "num_samples": 2, "log_dir": "samples"}
    for share in (0, 1):
        config.sample = ConfigDict(options | {"skip_batches": 2 * share, "gen_file": f"gen{share}"})
        write_samples(config, weights / "colorizer", data, "test")
    options = ("--samples", 2, "--stage", "coarse", "--fit", "crop", "--size", "network", "--top-p", 1)
    assert colour(data, *options, *TWO) == 0
    records = list(read_generated(weights / "colorizer" / "samples", (LOW, 2 * LOW)))
    assert len(records) == 4
    for row in _rows(tmp_path / "out"):
        record = records[int(Path(row["path"]).stem[1:])].image
        expected = record[:, LOW * row["sample"] : LOW * (row["sample"] + 1)]
        np.testing.assert_array_equal(load_photo(tmp_path / "out" / row["file"]), expected)


@pytest.fixture
def find(tmp_path: Path) -> Callable[..., tuple[dict[str, str], list[str]]]:
    """`find(name, ...)`: what is found in the test's folder under these names, and the problems."""
    return lambda *names: cluster.find_photos([str(name) for name in names], tmp_path / "out")


def test_photographs_are_found_by_address_and_by_list(find, tmp_path):
    for name in ("x/a.png", "x/y/b.JPG", "x/.hidden.png", "x/notes.txt"):
        write_photo(tmp_path / f"{name}.png", 0).rename(tmp_path / name)
    (tmp_path / "l.txt").write_text("s3://bucket/one.jpg\n\n../two.jpg\n")
    in_folder = {f"file://{tmp_path}/x/a.png": "a.png", f"file://{tmp_path}/x/y/b.JPG": "y/b.JPG"}
    in_list = {"s3://bucket/one.jpg": "bucket/one.jpg", "../two.jpg": "two.jpg"}
    assert find(f"file://{tmp_path}/x", tmp_path / "l.txt") == (in_folder | in_list, [])


@pytest.mark.parametrize("paths", [["a.png", None], [1, 2]])
def test_a_name_that_stands_for_nothing_and_a_list_of_no_text_are_sentences(find, tmp_path, paths):
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"path": paths}), tmp_path / "list.parquet")
    found, problems = find(tmp_path / "empty", tmp_path / "nowhere", tmp_path / "list.parquet")
    assert found == {}
    sentences = ["holds no photographs.", "cannot be read: it does not exist."]
    assert [problem.split(" ", 1)[1] for problem in problems[:2]] == sentences
    assert "its column path has values that are no text" in problems[2]


def test_photographs_of_one_name_are_refused(find, tmp_path):
    for folder in "ab":
        write_photo(tmp_path / folder / "p.png", 0)
    with pytest.raises(UserError, match=r"would have the same results, p\.png-0"):
        find(tmp_path / "a", tmp_path / "b")


def test_results_inside_the_album_are_no_photographs(find, tmp_path):
    write_photo(tmp_path / "p.png", 0)
    write_photo(tmp_path / "out" / "p.png-0.png", 0)
    assert list(find(tmp_path)[0].values()) == ["p.png"]
    with pytest.raises(UserError, match="the next run would take them for photographs"):
        cluster.find_photos([str(tmp_path)], tmp_path)


def test_another_photographs_results_are_not_replaced(colour, tmp_path):
    for seed, folder in enumerate("pq"):
        write_photo(tmp_path / folder / "x.png", seed)
    assert colour(tmp_path / "p", "--stage", "coarse", *TWO) == 0
    before = (tmp_path / "out" / "x.png-0.png").read_bytes()
    with pytest.raises(UserError, match="q/x.png would have the results that .*p/x.png has"):
        colour(tmp_path / "q", "--stage", "coarse", *TWO)
    assert (tmp_path / "out" / "x.png-0.png").read_bytes() == before
    assert colour(tmp_path / "p", "--stage", "coarse", *TWO) == 0


def test_names_that_no_file_can_have_are_rows(colour, tmp_path):
    good, long = (write_photo(tmp_path / f"{name}.png", 1) for name in ("good", "x" * 250))
    names = [str(good), "nowhere://x.jpg", str(long)]
    (tmp_path / "list.txt").write_text("\n".join(names), encoding="utf-8-sig")
    assert colour(tmp_path / "list.txt", "--stage", "coarse", *TWO) == 1
    errors = {row["path"]: row["error"] for row in _rows(tmp_path / "out")}
    assert errors[names[0]] is None
    assert "nowhere://x.jpg cannot be read" in errors[names[1]]
    assert "cannot be written: File name too long" in errors[names[2]]
