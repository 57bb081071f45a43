"""Around a detector: key frames of AVA, boxes in training, whole runs over videos, tracks, persons and drawing."""

import gzip
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import videozoo
from videozoo import detection
from videozoo.data import ArrayReader, ava, open_video, regions, resolve_data_config
from videozoo.data.annotations import AnnotationError
from videozoo.detection import drawing, persons, stream
from videozoo.evaluation import detection as detection_run

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads(gzip.decompress((DATA / "ava.json.gz").read_bytes()))
SMALL = "slowonly_roi_r50_4x16"


@pytest.fixture
def files(tmp_path):
    """Annotations of three films."""
    for name, text in GOLDEN["files"].items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return videozoo.create_model(SMALL, num_classes=5, init_std=1.0).eval()


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


# Key frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [pytest.param(c, id=c["name"]) for c in GOLDEN["cases"]])
def test_key_frames_equal_the_published_ones(case, files):
    given = case["kwargs"]
    samples = regions.read_ava(files / "ava_anno.csv")
    excluded = () if given.get("test_mode") else regions.read_ava_exclusions(files / "ava_exclude.csv")
    proposals = ava.read_proposals(files / "ava_proposals.json")
    frames = ava.key_frames(
        samples,
        excluded=excluded,
        proposals=proposals,
        classes=given.get("custom_classes", ava.ACTIONS),
        min_score=given.get("person_det_score_thr", 0.9),
        max_proposals=given.get("num_max_proposals", 1000),
    )
    assert len(frames) == case["ok"]["length"]
    for frame, item in zip(frames, case["ok"]["items"], strict=True):
        assert (frame.video, frame.second) == (item["video_id"], item["timestamp"])
        for name, got in (
            ("gt_bboxes", frame.boxes),
            ("proposals", frame.proposals[:, :4]),
            ("scores", frame.proposals[:, 4]),
        ):
            assert got.tolist() == np.reshape(item[name]["data"], item[name]["shape"]).tolist()
        labels = np.reshape(item["gt_labels"]["data"], item["gt_labels"]["shape"])
        assert frame.labels.tolist() == labels[:, 1:].tolist()  # column 0 is the background there
        assert frame.persons.tolist() == item["entity_ids"]["data"]


def test_proposals_go_from_the_pickle_to_own_files_and_back(files, tmp_path):
    table = ava.read_proposals(files / "ava_proposals.json")
    rows = {f"{video},{second:04d}": boxes for (video, second), boxes in table.items()}
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(rows, protocol=2))
    for name in ("p.safetensors", "p.json"):
        ava.write_proposals(ava.read_proposals(tmp_path / "p.pkl"), tmp_path / name)
        again = ava.read_proposals(tmp_path / name)
        assert list(again) == list(table) and all(np.array_equal(again[key], table[key]) for key in table)
    assert not list(tmp_path.glob(".*"))
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"a,0902": Path("x")}))
    with pytest.raises(ValueError, match="evil.pkl is not read: it asks for"):
        ava.read_proposals(tmp_path / "evil.pkl")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(AnnotationError, match="bad.safetensors is no file of proposals"):
        ava.read_proposals(tmp_path / "bad.safetensors")


def test_ava_is_found_in_its_folder(files, tmp_path):
    root = tmp_path / "ava"
    for film in ("0f39OWEqJ24", "_-Z6wFjXtGQ"):
        (root / "rawframes" / film).mkdir(parents=True)
        (root / "rawframes" / film / "img_00001.jpg").write_bytes(b"")
    (root / "annotations").mkdir()
    for source, name in (
        ("ava_anno.csv", "ava_val_v2.1.csv"),
        ("ava_exclude.csv", "ava_val_excluded_timestamps_v2.1.csv"),
    ):
        (root / "annotations" / name).write_text(GOLDEN["files"][source])
    with pytest.raises(FileNotFoundError, match="no proposals were found.*ava_dense_proposals"):
        ava.load_key_frames(root)
    frames, excluded = ava.load_key_frames(root, proposals=files / "ava_proposals.json")
    assert len(frames) == 4 and excluded == {("0f39OWEqJ24", 903), ("_-Z6wFjXtGQ", 902)}
    assert frames[0].path == root / "rawframes" / "0f39OWEqJ24"
    training, _ = ava.load_key_frames(root, is_training=True, proposals=files / "ava_proposals.json")
    assert [frame.second for frame in training] == [902, 1799]


