"""Detectors: what they compute, their entries, what they make of odd boxes, and their metrics."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import clip, read_case, relative_error, write_checkpoint

import videozoo
from videozoo import catalog, detection
from videozoo.checkpoint import CheckpointError
from videozoo.data import regions
from videozoo.evaluation.metrics import ava as metric
from videozoo.evaluation.metrics import tubes

DATA = Path(__file__).parent / "data"
METRIC = json.loads(gzip.decompress((DATA / "metrics" / "ava.json.gz").read_bytes()))
CASES = {  # case -> name given to create_model, some of them the publisher's own
    "mma012_ava_slowonly_kinetics_pretrained_r50_4x16x1": "slowonly_r50_ava21",
    "mma012_ava_slowfast_kinetics_pretrained_r50_4x16x1": "slowfast_kinetics_pretrained_r50_4x16x1_20e_ava_rgb",
    "mma012_ava_slowfast_context_kinetics_pretrained_r50_4x16x1": "slowfast_context_r50_4x16_ava21",
    "ptv_slowfast_r50_detection": "slowfast_r50_detection",
    "pysf_ava_slowfast_32x2_r101_50_50": "slowfast_nldot_r101_8x8_ava22",
}
SMALL = "slowonly_roi_r50_4x16"


def written(texts, folder):
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = videozoo.create_model(SMALL, num_classes=5, init_std=1.0).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.weight.data.uniform_(0.3, 0.6)
    return net


CLIP = torch.randn(2, 3, 4, 64, 96, generator=torch.Generator().manual_seed(0))


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


# Networks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", CASES)
def test_output_equals_that_of_the_published_implementation(case_id, tmp_path):
    case, expected = read_case(case_id)
    path = write_checkpoint(case, tmp_path / "published.pth")
    net = videozoo.create_model(CASES[case_id], checkpoint_path=path).eval()
    path.unlink()
    x = clip(case)
    rows = torch.tensor(expected["boxes"] if "boxes" in expected else case["inputs"][1]["value"], dtype=torch.float32)
    per_clip = [rows[rows[:, 0] == i, 1:] for i in range(len(x))]
    with torch.inference_mode():
        unpooled = net.forward_features(x)
        logits, features = (net.forward_head(unpooled, per_clip, pre_logits=flag) for flag in (False, True))
    is_mma = case_id.startswith("mma")
    assert relative_error(logits, expected["logits"][:, 1:] if is_mma else expected["logits"]) < case["tol"]
    probabilities = expected["scores"][:, 1:] if is_mma else expected["probs"]
    assert relative_error(logits.sigmoid(), probabilities) < case["tol"]
    if "slowfast" in case_id:  # the slow pathway comes first there
        parts = [torch.cat((part[:, 256:], part[:, :256]), 1) for part in features.split(2304, dim=1)]
        features = torch.cat(parts, dim=1)
    assert relative_error(features, expected["features"]) < case["tol"]


def test_entries_are_the_published_checkpoints():
    rows = {e.hash_prefix: e for e in catalog.entries().values() if e.task == "detection" and e.tag.startswith("mma0")}
    assert set(rows) == set("40061d5f 0c6d2e98 4ab80419 1c9b4117 16378594 6e7c704d f4d209c9 ae225e97".split())
    assert rows["ae225e97"] is catalog.find_entry("slowfast_r50_ava21") and rows["ae225e97"].metrics[0]["mAP"] == 25.5
    assert rows["4ab80419"].num_classes == 16 and rows["4ab80419"].labels == ""
    labels = videozoo.labels("ava")
    assert (labels[0], labels[11], labels[79]) == ("bend/bow (at the waist)", "stand", "watch (a person)")
    assert videozoo.list_models(task="detection", pretrained=True) == videozoo.list_models("*_ava2?", pretrained=True)


def test_the_background_class_of_published_files_is_dropped(tmp_path):
    case, _ = read_case("mma012_ava_slowonly_kinetics_pretrained_r50_4x16x1")
    case["keys"] = [[k, [17, *s[1:]] if "fc_cls" in k else s, d] for k, s, d in case["keys"]]  # 16 classes and it
    path = write_checkpoint(case, tmp_path / "custom.pth")
    published = torch.load(path)["state_dict"]
    custom = videozoo.create_model("slowonly_r50_4x16_ava21.mma0_custom", checkpoint_path=path)
    assert torch.equal(custom.fc.weight, published["roi_head.bbox_head.fc_cls.weight"][1:])
    with pytest.raises(CheckpointError, match="classifier of 16 classes, the model one of 80"):
        videozoo.create_model("slowonly_r50_4x16_ava21", checkpoint_path=path)
    mine = videozoo.create_model("slowonly_r50_4x16_ava21", checkpoint_path=path, num_classes=3)
    cfg = mine.pretrained_cfg
    assert (cfg["num_classes"], cfg["task"], cfg["multi_label"], cfg["labels"]) == (3, "detection", True, "")


def test_weights_of_the_recogniser_fit_all_but_the_classifier(tmp_path):
    trunk = videozoo.create_model("slowonly_r50_4x16", num_classes=7)
    torch.save(trunk.state_dict(), tmp_path / "k.pth")
    net = videozoo.create_model(SMALL, checkpoint_path=tmp_path / "k.pth", num_classes=5)
    assert torch.equal(net.layer4[2].conv3.weight, trunk.layer4[2].conv3.weight) and net.fc.weight.shape == (5, 2048)


def test_boxes_are_rows_in_order_and_clips_may_be_empty(model):
    a, b = boxes([8, 8, 60, 60], [30, 5, 90, 40]), boxes([0, 0, 50, 64])
    with torch.inference_mode():
        both = model(CLIP, [a, b])
        assert both.shape == (3, 5)
        assert torch.allclose(both[:2], model(CLIP[:1], [a]), atol=1e-5)
        assert torch.allclose(model(CLIP, [boxes(), b]), both[2:], atol=1e-5)
        assert torch.allclose(model(CLIP, [a.flip(0), b])[:2], both[:2].flip(0), atol=1e-5)
        assert model(CLIP, [boxes(), boxes()]).shape == (0, 5)
        crowd = torch.rand(100, 4, generator=torch.Generator().manual_seed(1)) * 40
        crowd[:, 2:] += crowd[:, :2]
        assert torch.allclose(model(CLIP[:1], [crowd])[57:58], model(CLIP[:1], [crowd[57:58]]), atol=1e-5)
        assert [len(rows) for rows in detection.split_by_clip(both, [a, b])] == [2, 1]


def test_boxes_beyond_the_frame_are_cut_and_those_without_area_read_the_nearest_pixel(model):
    def score(*row):
        with torch.inference_mode():
            return model(CLIP[:1], [boxes(row)])[0]

    assert torch.allclose(score(-50, -9, 40, 400), score(0, 0, 40, 64), atol=1e-6)
    assert torch.allclose(score(20, 30, 20, 30), score(20, 30, 21, 31), atol=1e-6)
    assert torch.allclose(score(500, 500, 600, 600), score(95, 63, 96, 64), atol=1e-6)
    assert torch.allclose(score(-30, -30, -10, -10), score(0, 0, 1, 1), atol=1e-6)
    assert not torch.allclose(score(20, 30, 20, 30), score(500, 500, 600, 600), atol=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([boxes([0, 0, 9, 9])], "list of 2 tensors .*, one for each clip, got 1 of them"),
        (torch.zeros(2, 3, 4), r"got a Tensor \(2, 3, 4\)"),
        (None, "list of 2 tensors .*, one for each clip, got a NoneType"),
        ([[[0, 0, 9, 9]], []], r"clip 0 must be a tensor .* got a list: use torch.as_tensor\(boxes\).reshape\(-1, 4\)"),
        ([boxes().numpy()] * 2, "clip 0 must be a tensor .* got a ndarray"),
        ([boxes(), torch.zeros(3, 5)], r"clip 1 must be a tensor \(K, 4\).*use torch.zeros\(0, 4\)"),
        ([boxes([5, 5, 2, 9]), boxes()], r"clip 0 .*got \[5.0, 5.0, 2.0, 9.0\]: is it x, y, width, height"),
        ([boxes([0, 0, float("nan"), 9]), boxes()], "clip 0 hold numbers that are not finite"),
    ],
)
def test_wrong_boxes_are_told(model, given, message):
    with pytest.raises(ValueError, match=message):
        model(CLIP, given)


def test_wrong_clips_are_told_before_their_boxes(model):
    with pytest.raises(ValueError, match=r"expects clips \(N, 3, T, H, W\)"):
        model(CLIP[0], [boxes()])


def test_half_precision_cuts_the_same_boxes(model):
    rows = [boxes([8.25, 8.125, 60, 60]), boxes([301 / 7, 5, 90, 40])]
    with torch.inference_mode():
        exact = model(CLIP, rows)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(CLIP, rows)
    assert torch.isfinite(half).all() and torch.allclose(half.float(), exact, atol=0.1 * exact.abs().max().item())


def test_a_detector_is_no_classifier_of_videos(model):
    with pytest.raises(ValueError, match="what each person does"):
        videozoo.predict(model, DATA / "video" / "demo.mp4")


def test_transform_shows_whole_frames():
    net = videozoo.create_model("slowonly_r50_ava21")
    views = videozoo.create_transform(net)(DATA / "video" / "demo.mp4")
    assert views.shape == (1, 3, 4, 256, 340)


def test_training_reaches_every_weight(model):
    net = videozoo.create_model(SMALL, num_classes=3, drop_rate=0.0)
    net.train()
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    loss = detection.detection_loss(net(CLIP, [boxes([8, 8, 60, 60], [1, 2, 9, 9]), boxes([0, 0, 50, 64])]), labels)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


# Metrics -------------------------------------------------------------------------------------------------------------


def ava_cases(raising):
    rows = [case for case in METRIC["cases"] if case["function"] == "ava_eval" and ("raises" in case) == raising]
    rows = [case for case in rows if case["name"] != "custom_classes_bad"]  # ids come without a label map here
    return [pytest.param(case, id=case["name"]) for case in rows]


def measure(case, files):
    given = case["inputs"]
    names = regions.read_ava_labels(files / given["label_map"])
    excluded = ()
    if given["exclude"] and given["verbose"]:
        excluded = regions.read_ava_exclusions(files / given["exclude"])
    found, truth = metric.read_detections(files / given["detections"]), metric.read_truth(files / given["ground_truth"])
    return metric.ava_map(
        found, truth, given["custom_classes"][1:] if given["custom_classes"] else names, excluded
    ), names


@pytest.mark.parametrize("case", ava_cases(raising=False))
def test_ava_map_equals_the_published_one(case, tmp_path):
    result, names = measure(case, written(METRIC["files"], tmp_path))
    expected = case.get("ok_stable") or case["ok"]
    wanted = {number: float(expected["per_class"][names[number]]) for number in result.per_class}
    assert result.mean == pytest.approx(float(expected["mAP@0.5IOU"]), rel=1e-9, nan_ok=True)
    assert result.per_class == {n: pytest.approx(value, rel=1e-9, nan_ok=True) for n, value in wanted.items()}
    assert len(result.per_class) == len(expected["per_class"])
    assert result.positives == {n: case["ok"]["num_gt_per_class_id"][str(n)] for n in result.positives}


@pytest.mark.parametrize("case", ava_cases(raising=True))
def test_broken_detections_give_no_number(case, tmp_path):
    with pytest.raises(ValueError, match=case["inputs"]["detections"]):
        measure(case, written(METRIC["files"], tmp_path))


def plain_average_precision(found, truth, number):
    """The definition, one detection after the other."""
    rows = [i for i in range(len(found)) if found.classes[i] == number]
    rows.sort(key=lambda i: -found.scores[i])
    free = {i for i in range(len(truth)) if truth.classes[i] == number}
    positives, right = len(free), []
    for i in rows:
        rivals = [j for j in range(len(truth)) if truth.frames[j] == found.frames[i] and truth.classes[j] == number]
        overlap = [
            float(detection.box_iou(torch.tensor(found.boxes[i : i + 1]), torch.tensor(truth.boxes[j : j + 1])))
            for j in rivals
        ]
        hit = bool(rivals) and max(overlap) >= 0.5 and rivals[int(np.argmax(overlap))] in free
        if hit:
            free.remove(rivals[int(np.argmax(overlap))])
        right.append(hit)
    area, best = 0.0, 0.0
    for n in range(len(right), 0, -1):
        best = max(best, sum(right[:n]) / n)
        area += best * right[n - 1] / positives
    return area


def test_average_precision_follows_its_definition():
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 3, (300, 2)) * 10.0 + rng.uniform(0, 3, (300, 2))
    table = np.concatenate([corner, corner + 10], axis=1)
    frames, classes = rng.integers(0, 12, 300), rng.integers(1, 4, 300)
    truth = metric.make_boxes(frames[:80], table[:80], classes[:80])
    found = metric.make_boxes(frames[80:], table[80:], classes[80:], rng.permutation(220) / 220)
    result = metric.frame_average_precision(found, truth, [1, 2, 3, 9])
    assert math.isnan(result.pop(9))
    assert result == {n: pytest.approx(plain_average_precision(found, truth, n)) for n in (1, 2, 3)}
    assert 0.01 < min(result.values())


def test_detections_are_written_as_ava_wants_them(tmp_path):
    for case in METRIC["cases"]:
        if case["function"] != "results2csv":
            continue
        given = case["inputs"]
        names = given["custom_classes"][1:] if given["custom_classes"] else [1, 2, 3, 4]
        lines = ""
        for info, groups in zip(given["video_infos"], given["results"], strict=True):
            for number, group in zip(names, groups, strict=True):
                rows = np.array(group["data"], np.float32).reshape(group["shape"])
                key = (info["video_id"], info["timestamp"])
                metric.write_detections(tmp_path / "d.csv", [key], [rows[:, :4]], [rows[:, 4:]], [number])
                lines += (tmp_path / "d.csv").read_text()
        assert lines == case["ok"]


def tube(first, last, x, side=9.0):
    count = last - first + 1
    return np.column_stack([np.arange(first, last + 1), *np.tile([[x], [0.0], [x + side], [side]], count)])


def test_tubes_are_measured_in_videos_and_frames():
    truth = {"a": {0: [tube(1, 10, 0.0)], 1: [tube(1, 4, 50.0)]}, "b": {0: [tube(3, 8, 20.0)]}}
    assert tubes.tube_iou(tube(1, 10, 0.0), tube(1, 5, 0.0)) == 0.5
    assert tubes.tube_iou(tube(1, 4, 0.0), tube(1, 4, 5.0)) == pytest.approx(1 / 3)  # 5 of 15 pixel columns
    assert tubes.tube_iou(tube(1, 4, 0.0), tube(5, 6, 0.0)) == 0
    found = {
        "a": [(0, 0.9, tube(1, 10, 0.0)), (0, 0.8, tube(1, 10, 0.0)), (1, 0.7, tube(2, 4, 50.0))],
        "b": [(0, 0.95, tube(3, 8, 90.0)), (0, 0.3, tube(3, 8, 20.0))],
    }
    ap = tubes.video_ap(found, truth, [0, 1, 2], 0.5)
    # right: no, yes, no, yes at precisions 0, 1/2, 1/3, 1/2, and trapezoids between them
    assert ap[0] == pytest.approx(0.5 * (0 + 1 / 2) / 2 + 0.5 * (1 / 3 + 1 / 2) / 2)
    assert ap[1] == 1.0 and math.isnan(ap[2])
    assert tubes.mean_over_classes(ap) == pytest.approx((ap[0] + 1) / 2)
    assert tubes.video_ap(found, truth, [1], 0.8)[1] == 0
    wanted = tubes.boxes_of_tubes(truth)
    assert len(wanted) == 20
    assert tubes.tube_frame_ap(wanted, wanted, [0, 1]) == {0: 1.0, 1: 1.0}
    twice = metric.make_boxes([1, 1], [[0, 0, 9, 9], [1, 0, 10, 9]], [0, 0], [0.9, 0.8])
    pair = metric.make_boxes([1, 1], [[0, 0, 9, 9], [2, 0, 11, 9]], [0, 0])
    assert tubes.tube_frame_ap(twice, pair, [0])[0] == 1.0  # the second takes the box that is still free
    with pytest.raises(ValueError, match="frames one after the other"):
        tubes.video_ap({"a": [(0, 1.0, tube(1, 4, 0.0)[::2])]}, truth, [0])
