# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ml_collections import ConfigDict
from PIL import Image
from safetensors.torch import load_file, save_file

from coltran import checkpoint
from coltran.errors import UserError
from coltran.image import PhotoError
from coltran.train import main, train
from coltran.training.resume import save
from coltran.training.step import start, take_step
from tests.tiny import colorizer_config, upsampler_config
from tests.tiny_training import whole_config, write_photos

CPU = torch.device("cpu")


@pytest.fixture
def logdir(tmp_path: Path) -> Path:
    return tmp_path / "log"


def _train(config: ConfigDict, logdir: Path, photos_dir: Path, **options) -> int:
    return train(config, logdir, photos_dir, **({"workers": 0, "steps_per_summaries": 1} | options))


def _summaries(logdir: Path) -> list[dict]:
    return [json.loads(line) for line in (logdir / "train.jsonl").read_text().splitlines()]


def test_it_learns_two_photographs_by_heart(tmp_path, logdir):
    folder = write_photos(tmp_path / "two", 2)
    config = whole_config(max_train_steps=150, optimizer={"type": "adam", "learning_rate": 1e-2})
    _train(config, logdir, folder)
    losses = [line["loss"] for line in _summaries(logdir)]
    assert losses[0] > 8
    assert losses[-1] < 2


def test_the_first_weights_depend_on_the_seed_alone():
    networks = [start(whole_config(), seed, CPU).network for seed in (1, 1, 2)]
    first, same, other = (torch.cat([p.flatten() for p in network.parameters()]) for network in networks)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["coltran_core", "color_upsampler"])
def test_a_batch_in_parts_is_the_whole_batch(name):
    """To float32: the sums run in another order. SGD, as RMSprop's first step is the sign of a gradient."""
    config = whole_config(name, batch_size=4, optimizer={"type": "sgd", "learning_rate": 1.0})
    batch = {"rgb": torch.randint(0, 256, (4, 8, 8, 3), generator=torch.Generator().manual_seed(1))}
    if name == "color_upsampler":
        batch["channel_index"] = torch.tensor([0, 1, 2, 1])
    results = []
    for parts in (1, 2, 4):
        training = start(config, 0, CPU, accumulate=parts)
        losses = take_step(training, batch)
        results.append((losses, training.network.state_dict()))
    for losses, weights in results[1:]:
        torch.testing.assert_close(losses, results[0][0], rtol=1e-5, atol=0)
        torch.testing.assert_close(weights, results[0][1], rtol=1e-5, atol=1e-5)


def test_a_batch_that_has_no_such_parts_is_refused():
    with pytest.raises(UserError, match="--accumulate=3 does not share a batch of 4"):
        start(whole_config(batch_size=4), 0, CPU, accumulate=3)


def test_a_checkpoint_is_no_log_directory(photos_dir, tmp_path):
    config = whole_config("color_upsampler")
    _train(config, tmp_path / "first", photos_dir)
    path = checkpoint.find(tmp_path / "first")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(UserError, match="is a checkpoint, not a log directory"):
        _train(config, path, photos_dir)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_weights_of_a_network_that_differs_in_what_a_key_left_out_means_are_refused(photos_dir, tmp_path):
    without_skip = whole_config(max_train_steps=1, model=colorizer_config(8, 8, skip=False))
    _train(without_skip, tmp_path / "first", photos_dir)
    with pytest.raises(UserError, match=r"model\.decoder\.skip \(False there, True here\)"):
        _train(whole_config(max_train_steps=1), tmp_path / "second", photos_dir, pretrain_dir=tmp_path / "first")


def test_the_model_file_holds_the_moving_averages(photos_dir, logdir):
    training = start(whole_config(), 0, CPU)
    take_step(training, {"rgb": torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)})
    path = save(training, logdir, 3)
    assert training.average is not None
    loaded = dict(checkpoint.load(path).named_parameters())
    assert all(torch.equal(loaded[name], average) for name, average in training.average.averages.items())