def test_clips_lie_around_their_second():
    def rows(second, **kwargs):
        return ava.frame_indices(second, 27030, frames=4, stride=16, **kwargs).tolist()

    assert rows(902) == [28, 44, 60, 76] and rows(900) == [0, 0, 0, 16]
    assert rows(902, fps=24.0) == [16, 32, 48, 64]
    assert rows(902, start=0) == [27028, 27029, 27029, 27029]
    drawn = {tuple(rows(902, rng=np.random.default_rng(seed))) for seed in range(5)}
    assert len(drawn) == 5 and all(abs(a - b) <= 8 for row in drawn for a, b in zip(row, rows(902), strict=True))


@pytest.mark.parametrize("case", GOLDEN["boxes"], ids=lambda case: case["transform"])
def test_boxes_follow_the_frames_as_published(case):
    height, width = case["H"], case["W"]
    new_height, new_width = case["img_shape"]
    for name in ("gt_bboxes", "proposals"):
        given, name_of = np.array(case["input"][name]), case["transform"].split("(")[0]
        if name_of == "Resize":
            got = given * np.array([new_width / width, new_height / height] * 2)
        elif name_of == "Flip":
            got = ava.flip_person_boxes(given, width)
        else:
            x, y = (width - new_width) // 2, (height - new_height) // 2
            got = ava.crop_person_boxes(given, x, y, new_width, new_height)
        assert np.allclose(got, case[name], atol=1e-3)


def test_key_frame_transform_keeps_boxes_on_their_persons():
    net = videozoo.create_model("slowonly_r50_ava21")
    config = resolve_data_config(model=net)
    frames = np.zeros((4, 60, 80, 3), np.uint8)
    frames[:, 20:40, 30:50] = 255  # a white person
    box = np.array([[30 / 80, 20 / 60, 50 / 80, 40 / 60, 0.97]])
    with_video = ava.KeyFrameTransform(config)(ArrayReader(frames), np.array([0, 1, 2, 3]), box)
    assert with_video[0].shape == (3, 4, 256, 341) and with_video[1].dtype == torch.float32

    def inside(pair):
        view, found = pair
        x1, y1, x2, y2 = (round(v) for v in found[0].tolist())
        assert view[0, 0, y1 + 3 : y2 - 3, x1 + 3 : x2 - 3].min() > 2, "white inside"
        bright = (view[0, 0] > 0).nonzero()
        assert (bright.min(0).values - torch.tensor([y1, x1])).abs().max() <= 2, "and nothing white beyond"
        return view.shape, found

    inside(with_video)
    training = ava.KeyFrameTransform(config | {"size": 224, "hflip": 0.5}, is_training=True)
    found = [inside(training.from_frames(torch.from_numpy(frames), box, np.random.default_rng(s))) for s in range(8)]
    assert {shape for shape, _ in found} == {(3, 4, 224, 224)} and len({tuple(b[0].tolist()) for _, b in found}) == 8
    with pytest.raises(ValueError, match="pass rng"):
        training.from_frames(torch.from_numpy(frames), box)


