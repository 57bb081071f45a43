"""Lists and official annotations of every data set, and how a split is found on disk."""

import csv
import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from videozoo import catalog
from videozoo.data import regions
from videozoo.data.annotations import AnnotationError, Sample, guess_kind, read_list, write_list
from videozoo.data.datasets import HVU_CATEGORIES, Dataset, load_dataset
from videozoo.data.official import OFFICIAL_FORMATS, read_tag_categories
from videozoo.data.reader import VideoError
from videozoo.evaluation.metrics import METRICS
from videozoo.unpickle import UnpickleError, load_plain_pickle

GOLDEN = json.loads(gzip.decompress((Path(__file__).parent / "data" / "annotations.json.gz").read_bytes()))
KINDS = {
    "RawframeDataset": "rawframes",
    "AudioVisualDataset": "rawframes",
    "VideoDataset": "videos",
    "ImageDataset": "images",
    "RawVideoDataset": "clips",
    "AudioDataset": "audio",
    "AudioFeatureDataset": "audio",
    "HVUDataset": "hvu",
}
TOLERATED = {"rawframe_blank_line", "video_space_in_path", "hvu_frames_without_template"}


@pytest.fixture
def golden(tmp_path):
    def write(name):
        (tmp_path / name).write_text(GOLDEN["files"][name])
        return tmp_path / name

    return write


def cases(*classes):
    return [pytest.param(case, id=case["name"]) for case in GOLDEN["cases"] if case["dataset"] in classes]


def array(value):
    return np.asarray(value["data"], value["dtype"]).reshape(value["shape"])


def read_case(case, golden):
    kwargs = case["kwargs"]
    suffix = {"AudioDataset": ".wav", "AudioFeatureDataset": ".npy"}.get(case["dataset"], "")
    return read_list(
        golden(case["ann_file"]),
        KINDS[case["dataset"]],
        multi_label=kwargs.get("multi_class", False),
        with_offset=kwargs.get("with_offset", False),
        prefix=kwargs.get("data_prefix", ""),
        suffix=suffix if "data_prefix" in kwargs else "",
    )


# List files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases(*KINDS))
def test_lists_are_read_as_by_the_published_code(case, golden):
    if "raises" in case and case["name"] not in TOLERATED:
        with pytest.raises(AnnotationError, match=r"line 1: .*expected"):
            read_case(case, golden)
        return
    samples = read_case(case, golden)
    if case["name"] in TOLERATED:
        return
    expected = case["ok"]["video_infos"]
    if case["name"] == "rawvideo_positive":  # the published class drops videos without a positive clip
        samples = [sample for sample in samples if sample.extra["positive_clips"]]
    assert len(samples) == case["ok"]["length"]
    for sample, info in zip(samples, expected, strict=True):
        path = next(info[key] for key in ("frame_dir", "audio_path", "video_dir", "filename") if key in info)
        assert sample.path == (info["frame_dir"] if case["dataset"] == "AudioVisualDataset" else path)
        assert sample.num_frames == info.get("total_frames", 0)
        assert sample.start == info.get("offset", 0)
        if "num_clips" in info:
            assert sample.extra == {
                "num_clips": info["num_clips"],
                "positive_clips": tuple(info["positive_clip_inds"]),
            }
        label = info["label"]
        if isinstance(label, dict) and "dtype" in label:
            label = np.flatnonzero(array(label)).tolist()
        if isinstance(label, dict):
            assert {category: list(tags) for category, tags in sample.label.items()} == label
        else:
            assert sample.label == (tuple(label) if isinstance(label, list) else label)


@pytest.mark.parametrize("name", ["rawframe_multiclass", "video_multiclass", "mmit_json_multiclass", "mmit"])
def test_multi_label_vectors_equal_the_published_ones(name, golden):
    case = next(c for c in GOLDEN["cases"] if c["name"] == name)
    samples, classes = read_case(case, golden), case["kwargs"]["num_classes"]
    dataset = Dataset("x", "val", samples, Path("."), num_classes=classes, multi_label=True)
    items = case["ok"].get("items", case["ok"]["video_infos"])
    np.testing.assert_array_equal(dataset.labels, [array(item["label"]) for item in items])


