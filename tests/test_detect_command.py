"""``videozoo detect``: from videos to annotated ones, JSON and pages."""

import json
import re
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from detection_data import write_ava, write_jhmdb

import videozoo
from videozoo import cli, detection
from videozoo.data import ava, open_video
from videozoo.data.detection import load_detection
from videozoo.detection import persons, proposals

VIDEO = Path(__file__).parent / "data" / "video" / "demo_24f_bt709.mp4"
LABELS = [f"{word} & <such>" for word in ("walk", "talk", "sit", "run", "wave")]
BOXES = {"frames": {"0": [[10, 10, 100, 200], [150, 20, 250, 220, 0.95]], "14": [[14, 10, 104, 200, 0.95]]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A detector of five actions that its box decides, as a user keeps one."""
    torch.manual_seed(0)
    net = videozoo.create_model("slowonly_roi_r50_4x16", num_classes=5, init_std=0.5).eval()
    net.fc.bias.data = torch.tensor([3.0, 0.5, -3.0, -9.0, -9.0])
    net.fc.weight.data *= 1e-4
    net.pretrained_cfg |= {"label_names": LABELS, "size": 64, "test": {"resize": 64, "crops": 0, "size": 64}}
    path = tmp_path_factory.mktemp("weights") / "net"
    videozoo.save_pretrained(net, path)
    return path


@pytest.fixture
def boxes(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(BOXES))
    return path


@pytest.fixture
def run(capsys, folder):
    """Runs the command on the detector: exit code, stdout and stderr."""

    def run(*argv, model=f"local-dir:{folder}"):
        try:
            code = cli.main(["detect", *map(str, argv), "--model", model, "--device", "cpu", "--every", "0.25"])
        except SystemExit as leaving:
            code = leaving.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_video_is_drawn_on_told_and_shown(run, boxes, tmp_path):
    code, out, err = run(VIDEO, "--boxes", boxes, "--out", tmp_path / "new")
    assert code == 0, err
    names = [f"demo_24f_bt709_actions.{suffix}" for suffix in ("mp4", "json", "html")]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(names)
    assert err == "".join(f"videozoo: wrote {tmp_path / 'new' / name}\n" for name in names)
    assert "person 0, 0:00.00 to 0:00.50: walk & <such> 0.95, talk & <such> 0.62\n" in out
    assert "person 1, 0:00.00 to 0:00.00:" in out and "2 persons in 4 moments" in out and "MEANINGLESS" not in out
    facts = json.loads((tmp_path / "new" / names[1]).read_text())
    assert [moment["frame"] for moment in facts["moments"]] == [0, 7, 14, 21]
    assert [[p["person"] for p in moment["persons"]] for moment in facts["moments"]] == [[0, 1], [], [0], []]
    assert facts["moments"][2]["persons"][0]["box"] == [14, 10, 104, 200] and facts["trained"]
    assert list(facts["persons"][0]["actions"]) == LABELS[:3]
    with open_video(tmp_path / "new" / names[0]) as drawn, open_video(VIDEO) as video:
        assert len(drawn) == len(video)
        change = np.abs(drawn.get([0])[0].astype(int) - video.get([0])[0]).max(-1)
        assert change[100, 148:153].max() > 60 and change[230:250, 300:].max() < 60


def test_the_page_needs_nothing_else_and_escapes_names(run, boxes, tmp_path):
    code, *_ = run(VIDEO, "--boxes", boxes, "--out", tmp_path / "own.mp4")
    assert code == 0 and sorted(p.suffix for p in tmp_path.glob("own.*")) == [".html", ".json", ".mp4"]
    page = (tmp_path / "own.html").read_text()
    assert "walk &amp; &lt;such&gt;" in page and "<such>" not in page
    assert not re.search(r"<script|src=\"(?!data:)|https?://(?!arxiv)[^\"]*\.(js|css)", page)
    assert page.count("data:image/jpeg") == 3, "a poster and two moments with persons"
    assert page.count('class="person"') == 2 and page.count("<rect") == (2 + 1) * 2, "a field a moment and action"
    assert "95.3 %" in page and "Person 1 " in page


def test_a_bad_video_is_reported_and_the_rest_go_on(run, boxes, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    (tmp_path / "boxes").mkdir()
    for name in ("bad", "demo_24f_bt709"):
        (tmp_path / "boxes" / f"{name}.json").write_text(boxes.read_text())
    code, out, err = run(bad, VIDEO, VIDEO, "--boxes", tmp_path / "boxes", "--out", tmp_path / "all")
    assert code == 1 and str(bad) in err and "Traceback" not in err and out.count("2 persons") == 2
    stems = {"demo_24f_bt709_actions", "demo_24f_bt709_2_actions"}
    assert {path.stem for path in (tmp_path / "all").iterdir()} == stems
    code, out, err = run(bad, VIDEO, tmp_path / "none.mp4", "--boxes", tmp_path / "boxes", "--json", "--topk", 1)
    rows = json.loads(out)
    assert code == 1 and len(rows) == 1 and rows[0]["video"]["path"] == str(VIDEO)
    assert all(len(p["actions"]) == 1 for m in rows[0]["moments"] for p in m["persons"])
    assert not Path("detections").exists(), "--json alone writes nothing"


def test_persons_come_from_a_detector_where_no_boxes_are_given(run, tmp_path, monkeypatch):
    asked = []

    class Persons(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images):
            asked.append(tuple(images[0].shape))
            row, score = torch.tensor([[10.0, 10, 100, 200]]), torch.tensor([0.7])
            return [{"boxes": row, "labels": torch.tensor([1]), "scores": score}]

    monkeypatch.setattr(persons, "person_detector", lambda name, device=None: Persons())
    code, out, _ = run(VIDEO, "--json", "--min-score", 0.6)
    assert code == 0 and asked == [(3, 256, 340)] * 4
    assert [p["person"] for p in json.loads(out)["persons"]] == [0]
    code, out, _ = run(VIDEO, "--json")
    assert json.loads(out)["persons"] == []


def test_a_person_detector_without_weights_is_told_with_a_remedy(run, monkeypatch):
    from torchvision.models import detection as theirs

    def offline(**_):
        raise URLError("no route to host")

    monkeypatch.setattr(theirs, "fasterrcnn_resnet50_fpn_v2", offline)
    code, out, err = run(VIDEO, "--json")
    assert code == 1 and not out and "Traceback" not in err
    assert "the weights of fasterrcnn_resnet50_fpn_v2 cannot be downloaded" in err and "give boxes of your own" in err
    assert re.search(r"or put https://\S+/fasterrcnn_resnet50_fpn_v2_coco-\w+.pth into \S+/checkpoints\.", err)


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ([VIDEO, VIDEO, "--out", "one.mp4"], "one.mp4 is one file, there are 2 videos"),
        ([VIDEO, VIDEO, "--boxes", __file__], "is of one video, there are 2"),
        ([VIDEO, "--out", __file__], "is a file: name a folder"),
        ([VIDEO, "--out", VIDEO], "is one of the videos"),
        ([VIDEO, "--threshold", "2"], "'2' is not a number from 0 to 1"),
        ([VIDEO, "--min-score", "x"], "'x' is not a number from 0 to 1"),
        ([VIDEO, "--pretrained", "--checkpoint", "x.pth"], "give one of them"),
    ],
)
def test_wrong_usage_exits_with_2(run, argv, reason):
    code, out, err = run(*argv)
    assert code == 2 and not out and reason in err


def test_wrong_models_and_boxes_are_told(run, folder, boxes, tmp_path):
    code, _, err = run(VIDEO, model="slowfast_r50_k400")
    assert code == 1 and "slowfast_r50_k400 labels whole videos: take one of" in err
    net = videozoo.create_model("tsn_r18_f8", num_classes=3)
    videozoo.save_pretrained(net, tmp_path / "tsn")
    code, _, err = run(VIDEO, "--boxes", boxes, model=f"local-dir:{tmp_path / 'tsn'}")
    assert code == 1 and "tsn_r18_f8 is no detector" in err
    boxes.write_text('{"frames": {"0": [[9, 9, 1, 1]]}}')
    code, out, err = run(VIDEO, "--boxes", boxes, "--out", tmp_path / "out")
    assert code == 1 and "frame 0: expected rows of x1 <= x2" in err and not (tmp_path / "out").exists()
    code, _, err = run(VIDEO, "--boxes", tmp_path / "gone.json", "--json")
    assert code == 1 and "gone.json is not there: it should have the boxes" in err
    code, _, err = run(VIDEO, "--detector", "yolo")
    assert code == 1 and "choose one of fasterrcnn" in err


def test_proposals_of_many_films_are_boxes_of_each(run, tmp_path):
    rows = {("demo_24f_bt709", 900): np.array([[0.1, 0.1, 0.4, 0.9, 0.95]])}
    ava.write_proposals(rows, tmp_path / "p.safetensors")
    code, out, err = run(VIDEO, VIDEO, "--boxes", tmp_path / "p.safetensors", "--json")
    assert code == 0, err
    boxes = [row["moments"][0]["persons"][0]["box"] for row in json.loads(out)]
    assert boxes == [pytest.approx([34, 25.6, 136, 230.4])] * 2


def test_the_library_function_takes_boxes_of_any_kind(folder, boxes, monkeypatch):
    model = videozoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
    from_file = videozoo.detect(model, VIDEO, boxes, every=0.5, device="cpu")
    table = videozoo.detect(model, VIDEO, persons.read_boxes(boxes), every=0.5)
    assert [m.numbers for m in from_file.moments] == [m.numbers for m in table.moments] == [[0, 1], [0]]
    monkeypatch.setattr(persons, "person_detector", lambda name, device: (_ for _ in ()).throw(OSError(f"no {name}")))
    with pytest.raises(OSError, match="no fasterrcnn_resnet50_fpn_v2"):
        videozoo.detect(model, VIDEO)


def test_random_weights_are_called_meaningless(run, boxes):
    code, out, err = run(VIDEO, "--boxes", boxes, "--json", "--no-pretrained")
    assert code == 0 and "random numbers" in err and json.loads(out)["trained"] is False


def test_pictures_show_persons_where_they_are_and_unsure_ones_not(folder):
    model = videozoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
    table = {0: np.array([[100.0, 50, 200, 150, 0.95], [5, 5, 60, 60, 0.4]])}
    found = detection.detect(model, VIDEO, table, every=2, max_pictures=3, least=0.99)
    assert [frame for frame, _ in found.pictures] == [0] and found.moments[0].numbers == [0]
    with open_video(VIDEO) as video:
        change = np.abs(found.poster.astype(int) - video.get([0])[0]).max(-1) > 30
    rows, columns = np.nonzero(change)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 150, 100, 200)
    assert not change[55:145, 105:195].any()
    both = detection.detect(model, VIDEO, table, every=2, min_score=0.3)
    assert both.moments[0].numbers == [0, 1]


def test_memory_does_not_grow_with_the_video(folder):
    """Frames that are decoded are let go: only clips of a moment and some frames to draw on are asked for."""
    model = videozoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
    sizes = []
    with open_video(VIDEO) as video:
        get, video.get = video.get, lambda indices: sizes.append(len(indices)) or get(indices)
        list(detection.moments(model, video, {}, every=0.1))
    assert max(sizes) == 5 and len(sizes) == 8
    found = detection.detect(model, VIDEO, {}, every=0.1)
    assert found.pictures == [] and found.poster is None and found.persons() == []
    assert "No persons" in detection.detection_report(found) and "Nobody was found" in detection.detection_report(found)


# Persons of a data set -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "keys"), [("ava21", ("film0", 901)), ("jhmdb", ("stand/v0", 1))])
def test_persons_of_a_data_set_are_found_for_its_test(name, keys, tmp_path, monkeypatch, capsys):
    """By second of films, and in every frame of videos that are marked all through; films that fail are told."""
    root = (write_ava if name == "ava21" else write_jhmdb)(tmp_path)
    seen = []

    def find(frame):
        seen.append(frame)
        return np.array([[48.0, 16, 96, 64, 0.97]]) if len(seen) > 1 else np.zeros((0, 5))

    monkeypatch.setattr(proposals, "person_source", lambda *_: find)
    argv = ["data", "proposals", name, "--root", str(root), "--out", str(tmp_path / "found.safetensors")]
    if name == "ava21":
        (root / "videos" / "film3.mp4").write_bytes(b"no video")
    assert cli.main(argv) == (1 if name == "ava21" else 0)
    out, err = capsys.readouterr()
    assert f"{2 if name == 'ava21' else 11} boxes in {3 if name == 'ava21' else 12} frames of" in out
    assert ("film3.mp4: " in err) == (name == "ava21")
    assert cli.main(["data", "convert-proposals", argv[-1], str(tmp_path / "found.json")]) == 0
    table = ava.read_proposals(tmp_path / "found.json")
    assert len(table[keys]) == 0 and table[keys[0].replace("0", "1").replace("stand", "talk"), keys[1]].tolist() == [
        [0.5, 0.25, 1.0, 1.0, 0.97]
    ]
    data = load_detection(name, root, proposals=argv[-1])
    assert sum(len(frame.proposals) > 0 for frame in data) == (4 if name == "ava21" else 11)
    with open_video(data[0].path) as video:
        middle = video.get([30 if name == "ava21" else 0])[0]
    assert np.array_equal(seen[0], middle), "the key frame itself"


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["proposals", "k400", "--root", ".", "--out", "x.json"], "k400 has no boxes of persons"),
        (["proposals", "ava21", "--root", ".", "--out", "x.pkl"], "are written as .json or .safetensors"),
        (["convert-proposals", "gone.pkl", "x.json"], "gone.pkl"),
        (["convert-proposals", __file__, "x.json"], "is no pickle of plain data"),
    ],
)
def test_wrong_use_of_proposals_is_told(argv, reason, capsys):
    assert cli.main(["data", *argv]) == 1
    assert reason in capsys.readouterr().err and not Path("x.json").exists()
