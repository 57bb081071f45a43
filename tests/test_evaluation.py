"""Evaluation of classifiers: from files on disk to the numbers in the report."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import read_case, state_dict, write_checkpoint
from safetensors.numpy import load_file

import videozoo
from videozoo.catalog import datasets
from videozoo.cli import main
from videozoo.data.annotations import Sample
from videozoo.data.datasets import load_dataset
from videozoo.evaluation import compare, evaluate, storage
from videozoo.evaluation.fusion import fuse
from videozoo.evaluation.overview import overview_report
from videozoo.evaluation.recognition import video_names
from videozoo.evaluation.report import evaluation_report
from videozoo.evaluation.storage import ScoreStore, StorageError, read_scores
from videozoo.prediction import average_views

TSN = "mma012_tsn_r18_1x1x8_100e_hvu_action_rgb"  # the parity case of a network small enough for tests
SMALL = {"kind": "uniform", "clips": 4, "segments": 4, "resize": 40, "crops": 1, "size": 32, "average": "score"}


# Data sets -----------------------------------------------------------------------------------------------------------


def moving_picture(seed: int, count: int = 12, height: int = 36, width: int = 48) -> np.ndarray:
    """uint8 frames (T, H, W, 3) that differ from video to video and from frame to frame."""
    random = np.random.RandomState(seed)
    cells = random.randint(0, 256, (1, 6, 8, 3)) + random.randint(-60, 61, (count, 6, 8, 3))
    return np.kron(np.clip(cells, 0, 255), np.ones((1, height // 6, width // 8, 1))).astype(np.uint8)


def write_video(path: Path, seed: int) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 36, "yuv420p"
        for picture in moving_picture(seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def write_frames(folder: Path, seed: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for number, picture in enumerate(moving_picture(seed), 1):
        Image.fromarray(picture).save(folder / f"img_{number:05d}.png")


def write_list(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


LABELS = [47, 125, 23, 250, 137]  # the network below finds the first at once and all but 250 among five


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Kinetics-400 as a list of five videos."""
    root = tmp_path_factory.mktemp("kinetics")
    for number in range(5):
        write_video(root / "videos_val" / f"v{number}.mp4", number)
    write_list(root / "kinetics400_val_list_videos.txt", [f"v{i}.mp4 {label}" for i, label in enumerate(LABELS)])
    return root


# Models --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    case, _ = read_case(TSN)
    return write_checkpoint(case, tmp_path_factory.mktemp("weights") / "published.pth")


def small_model(checkpoint, dataset="k400", metrics=(), **test):
    """The parity case's network with a protocol for small frames, as if it were published for another data set."""
    facts = {
        "name": f"tsn_r18_f4_{dataset}",
        "num_classes": datasets()[dataset]["num_classes"],
        "surplus_classes": True,  # the first rows of the classifier are kept
        "dataset": dataset,
        "labels": datasets()[dataset]["labels"],
        "multi_label": dataset in ("mmit", "hvu_action"),
        "test": SMALL | test,
        "metrics": metrics,
    }
    model = videozoo.create_model("tsn_r18_f8_hvu_action", checkpoint_path=checkpoint, pretrained_cfg_overlay=facts)
    model.has_published_weights = True
    return model


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    """A saved model for Kinetics-400 with a protocol for small frames, to be named as local-dir:folder."""
    published = [
        {"top1": 99.0, "origin": "elsewhere", "protocol": "25 segments x 10 crops"},
        {"top1": 40.0, "top5": 70.0, "origin": "table 1"},
    ]
    model = small_model(checkpoint, metrics=published)
    return videozoo.save_pretrained(model, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder):
    return videozoo.create_model(f"local-dir:{folder}", pretrained=True).eval()


@pytest.fixture(scope="module")
def whole(model, videos):
    """The result of an uninterrupted run of one process."""
    return evaluate(model, load_dataset("k400", videos))


