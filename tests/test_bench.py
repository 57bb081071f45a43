"""``videozoo bench``, what it measures with, and the scripts in ``benchmarks/``."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import videozoo
from videozoo import benchmark, cli, console, machine
from videozoo.benchmark import measure

SCRIPTS = Path(__file__).parent.parent / "benchmarks"
TINY = "tsn_r18w16_8x4"


@pytest.fixture
def in_place(monkeypatch):
    """Memory is measured in this process, which is quicker and less exact."""
    monkeypatch.setattr(measure, "in_fresh_process", lambda function, *args: function(*args))


@pytest.fixture
def script(monkeypatch):
    """Imports a script of ``benchmarks/`` by its name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def bench(*options: object) -> int:
    return cli.main(
        ["bench", TINY, "--size", "32", "--num-warm-iter", "1", "--num-bench-iter", "3", *map(str, options)]
    )


# The command ---------------------------------------------------------------------------------------------------------


def test_inference_and_training_as_csv(tmp_path, capsys, in_place):
    file = tmp_path / "row.csv"
    assert bench("--bench", "both", "--batch-size", 2, "--frames", 4, "--device", "cpu", "--results-file", file) == 0
    shown = capsys.readouterr().out
    assert "inference, batch 2 of 3x4x32x32" in shown and "training step, batch 2 of 3x4x32x32" in shown
    (row,) = csv.DictReader(file.open())
    for kind in ("infer", "train"):
        assert row[f"{kind}_batch_size"] == "2" and row[f"{kind}_input"] == "3x4x32x32"
        step, best = (float(row[f"{kind}_step_{key}"]) for key in ("time", "best"))
        assert 0 < best <= step
        assert float(row[f"{kind}_samples_per_sec"]) == pytest.approx(2000 / step, rel=0.01)
    assert float(row["param_count"]) == pytest.approx(videozoo.model_info(TINY)["params"] / 1e6, abs=0.01)
    assert row["torch"] == torch.__version__ and row["threads"] == str(torch.get_num_threads())


def test_precision_is_compared_with_the_plain_model(tmp_path, capsys, in_place):
    file = tmp_path / "row.json"
    assert bench("--dtype", "bf16", "--channels-last", "--device", "cpu", "--results-file", file) == 0
    row = json.loads(file.read_text())
    assert row["dtype"] == "bf16" and row["channels_last"] is True
    assert 1e-5 < row["infer_difference"] < 0.1
    assert "bf16, channels-last" in capsys.readouterr().out


def test_optimized_model_gives_the_same_numbers(tmp_path, in_place):
    file = tmp_path / "row.json"
    assert bench("--optimize", "--device", "cpu", "--results-file", file) == 0
    assert json.loads(file.read_text())["infer_difference"] < 1e-5


def test_memory_is_that_of_a_fresh_process(tmp_path):
    held = torch.ones(2**26)  # 256 MiB that the command must not count
    file = tmp_path / "row.json"
    assert bench("--device", "cpu", "--results-file", file) == 0
    assert 0 < json.loads(file.read_text())["infer_peak_mib"] < 200 and held.numel()


@pytest.mark.parametrize(
    "options",
    [["--results-file", "row.txt"], ["--bench", "train", "--optimize"], ["--bench", "train", "--dtype", "fp16"]],
)
def test_wrong_usage(options, capsys):
    with pytest.raises(SystemExit) as stop:
        bench(*options)
    assert stop.value.code == 2 and options[0].removeprefix("--") in capsys.readouterr().err


def test_networks_without_an_input_of_one_size_say_so(capsys):
    assert cli.main(["bench", "ssn_r50", "--device", "cpu"]) == 1
    assert "ssn_r50 scores proposals" in capsys.readouterr().err


# Inputs and steps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("audioonly_r50_64x1", (2, 1, 128, 80)),
        ("bsn_tem_anet", (2, 400, 100)),
        ("slowonly_r50_4x16_ava21", (2, 3, 4, 256, 256)),
        ("tsn_r50_f8_k400_flow", (2, 10, 25, 224, 224)),
    ],
)
def test_example_inputs(name, shape):
    with torch.device("meta"):
        model = videozoo.create_model(name, pretrained=False)
    x, *boxes = benchmark.example_inputs(model, 2)
    assert x.shape == shape
    assert [len(b) for b in boxes] == ([2] if "ava" in name else [])