def test_the_moving_averages_start_at_prepared_weights(photos_dir, logdir):
    config = whole_config(prepare_photographs=4, optimizer={"type": "sgd", "learning_rate": 1e-12})
    _train(config, logdir, photos_dir, save_every_steps=1, keep=9)
    averages = checkpoint.load(logdir / "checkpoint-000001").state_dict()
    tensors, _ = checkpoint.load_training(logdir / "checkpoint-000001")
    fresh = start(config, 0, CPU).network.state_dict()
    assert not torch.equal(averages["embedding.weight"], fresh["embedding.weight"])
    for name, average in averages.items():
        torch.testing.assert_close(average, tensors[f"weights/{name}"], rtol=0, atol=1e-9)


def test_the_log_directory_says_what_was_trained(photos_dir, logdir):
    _train(whole_config(max_train_steps=1, batch_size=3), logdir, photos_dir)
    kept = checkpoint.load_yaml(logdir / "config.yaml")
    assert (kept["batch_size"], kept["model"]["resolution"]) == (3, [8, 8])


def test_a_summary_holds_the_mean_since_the_last_one(photos_dir, tmp_path):
    config = whole_config(max_train_steps=4)
    _train(config, tmp_path / "each", photos_dir)
    _train(config, tmp_path / "pairs", photos_dir, steps_per_summaries=2)
    each = [line["loss"] for line in _summaries(tmp_path / "each")]
    means = [line["mean_loss"] for line in _summaries(tmp_path / "pairs")]
    assert means == pytest.approx([sum(each[:2]) / 2, sum(each[2:]) / 2], rel=1e-6)


def test_checkpoints_and_summaries_come_by_steps_and_the_clock_and_at_the_end(photos_dir, logdir, tmp_path, capsys):
    _train(whole_config(max_train_steps=5), logdir, photos_dir, save_every_steps=1, keep=2, steps_per_summaries=3)
    assert [path.name for path in checkpoint.numbered(logdir)] == ["checkpoint-000004", "checkpoint-000005"]
    assert [line["step"] for line in _summaries(logdir)] == [3, 5]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["3/5", "5/5"]  # off a terminal, plain ones
    _train(whole_config(max_train_steps=3, save_checkpoint_secs=0), tmp_path / "clock", photos_dir, keep=9)
    assert len(checkpoint.numbered(tmp_path / "clock")) == 3


def test_a_finished_training_says_so(photos_dir, logdir, capsys):
    for _ in range(2):
        assert _train(whole_config(max_train_steps=2), logdir, photos_dir) == 0
    assert "has reached config.max_train_steps=2 already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "seed", "difference"),
    [
        (whole_config(dropout=0.5), 0, r"model\.decoder\.dropout \(None there, 0\.5 here\)"),
        (whole_config("color_upsampler"), 0, r"model\.name \('coltran_core' there, 'color_upsampler' here\)"),
        (whole_config(downsample_res=4), 0, r"model\.resolution \(\[8, 8\] there, \[4, 4\] here\)"),
        (whole_config(optimizer={"type": "adam"}), 0, r"optimizer\.type \('rmsprop' there, 'adam' here\)"),
        (whole_config(), 1, r"seed \(0 there, 1 here\)"),
        (whole_config(optimizer={"type": "adam", "amsgrad": True}), 0, r"amsgrad \(False there, True here\)"),
    ],
    ids=["option", "network", "size", "optimizer", "seed", "averages that Adam did not keep"],
)
def test_another_training_does_not_go_on_from_here_and_changes_nothing(photos_dir, logdir, config, seed, difference):
    first = {"optimizer": {"type": "adam"}} if "amsgrad" in difference else {}
    _train(whole_config(max_train_steps=1, **first), logdir, photos_dir)
    before = {path: path.read_bytes() for path in logdir.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=difference):
        _train(config, logdir, photos_dir, seed=seed)
    assert {path: path.read_bytes() for path in logdir.rglob("*") if path.is_file()} == before