def test_a_key_frame_is_read_from_its_film(tmp_path):
    film = DATA / "video" / "demo.mp4"
    frame = ava.KeyFrame(
        "demo", 903, np.array([[0.1, 0.1, 0.5, 0.9]]), np.ones((1, 80)), np.zeros(1), np.ones((1, 5)), film
    )
    transform = ava.KeyFrameTransform(resolve_data_config(model=videozoo.create_model("slowonly_r50_ava21")))
    view, pixels = ava.open_clip(frame, transform, frame.boxes)
    with open_video(film) as video:
        indices = ava.frame_indices(903, len(video), frames=4, stride=16, fps=video.fps)
        expected, _ = transform(video, indices, frame.boxes)
    assert view.dtype == torch.uint8 and torch.equal(transform.normalize(view[None])[0], expected)
    assert torch.allclose(pixels, boxes([34, 25.6, 170, 230.4]))


# Boxes in training and after -----------------------------------------------------------------------------------------


def test_proposals_learn_from_the_person_that_they_cover():
    people, labels = boxes([0, 0, 100, 100], [200, 0, 300, 100]), torch.tensor([[1, 0], [0, 1]])
    proposals = boxes([1, 0, 100, 100], [0, 0, 80, 100], [203, 0, 300, 100], [400, 0, 500, 100])
    assert detection.assign_boxes(proposals, people).tolist() == [0, -1, 1, -1]
    assert detection.assign_boxes(proposals, people, 0.5).tolist() == [0, 0, 1, -1]
    assert detection.assign_boxes(proposals, boxes()).tolist() == [-1] * 4
    rows, table = detection.training_boxes(people, labels, proposals)
    assert torch.equal(rows, torch.cat((people, proposals[[0, 2]]))) and table.tolist() == [
        [1, 0],
        [0, 1],
        [1, 0],
        [0, 1],
    ]
    few, _ = detection.training_boxes(people, labels, proposals, most=3, generator=torch.Generator().manual_seed(0))
    assert len(few) == 3
    twins, own = detection.training_boxes(people[[0, 0]], labels, boxes())  # two annotations of one box
    assert len(twins) == 2 and own.tolist() == labels.tolist()
    nobody, none = detection.training_boxes(boxes(), torch.zeros(0, 2), proposals)
    assert nobody.shape == (0, 4) and none.shape == (0, 2)
    scored = torch.tensor([[0, 0, 1, 1, 0.5], [0, 0, 2, 2, 0.95], [0, 0, 3, 3, 0.99]])
    assert detection.keep_proposals(scored)[:, 2].tolist() == [3, 2]
    assert detection.keep_proposals(scored, 0.0, most=1)[:, 2].tolist() == [3]


def test_loss_looks_at_boxes_with_an_action_alone():
    logits = torch.tensor([[2.0, -1.0], [9.0, 9.0]], requires_grad=True)
    loss = detection.detection_loss(logits, torch.tensor([[1, 0], [0, 0]]))
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert loss.item() == pytest.approx(expected)
    empty = detection.detection_loss(logits, torch.zeros(2, 2))
    empty.backward()
    assert empty.item() == 0 and torch.equal(logits.grad, torch.zeros(2, 2))


def test_jittered_boxes_stay_boxes_in_the_frame():
    rows = boxes([0, 0, 50, 40], [10, 10, 60, 64]).repeat(50, 1)
    moved = detection.jitter_boxes(rows, 0.2, (64, 60), torch.Generator().manual_seed(0))
    assert (moved[:, :2] < moved[:, 2:]).all() and moved.min() >= 0 and (moved[:, 2:] <= torch.tensor([60, 64])).all()
    assert ((moved - rows).abs() <= 0.2 * 54 + 1e-4).all() and len({tuple(row) for row in moved.tolist()}) > 50
    assert torch.equal(detection.jitter_boxes(rows, 0.0, (64, 60)), rows)
    with pytest.raises(ValueError, match="below 0.5"):
        detection.jitter_boxes(rows, 0.5, (64, 60))