def test_training_takes_the_size_of_the_training():
    with torch.device("meta"):
        model = videozoo.create_model("slowonly_r50_4x16_k400", pretrained=False)
    test, train = (benchmark.example_inputs(model, training=t)[0] for t in (False, True))
    assert test.shape[-1] == 256 and train.shape[-1] == 224


def test_training_step_learns_and_leaves_no_gradients():
    torch.manual_seed(0)
    model, x = nn.Linear(6, 3), torch.randn(4, 6)
    before = model.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    step = benchmark.training_step(model, (x,), optimizer=optimizer)
    losses = [step().item() for _ in range(20)]
    assert losses[-1] < losses[0] and not torch.equal(before, model.weight)
    assert model.weight.grad is None


def test_steps_take_turns():
    called = []
    steps = {name: lambda name=name: called.append(name) for name in "abc"}
    timings = benchmark.interleave(steps, rounds=6, warm=2)
    assert called[:6] == list("abcabc")
    rounds = ["".join(called[i : i + 3]) for i in range(6, len(called), 3)]
    assert all(sorted(turn) == list("abc") for turn in rounds)
    assert {turn[0] for turn in rounds} == set("abc")
    assert [len(timing.seconds) for timing in timings.values()] == [6, 6, 6]


def test_median_best_and_spread():
    timing = benchmark.Timing((1.0, 2.0, 3.0, 4.0, 100.0))
    assert (timing.median, timing.best, timing.spread) == (3.0, 1.0, pytest.approx(2 / 3))


def two_buffers():
    weights = torch.ones(2**24)  # 64 MiB that stay
    return lambda: (weights + 1).add_(1).sum()  # and 64 MiB that do not


def learning_layer():
    return benchmark.training_step(nn.Linear(2**12, 2**12), (torch.ones(1, 2**12),))  # 3 x 64 MiB, with momentum


@pytest.mark.parametrize("make, mib", [(two_buffers, 128), (learning_layer, 192)])
def test_peak_memory_counts_what_a_step_needs_for_a_moment(make, mib):
    assert mib - 3 < benchmark.in_fresh_process(benchmark.peak_memory, make) / 2**20 < mib + 42


def test_relative_difference():
    one = {"a": torch.tensor([1.0, -4.0]), "b": [torch.tensor([[2.0]])]}
    other = {"a": torch.tensor([1.0, -4.0]), "b": [torch.tensor([[2.5]])]}
    assert benchmark.relative_difference(one, one) == 0
    assert benchmark.relative_difference(one, other) == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        benchmark.relative_difference(torch.zeros(2), torch.zeros(3))


def test_multiply_adds_are_multiplications_with_addition():
    conv = nn.Conv3d(2, 4, (1, 3, 3), padding=(0, 1, 1))
    assert benchmark.multiply_adds(conv, (torch.zeros(3, 2, 2, 5, 5),)) == 3 * 4 * 2 * 9 * 2 * 5 * 5


# Versions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("torch_version", "cudnn", "is_bad"),
    [
        ("2.9.0+cu128", 91002, True),
        ("2.9.1", 91400, True),
        ("2.9.1", 91500, False),
        ("2.8.0", 91002, False),
        ("2.9.0+cpu", None, False),
    ],
)
def test_known_bad_versions(torch_version, cudnn, is_bad):
    text = machine.known_trouble(torch_version, cudnn)
    assert bool(text) == is_bad
    if is_bad:
        assert torch_version in text and machine.dotted(cudnn) in text and "nvidia-cudnn-cu12>=9.15" in text