def test_samples_by_class_equal_the_published_groups(golden):
    case = next(c for c in GOLDEN["cases"] if c["name"] == "sample_by_class")
    groups = Dataset("x", "val", samples := read_case(case, golden), Path(".")).by_class()
    expected = {int(c): [info["frame_dir"] for info in infos] for c, infos in case["ok"]["by_class"].items()}
    assert {label: [samples[n].path for n in numbers] for label, numbers in groups.items()} == expected


def test_blank_lines_and_blanks_in_paths_do_no_harm(golden, tmp_path):
    assert [s.num_frames for s in read_list(golden("rawframe_blank_line.txt"), "rawframes")] == [163, 10]
    assert read_list(golden("space_in_path.txt"), "videos") == [Sample("some dir/clip 1.mp4", 3)]
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbfa b.mp4 1\r\n\r\n")
    assert read_list(tmp_path / "windows.txt", "videos") == [Sample("a b.mp4", 1)]


@pytest.mark.parametrize(
    "name, kind",
    [
        ("rawframe_list.txt", "rawframes"),
        ("rawframe_offset.txt", "rawframes"),
        ("video_list.txt", "videos"),
        ("video_multiclass.txt", "videos"),
        ("audio_list.txt", "audio"),
        ("rawframe_list.json", "rawframes"),
        ("video_list.json", "videos"),
        ("rawvideo_list.json", "clips"),
        ("hvu_frames.json", "hvu"),
    ],
)
def test_kind_of_a_list_is_recognised(name, kind, golden):
    assert guess_kind(golden(name)) == kind