def test_a_detector_learns_four_clips():
    torch.manual_seed(0)
    net = videozoo.create_model(SMALL, num_classes=2, drop_rate=0.0, init_std=0.05)
    clips = torch.zeros(4, 3, 2, 32, 64)
    for i in range(4):  # a bright and a striped person, who change places
        left, right = (slice(0, 32), slice(32, 64)) if i % 2 else (slice(32, 64), slice(0, 32))
        clips[i, :, :, :, left] = 1.5 + 0.1 * i
        clips[i, :, :, ::4, right] = -2.0 - 0.1 * i
    people = [boxes([2, 2, 30, 30], [34, 2, 62, 30])] * 4
    labels = torch.tensor([[0, 1], [1, 0], [1, 0], [0, 1]] * 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-4)
    for _ in range(12):
        optimizer.zero_grad()
        loss = detection.detection_loss(net(clips, people), labels)
        loss.backward()
        optimizer.step()
    assert ((net(clips, people) > 0) == labels).all()


def test_tracks_follow_persons_through_gaps():
    tracker = detection.BoxTracker(threshold=0.3, patience=1)
    a, b = [0, 0, 10, 10], [50, 0, 60, 10]
    assert tracker.update(boxes(a, b)) == [0, 1]
    assert tracker.update(boxes([52, 0, 62, 10], [1, 0, 11, 10])) == [1, 0]
    assert tracker.update(boxes([2, 0, 12, 10])) == [0]
    assert tracker.update(boxes([52, 0, 62, 10])) == [1]  # missing for one frame
    assert tracker.update(boxes()) == [] and tracker.update(boxes()) == []
    assert tracker.update(boxes(a)) == [2]
    close = detection.BoxTracker(threshold=0.2)
    close.update(boxes([0, 0, 10, 10], [3, 0, 13, 10]))
    assert close.update(boxes([3, 0, 13, 10], [6, 0, 16, 10])) == [1, 0]  # best first


def test_actions_of_a_person_best_first():
    assert detection.top_actions([0.2, 0.9, 0.6], ["a", "b", "c"], 2) == [("b", 0.9), ("c", 0.6)]
    assert detection.top_actions([0.2, 0.9, 0.6], ["a", "b", "c"], least=0.7) == [("b", 0.9)]
    with pytest.raises(ValueError, match="3 probabilities do not fit 2 labels"):
        detection.top_actions([0.2, 0.9, 0.6], ["a", "b"])
    assert detection.relative_boxes(boxes([-5, 8, 40, 32]), (64, 80)).tolist() == [[0.0, 0.125, 0.5, 0.5]]


# Whole runs ----------------------------------------------------------------------------------------------------------


def test_key_frames_are_measured():
    people = np.array([[0.1, 0.1, 0.4, 0.9], [0.5, 0.1, 0.9, 0.9]])
    proposals = np.column_stack([people, [0.99, 0.95]])
    labels = np.array([[1, 0, 0, 0, 1], [0, 1, 0, 0, 1]])
    frames = [ava.KeyFrame("demo", second, people, labels, np.arange(2), proposals) for second in (902, 904)]
    perfect = [(frame, np.where(frame.labels, 0.9, 0.1)) for frame in frames]
    ids = (12, 80, 1, 3, 2)  # 2 is not evaluated
    result = detection_run.evaluate_key_frames(perfect, classes=ids)
    assert result.per_class == {
        1: pytest.approx(math.nan, nan_ok=True),
        3: pytest.approx(math.nan, nan_ok=True),
        12: 1,
        80: 1,
    }
    assert result.mean == 1 and result.positives[12] == 2
    once = detection_run.evaluate_key_frames(perfect, classes=ids, excluded={("demo", 902)})
    assert once.positives[12] == 1
    with pytest.raises(ValueError, match="no key frame"):
        detection_run.evaluate_key_frames([])
    with pytest.raises(ValueError, match="tsn_r18_f8 is no detector"):
        detection_run.evaluate_detector(videozoo.create_model("tsn_r18_f8"), frames)


