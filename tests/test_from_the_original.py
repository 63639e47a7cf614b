# SPDX-License-Identifier: Apache-2.0
"""Every command of the original's README on tiny networks and a few photographs, and what may go wrong with them."""

from __future__ import annotations

import importlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coltran import checkpoint, networks
from coltran.image import area_resize, center_square, load_photo, rgb_to_gray, to_bits
from coltran.original.records import Record, read_records, write_records
from tests.tf_bundle import changed, tensors_of, write_bundle
from tests.tiny_training import whole_config, write_photo, write_photos

STAGES = {"colorizer": "coltran_core", "color_upsampler": "color_upsampler", "spatial_upsampler": "spatial_upsampler"}
LOW, HIGH = (8, 8), (16, 16)


def _sizes(name: str) -> str:
    """The source of a configuration file of a tiny network of one of the three kinds."""
    config = whole_config(name).to_dict() | {
        "dataset": "custom",
        "eval_num_examples": 3,
        "eval_checkpoint_wait_secs": 1,
        "sample": {
            "gen_data_dir": "",
            "log_dir": "samples",
            "batch_size": 2,
            "mode": "sample" if name == "coltran_core" else "argmax",
            "num_samples": 1,
            "num_outputs": 4,
            "skip_batches": 0,
            "gen_file": "gen0",
        },
    }
    return f"from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({config!r})\n"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configurations, photographs and a checkpoint of each tiny network; not to be written to."""
    folder = tmp_path_factory.mktemp("workshop")
    write_photos(folder / "photos", 4)
    torch.manual_seed(5)
    for stage, name in STAGES.items():
        (folder / f"{stage}.py").write_text(_sizes(name))
        network = networks.build(networks.model_config(whole_config(name)))
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.dim() > 1:  # biases stay at zero, so that the output depends on the input
                    parameter.normal_(std=0.5)
        state = {"step": 7, "weights_only": True}
        checkpoint.save(network, folder / stage / "checkpoint-000007", config=whole_config(name), training=({}, state))
        write_bundle(folder / "tf" / stage / "model-1", tensors_of(network))
    return folder


@pytest.fixture
def run(workshop: Path, program: Callable[..., int]) -> Callable[..., int]:
    """`run(program, stage, "--flag=value", ...)` calls `python -m coltran.PROGRAM`; returns its exit code."""

    def call(name: str, stage: str, *argv: str) -> int:
        main = importlib.import_module(f"coltran.{name}").main
        return program(main, f"--config={workshop / f'{stage}.py'}", "--threads=1", *argv)

    return call


@pytest.fixture
def logs(workshop: Path, tmp_path: Path) -> Path:
    """Log directories with the checkpoints of the workshop, to be written to."""
    for stage in STAGES:
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "checkpoint-000007").symlink_to(workshop / stage / "checkpoint-000007")
    return tmp_path


def _steps(folder: Path, kind: str = "Scalars") -> dict[str, list[int]]:
    """{tag: steps} of the summaries of a kind in a folder, read by TensorBoard."""
    found = EventAccumulator(str(folder)).Reload()
    return {tag: [event.step for event in getattr(found, kind)(tag)] for tag in found.Tags()[kind.lower()]}


@pytest.mark.parametrize("stage", STAGES)
def test_train_then_evaluate(run, workshop, tmp_path, capsys, stage):
    common = [f"--logdir={tmp_path / 'log'}", f"--data_dir={workshop / 'photos'}", "--workers=0"]
    assert run("run", stage, "--mode=train", *common, "--steps_per_summaries=2", "--config.max_train_steps=4") == 0
    assert run("run", stage, "--mode=eval_valid", *common) == 0
    assert "Bits/Dim:" in capsys.readouterr().out
    names = {"loss", "total_loss"} | ({"encoder"} if stage == "colorizer" else set())
    assert _steps(tmp_path / "log" / "train_summaries") == {name: [2, 4] for name in names}
    assert _steps(tmp_path / "log" / "train_summaries", "Images") == {"gray_prediction_truth": [4]}
    assert _steps(tmp_path / "log" / "eval_valid_summaries_pyk_True") == {"loss": [4], "total_loss": [4]}
    assert (tmp_path / "log" / "config.yaml").is_file()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("mode", ["sample", "argmax"])
def test_runs_that_share_the_work_give_what_one_gives(run, workshop, logs, stage, mode):
    common = [f"--logdir={logs / stage}", f"--data_dir={workshop / 'photos'}", f"--config.sample.mode={mode}"]
    size = HIGH if stage == "spatial_upsampler" else LOW
    half = ["--config.sample.num_outputs=2"]
    assert run("sample", stage, *common, "--config.sample.gen_file=whole") == 0
    assert run("sample", stage, *common, *half) == 0
    assert run("sample", stage, *common, *half, "--config.sample.skip_batches=1", "--config.sample.gen_file=gen1") == 0
    whole = (logs / stage / "samples" / "whole.tfrecords").read_bytes()
    parts = [(logs / stage / "samples" / f"gen{n}.tfrecords").read_bytes() for n in (0, 1)]
    assert b"".join(parts) == whole
    assert len(list(read_records(logs / stage / "samples" / "whole.tfrecords", size))) == 4


def test_samples_stand_side_by_side_and_more_begin_with_fewer(run, workshop, logs):
    common = [f"--logdir={logs / 'colorizer'}", f"--data_dir={workshop / 'photos'}"]
    for count in (1, 3):
        options = [f"--config.sample.num_samples={count}", f"--config.sample.gen_file=of{count}"]
        assert run("sample", "colorizer", *common, *options) == 0
    one = list(read_records(logs / "colorizer" / "samples" / "of1.tfrecords", LOW))
    three = list(read_records(logs / "colorizer" / "samples" / "of3.tfrecords", (8, 24)))
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(b.image[:, :8], a.image)
        assert not np.array_equal(b.image[:, 8:16], b.image[:, 16:])


def test_a_drawn_upsampling_follows_the_distribution():
    from coltran.sample import draw

    network = networks.build(networks.model_config(whole_config("color_upsampler"))).eval()
    torch.nn.init.zeros_(network.logits.weight)
    with torch.no_grad():
        network.logits.bias.fill_(-1e4)
        network.logits.bias[7], network.logits.bias[9] = 0.0, np.log(3.0)
    numbers = torch.rand(4, 8, 24)
    drawn = draw(network, torch.zeros(4, 8, 8, 3, dtype=torch.long), torch.zeros(4, 8, 8, dtype=torch.long), numbers)
    assert torch.equal(drawn, torch.where(numbers.view(4, 8, 8, 3) < 0.25, 7, 9).to(torch.uint8))


@pytest.mark.parametrize("mode", ["colorize", "recolorize"])
def test_custom_photographs_in_three_stages(run, workshop, tmp_path, mode):
    write_photo(tmp_path / "photos" / "b.jpg", 1)
    write_photo(tmp_path / "photos" / "a.png", 2)
    common = [f"--img_dir={tmp_path / 'photos'}", f"--store_dir={tmp_path / 'out'}", f"--mode={mode}"]
    for stage, before in zip(STAGES, ["", "stage1", "stage2"], strict=True):
        gen = [f"--gen_data_dir={tmp_path / 'out' / before}"] if before else []
        assert run("custom_colorize", stage, f"--logdir={workshop / stage}", *common, *gen) == 0
    for folder, side in (("stage1", 8), ("stage2", 8), ("final", 16)):
        found = {path.name: load_photo(path).shape for path in (tmp_path / "out" / folder).iterdir()}
        assert found == {"a.png": (side, side, 3), "b.jpg": (side, side, 3)}
    with Image.open(tmp_path / "out" / "stage1" / "b.jpg") as image:
        assert image.format == "PNG"


def test_a_photographs_colours_do_not_depend_on_its_neighbours(run, workshop, tmp_path):
    for folder, names in (("few", "b"), ("many", "abc")):
        for name in names:
            write_photo(tmp_path / folder / f"{name}.png", ord(name))
        flags = [f"--logdir={workshop / 'colorizer'}", f"--img_dir={tmp_path / folder}", "--batch_size=1"]
        assert run("custom_colorize", "colorizer", *flags, f"--store_dir={tmp_path / f'{folder}-out'}") == 0
    few, many = (load_photo(tmp_path / f"{folder}-out" / "stage1" / "b.png") for folder in ("few", "many"))
    np.testing.assert_array_equal(few, many)


@pytest.mark.parametrize("mode", ["colorize", "recolorize"])
def test_the_gray_of_a_photograph_is_that_of_the_mode(workshop, mode):
    from coltran.custom_colorize import read_gray

    photo = next((workshop / "photos").iterdir())
    square = center_square(load_photo(photo))
    if mode == "colorize":
        expected = area_resize(area_resize(rgb_to_gray(square), 16), 8)
    else:
        expected = rgb_to_gray(area_resize(area_resize(square, 16), 8))
    np.testing.assert_array_equal(read_gray(photo, whole_config(), mode), expected)


@pytest.mark.parametrize("stage", STAGES)
def test_the_originals_checkpoint_gives_the_same_samples(run, workshop, logs, stage):
    flags = [f"--data_dir={workshop / 'photos'}", "--config.sample.num_outputs=2"]
    (logs / "tf").mkdir()
    for path in (workshop / "tf" / stage).iterdir():
        (logs / "tf" / path.name).symlink_to(path)
    for folder in (stage, "tf"):
        assert run("sample", stage, f"--logdir={logs / folder}", *flags) == 0
    ours, theirs = ((logs / folder / "samples" / "gen0.tfrecords").read_bytes() for folder in (stage, "tf"))
    assert ours == theirs


def test_training_goes_on_from_a_checkpoint_of_the_original(run, workshop, tmp_path, capsys):
    (tmp_path / "log").mkdir()
    for path in (workshop / "tf" / "colorizer").iterdir():
        (tmp_path / "log" / path.name).symlink_to(path)
    flags = [f"--logdir={tmp_path / 'log'}", f"--data_dir={workshop / 'photos'}", "--workers=0"]
    assert run("run", "colorizer", *flags, "--config.max_train_steps=8") == 0
    assert "from " + str(tmp_path / "log" / "checkpoint-000007") in capsys.readouterr().out
    assert checkpoint.load_step(tmp_path / "log") == 8


@pytest.mark.parametrize("source", ["color_upsampler", "tf/color_upsampler"])
def test_a_training_starts_from_trained_weights(run, workshop, tmp_path, source, capsys):
    flags = [f"--logdir={tmp_path / 'log'}", f"--data_dir={workshop / 'photos'}", "--workers=0"]
    flags += [f"--pretrain_dir={workshop / source}", "--config.max_train_steps=1"]
    assert run("run", "color_upsampler", *flags, "--config.optimizer.learning_rate=1e-9") == 0
    trained = checkpoint.load(tmp_path / "log").state_dict()
    for name, weight in checkpoint.load(workshop / "color_upsampler").state_dict().items():
        torch.testing.assert_close(trained[name], weight, rtol=0, atol=1e-6)
    assert "after 0 training steps" not in capsys.readouterr().err


BAD_RECORDS = {
    "missing": "gen0.tfrecords is missing",
    "truncated": "was cut short or damaged in record 3",
    "size": "is no image of 8 x 8 pixels",
    "few": r"holds 3 records, 4 are needed",
    "labels": r"record 2 has the label 9, its photograph 2",
    "empty": "holds no records",
}


@pytest.mark.parametrize("fault", BAD_RECORDS)
def test_records_that_cannot_be_used(run, workshop, logs, capsys, fault):
    folder = logs / "gen"
    folder.mkdir()
    size = 4 if fault == "size" else 8
    labels = [0, 1, 9, 3] if fault == "labels" else range(3 if fault == "few" else 4)
    path = folder / ("gen1.tfrecords" if fault == "missing" else "gen0.tfrecords")
    if fault != "empty":
        write_records(path, [Record(np.zeros((size, size, 3), np.uint8), label) for label in labels])
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-5])
    target = logs / "color_upsampler" / "samples" / "gen0.tfrecords"
    target.parent.mkdir()
    target.write_bytes(b"earlier work")
    flags = [f"--logdir={logs / 'color_upsampler'}", f"--data_dir={workshop / 'photos'}"]
    assert run("sample", "color_upsampler", *flags, f"--config.sample.gen_data_dir={folder}") == 1
    err = capsys.readouterr().err
    assert re.search(BAD_RECORDS[fault], err)
    assert err.count("\n") == 1
    assert [path.name for path in target.parent.iterdir()] == ["gen0.tfrecords"]
    assert target.read_bytes() == b"earlier work"


@pytest.mark.parametrize(
    ("name", "stage", "flags", "message"),
    [
        ("sample", "colorizer", ["--config.sample.num_outputs=5"], "5 outputs after 0 skipped ones: there are 4"),
        ("sample", "colorizer", ["--config.sample.skip_batches=1"], "4 outputs after 2 skipped ones: there are 4"),
        ("sample", "colorizer", ["--config.sample.mode=guess"], "must be sample or argmax, not 'guess'"),
        ("sample", "colorizer", ["--config.sample.num_samples=0"], "num_samples must be a whole number from 1 on"),
        ("sample", "colorizer", ["--logdir={logs}/color_upsampler"], r"model\.name \('color_upsampler' there"),
        ("sample", "colorizer", ["--logdir={work}/tf/color_upsampler"], "do not fit Colorizer"),
        ("sample", "colorizer", ["--logdir={work}/photos"], "holds no checkpoint, neither"),
        ("sample", "colorizer", ["--config.model.decoder.num_inner_layers=1"], r"num_inner_layers \(2 there, 1 here\)"),
        ("sample", "colorizer", ["--data_dir="], "--data_dir=DIR"),
        ("sample", "colorizer", ["--dataset=imagenet"], "has no folder train"),
        ("sample", "colorizer", ["--accelerator_type=TPU"], r"pip install coltran\[xla\]|There is no TPU here"),
        ("run", "colorizer", ["--mode=eval_test", "--logdir={work}/photos"], "No checkpoint came in"),
        ("run", "colorizer", ["--pretrain_dir={work}/photos", "--logdir={logs}/new"], "holds no checkpoint"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(run, workshop, logs, capsys, name, stage, flags, message):
    common = [f"--logdir={logs / stage}", f"--data_dir={workshop / 'photos'}"]
    named = [flag.format(logs=logs, work=workshop) for flag in flags]
    assert run(name, stage, *common, *named) == 1
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert err.strip().count("\n") == err.count("\n  ")  # one sentence, but for a list of tensors
    assert not list(logs.rglob("*.tfrecords"))


FAULTS = {  # what is said of a checkpoint of ours, and of one of the original's
    "removed": (r"missing logits\.weight", r"missing col_tran_core\S+/cond_k/kernel"),
    "added": ("unexpected stranger", r"unexpected col_tran_core\S+/cond_z/zernel"),
    "reshaped": (r"misshapen logits\.weight", r"misshapen col_tran_core\S+/cond_k/kernel"),
    "truncated": (r"model\.safetensors is damaged", r"model-1\.data-00000-of-00001 was cut short"),
}


def _spoil(path: Path, fault: str) -> None:
    """Changes a checkpoint of ours."""
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
        return
    tensors = load_file(path)
    if fault == "added":
        tensors["stranger"] = torch.zeros(2)
    elif fault == "reshaped":
        tensors["logits.weight"] = tensors["logits.weight"][:-1].clone()
    else:
        del tensors["logits.weight"]
    save_file(tensors, path)


PROGRAMS = [
    ("sample", "--logdir={log}", "--data_dir={photos}"),
    ("run", "--mode=eval_test", "--logdir={log}", "--data_dir={photos}"),
    ("run", "--pretrain_dir={log}", "--logdir={tmp}/new", "--data_dir={photos}"),
    ("custom_colorize", "--logdir={log}", "--img_dir={photos}", "--store_dir={tmp}/out"),
]


@pytest.mark.parametrize(("fault", "command"), zip(FAULTS, PROGRAMS, strict=True))
@pytest.mark.parametrize("whose", ["ours", "tf"])
def test_no_program_takes_a_checkpoint_that_does_not_fit(run, workshop, tmp_path, capsys, fault, command, whose):
    log = tmp_path / "log"
    if whose == "ours":
        shutil.copytree(workshop / "colorizer", log)
        _spoil(log / "checkpoint-000007" / "model.safetensors", fault)
    else:
        tensors = tensors_of(checkpoint.load(workshop / "colorizer"))
        write_bundle(log / "model-1", tensors if fault == "truncated" else changed(tensors, fault))
        if fault == "truncated":
            data = log / "model-1.data-00000-of-00001"
            data.write_bytes(data.read_bytes()[:-100])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    name, *flags = command
    named = [flag.format(log=log, tmp=tmp_path, photos=workshop / "photos") for flag in flags]
    assert run(name, "colorizer", *named) == 1
    err = capsys.readouterr().err
    assert re.search(FAULTS[fault][whose == "tf"], err)
    assert err.strip().count("\n") == err.count("\n  ")  # one sentence, but for a list of tensors
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gen_data_dir={tmp}/whole", "--logdir={work}/photos"], "holds no checkpoint, neither"),
        ([], "name their folder with --gen_data_dir"),
        (["--gen_data_dir={tmp}/gen"], "does not match the photographs: it has no p03.png"),
        (["--gen_data_dir={tmp}/large"], "has 9 x 9 pixels, not 8 x 8"),
        (["--img_dir={tmp}/nowhere"], "no folder .*nowhere"),
        (["--gen_data_dir={tmp}/whole", "--logdir={work}/colorizer"], r"model\.name \('coltran_core' there"),
        (["--gen_data_dir={tmp}/whole", "--store_dir={tmp}/file"], "is not a folder"),
    ],
)
def test_stages_that_do_not_match(run, workshop, tmp_path, capsys, flags, message):
    (tmp_path / "file").write_text("")
    for folder, count, side in (("gen", 3, 8), ("large", 4, 9), ("whole", 4, 8)):
        for number in range(count):
            write_photo(tmp_path / folder / f"p{number:02d}.png", number, side, side)
    common = [f"--logdir={workshop / 'color_upsampler'}", f"--img_dir={workshop / 'photos'}"]
    named = [flag.format(tmp=tmp_path, work=workshop) for flag in flags]
    assert run("custom_colorize", "color_upsampler", *common, f"--store_dir={tmp_path / 'out'}", *named) == 1
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_photograph_that_cannot_be_read_does_not_stop_the_others(run, workshop, tmp_path, capsys):
    write_photo(tmp_path / "photos" / "a.png", 1)
    (tmp_path / "photos" / "b.png").write_text("no image")
    flags = [
        f"--logdir={workshop / 'colorizer'}",
        f"--img_dir={tmp_path / 'photos'}",
        f"--store_dir={tmp_path / 'out'}",
    ]
    assert run("custom_colorize", "colorizer", *flags) == 1
    assert "b.png is not an image" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out" / "stage1").iterdir()] == ["a.png"]
    flags = [f"--logdir={workshop / 'color_upsampler'}", *flags[1:], f"--gen_data_dir={tmp_path / 'out' / 'stage1'}"]
    assert run("custom_colorize", "color_upsampler", *flags) == 1  # nor the stage after
    assert "b.png is not an image" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out" / "stage2").iterdir()] == ["a.png"]


def test_results_never_replace_the_photographs(run, workshop, tmp_path, capsys):
    write_photo(tmp_path / "stage1" / "a.png", 1)
    flags = [f"--logdir={workshop / 'colorizer'}", f"--img_dir={tmp_path / 'stage1'}", f"--store_dir={tmp_path}"]
    assert run("custom_colorize", "colorizer", *flags) == 1
    assert "would replace the photographs" in capsys.readouterr().err


def test_without_generated_records_the_photographs_own_colours_are_used(workshop):
    from coltran.config import EvalConfig, part
    from coltran.sample import sources

    photos = sorted((workshop / "photos").iterdir())[:2]
    source = sources(part(EvalConfig, whole_config("color_upsampler")), photos, None, torch.device("cpu"))
    assert source.colours is not None
    expected = [area_resize(area_resize(center_square(load_photo(path)), 16), 8) for path in photos]
    np.testing.assert_array_equal(source.colours.numpy(), np.stack(expected))
    assert int(to_bits(source.colours, 8, 3).max()) < 8