def run_cli(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# The whole chain in plain NumPy --------------------------------------------------------------------------------------


def numpy_resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, in integers: the rule of the published pipelines for uint8."""

    def taps(out, size, clamp):
        place = ((np.arange(out) + 0.5) * (1 / (out / size)) - 0.5).astype(np.float32)
        left = np.floor(place).astype(int)
        part = place - left.astype(np.float32)
        if clamp:
            part[(left < 0) | (left >= size - 1)] = 0
        weights = np.rint(part * np.float32(2048)).astype(int), np.rint((1 - part) * np.float32(2048)).astype(int)
        return np.clip(left, 0, size - 1), np.clip(left + 1, 0, size - 1), *weights

    x0, x1, right, left = taps(width, picture.shape[1], True)
    rows = picture[:, x0].astype(int) * left[:, None] + picture[:, x1].astype(int) * right[:, None]
    y0, y1, lower, upper = (
        v[:, None, None] if v.ndim and i > 1 else v for i, v in enumerate(taps(height, picture.shape[0], False))
    )
    parts = ((upper * (rows[y0] >> 4)) >> 16) + ((lower * (rows[y1] >> 4)) >> 16)
    return ((parts + 2) >> 2).astype(np.uint8)


def numpy_convolution(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    pad = weight.shape[-1] // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)


def numpy_unit(x: np.ndarray, state: dict, name: str, stride: int = 1) -> np.ndarray:
    """Convolution and batch normalisation."""
    x = numpy_convolution(x, state[f"{name}.conv.weight"], stride)
    values = [state[f"{name}.bn.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")]
    return (x - values[0]) / np.sqrt(values[1] + 1e-5) * values[2] + values[3]


def numpy_tsn_r18(frames: np.ndarray, state: dict) -> np.ndarray:
    """Logits (views, classes) of segment sets (views, T, 3, H, W): ResNet-18 on each frame, the mean over frames."""
    x = np.maximum(numpy_unit(frames.reshape(-1, *frames.shape[2:]), state, "backbone.conv1", 2), 0)
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max((-2, -1))
    for layer in range(1, 5):
        for block in range(2):
            name, stride = f"backbone.layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            shortcut = numpy_unit(x, state, f"{name}.downsample", stride) if stride > 1 else x
            y = np.maximum(numpy_unit(x, state, f"{name}.conv1", stride), 0)
            x = np.maximum(numpy_unit(y, state, f"{name}.conv2") + shortcut, 0)
    features = x.mean((2, 3)).reshape(*frames.shape[:2], -1).mean(1)
    return (features @ state["cls_head.fc_cls.weight"].T + state["cls_head.fc_cls.bias"])[:, :400]


def numpy_views(frames: np.ndarray, crops: int) -> list[np.ndarray]:
    """Network inputs (4, 3, 32, 32): four frames from the middles of quarters, short side 40 (32 for 3 crops)."""
    count, (height, width) = len(frames), frames.shape[1:3]
    share = (count - 1 + 1) / 4
    picked = [int(share * i + share / 2) for i in range(4)]
    short = 32 if crops == 3 else 40
    size = int(height * short / height + 0.5), int(width * short / height + 0.5)
    pictures = np.stack([numpy_resize(frames[i], *size) for i in picked])
    y, x = (size[0] - 32), (size[1] - 32)
    places = {
        1: [(y // 2, x // 2, False)],
        3: [(0, 0, False), (0, 2 * (x // 2), False), (0, x // 2, False)],
        10: [
            (j * (y // 4), i * (x // 4), flip) for i, j in ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)) for flip in (0, 1)
        ],
    }[crops]
    views = []
    for top, left, mirrored in places:
        part = pictures[:, top : top + 32, left : left + 32]
        part = part[:, :, ::-1] if mirrored else part
        normal = (part / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        views.append(normal.transpose(0, 3, 1, 2).astype(np.float32))
    return views


@pytest.mark.parametrize(("crops", "average"), [(3, "score"), (10, "prob")])
def test_whole_chain_equals_plain_numpy(crops, average, checkpoint, tmp_path):
    for number in range(3):
        write_frames(tmp_path / "rawframes_val" / f"v{number}", number)
    case, _ = read_case(TSN)
    state = {key: value.numpy() for key, value in state_dict(case).items()}
    expected = []
    for number in range(3):
        logits = numpy_tsn_r18(np.stack(numpy_views(moving_picture(number), crops)), state)
        odds = np.exp(logits - logits.max(1, keepdims=True))
        expected.append((odds / odds.sum(1, keepdims=True) if average == "prob" else logits).mean(0))
    expected = np.stack(expected)
    order = np.argsort(-expected, axis=1)
    labels = [order[0, 0], order[1, 3], order[2, 100]]  # found first, found among five, not found
    write_list(tmp_path / "kinetics400_val_list_rawframes.txt", [f"v{i} 12 {label}" for i, label in enumerate(labels)])

    model = small_model(checkpoint, crops=crops, average=average, resize=32 if crops == 3 else 40)
    result = evaluate(model, load_dataset("k400", tmp_path), batch_size=4)

    scale = np.abs(expected).max()
    assert np.abs(result.scores - expected).max() < 1e-4 * scale
    assert result.metrics["top1"] == pytest.approx(100 / 3)
    assert result.metrics["top5"] == pytest.approx(200 / 3)
    predicted = [labels[0], order[1, 0], order[2, 0]]
    classes = set(labels) | set(predicted)
    right = [np.mean([p == c for p, t in zip(predicted, labels, strict=True) if t == c] or [0]) for c in classes]
    assert result.metrics["mean_class_accuracy"] == pytest.approx(100 * np.mean(right))


def test_views_of_sliding_heads_count_one_by_one(videos):
    facts = {
        "dataset": "k400",
        "num_classes": 400,
        "test": SMALL | {"segments": 1, "clips": 2, "size": 64, "resize": 64},
    }
    facts |= {"sampling": {"kind": "uniform", "frames": 4, "stride": 1}}
    facts["test"] |= {"average": "prob"}
    net = videozoo.create_model("x3d_xs", num_classes=400, pool_window=1, pretrained_cfg=facts).eval()
    torch.nn.init.normal_(net.fc.weight, std=20)
    transform = videozoo.create_transform(net)
    result = evaluate(net, load_dataset("k400", videos), limit=1)
    video = videos / "videos_val" / result.videos[0]
    with torch.inference_mode():
        windows = net.forward_windows(transform(video))
        blurred = net(transform(video)).double().softmax(-1).mean(0).numpy()
    assert windows.shape[:2] == (2, 4)
    expected = windows.double().softmax(-1).mean((0, 1)).numpy()
    assert not np.allclose(blurred, expected, rtol=1e-2)
    np.testing.assert_allclose(result.scores[0], expected, rtol=1e-4)
    probabilities = dict(videozoo.predict(net, video, topk=400))
    np.testing.assert_allclose([probabilities[f"class {i}"] for i in range(400)], expected, rtol=1e-4)


def test_views_of_short_videos_that_show_the_same(checkpoint, videos):
    net = small_model(checkpoint, clips=5, segments=1, average="prob", crops=3, resize=32).eval()
    net.pretrained_cfg["sampling"] = {"kind": "uniform", "frames": 4, "stride": 8}  # longer than the videos
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    result = evaluate(net, load_dataset("k400", videos), limit=2)
    assert len(passes) == 2 * 3  # the five clips are one
    for video, scores in zip(result.videos, result.scores, strict=True):
        probabilities = dict(videozoo.predict(net, videos / "videos_val" / video, topk=400))
        expected = [probabilities[label] for label in videozoo.labels("k400")]
        np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_sound(videos, tmp_path):
    import wave

    for number in range(2):
        with wave.open(str(tmp_path / f"v{number}.wav"), "wb") as file:
            file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
            file.writeframes((8000 * np.sin(np.arange(16000 * 3) * (number + 1) / 9)).astype(np.int16).tobytes())
    (tmp_path / "silent.mp4").write_bytes((videos / "videos_val" / "v0.mp4").read_bytes())
    write_list(tmp_path / "kinetics400_val_list_videos.txt", ["v0.wav 1", "v1.wav 2", "silent.mp4 3", "gone.mp4 4"])
    net = videozoo.create_model("tsn_r18_64x1_k400_audio").eval()
    torch.nn.init.normal_(net.fc.weight)
    result = evaluate(net, load_dataset("k400", tmp_path))
    assert result.videos == ["v0.wav", "v1.wav", "silent.mp4"]  # the published test has silence where there is no sound
    assert [failure.video for failure in result.failures] == ["gone.mp4"]
    for video, scores in zip(result.videos[:2], result.scores, strict=False):
        best = videozoo.labels("k400")[scores.argmax()]
        assert videozoo.predict(net, tmp_path / video, topk=1) == [(best, pytest.approx(float(scores.max()), rel=1e-4))]
    assert not np.allclose(result.scores[0], result.scores[2], rtol=0.1)
    assert "silent.mp4" not in evaluation_report(result) and "gone.mp4" in evaluation_report(result)


# From the command line -----------------------------------------------------------------------------------------------


def as_video_list(root: Path) -> None:
    for number in range(5):
        write_video(root / "videos_val" / f"v{number}.mp4", number)
    lines = [f"v{i}.mp4 {label}" for i, label in enumerate(LABELS)]
    write_list(root / "annotations" / "kinetics400_val_list_videos.txt", lines)


def as_frame_list(root: Path) -> None:
    for number in range(5):
        write_frames(root / "rawframes_val" / f"v{number}", number)
    write_list(root / "kinetics400_val_list_rawframes.txt", [f"v{i} 12 {label}" for i, label in enumerate(LABELS)])


def as_folders(root: Path) -> None:
    names = videozoo.labels("k400")
    for number, label in enumerate(LABELS):
        write_video(root / "val" / names[label].replace(" ", "_") / f"v{number}.mp4", number)


@pytest.mark.parametrize("write", [as_video_list, as_frame_list, as_folders])
def test_numbers_are_those_of_predicting_every_video(write, folder, model, tmp_path, capsys):
    write(tmp_path / "data")
    out = tmp_path / "out.json"
    code, text, _ = run_cli(
        capsys, "eval", f"local-dir:{folder}", "--data", tmp_path / "data", "--device", "cpu", "--results-file", out
    )
    assert code == 0
    facts = json.loads(out.read_text())
    dataset = load_dataset("k400", tmp_path / "data")
    names = videozoo.labels("k400")
    ranks = []
    for number, sample in enumerate(dataset):
        guesses = [label for label, _ in videozoo.predict(model, dataset.path(number), topk=400)]
        ranks.append(guesses.index(names[sample.label]))
    assert facts["videos"] == 5 and facts["failures"] == []
    assert sorted(facts["metrics"]) == ["mean_class_accuracy", "top1", "top5"]
    assert (facts["metrics"]["top1"], facts["metrics"]["top5"]) == (20, 80)
    assert facts["metrics"]["top1"] == pytest.approx(100 * np.mean(np.array(ranks) < 1))
    assert facts["metrics"]["top5"] == pytest.approx(100 * np.mean(np.array(ranks) < 5))
    assert facts["published"]["top1"] == 40.0  # the row that states no other protocol
    assert facts["differences"]["top1"] == pytest.approx(facts["metrics"]["top1"] - 40)
    assert f"{facts['metrics']['top5']:.2f}" in text and "70.00" in text


def average_precision(scores, positive):
    """Of one list of scores without ties."""
    found = np.asarray(positive, bool)[np.argsort(-np.asarray(scores))]
    return (np.cumsum(found) / np.arange(1, len(found) + 1))[found].mean()


@pytest.mark.parametrize(("name", "metric"), [("mmit", "mmit_mAP"), ("hvu_action", "mAP")])
def test_several_labels_a_video(name, metric, checkpoint, tmp_path, capsys):
    labels = [(1, 5), (5,), (1, 7, 9), (9,)]
    root = tmp_path / "data"
    for number in range(4):
        write_frames(root / "rawframes_val" / f"v{number}", number)
    if name == "mmit":
        lines = [f"v{i} 12 {' '.join(map(str, row))}" for i, row in enumerate(labels)]
        write_list(root / "mmit_val_rawframes.txt", lines)
    else:
        rows = [
            {"frame_dir": f"v{i}", "total_frames": 12, "label": {"action": list(row), "scene": [3]}}
            for i, row in enumerate(labels)
        ]
        (root / "hvu_val.json").write_text(json.dumps(rows))
    net = small_model(checkpoint, dataset=name, metrics=[{metric: 50.0, "origin": "table 2"}]).eval()
    videozoo.save_pretrained(net, tmp_path / "model")
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    code, *_ = run_cli(
        capsys, "eval", f"local-dir:{tmp_path / 'model'}", "--data", root, "--results-file", out, "--out", page
    )
    assert code == 0
    scores = evaluate(net, load_dataset(name, root)).scores
    table = np.array([[i in row for i in range(net.num_classes)] for row in labels])
    if name == "mmit":  # over the classes of each video
        expected = np.mean([average_precision(*pair) for pair in zip(scores, table, strict=True)])
    else:  # over the videos of each class
        expected = np.mean([average_precision(scores[:, i], table[:, i]) for i in (1, 5, 7, 9)])
    facts = json.loads(out.read_text())
    assert facts["metrics"] == {metric: pytest.approx(100 * expected)}
    assert facts["differences"] == {metric: pytest.approx(100 * expected - 50)}
    assert "Weakest classes" in page.read_text()


def test_unreadable_videos_are_listed_and_the_rest_is_measured(folder, whole, tmp_path, capsys):
    as_video_list(tmp_path)
    broken, missing = tmp_path / "videos_val" / "v1.mp4", tmp_path / "videos_val" / "v3.mp4"
    broken.write_bytes(broken.read_bytes()[:200])
    missing.unlink()
    out, page = tmp_path / "out.csv", tmp_path / "out.html"
    code, text, _ = run_cli(
        capsys, "eval", f"local-dir:{folder}", "--data", tmp_path, "--results-file", out, "--out", page, "--workers", 1
    )
    assert code == 0
    assert "3 videos measured" in text and "2 could not be read" in text
    right = (whole.predicted == [labels[0] for labels in whole.labels])[[0, 2, 4]]
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [row["metric"] for row in rows] == ["top1", "top5", "mean_class_accuracy"]
    assert float(rows[0]["measured"]) == pytest.approx(100 * right.mean())
    assert (rows[0]["videos"], rows[0]["failed"]) == ("3", "2")
    for name in ("v1.mp4", "v3.mp4"):
        assert name in text and name in page.read_text()
    for number in (0, 2, 4):
        (tmp_path / "videos_val" / f"v{number}.mp4").write_bytes(b"")
    code, text, _ = run_cli(capsys, "eval", f"local-dir:{folder}", "--data", tmp_path)
    assert code == 1 and "0 videos measured" in text


def test_wrong_usage_is_told_in_one_sentence(folder, videos, tmp_path, capsys):
    code, _, err = run_cli(capsys, "eval", f"local-dir:{folder}", "--data", tmp_path / "nowhere")
    assert code == 1 and "nowhere" in err
    code, _, err = run_cli(capsys, "eval", f"local-dir:{folder}", "--data", videos, "--dataset", "ucf101")
    assert code == 1 and "101" in err
    with pytest.raises(SystemExit) as stop:
        run_cli(capsys, "eval", f"local-dir:{folder}", "--data", videos, "--results-file", tmp_path / "out.txt")
    assert stop.value.code == 2


# Batches, views, parts of a data set ---------------------------------------------------------------------------------


def test_batches_across_videos_and_workers_change_nothing(checkpoint, videos):
    net = small_model(checkpoint, crops=3, resize=32, average="prob")
    dataset = load_dataset("k400", videos)
    one = evaluate(net, dataset, batch_size=1)
    many = evaluate(net, dataset, batch_size=4, workers=2)
    assert many.videos == one.videos
    np.testing.assert_allclose(many.scores, one.scores, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(one.scores.sum(1), 1, rtol=1e-5)  # averaged probabilities


def test_one_view_and_a_part_of_the_videos(model, videos, whole):
    dataset = load_dataset("k400", videos)
    fast = evaluate(model, dataset, views="fast", limit=3, seed=1)
    assert len(fast.videos) == 3 and "3 of 5 videos" in fast.remark and "one view" in fast.remark
    assert fast.videos == evaluate(model, dataset, views="fast", limit=3, seed=1).videos
    drawn = {tuple(evaluate(model, dataset, views="fast", limit=3, seed=seed).videos) for seed in (2, 3)}
    assert len(drawn | {tuple(fast.videos)}) > 1
    assert whole.remark == ""


def test_models_that_do_not_fit_the_data_are_refused(checkpoint, model, videos):
    dataset = load_dataset("k400", videos)
    with pytest.raises(ValueError, match="313 classes"):
        evaluate(small_model(checkpoint, dataset="mmit"), dataset)
    names = videozoo.labels("k400")
    net = small_model(checkpoint)
    net.pretrained_cfg["label_names"] = names[1:] + names[:1]
    with pytest.raises(ValueError, match="another order"):
        evaluate(net, dataset)
    with pytest.raises(ValueError, match="opened as flow"):
        evaluate(model, load_dataset("k400", videos, modality="flow"))


# Interruption and processes ------------------------------------------------------------------------------------------


class StopsAfter:
    """Counts the videos that a data set opens, and does something before the one after ``count``."""

    def __init__(self, monkeypatch, count=None, stop=None):
        from videozoo.data.datasets import Dataset

        self.opened, original = [], Dataset.open

        def opens(dataset, index, **options):
            if len(self.opened) == count:
                stop()
            self.opened.append(index)
            return original(dataset, index, **options)

        monkeypatch.setattr(Dataset, "open", opens)


def interrupt():
    raise KeyboardInterrupt


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("stop", "code"), [(interrupt, 130), (terminate, 130)])
def test_interrupted_run_goes_on_and_equals_an_uninterrupted_one(
    stop, code, folder, videos, whole, tmp_path, capsys, monkeypatch
):
    arguments = ["eval", f"local-dir:{folder}", "--data", videos, "--save-logits", tmp_path / "scores"]
    with monkeypatch.context() as patch:
        StopsAfter(patch, 3, stop)
        assert run_cli(capsys, *arguments)[0] == code
    assert len(read_scores(tmp_path / "scores")[0]) == 3
    counter = StopsAfter(monkeypatch)
    code, text, _ = run_cli(capsys, *arguments)
    assert code == 0 and counter.opened == [3, 4]
    assert "5 videos measured, 3 from saved scores" in text
    scores, _ = read_scores(tmp_path / "scores")
    assert list(scores) == whole.videos
    np.testing.assert_array_equal(np.stack(list(scores.values())), whole.scores)
    assert run_cli(capsys, *arguments)[0] == 0 and counter.opened == [3, 4]


def test_scores_reach_the_disk_while_the_run_goes_on(tmp_path, monkeypatch):
    """A process that is killed outright loses no more than what it scored last."""
    monkeypatch.setattr(storage, "SHARD_VIDEOS", 2)
    store = ScoreStore(tmp_path, {"weights": "1"}, ["a", "b", "c"])
    for number in range(3):
        store.add(number, np.full(4, number))
    scores, manifest = read_scores(tmp_path)
    assert {name: row.tolist() for name, row in scores.items()} == {"a": [0] * 4, "b": [1] * 4}
    monkeypatch.setattr(storage, "SHARD_SECONDS", 0)
    store.add(1, np.full(4, 9))
    assert list(read_scores(tmp_path)[0]) == ["a", "b", "c"]


@pytest.mark.parametrize("part", ["weights", "protocol", "videos", "precision"])
def test_saved_scores_of_another_run_are_refused(part, checkpoint, model, videos, tmp_path):
    evaluate(model, load_dataset("k400", videos), limit=1, save_logits=tmp_path / "scores")
    other, dataset, options = model, load_dataset("k400", videos), {}
    if part == "weights":
        other = small_model(checkpoint)
        other.fc.bias.data[0] += 1
    elif part == "protocol":
        options["views"] = "fast"
    elif part == "videos":
        dataset.samples = dataset.samples[:4]
    else:
        options["amp_dtype"] = "bf16"
    with pytest.raises(StorageError, match=rf"\({part} differ"):
        evaluate(other, dataset, save_logits=tmp_path / "scores", **options)


def test_damaged_and_foreign_folders_are_refused(model, videos, tmp_path):
    dataset = load_dataset("k400", videos)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="new or empty folder"):
        evaluate(model, dataset, save_logits=tmp_path / "foreign")
    evaluate(model, dataset, limit=2, save_logits=tmp_path / "scores")
    shard = next((tmp_path / "scores").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(StorageError, match="delete it"):
        evaluate(model, dataset, save_logits=tmp_path / "scores")
    shard.unlink()
    assert evaluate(model, dataset, limit=2, save_logits=tmp_path / "scores").resumed == 0


def test_two_processes_give_what_one_gives(folder, videos, whole, tmp_path):
    """Five videos do not divide by two: none may count twice or be missing."""
    out, scores = tmp_path / "out.json", tmp_path / "scores"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "videozoo"]
    command += ["eval", f"local-dir:{folder}", "--data", str(videos), "--device", "cpu"]
    command += ["--results-file", str(out), "--save-logits", str(scores)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(videozoo.__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("5 videos measured") == 1
    facts = json.loads(out.read_text())
    assert facts["videos"] == 5 and facts["processes"] == 2
    assert facts["metrics"] == whole.metrics
    saved, _ = read_scores(scores)
    assert list(saved) == whole.videos
    np.testing.assert_allclose(np.stack(list(saved.values())), whole.scores, rtol=1e-4, atol=1e-4)
    shards = [load_file(path)["video"].tolist() for path in scores.glob("*.safetensors")]
    assert sorted(map(len, shards)) == [2, 3]  # what each process has done


# Comparing and reporting ---------------------------------------------------------------------------------------------


def test_changed_predictions_are_listed(folder, model, videos, whole, tmp_path, capsys):
    dataset = load_dataset("k400", videos)
    evaluate(model, dataset, limit=4, save_logits=tmp_path / "before")
    before, _ = read_scores(tmp_path / "before")
    changed = videozoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
    first = int(before[next(iter(before))].argmax())
    changed.fc.bias.data[first] -= 1000  # this class is never predicted any more
    result = compare(evaluate(changed, dataset), tmp_path / "before")
    expected = [video for video, scores in before.items() if scores.argmax() == first]
    assert [change.video for change in result.comparison.changes] == expected
    assert all(change.before == first != change.after for change in result.comparison.changes)
    assert (result.comparison.common, result.comparison.only_here, result.comparison.only_there) == (4, 1, 0)
    assert "Changed predictions" in evaluation_report(result)
    code, text, _ = run_cli(capsys, "eval", f"local-dir:{folder}", "--data", videos, "--diff", tmp_path / "before")
    assert code == 0 and "0 of 4 predictions differ" in text
    code, _, err = run_cli(capsys, "eval", f"local-dir:{folder}", "--data", videos, "--diff", tmp_path)
    assert code == 1 and "no saved scores" in err


def test_page_needs_nothing_else_and_escapes_names(model, tmp_path):
    write_video(tmp_path / "videos_val" / "<b>&.mp4", 1)
    write_video(tmp_path / "videos_val" / "b.mp4", 2)
    write_list(tmp_path / "kinetics400_val_list_videos.txt", ["<b>&.mp4 0", "b.mp4 1", "<gone>.mp4 2"])
    result = evaluate(model, load_dataset("k400", tmp_path))
    for page in (evaluation_report(result), overview_report([result.to_dict()] * 2, {"<other>": "<why>"})):
        assert "<b>&" not in page and "<gone>" not in page and "<why>" not in page
        assert not any(word in page for word in ("<script", 'src="http', "@import", "url("))
    page = evaluation_report(result)
    assert "&lt;gone&gt;.mp4" in page and f"{result.metrics['top1']:.2f}" in page and "40.00" in page
    assert "confused most" in page


def test_benchmark_runs_what_is_not_done_yet(folder, videos, tmp_path, monkeypatch, capsys):
    import importlib.util

    path = Path(__file__).parent.parent / "benchmarks" / "accuracy.py"
    spec = importlib.util.spec_from_file_location("accuracy", path)
    accuracy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(accuracy)
    names, out = tmp_path / "names.txt", tmp_path / "out"
    names.write_text(f"# one of ours\nlocal-dir:{folder}\n")
    monkeypatch.setenv("PYTHONPATH", str(Path(videozoo.__file__).parent.parent))
    arguments = [str(names), "--data", str(videos), "--out", str(out)]
    assert accuracy.main([*arguments, "--", "--device", "cpu"]) == 0
    rows = list(csv.DictReader(io.StringIO((out / "accuracy.csv").read_text())))
    assert [row["metric"] for row in rows] == ["top1", "top5", "mean_class_accuracy"]
    assert "Kinetics-400" in (out / "accuracy.html").read_text()
    monkeypatch.setattr(accuracy, "run", lambda *_: pytest.fail("measured twice"))
    assert accuracy.main([*arguments, "--", "--device", "cpu"]) == 0
    with pytest.raises(SystemExit, match="otherwise"):
        accuracy.main([*arguments, "--", "--views", "fast"])
    assert accuracy.model_names(["tsn_r50_f3_k400*"])[0] == "tsn_r50_f3_k400.mma0"
    assert accuracy.main(["tsn_r50_f6_mit", "--data", "k400=/nowhere", "--out", str(tmp_path / "none")]) == 1
    assert "mit" in (tmp_path / "none" / "accuracy.html").read_text()


# Fusion --------------------------------------------------------------------------------------------------------------


def test_scores_of_two_runs_are_fused_beside_the_published_pair(folder, model, videos, tmp_path, capsys):
    dataset = load_dataset("k400", videos)
    first = evaluate(model, dataset)
    second = evaluate(model, dataset, views="fast", save_logits=tmp_path / "flow")
    (tmp_path / "flow" / "run.json").write_text(
        (tmp_path / "flow" / "run.json").read_text().replace(".mp4", "").replace('"v4"', '"another"')
    )  # as a run on flow folders names them, and without one of the videos
    partner = json.loads((tmp_path / "flow" / "run.json").read_text())["model"]
    first.model["metrics"] = [{"top1": 50.0, "fused_with": partner, "origin": "table 2"}]

    fused = fuse(first, dataset, tmp_path / "flow", weight=1.0)
    assert fused.videos == [f"v{i}.mp4" for i in range(4)] and fused.failures[-1].video == "v4.mp4"
    assert np.allclose(fused.scores, first.scores[:4] + second.scores[:4])
    hits = (fused.scores.argmax(1) == np.array(LABELS[:4])).mean()
    assert fused.metrics["top1"] == pytest.approx(100 * hits) and fused.published["top1"] == 50.0
    assert fuse(first, dataset, tmp_path / "flow", weight=0.5).published == {}
    assert "one view: not comparable" in fused.remark

    arguments = ("eval", f"local-dir:{folder}", "--data", videos, "--fuse", tmp_path / "flow", "--fuse-weight", "0.5")
    code, out, _ = run_cli(capsys, *arguments)
    assert code == 0 and "fused 1:0.5" in out and "v4.mp4" in out


def test_wrong_folders_and_weights_are_told_before_the_run(folder, videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("videozoo.evaluation.recognition.evaluate", lambda *_, **__: pytest.fail("the run has begun"))
    for option in ("--fuse", "--diff"):
        arguments = ("eval", f"local-dir:{folder}", "--data", videos, option, tmp_path / "nowhere")
        code, _, err = run_cli(capsys, *arguments)
        assert code == 1 and "nowhere holds no saved scores" in err
    for weight in ("nan", "inf", "one"):
        with pytest.raises(SystemExit):
            run_cli(capsys, "eval", "x", "--data", videos, "--fuse", tmp_path, "--fuse-weight", weight)
    assert np.array_equal(videozoo.fuse_scores([np.ones((2, 3)), np.ones((2, 3))]), np.full((2, 3), 2.0))
    with pytest.raises(ValueError, match="finite"):
        videozoo.fuse_scores([np.ones((2, 3))], [float("nan")])


def test_parts_of_a_video_have_names_of_their_own():
    def sample(path, start=0, frames=0):
        return Sample(path, 0, num_frames=frames, start=start)

    names = video_names([sample("a", 0, 10), sample("a", 5, 10), sample("b", 0, 9), sample("c.mp4"), sample("c.mp4")])
    assert names == ["a[0:10]", "a[5:15]", "b", "c.mp4", "c.mp4#2"]


def test_flow_models_need_flow_folders(checkpoint, videos):
    model = videozoo.create_model("tsn_r50_f3_k400_flow")
    with pytest.raises(ValueError, match="folders of flow images"):
        evaluate(model, load_dataset("k400", videos, modality="flow"))


def test_largest_probability_over_views():
    logits = torch.tensor([[[0.0, 2.0]], [[1.0, -1.0]]])  # (views, windows, classes)
    assert torch.equal(average_views(logits, "max", multi_label=True), torch.tensor([1.0, 2.0]).sigmoid())
    assert videozoo.get_pretrained_cfg("slowfast_r50_8x8_charades").test["average"] == "max"