def test_a_video_is_looked_at_moment_by_moment_and_drawn(model, tmp_path):
    source = {0: np.array([[10.0, 10, 100, 200, 0.99], [5, 5, 9, 9, 0.2]]), 60: np.array([[20.0, 10, 110, 200, 0.95]])}
    labels = ["walk", "talk", "sit", "run", "wave"]
    with open_video(DATA / "video" / "demo_24f_bt709.mp4") as video:
        found = list(stream.moments(model, video, source, every=0.5))
        assert [m.frame for m in found] == list(range(0, len(video), round(0.5 * video.fps)))
        assert found[0].boxes.shape == (1, 5) and found[0].probabilities.shape == (1, 5) and found[0].numbers == [0]
        assert found[0].to_dict(labels, 2, 25.0)["persons"][0]["box"] == [10, 10, 100, 200]
        drawn = list(stream.write_annotated(video, tmp_path / "out.mp4", iter(found), labels, least=0.0))
        assert [m.frame for m in drawn] == [m.frame for m in found]
        with open_video(tmp_path / "out.mp4") as out:
            assert len(out) == len(video)
            change = np.abs(out.get([0])[0].astype(int) - video.get([0])[0])
            assert change[100, 8:13].max() > 40 > change[100, 150:].mean(), "a box stands at x = 10, nothing beyond"
        calls = []
        list(stream.moments(model, video, lambda frame: calls.append(frame.shape) or np.zeros((0, 5)), every=0.2))
        assert len(calls) >= 4 and set(calls) == {(video.height, video.width, 3)}
        for wrong in ({"every": 0.0}, {"every": float("nan")}):
            with pytest.raises(ValueError, match="above 0 seconds"):
                next(stream.moments(model, video, source, **wrong))


def test_boxes_move_between_moments():
    a = stream.Moment(0, np.array([[0.0, 0, 10, 10, 1], [50, 0, 60, 10, 1]]), [0, 1], np.zeros((2, 3)))
    b = stream.Moment(10, np.array([[10.0, 0, 20, 10, 1], [80, 0, 90, 10, 1]]), [0, 2], np.zeros((2, 3)))
    first, last = a.seen[1], b.seen[1]
    assert stream.boxes_between(first, last, 0.2) == [(0, (2.0, 0.0, 12.0, 10.0)), (1, (50.0, 0.0, 60.0, 10.0))]
    assert stream.boxes_between(first, last, 0.7) == [(0, (7.0, 0.0, 17.0, 10.0)), (2, (80.0, 0.0, 90.0, 10.0))]


def test_boxes_of_every_frame_lead_from_one_moment_to_the_next(model, tmp_path):
    """A person moves by more than his width from moment to moment: the frames between tell that he is the same."""
    left = [12.0 * t + 10 * (t % 2) for t in range(24)]
    table = {t: np.array([[x, 40, x + 60, 200, 0.99], [300, 5, 330, 30, 0.1]]) for t, x in enumerate(left)}
    with open_video(DATA / "video" / "demo_24f_bt709.mp4") as video:
        found = list(stream.moments(model, video, table, every=0.25))
        assert [m.numbers for m in found] == [[0]] * 4
        assert [frame for m in found for frame, _ in (m.seen, *m.way)] == list(range(24))
        alone = {t: table[t] for t in (0, 7, 14, 21)}
        assert [m.numbers for m in stream.moments(model, video, alone, every=0.25)] == [[0], [1], [2], [3]]
        list(stream.write_annotated(video, tmp_path / "out.mp4", iter(found), list("abcde"), least=1.0))
        with open_video(tmp_path / "out.mp4") as out:
            for t in (3, 10, 23):
                change = np.abs(out.get([t])[0].astype(int) - video.get([t])[0])[60:180].mean((0, 2))
                assert abs(int(change[: int(left[t]) + 30].argmax()) - left[t]) <= 2, t


