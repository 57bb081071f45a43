"""``videozoo eval`` of detectors: from films and boxes to the numbers in the report."""

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detection_data import LEFT, RIGHT, film, write_ava, write_film, write_jhmdb

import videozoo
from videozoo.cli import main
from videozoo.data import ava
from videozoo.data.detection import KeyFrames, action_ids, load_detection
from videozoo.evaluation.detection import evaluate_detector, key_frame_metrics
from videozoo.evaluation.report import evaluation_report
from videozoo.evaluation.storage import ScoreStore, StorageError
from videozoo.evaluation.tubes import link_tubes

INPUT = {"size": 64, "test": {"resize": 64, "crops": 0, "size": 64}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_ava(tmp_path_factory.mktemp("ava"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A detector of AVA with a published number, as a user keeps one."""
    torch.manual_seed(0)
    net = videozoo.create_model("slowonly_r50_4x16_ava21", init_std=1.0).eval()
    net.pretrained_cfg |= {**INPUT, "metrics": ({"mAP": 20.1, "origin": "a table"},)}
    net.has_published_weights = True
    path = tmp_path_factory.mktemp("weights") / "net"
    videozoo.save_pretrained(net, path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return videozoo.create_model(f"local-dir:{folder}", pretrained=True).eval()


@pytest.fixture(scope="module")
def data(root):
    return load_detection("ava21", root)


@pytest.fixture(scope="module")
def whole(model, data):
    """The result of a run without interruption."""
    return evaluate_detector(model, data)


def run_cli(capsys, *arguments):
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as leaving:
        code = leaving.code
    return (code, *capsys.readouterr())


# Data ----------------------------------------------------------------------------------------------------------------


def test_ava_is_a_data_set_of_key_frames(root, data):
    assert isinstance(data, KeyFrames) and len(data) == 4 and data.num_classes == 80 and len(data.evaluated) == 60
    assert data.class_names[11] == "stand" and data[2].proposals.shape == (3, 5) and data[0].labels.shape == (2, 80)
    few = load_detection("ava21", root, classes=[79, 12])
    assert few.class_names == ["talk to (e.g., self, a person, a group)", "stand"] and few[0].labels.tolist() == [
        [1, 0],
        [0, 1],
    ]
    assert action_ids(few.class_names, "ava21") == [79, 12] and action_ids(["stand", "levitate"], "ava21") is None
    for classes, message in (([0], "0 is none"), ([12, 12], "some repeat"), ([], "none is given")):
        with pytest.raises(ValueError, match=f"different numbers from 1 to 80: {message}"):
            load_detection("ava21", root, classes=classes)
    with pytest.raises(ValueError, match="k400 has no boxes"):
        load_detection("k400", root)


def test_videos_with_tubes_are_key_frames_at_every_frame(tmp_path):
    root = write_jhmdb(tmp_path)
    boxes = {("stand/v0", 2): np.array([[*LEFT, 0.99], [*RIGHT, 0.5]]), ("talk/v1", 1): np.array([RIGHT])}
    ava.write_proposals(boxes, tmp_path / "boxes.json")
    data = load_detection("jhmdb", root, proposals=tmp_path / "boxes.json")
    assert len(data) == 12 and data.class_names[:2] == ["stand", "talk"] and data.num_classes == 21
    assert [len(frame.proposals) for frame in data] == [0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert np.allclose(data[1].boxes, [LEFT]) and data[1].labels[0, 0] == 1 and data[1].frame == 1
    assert data[1].path == root / "Frames" / "stand" / "v0"
    assert len(load_detection("jhmdb", root, "train", is_training=True, classes=[1])) == 6
    with pytest.raises(FileNotFoundError, match="needs boxes of persons"):
        load_detection("jhmdb", root)


# Numbers -------------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_network_on_each_clip(model, data, whole):
    scored = []
    transform = ava.KeyFrameTransform(videozoo.resolve_data_config(model=model))
    for frame in data:
        frames, boxes = ava.open_clip(frame, transform, frame.proposals)
        with torch.inference_mode():
            scored.append((frame, model(transform.normalize(frames[None]), [boxes]).sigmoid().numpy()))
    metrics, rows = key_frame_metrics(data, scored)
    assert whole.metrics == pytest.approx(metrics, rel=1e-4) and len(whole.videos) == 4
    assert {row.name: row.positives for row in rows if row.positives} == {"stand": 4, data.class_names[78]: 4}
    mean = np.mean([row.average_precision for row in rows if row.positives])
    assert metrics == {"mAP": pytest.approx(mean)} and len(rows) == 60
    batched = evaluate_detector(model, data, batch_size=3, workers=1)
    assert batched.metrics == pytest.approx(whole.metrics, rel=1e-4)


def test_films_of_different_sizes_are_measured_in_batches_of_their_own(model, tmp_path):
    root = write_ava(tmp_path)
    write_film(root / "videos" / "film1.mp4", film(1, 60)[:, :, :80])
    data = load_detection("ava21", root)
    one, several = (evaluate_detector(model, data, batch_size=size) for size in (1, 3))
    assert len(several.videos) == 4 and not several.failures
    assert several.metrics == pytest.approx(one.metrics, rel=1e-4)


def perfect(data, right=1.0):
    """The scores of a detector that knows everything, about proposals that are the persons."""
    scored = []
    for frame in data:
        overlap = [[float(np.allclose(row[:4], box)) for box in frame.boxes] for row in frame.proposals]
        table = np.array(overlap).reshape(len(frame.proposals), len(frame.boxes)) @ frame.labels
        scored.append((frame, np.where(table > 0, right, 1 - right)))
    return scored


def test_a_perfect_detector_has_100_percent(data):
    assert key_frame_metrics(data, perfect(data))[0] == {"mAP": pytest.approx(100)}
    assert key_frame_metrics(data, perfect(data, 0.1))[0]["mAP"] < 60


def test_tubes_are_measured_by_frame_and_by_video(tmp_path):
    root = write_jhmdb(tmp_path)
    names = ("stand/v0", "talk/v1")
    table = {(name, t): np.array([[*LEFT, 0.99], [*RIGHT, 0.98]]) for name in names for t in range(1, 7)}
    del table["stand/v0", 3]
    ava.write_proposals(table, tmp_path / "p.safetensors")
    data = load_detection("jhmdb", root, proposals=tmp_path / "p.safetensors")
    scored = perfect(data)
    tubes = link_tubes([row for row in scored if row[0].video == "stand/v0"], data)
    assert len(tubes) == 2 * 21 and all(tube[:, 0].tolist() == [1, 2, 3, 4, 5, 6] for _, _, tube in tubes)
    best = max(tubes, key=lambda row: row[1])
    assert best[0] == 0 and best[1] == 1 and np.allclose(best[2][2, 1:], np.array(LEFT) * [96, 64, 96, 64])
    metrics, rows = key_frame_metrics(data, scored)
    strict = [metrics[f"video_mAP_{threshold}"] for threshold in ("0.2", "0.5", "0.75", "0.5:0.95")]
    assert strict == pytest.approx([100] * 4)
    loose = [(replace(frame, proposals=frame.proposals * [1, 1, 0.94, 1, 1]), scores) for frame, scores in scored]
    values = key_frame_metrics(data, loose)[0]
    assert values["video_mAP_0.75"] == pytest.approx(100) and values["video_mAP_0.5:0.95"] < 90, "tubes too narrow"
    assert rows[1].average_precision == pytest.approx(100) and rows[1].positives == 6
    assert 80 < rows[0].average_precision < 95, "one of six frames has no box"
    assert rows[2].average_precision is None
    wrong = [(frame, 1 - scores) for frame, scores in scored]
    assert key_frame_metrics(data, wrong)[0]["video_mAP_0.5"] < 60
    without = [row for row in scored if row[0].video == "talk/v1"]  # of a video that cannot be read nothing counts
    assert key_frame_metrics(data, without)[0]["frame_mAP"] == pytest.approx(100)


def test_own_detectors_are_measured_on_jhmdb(tmp_path, capsys):
    root = write_jhmdb(tmp_path)
    table = {(name, t): np.array([[*LEFT, 0.99]]) for name in ("stand/v0", "talk/v1") for t in range(1, 6)}
    ava.write_proposals(table, tmp_path / "p.json")
    net = videozoo.create_model("slowonly_roi_r50_4x16", num_classes=21)
    names = load_detection("jhmdb", root, proposals=tmp_path / "p.json").class_names
    net.pretrained_cfg |= {**INPUT, "label_names": names}
    videozoo.save_pretrained(net, tmp_path / "net")
    where = ("--data", root, "--dataset", "jhmdb", "--proposals", tmp_path / "p.json", "--device", "cpu")
    code, out, err = run_cli(capsys, "eval", f"local-dir:{tmp_path / 'net'}", *where)
    assert code == 0, err
    assert "frame_mAP" in out and "video_mAP_0.2" in out and "12 key frames measured, 0 could not be read" in out


# Whole runs ----------------------------------------------------------------------------------------------------------


def test_measured_stands_beside_published_and_every_class_is_told(folder, root, whole, tmp_path, capsys):
    options = ("--device", "cpu", "--out", tmp_path / "page.html")
    for suffix in ("json", "csv"):
        file = tmp_path / f"numbers.{suffix}"
        code, out, err = run_cli(
            capsys, "eval", f"local-dir:{folder}", "--data", root, *options, "--results-file", file
        )
        assert code == 0, err
    score = whole.metrics["mAP"]
    row = next(line for line in out.splitlines() if line.startswith("  mAP"))
    assert row.split() == ["mAP", "20.10", f"{score:.2f}", f"{score - 20.1:+.2f}"] and "AVA v2.1, val" in out
    assert "4 key frames measured, 0 could not be read" in out
    by_name = {row.name: row for row in whole.per_class}
    stand = next(line for line in out.splitlines() if line.startswith("  stand "))
    assert stand.split()[1:] == [f"{by_name['stand'].average_precision:.2f}", "4"] and "levitate" not in out
    facts = json.loads((tmp_path / "numbers.json").read_text())
    assert facts["metrics"]["mAP"] == pytest.approx(score) and len(facts["classes"]) == 60
    assert {"name": "sit", "average_precision": None, "positives": 0} in facts["classes"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "numbers.csv").read_text())))
    assert rows[0]["metric"] == "mAP" and rows[0]["published"] == "20.1" and len(rows) == 61
    stand = next(row for row in rows if row["metric"] == "AP: stand")
    assert float(stand["measured"]) == pytest.approx(by_name["stand"].average_precision) and stand["published"] == ""
    page = (tmp_path / "page.html").read_text()
    assert "Key frames" in page and "True boxes" in page and "stand" in page and "published 20.10" in page
    assert "nan" not in page.replace("Nan", "").split("<body>")[1]


def test_a_broken_film_is_listed_and_the_rest_goes_on(model, folder, tmp_path, capsys):
    root = write_ava(tmp_path / "ava")
    (root / "videos" / "film1.mp4").write_bytes(b"no film")
    data = load_detection("ava21", root)
    result = evaluate_detector(model, data)
    assert [f.video for f in result.failures] == ["film1,0901"] and len(result.videos) == 3
    assert {row.positives for row in result.per_class} == {0, 3}
    page = evaluation_report(result)
    assert "1 key frames could not be read" in page and "film1,0901" in page
    for path in (root / "videos").iterdir():
        path.write_bytes(b"")
    code, out, _ = run_cli(capsys, "eval", f"local-dir:{folder}", "--data", root, "--device", "cpu")
    assert code == 1 and "0 key frames measured, 4 could not be read" in out


def test_an_interrupted_run_goes_on_from_saved_scores(model, data, whole, tmp_path, monkeypatch):
    opened = []
    opens = ava.open_clip

    def counted(frame, *args, **kwargs):
        if len(opened) == 2 and not resumed:
            raise KeyboardInterrupt
        opened.append(frame.video)
        return opens(frame, *args, **kwargs)

    resumed = False
    monkeypatch.setattr("videozoo.evaluation.detection.open_clip", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_detector(model, data, save_logits=tmp_path / "scores")
    resumed = True
    result = evaluate_detector(model, data, save_logits=tmp_path / "scores")
    assert len(opened) == 4 and len(set(opened)) == 4, "no clip is read twice"
    assert result.resumed >= 1 and result.metrics == pytest.approx(whole.metrics, rel=1e-4)
    again = evaluate_detector(model, data, save_logits=tmp_path / "scores")
    assert again.resumed == 4 and len(opened) == 4 and again.metrics == result.metrics
    other = KeyFrames(**{**vars(data), "frames": [*data.frames[:3], data.frames[0]]})
    with pytest.raises(StorageError, match="key frames and proposals differ"):
        evaluate_detector(model, other, save_logits=tmp_path / "scores")


def test_saved_scores_keep_the_number_of_persons(tmp_path):
    store = ScoreStore(tmp_path / "s", {}, ["a", "b", "c"])
    tables = {0: np.ones((2, 3)), 2: np.zeros((0, 3)), 1: np.full((1, 3), 0.5)}
    for number, table in tables.items():
        store.add(number, table)
    store.flush()
    saved, _ = store.read()
    assert {number: rows.tolist() for number, rows in saved.items()} == {n: t.tolist() for n, t in tables.items()}


def test_processes_share_the_key_frames(folder, root, whole, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "videozoo"]
    command += ["eval", f"local-dir:{folder}", "--data", str(root), "--device", "cpu"]
    command += ["--results-file", str(tmp_path / "r.json"), "--save-logits", str(tmp_path / "scores")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(videozoo.__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("4 key frames measured") == 1
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["processes"] == 2 and facts["videos"] == 4
    assert facts["metrics"]["mAP"] == pytest.approx(whole.metrics["mAP"], rel=1e-4)


def test_models_and_options_that_do_not_fit_are_told(folder, root, tmp_path, capsys):
    run = ("eval", f"local-dir:{folder}", "--data", root, "--device", "cpu")
    for option in (("--fuse", "x"), ("--views", "fast")):
        if option[0] == "--fuse":
            (tmp_path / "x").mkdir(exist_ok=True)
            (tmp_path / "x" / "run.json").write_text('{"format": 1, "videos": []}')
            option = ("--fuse", tmp_path / "x")
        code, _, err = run_cli(capsys, *run, *option)
        assert code == 2 and f"{option[0]} is for classifiers" in err
    code, _, err = run_cli(capsys, *run, "--classes", 12, 79)
    assert code == 1 and "the model has 80 classes, ava21 has 2" in err
    net = videozoo.create_model("slowonly_roi_r50_4x16", num_classes=2)
    net.pretrained_cfg |= {**INPUT, "dataset": "ava21"}
    videozoo.save_pretrained(net, tmp_path / "two")
    two = ("eval", f"local-dir:{tmp_path / 'two'}", "--data", root, "--device", "cpu")
    code, out, err = run_cli(capsys, *two, "--classes", 12, 79)
    assert code == 0 and "mAP" in out, err