def test_commands_on_a_gpu_warn_of_bad_versions(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(console, "known_trouble", lambda: "these versions are slow")
    with pytest.warns(UserWarning, match="these versions are slow"):
        assert console.pick_device("auto") == "cuda"


# Scripts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["speed", "data", "reproduce_siter"])
def test_scripts_explain_themselves(name, script, capsys):
    with pytest.raises(SystemExit) as stop:
        script(name).main(["--help"])
    assert stop.value.code == 0 and "--out" in capsys.readouterr().out


def test_speed_of_a_library_beside_ours(tmp_path, script, capsys):
    speed, out = script("speed"), tmp_path / "speed"
    options = ["test", "--device", "cpu", "--rounds", "2", "--no-bf16", "--out", str(out)]
    for _ in range(2):  # the second run replaces the rows of the first
        assert speed.main(options) == 0
    rows = {row["library"]: row for row in csv.DictReader(out.with_suffix(".csv").open())}
    assert len(rows) == out.with_suffix(".csv").read_text().count("\n") - 1
    assert rows["torchvision"]["agrees"] == "yes" and float(rows["torchvision"]["difference"]) < 1e-4
    assert float(rows["torchvision"]["ratio"]) == 1 and float(rows["videozoo"]["ratio"]) > 0
    page = out.with_suffix(".html").read_text()
    assert "torchvision" in page and "Inference, batch 1" in page and torch.__version__ in page


@pytest.mark.parametrize("kind", ["infer", "train"])
def test_speed_of_a_network_that_gives_other_numbers_is_an_error(kind, tmp_path, script, capsys):
    speed, peers = script("speed"), script("peers")
    true = peers.same_in_ours

    def wrong(entry, theirs):
        ours = true(entry, theirs)
        ours.fc.weight.data[0] += 1
        return ours

    peers.same_in_ours = wrong
    try:
        options = [
            "test",
            "--bench",
            kind,
            "--device",
            "cpu",
            "--rounds",
            "1",
            "--no-bf16",
            "--out",
            str(tmp_path / "speed"),
        ]
        assert speed.main(options) == 1
    finally:
        peers.same_in_ours = true
    assert "WRONG" in capsys.readouterr().out
    assert "WRONG OUTPUT" in (tmp_path / "speed.html").read_text()


def test_speed_of_training_with_reading(tmp_path, script, capsys):
    speed, data, out = script("speed"), script("data"), tmp_path / "speed"
    video = data.make_video(tmp_path / "a.mp4", 64, 48, 40)
    options = ["test", "--bench", "train", "train-data", "--device", "cpu", "--rounds", "1", "--batch-size", "2"]
    small = ["--video", str(video), "--iterations", "2", "--workers", "0", "--out", str(out)]
    assert speed.main([*options, *small]) == 0
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    found = {(row["bench"], row["library"]): row for row in rows}
    reading = found["train-data", "videozoo"]
    assert float(reading["clips_per_s"]) == pytest.approx(2000 / float(reading["median_ms"]), rel=0.01)
    assert ("train", "torchvision") in found, "torchvision trains"
    assert ("train-data", "torchvision") not in found, "and reads no videos"


def test_reading_beside_plain_decoding(tmp_path, script, capsys):
    data, out = script("data"), tmp_path / "data.csv"
    video = data.make_video(tmp_path / "a.mp4", 64, 48, 40)
    options = ["--videos", str(video), "--rounds", "1", "--workers", "0", "--clips", "8", "--out", str(out)]
    assert data.main(options) == 0
    rows = list(csv.DictReader(out.open()))
    ours = [row for row in rows if row["reader"].startswith("videozoo") and row["frames_equal"]]
    assert len(ours) == 12 and {row["frames_equal"] for row in ours} == {"yes", "scaled"}
    loaders = {row["reader"]: float(row["clips_per_s"]) for row in rows if row["access"] == "DataLoader"}
    assert {"videozoo", "videozoo, resize_backend=decoder"} <= loaders.keys() and min(loaders.values()) > 0
    transforms = {row["reader"]: row for row in rows if row["access"] == "transform"}
    assert float(transforms["videozoo"]["median_ms"]) > 0 and "torchvision" in transforms


def test_seconds_an_iteration_beside_the_published_ones(tmp_path, script, capsys):
    siter, out = script("reproduce_siter"), tmp_path / "siter.csv"
    rows = ["tsn_rawframes", "slowonly_videos", "bsn_tem", "bsn_pem"]
    small = ["--batch-size", "2", "--workers", "0", "--size", "32", "--iterations", "2", "--warm", "1"]
    assert siter.main(["--rows", *rows, *small, "--device", "cpu", "--out", str(out)]) == 0
    found = {row["row"]: row for row in csv.DictReader(out.open())}
    assert list(found) == rows
    for row in found.values():
        assert 0 <= float(row["data_s"]) < float(row["s_per_iter"])
        assert row["made_data"] == "True" and row["batch"] == "2" and row["gpus"] == "0"
    assert found["tsn_rawframes"]["published_s_per_iter"] == "0.32"
    assert "made rawframes" in capsys.readouterr().out