# Persons and pictures ------------------------------------------------------------------------------------------------


class Oracle(torch.nn.Module):
    """A detector of persons in torchvision's form that knows its answer."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        assert all(i.shape[0] == 3 and i.max() <= 1 for i in images)
        rows = torch.tensor(
            [[1, 1, 9, 9], [2, 2, 90, 20], [5, 5, 8, 8], [7, 7, 7, 9], [0, 0, 4, 4]], dtype=torch.float32
        )
        labels, scores = torch.tensor([1, 1, 3, 1, 1]), torch.tensor([0.91, 0.95, 0.99, 0.99, 0.2])
        return [{"boxes": rows, "labels": labels, "scores": scores} for _ in images]


def test_persons_are_those_of_a_detector():
    frames = np.full((2, 16, 32, 3), 200, np.uint8)
    found = persons.detect_persons(Oracle(), frames)
    assert len(found) == 2 and found[0][:, :4].tolist() == [[2, 2, 32, 16], [1, 1, 9, 9]]
    assert len(persons.detect_persons(Oracle(), frames, min_score=0.1)[0]) == 3
    with pytest.raises(ValueError, match="uint8"):
        persons.detect_persons(Oracle(), frames.astype(np.float32))
    with pytest.raises(ValueError, match="choose one of fasterrcnn"):
        persons.person_detector("yolo")


def test_torchvision_detectors_have_the_expected_form():
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    torch.manual_seed(0)
    net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91).eval()
    found = persons.detect_persons(net, np.zeros((1, 40, 60, 3), np.uint8), min_score=0.0)
    assert len(found) == 1 and found[0].shape[1] == 5


def test_own_boxes_are_read_and_wrong_ones_told(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text('{"frames": {"0": [[1, 2, 3, 4]], "30": [[1, 2, 3, 4, 0.5]], "60": []}}')
    table = persons.read_boxes(path)
    assert table[0].tolist() == [[1, 2, 3, 4, 1]] and table[60].shape == (0, 5)
    near = [persons.nearest_frame(sorted(table), frame, reach=15) for frame in (0, 14, 15, 16, 59, 75, 200)]
    assert near == [0, 0, 0, 30, 60, 60, None] and persons.nearest_frame([], 3, 9) is None
    for text, message in (
        ("[]", "expected"),
        ('{"frames": {"x": []}}', "numbered from 0, got 'x'"),
        ('{"frames": {"7": [[3, 2, 1, 4]]}}', "frame 7: expected rows"),
        ('{"frames": {"7": [["a", 2, 1, 4]]}}', "frame 7"),
    ):
        path.write_text(text)
        with pytest.raises(AnnotationError, match=message):
            persons.read_boxes(path)
    with pytest.raises(FileNotFoundError, match="gone.json is not there: it should have the boxes"):
        persons.read_boxes(tmp_path / "gone.json")


def test_boxes_may_be_those_of_an_earlier_run(model, tmp_path):
    video, path = DATA / "video" / "demo_24f_bt709.mp4", tmp_path / "found.json"
    table = {t: np.array([[10.0, 40, 50, 200, 0.99]]) for t in (0, 14)}
    first = detection.detect(model, video, table, every=0.5)
    path.write_text(json.dumps(first.to_dict()))
    assert {t: rows.tolist() for t, rows in persons.read_boxes(path).items()} == {
        t: rows.tolist() for t, rows in table.items()
    }
    again = detection.detect(model, video, path, every=0.5)
    assert [m.to_dict(again.labels) for m in again.moments] == [m.to_dict(first.labels) for m in first.moments]
    path.write_text('{"moments": [{"frame": 0}]}')
    with pytest.raises(AnnotationError, match="not those of videozoo detect"):
        persons.read_boxes(path)


@pytest.mark.parametrize("suffix", [".pkl", ".json", ".safetensors"])
def test_boxes_may_be_proposals_of_the_film(suffix, tmp_path):
    """Published and own files; a cut film begins at second 900."""
    path = tmp_path / f"proposals{suffix}"
    rows = {("demo_24f_bt709", 900): np.array([[0.5, 0.25, 1.0, 0.75, 0.9]]), ("other", 900): np.zeros((1, 5))}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({f"{name},{second:04d}": boxes for (name, second), boxes in rows.items()}))
    else:
        ava.write_proposals(rows, path)
    with open_video(DATA / "video" / "demo_24f_bt709.mp4") as video:
        table = persons.read_boxes(path, video)
    assert {frame: boxes.tolist() for frame, boxes in table.items()} == {0: [[170, 64, 340, 192, 0.9]]}
    with (
        open_video(DATA / "video" / "demo.mp4") as video,
        pytest.raises(AnnotationError, match="none of its 2 films is called 'demo'"),
    ):
        persons.read_boxes(path, video)


def test_boxes_from_a_pickle_run_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'run')!r}, 'w')",)

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"demo,0902": Evil()}))
    with (
        open_video(DATA / "video" / "demo.mp4") as video,
        pytest.raises(ValueError, match="asks for builtins.exec, which is not plain data"),
    ):
        persons.read_boxes(tmp_path / "evil.pkl", video)
    assert not (tmp_path / "run").exists()


def test_boxes_and_words_are_drawn_readably():
    frame = np.full((120, 160, 3), 128, np.uint8)
    people = [
        drawing.Person((-20, 30, 60, 100), 0, ("walk 0.91", "talk 0.40")),
        drawing.Person((100, 2, 400, 90), 1, ("sit",)),
    ]
    picture = drawing.draw_persons(frame, people)
    assert picture.shape == frame.shape and (frame == 128).all(), "the frame itself is left alone"
    assert tuple(picture[60, 60]) == drawing.colour_of(0) and tuple(picture[90, 130]) == drawing.colour_of(1)
    assert np.array_equal(drawing.draw_persons(frame, []), frame)
    wide = np.full((240, 320, 3), 128, np.uint8)
    crowd = [drawing.Person((80 + 8 * i, 60 + 6 * i, 140 + 8 * i, 220), i, ("walk 0.91",)) for i in range(4)]
    together = drawing.draw_persons(wide, crowd)
    for person in crowd:
        alone = (drawing.draw_persons(wide, [person]) == drawing.colour_of(person.number)).all(-1).sum()
        assert (together == drawing.colour_of(person.number)).all(-1).sum() > 0.8 * alone, "words hide no others"
    colours = {drawing.colour_of(i) for i in range(40)}
    assert len(colours) == 40
    for colour in colours:
        text = drawing.text_colour(colour)
        light, dark = sorted((_luminance(colour), _luminance(text)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def _luminance(colour):
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_videos_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "out.mp4"
    with drawing.VideoWriter(path, 65, 48, 30000 / 1001) as writer:
        for i in range(7):
            writer.write(np.full((48, 65, 3), 30 * i, np.uint8))
    with open_video(path) as video:
        assert (len(video), video.width, video.height) == (7, 64, 48) and abs(video.fps - 29.97) < 0.01
        assert abs(int(video.get([5])[0, 20, 20, 0]) - 150) < 6
    with pytest.raises(RuntimeError), drawing.VideoWriter(tmp_path / "broken.mp4", 64, 48) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
        raise RuntimeError
    with pytest.raises(ValueError, match="it has no frames"), drawing.VideoWriter(tmp_path / "empty.mp4", 64, 48):
        pass
    with pytest.raises(ValueError, match="frames of 64x48, got one of"), drawing.VideoWriter(path, 64, 48) as writer:
        writer.write(np.zeros((10, 10, 3), np.uint8))
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["out.mp4"]
    with open_video(path) as video:
        assert len(video) == 7, "the complete file was not touched"