@pytest.mark.parametrize("suffix", [".txt", ".json"])
@pytest.mark.parametrize("kind", ["videos", "rawframes"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_written_lists_are_read_back(suffix, kind, multi_label, tmp_path):
    frames = {"num_frames": 7, "start": 3} if kind == "rawframes" else {}
    label = (2, 0) if multi_label else 2
    samples = [Sample("a b/c-1.mp4", label, **frames), Sample("d.mp4", (1,) if multi_label else 1, **frames)]
    path = write_list(tmp_path / f"list{suffix}", samples, kind, with_offset=kind == "rawframes")
    options = {"multi_label": multi_label, "with_offset": kind == "rawframes"}
    assert read_list(path, kind, **options) == samples
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_list_that_cannot_be_written_clearly_leaves_the_old_one(tmp_path):
    path = write_list(tmp_path / "list.txt", [Sample("a.mp4", 1)], "videos")
    for name in ("clip 12", "new\nline.mp4"):
        with pytest.raises(AnnotationError, match="JSON list"):
            write_list(path, [Sample(name, 1)], "videos")
    with pytest.raises(AnnotationError, match="written as JSON"):
        write_list(path, [Sample("a.mp4", {"action": (1,)})], "hvu")
    assert path.read_text() == "a.mp4 1\n"
    json_list = write_list(tmp_path / "list.json", [Sample("clip 12", 1, 4)], "rawframes")
    assert read_list(json_list) == [Sample("clip 12", 1, 4)]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.txt", "a.mp4\n", "line 1: label missing"),
        ("a.txt", "x.mp4 1\na.mp4 1 2\n", "line 2: .*multi_label=True"),
        ("a.json", "{", "no JSON file"),
        ("a.json", '[{"filename": "a.mp4"}]', "item 0: expected an object with 'label'"),
        ("a.json", '[{"filename": "a.mp4", "label": [1, 2]}]', "item 0: 2 labels"),
    ],
)
def test_broken_lists_name_the_place(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_list(tmp_path / name, "videos")


# Where and when ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("AVADataset"))
def test_ava_key_frames_equal_the_published_ones(case, golden):
    samples = regions.read_ava(golden("ava_anno.csv"))
    if not case["kwargs"].get("test_mode"):
        excluded = regions.read_ava_exclusions(golden("ava_exclude.csv"))
        samples = [s for s in samples if (s.path, s.extra["timestamp"]) not in excluded]
    assert len(samples) == case["ok"]["length"]
    for sample, info in zip(samples, case["ok"]["video_infos"], strict=True):
        assert (sample.path, sample.extra["timestamp"]) == (info["video_id"], info["timestamp"])
        np.testing.assert_array_equal(sample.extra["boxes"], array(info["ann"]["gt_bboxes"]))
        np.testing.assert_array_equal(sample.extra["persons"], array(info["ann"]["entity_ids"]))
        labels = array(info["ann"]["gt_labels"])
        assert [sorted(actions) for actions in sample.extra["actions"]] == [np.flatnonzero(r).tolist() for r in labels]


def test_ava_label_map_exclusions_and_proposals(golden):
    expected = {
        case["name"]: case["ok"] for case in GOLDEN["cases"] if case["name"].startswith("ava_") and "ok" in case
    }
    labels = regions.read_ava_labels(golden("ava_action_list.pbtxt"))
    assert labels == {row["id"]: row["name"] for row in expected["ava_label_map"]["labelmap"]}
    excluded = regions.read_ava_exclusions(golden("ava_exclude.csv"))
    assert {f"{video},{second:04d}" for video, second in excluded} == set(expected["ava_exclusions"])
    proposals = regions.read_ava_proposals(golden("ava_proposals.json"))
    assert proposals["0f39OWEqJ24", 903].shape == (4, 5) and proposals["0f39OWEqJ24", 903][1, 4] == 0.984025


def test_proposal_lists_equal_the_published_parse(golden):
    case = next(c for c in GOLDEN["cases"] if c["name"] == "ssn_file")
    for video, (name, frames, truth, rows) in zip(
        regions.read_proposals(golden("ssn_proposals.txt")), case["ok"], strict=True
    ):
        assert (video.video, video.num_frames) == (name, frames)
        assert video.ground_truth == tuple(tuple(map(float, row)) for row in truth)
        assert video.proposals == tuple(tuple(map(float, row)) for row in rows)


def test_proposals_in_fractions_become_frames(golden, tmp_path):
    videos = regions.read_proposals(golden("ssn_normalized_proposals.txt"))
    (tmp_path / "frames.txt").write_text(regions.write_proposals(regions.denormalize_proposals(videos, {"imgs": 50})))
    (video,) = regions.read_proposals(tmp_path / "frames.txt")
    assert video.num_frames == 50 and video.ground_truth == ((3, 10, 20), (3, 30, 50))
    assert video.proposals[2] == (3, 0.3333, 0.3333, 10, 40)
    (tmp_path / "broken.txt").write_text(GOLDEN["files"]["ssn_proposals.txt"][:-30])
    with pytest.raises(AnnotationError, match="broken block of video 2"):
        regions.read_proposals(tmp_path / "broken.txt")


def test_activitynet_segments_equal_the_published_ones(golden):
    case = next(c for c in GOLDEN["cases"] if c["name"] == "activitynet")
    samples = regions.read_activitynet_segments(golden("anet_anno.json"))
    assert [sample.path for sample in samples] == [info["video_name"] for info in case["ok"]["video_infos"]]
    for sample, expected in zip(samples, case["ok"]["gt_bbox"], strict=True):
        np.testing.assert_allclose(sample.extra["normalized"], array(expected), rtol=1e-12)


TUBES = {
    "labels": ["Basketball", "Biking"],
    "gttubes": {"Biking/b1": {1: [np.array([[1, 2.5, 3, 40, 50], [2, 3, 3, 41, 50]], np.float32)]}},
    "nframes": {"Biking/b1": 30, "Basketball/a1": 20},
    "train_videos": [["Basketball/a1"]],
    "test_videos": [["Biking/b1"]],
    "resolution": {"Biking/b1": (240, 320), "Basketball/a1": (240, 320)},
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_tubes_are_read_from_pickles_of_every_protocol(protocol, tmp_path):
    (tmp_path / "UCF101v2-GT.pkl").write_bytes(pickle.dumps(TUBES, protocol))
    (tmp_path / "rgb-images" / "Biking" / "b1").mkdir(parents=True)
    (tmp_path / "rgb-images" / "Biking" / "b1" / "00001.jpg").touch()
    dataset = load_dataset("ucf101_24", tmp_path)
    assert dataset[0].path == "Biking/b1" and dataset[0].label == 1 and dataset[0].num_frames == 30
    assert dataset.path(0) == tmp_path / "rgb-images" / "Biking" / "b1"
    assert dataset.class_names == ["Basketball", "Biking"]
    (tube,) = dataset[0].extra["tubes"][1]
    assert type(tube) is np.ndarray and tube.dtype == np.float32
    np.testing.assert_array_equal(tube, TUBES["gttubes"]["Biking/b1"][1][0])
    train, names = regions.read_tubes(tmp_path / "UCF101v2-GT.pkl", "train")
    assert train[0].label == -1 and names == TUBES["labels"]


def test_pickles_of_python_2_are_read(tmp_path):
    values = np.array([1.5, -2.0, 250.0])
    stream = (
        b"\x80\x02}U\x03k\xe9ycnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x18" + values.tobytes() + b"tbs."
    )
    (tmp_path / "old.pkl").write_bytes(stream)
    (key, loaded), *_ = load_plain_pickle(tmp_path / "old.pkl").items()
    assert key == "kéy"
    np.testing.assert_array_equal(loaded, values)


class Evil:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize(
    "value, message",
    [
        (Evil(), r"builtins\.print, which is not plain data"),
        ({"a": [Path("x")]}, "pathlib.*not plain data"),
        (np.array([1, None], object), "'O8?' are not read"),
        (np.array([(1, 2)], [("a", int), ("b", int)]), "are not read"),
    ],
)
def test_pickles_that_are_more_than_data_are_refused(value, message, tmp_path, capsys):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(UnpickleError, match=message):
        load_plain_pickle(tmp_path / "x.pkl")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("end", [0, 1, 40, -1])
def test_damaged_pickles_are_told(end, tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(TUBES)[:end])
    with pytest.raises(UnpickleError, match="x.pkl"):
        load_plain_pickle(tmp_path / "x.pkl")


# Facts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", catalog.datasets())
def test_facts_of_a_data_set_are_consistent(name):
    facts = catalog.datasets()[name]
    assert set(facts.get("metrics", ())) <= set(METRICS)
    if "labels" in facts:
        assert len(catalog.labels(facts["labels"])) == facts["num_classes"]
    files = facts.get("files", {})
    splits = files.get("splits", ["train", "val", "test"])
    assert set(facts.get("counts", {})) <= set(splits)
    assert files.get("format", "ava") in {*OFFICIAL_FORMATS, "ava", "tubes", "proposals"}
    if "format" in files:
        assert set(splits) <= set(files["official"])
        for split in splits:
            assert [pattern.format(fold=1) for pattern in files["official"][split]]


def test_all_data_sets_of_the_published_models_are_known():
    wanted = (
        "ucf101 hmdb51 k400 k600 k700 mk200 ssv1 ssv2 mit mmit hvu jester gym99 anet thumos14 ava21 ucf101_24 jhmdb"
    )
    for name in wanted.split():
        assert "files" in catalog.datasets()[name], name


# Official annotations ------------------------------------------------------------------------------------------------


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def write_rows(path, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def listed(dataset):
    """Path and label of every sample, with a check that the media are where it says."""
    assert all(dataset.path(number).exists() for number in range(len(dataset)))
    return [(sample.path, sample.label) for sample in dataset]


def test_ucf101(tmp_path):
    touch(tmp_path, "UCF-101/Archery/v_Archery_g01_c01.avi", "UCF-101/YoYo/v_YoYo_g01_c01.avi")
    folder = tmp_path / "annotations" / "ucfTrainTestlist"
    folder.mkdir(parents=True)
    (folder / "trainlist02.txt").write_text("YoYo/v_YoYo_g01_c01.avi 101\n")
    (folder / "testlist02.txt").write_text("Archery/v_Archery_g01_c01.avi\n")
    dataset = load_dataset("ucf101", tmp_path, split="val2")
    assert listed(dataset) == [("Archery/v_Archery_g01_c01.avi", 2)]
    assert dataset.labels.dtype == np.int64 and dataset.class_names[2] == "Archery"
    assert listed(load_dataset("ucf101", tmp_path, split="train2")) == [("YoYo/v_YoYo_g01_c01.avi", 100)]
    with pytest.raises(FileNotFoundError, match="testlist01.txt"):
        load_dataset("ucf101", tmp_path)
    with pytest.raises(ValueError, match="no split 'val4': choose one of train, val, each with a number 1 to 3"):
        load_dataset("ucf101", tmp_path, split="val4")
    (folder / "trainlist02.txt").write_text("YoYo/v_YoYo_g01_c01.avi 100\n")
    with pytest.raises(AnnotationError, match="class 100 does not belong"):
        load_dataset("ucf101", tmp_path, split="train2")


def test_hmdb51_with_extracted_frames(tmp_path):
    names = ["wave/a#b&c_1", "wave/a (x)_2", "chew/v_3"]
    touch(tmp_path, *(f"rawframes/{name}/img_00001.jpg" for name in names))
    folder = tmp_path / "testTrainMulti_7030_splits"
    folder.mkdir()
    (folder / "wave_test_split1.txt").write_text("a#b&c_1.avi 1 \na (x)_2.avi 2 \n")
    (folder / "chew_test_split1.txt").write_text("v_3.avi 2 \nunused.avi 0 \n")
    dataset = load_dataset("hmdb51", tmp_path)
    assert dataset.kind == "rawframes"
    assert listed(dataset) == [("chew/v_3", 3), ("wave/a (x)_2", 50)]
    assert listed(load_dataset("hmdb51", tmp_path, split="train1")) == [("wave/a#b&c_1", 50)]


@pytest.mark.parametrize("layout", ["videos_val/air_drumming/{}.mp4", "val/air drumming/{}.webm", "val/{}.mkv"])
def test_kinetics_in_every_layout(layout, tmp_path):
    header = ["label", "youtube_id", "time_start", "time_end", "split"]
    row = ["air drumming", "-a_b0123456", "9", "19", "validate"]
    other = ["massaging person's head", "zzzzzzzzzzz", "0", "10", "validate"]
    write_rows(tmp_path / "annotations" / "kinetics_val.csv", [header, row, other])
    touch(tmp_path, layout.format("-a_b0123456_000009_000019"))
    dataset = load_dataset("k400", tmp_path)
    assert [sample.label for sample in dataset] == [1, 196]
    assert dataset.path(0) == tmp_path / layout.format("-a_b0123456_000009_000019")
    assert dataset[1].path == "massaging_person's_head/zzzzzzzzzzz_000000_000010" and not dataset.path(1).exists()
    touch(tmp_path, "videos_test/-a_b0123456_000009_000019.mp4")
    write_rows(tmp_path / "kinetics_test.csv", [header[1:], row[1:]])
    assert listed(load_dataset("k400", tmp_path, split="test")) == [("-a_b0123456_000009_000019.mp4", -1)]


def test_something_v1_and_v2_and_jester(tmp_path):
    write_rows(tmp_path / "1/something-something-v1-validation.csv", [["7", "Moving something up"]], ";")
    touch(tmp_path, "1/20bn-something-something-v1/7/00001.jpg")
    v1 = load_dataset("ssv1", tmp_path / "1")
    assert listed(v1) == [("7", catalog.labels("ssv1").index("Moving something up"))]
    items = [{"id": "9", "label": "moving a cup up", "template": "Moving [something] up", "placeholders": ["a cup"]}]
    touch(tmp_path, "2/videos/9.webm")
    (tmp_path / "2/something-something-v2-validation.json").write_text(json.dumps(items))
    v2 = load_dataset("ssv2", tmp_path / "2")
    assert listed(v2) == [("9.webm", catalog.labels("ssv2").index("Moving something up"))]
    assert v1[0].label != v2[0].label
    touch(tmp_path, "j/rawframes/12/00001.jpg", "j/rawframes/13/00001.jpg")
    write_rows(tmp_path / "j/jester-v1-validation.csv", [["12", "Swiping Right"]], ";")
    write_rows(tmp_path / "j/jester-v1-test.csv", [["13"]], ";")
    assert listed(load_dataset("jester", tmp_path / "j")) == [("12", 1)]
    assert listed(load_dataset("jester", tmp_path / "j", split="test")) == [("13", -1)]


def test_moments_and_multi_moments(tmp_path):
    write_rows(tmp_path / "mit/validationSet.csv", [["praying/x_1.mp4", "praying", "3", "0"]])
    touch(tmp_path, "mit/videos/validation/praying/x_1.mp4")
    assert listed(load_dataset("mit", tmp_path / "mit")) == [("praying/x_1.mp4", 1)]
    write_rows(tmp_path / "mmit/validationSet.csv", [["a/0-3.mp4", "3", "311"], ["b/1.mp4", "0"]])
    touch(tmp_path, "mmit/videos/a/0-3.mp4", "mmit/videos/b/1.mp4")
    dataset = load_dataset("mmit", tmp_path / "mmit")
    assert listed(dataset) == [("a/0-3.mp4", (3, 311)), ("b/1.mp4", (0,))]
    assert dataset.metrics == ("mmit_mean_average_precision",)
    assert dataset.labels.shape == (2, 313) and dataset.labels.sum(axis=1).tolist() == [2, 1]


def test_hvu_and_its_categories(tmp_path):
    tags = {category: catalog.labels(f"hvu_{category}") for category in HVU_CATEGORIES}
    rows = [["Tags", "youtube_id", "time_start", "time_end"]]
    rows.append(["|".join([tags["scene"][5], tags["action"][2], tags["scene"][0]]), "abcdefghijk", "12.5", "22.5"])
    rows.append([tags["object"][1677], "-bcdefghijk", "0", "10"])
    write_rows(tmp_path / "annotations" / "hvu_val.csv", rows)
    touch(tmp_path, "videos_val/abcdefghijk_000125_000225.mp4", "videos_val/-bcdefghijk_000000_000100.mp4")
    dataset = load_dataset("hvu", tmp_path)
    first = ("abcdefghijk_000125_000225.mp4", {"scene": (5, 0), "action": (2,)})
    assert listed(dataset) == [first, ("-bcdefghijk_000000_000100.mp4", {"object": (1677,)})]
    assert dataset.labels == [first[1], {"object": (1677,)}]
    assert list(dataset.categories) == list(HVU_CATEGORIES) and sum(dataset.categories.values()) == 3142
    assert len(dataset.class_names) == 3142 and dataset.class_names[739] == f"attribute/{tags['attribute'][0]}"
    scene = load_dataset("hvu_scene", tmp_path)
    assert listed(scene) == [(first[0], (5, 0))]
    assert scene.labels.shape == (1, 248) and scene.metrics == ("mean_average_precision",)
    write_list(tmp_path / "hvu_val_video.json", [Sample(first[0], first[1])], "hvu")
    assert listed(load_dataset("hvu", tmp_path)) == [first]
    assert listed(load_dataset("hvu_action", tmp_path)) == [(first[0], (2,))]
    write_list(tmp_path / "hvu_action_val_video.json", [Sample(first[0], (7, 8))], "videos")
    assert listed(load_dataset("hvu_action", tmp_path)) == [(first[0], (7, 8))]
    write_rows(
        tmp_path / "categories.csv", [["Tag", "Category"], ["run", "action"], ["dog", "object"], ["jump", "action"]]
    )
    assert read_tag_categories(tmp_path / "categories.csv") == {"action": ["jump", "run"], "object": ["dog"]}


def test_gym99_and_mini_kinetics(tmp_path):
    clip = "A0xAXXysHUo_E_002184_002237_A_0035_0036"
    touch(tmp_path, f"gym/subactions/{clip}.mp4", "k200/videos/x.mp4")
    (tmp_path / "gym/gym99_val_org.txt").write_text(f"{clip} 98\n")
    assert listed(load_dataset("gym99", tmp_path / "gym")) == [(f"{clip}.mp4", 98)]
    (tmp_path / "k200/k200_val.txt").write_text("x.mp4 199\n")
    (tmp_path / "k200/k200_actions.txt").write_text("".join(f"class {n}\n" for n in range(200)))
    dataset = load_dataset("mk200", tmp_path / "k200")
    assert listed(dataset) == [("x.mp4", 199)] and dataset.class_names[199] == "class 199"


def test_activitynet_database_and_clip_list(tmp_path):
    annotations = [{"segment": [1.0, 2.5], "label": "BMX"}, {"segment": [3, 4], "label": "Archery"}]
    database = {
        "abc": {"subset": "validation", "duration": 10.0, "annotations": annotations},
        "def": {"subset": "training", "duration": 10.0, "annotations": annotations[1:]},
    }
    (tmp_path / "activity_net.v1-3.min.json").write_text(json.dumps({"database": database}))
    touch(tmp_path, "videos/v_abc.mp4", "rawframes/v_abc/image_00000.jpg")
    assert listed(load_dataset("anet", tmp_path)) == [("v_abc.mp4", 3)]
    (tmp_path / "anet_val_clip.txt").write_text("v_abc 10 15 3\nv_abc 30 10 4\n")
    clips = load_dataset("anet", tmp_path, kind="rawframes")
    assert [(s.start, s.num_frames, s.label) for s in clips] == [(10, 15, 3), (30, 10, 4)]


def test_thumos14_and_ava(tmp_path, golden):
    (tmp_path / "thumos14_tag_test_proposal_list.txt").write_text(GOLDEN["files"]["ssn_proposals.txt"])
    touch(tmp_path, "rawframes/test/video_b/img_00001.jpg", "rawframes/0f39OWEqJ24/img_00001.jpg")
    thumos = load_dataset("thumos14", tmp_path, split="test")
    assert [sample.label for sample in thumos] == [(1, 7), (2,), ()]
    assert thumos.path(1) == tmp_path / "rawframes/test/video_b"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/ava_val_v2.1.csv").write_text(GOLDEN["files"]["ava_anno.csv"])
    ava = load_dataset("ava21", tmp_path)
    assert ava[0].start == 60 and ava.path(0) == tmp_path / "rawframes/0f39OWEqJ24"
    assert ava.labels[0] == (12, 17, 79)


def test_unknown_classes_are_told(tmp_path):
    write_rows(tmp_path / "1/something-something-v1-validation.csv", [["7", "Flying something"]], ";")
    with pytest.raises(AnnotationError, match="line 1: 'Flying something' is none of the data set's 174 classes"):
        load_dataset("ssv1", tmp_path / "1")
    header = ["label", "youtube_id", "time_start", "time_end"]
    write_rows(tmp_path / "k/kinetics_val.csv", [header, ["abseiling", "x", "one", "2"]])
    with pytest.raises(AnnotationError, match="line 2: 'one' should be a number"):
        load_dataset("k400", tmp_path / "k")


# Finding a split -----------------------------------------------------------------------------------------------------


def test_lists_of_the_published_code_are_found(tmp_path):
    touch(tmp_path, "videos_val/abseiling/a.mp4", "rawframes_val/abseiling/a/img_00001.jpg")
    (tmp_path / "kinetics400_val_list_videos.txt").write_text("abseiling/a.mp4 0\n")
    (tmp_path / "kinetics400_val_list_rawframes.txt").write_text("abseiling/a 1 0\n")
    assert listed(load_dataset("k400", tmp_path)) == [("abseiling/a.mp4", 0)]
    frames = load_dataset("k400", tmp_path, kind="rawframes")
    assert listed(frames) == [("abseiling/a", 0)] and frames.root == tmp_path / "rawframes_val"
    assert load_dataset("k400", tmp_path, modality="flow").kind == "rawframes"
    named = load_dataset("k400", tmp_path, annotations=tmp_path / "kinetics400_val_list_rawframes.txt")
    assert named.kind == "rawframes" and named.source.name == "kinetics400_val_list_rawframes.txt"


def test_a_folder_of_classes_is_a_split(tmp_path):
    touch(
        tmp_path, "val/air drumming/b.mp4", "val/air drumming/a.mkv", "val/abseiling/c.mp4", "val/abseiling/notes.txt"
    )
    dataset = load_dataset("k400", tmp_path)
    assert listed(dataset) == [("abseiling/c.mp4", 0), ("air drumming/a.mkv", 1), ("air drumming/b.mp4", 1)]
    touch(tmp_path, "val/knitting fog/d.mp4")
    with pytest.raises(AnnotationError, match="'knitting fog'"):
        load_dataset("k400", tmp_path)


def test_what_is_missing_is_listed(tmp_path):
    with pytest.raises(FileNotFoundError, match="no annotations of k400") as error:
        load_dataset("k400", tmp_path)
    for place in ("kinetics400_val_list_videos.txt", "kinetics_val.csv", str(tmp_path / "annotations"), "videos_val"):
        assert place in str(error.value)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load_dataset("k400", tmp_path / "nowhere")
    (tmp_path / "kinetics400_val_list_videos.txt").write_text("abseiling/a.mp4 0\n")
    with pytest.raises(FileNotFoundError, match=r"none of the 1 videos in .*abseiling/a.mp4"):
        load_dataset("k400", tmp_path)
    with pytest.raises(ValueError, match="did you mean one of k400"):
        load_dataset("k4000", tmp_path)
    with pytest.raises(ValueError, match="kind='frames' is unknown"):
        load_dataset("k400", tmp_path, kind="frames")


def test_labels_of_another_data_set_are_refused(tmp_path):
    touch(tmp_path, "val/a.mp4")
    (tmp_path / "list.txt").write_text("a.mp4 51\n")
    with pytest.raises(AnnotationError, match=r"a.mp4: label 51 is outside 0\.\.50"):
        load_dataset("hmdb51", tmp_path, annotations=tmp_path / "list.txt")
    assert load_dataset("ucf101", tmp_path, annotations=tmp_path / "list.txt")[0].label == 51


def test_clips_open_as_videos_of_their_own(tmp_path):
    from PIL import Image

    (tmp_path / "v").mkdir()
    for number in range(6):
        Image.fromarray(np.full((4, 4, 3), number * 40, np.uint8)).save(tmp_path / "v" / f"img_{number:05d}.png")
    samples = [Sample("v", 0), Sample("v", 0, 3, 2), Sample("v", 0, 2), Sample("v", 0, 3, 4)]
    dataset = Dataset("x", "val", samples, tmp_path, kind="rawframes")
    shades = []
    for number in range(3):
        with dataset.open(number) as reader:
            shades.append(reader.get(range(len(reader)))[:, 0, 0, 0].tolist())
    assert shades == [[0, 40, 80, 120, 160, 200], [80, 120, 160], [0, 40]]
    with pytest.raises(VideoError, match="the list names its frames 4 to 6, but it has 6"):
        dataset.open(3)