def test_the_learning_rate_may_change(photos_dir, logdir):
    _train(whole_config(max_train_steps=1), logdir, photos_dir)
    config = whole_config(max_train_steps=2, optimizer={"type": "rmsprop", "learning_rate": 1e-5})
    assert _train(config, logdir, photos_dir) == 0


def test_a_loss_that_is_no_number_ends_the_training(photos_dir, logdir):
    config = whole_config(max_train_steps=50, optimizer={"type": "sgd", "learning_rate": 1e30})
    with pytest.raises(UserError, match="no finite number"):
        _train(config, logdir, photos_dir)


def test_weights_that_are_no_numbers_are_not_saved(logdir):
    training = start(whole_config(), 0, CPU)
    torch.nn.init.constant_(next(training.network.parameters()), float("nan"))
    with pytest.raises(UserError, match="not finite"):
        save(training, logdir, 3)
    assert not logdir.exists()


@pytest.mark.parametrize(
    "config",
    [
        whole_config(optimizer={"type": "lion"}),
        whole_config(polyak_decay=3.0),
        whole_config(model={"name": "nonsense"}),
        whole_config(model={"name": "color_upsampler"}),
        whole_config(model=upsampler_config("color_upsampler") | {"num_heads": 0}),
        whole_config(model=upsampler_config("color_upsampler") | {"num_encoder_layers": -1}),
        whole_config(resolution=[16]),
        whole_config(resolution=[16, 0]),
        whole_config(resolution=["large", 16]),
    ],
    ids=[
        "optimizer",
        "average",
        "network",
        "sizes",
        "no heads",
        "fewer than no layers",
        "one side",
        "no columns",
        "no number",
    ],
)
def test_a_configuration_that_cannot_be_trained_is_one_sentence(config):
    with pytest.raises(UserError, match=r"cannot be trained.*[^.]\.$"):
        start(config, 0, CPU)


@pytest.mark.parametrize(
    ("key", "value", "least"),
    [(key, value, 1) for key in ("batch_size", "max_train_steps", "eval_batch_size") for value in (0, -3, True, 1.5)]
    + [("downsample_res", 0, 1), ("prepare_photographs", -5, 0)],
)
def test_a_number_out_of_its_range_is_named(key, value, least):
    with pytest.raises(UserError, match=f"config.{key} must be a whole number from {least} on, not {value}"):
        start(whole_config(**{key: value}), 0, CPU)


def test_without_photographs_no_log_directory_is_made(tmp_path, logdir):
    with pytest.raises(PhotoError):
        _train(whole_config(), logdir, tmp_path / "nowhere")
    assert not logdir.exists()


def test_a_training_state_that_is_damaged_or_lacks_what_the_optimizer_keeps_is_an_error(photos_dir, logdir):
    _train(whole_config(max_train_steps=1), logdir, photos_dir)
    path = logdir / "checkpoint-000001" / "training.safetensors"
    tensors = load_file(path)
    save_file({name: t for name, t in tensors.items() if name.startswith("weights/")}, path)
    for fault in ("is incomplete: it lacks optimizer/", "is damaged"):
        with pytest.raises(checkpoint.CheckpointError, match=fault):
            _train(whole_config(max_train_steps=2), logdir, photos_dir)
        path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(("options", "last"), [([], "checkpoint-000003"), (["--shorten=2"], "checkpoint-000002")])
def test_the_program_trains_from_the_command_line(photos_dir, logdir, program, options, last):
    Image.new("RGB", (70, 70), "teal").save(photos_dir / "large.png")
    argv = ["--config=coltran/test_configs/color_upsampler.py", f"--logdir={logdir}", f"--data_dir={photos_dir}"]
    assert program(main, *argv, "--config.max_train_steps=3", "--threads=1", "--workers=0", *options) == 0
    assert checkpoint.find(logdir).name == last
