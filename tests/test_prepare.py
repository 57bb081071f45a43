"""Official annotations and real videos become lists, smaller videos and frames; an audit finds what is wrong."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from filelock import FileLock

from videozoo import catalog
from videozoo.data import encode
from videozoo.data.annotations import Sample, read_list, write_list
from videozoo.data.audit import audit
from videozoo.data.cli import add_data_commands
from videozoo.data.datasets import load_dataset
from videozoo.data.prepare import prepare
from videozoo.data.reader import open_video


def make_video(path, frames=5, size=(64, 48), seed=0, codec="mpeg4"):
    """A real video of moving noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(frames):
            image = rng.integers(0, 255, (size[1] // 8, size[0] // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def ucf(tmp_path):
    """Three videos of UCF101, one of them broken, one annotated video that is not there."""
    make_video(tmp_path / "videos/Archery/v_Archery_g01_c01.avi", seed=1)
    make_video(tmp_path / "videos/YoYo/v_YoYo_g01_c01.avi", frames=7, seed=2)
    make_video(tmp_path / "videos/YoYo/v_YoYo_g02_c01.avi", frames=4, size=(48, 96), seed=3)
    (tmp_path / "videos/YoYo/v_YoYo_g03_c01.avi").write_bytes(b"RIFF, but not for long")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/trainlist01.txt").write_text("YoYo/v_YoYo_g02_c01.avi 101\n")
    (tmp_path / "annotations/testlist01.txt").write_text(
        "Archery/v_Archery_g01_c01.avi\nYoYo/v_YoYo_g01_c01.avi\nYoYo/v_YoYo_g03_c01.avi\nYoYo/v_YoYo_g09_c01.avi\n"
    )
    return tmp_path


def quiet(function, *args, **options):
    return function(*args, workers=1, progress=False, **options)


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Lists ---------------------------------------------------------------------------------------------------------------


def test_lists_have_the_published_names_and_format(ucf):
    reports = quiet(prepare, "ucf101", ucf)
    assert [report.split for report in reports] == ["train1", "val1"]
    text = (ucf / "ucf101_val_split_1_videos.txt").read_text()
    assert text == "Archery/v_Archery_g01_c01.avi 2\nYoYo/v_YoYo_g01_c01.avi 100\nYoYo/v_YoYo_g03_c01.avi 100\n"
    assert (ucf / "ucf101_train_split_1_videos.txt").read_text() == "YoYo/v_YoYo_g02_c01.avi 100\n"
    assert reports[1].listed == 3 and reports[1].missing == ["YoYo/v_YoYo_g09_c01.avi"]
    assert "1 annotated videos are not on disk" in str(reports[1])
    dataset = load_dataset("ucf101", ucf)
    assert dataset.source.name == "ucf101_val_split_1_videos.txt" and dataset.root == ucf / "videos"
    with dataset.open(1) as video:
        assert len(video) == 7


def test_raw_frames_are_counted(tmp_path):
    for name, count in (("1", 3), ("2", 12)):
        make_frames(tmp_path / "rawframes" / name, count)
    (tmp_path / "something-something-v1-validation.csv").write_text("1;Holding something\n2;Moving something up\n")
    (tmp_path / "rawframes" / "2" / "00004.jpg").unlink()
    (report,) = quiet(prepare, "ssv1", tmp_path, splits=["val"])
    number = catalog.labels("ssv1").index("Moving something up")
    assert Path(report.list_files[0]).read_text() == f"1 3 0\n2 11 {number}\n"
    assert report.list_files == [str(tmp_path / "sthv1_val_list_rawframes.txt")]


def make_frames(folder, count, name="{:05d}.jpg", shade=0):
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        Image.fromarray(np.full((8, 8, 3), number + shade, np.uint8)).save(folder / name.format(number))


def test_hvu_and_multi_label_lists(tmp_path):
    tags = [catalog.labels("hvu_action")[2], catalog.labels("hvu_scene")[0]]
    (tmp_path / "hvu_val.csv").write_text(f"Tags,youtube_id,time_start,time_end\n{'|'.join(tags)},abcdefghijk,1,11\n")
    make_video(tmp_path / "videos_val/abcdefghijk_000010_000110.mp4")
    quiet(prepare, "hvu", tmp_path)
    assert load_dataset("hvu", tmp_path)[0].label == {"action": (2,), "scene": (0,)}
    assert load_dataset("hvu", tmp_path).source == tmp_path / "hvu_val_video.json"
    (tmp_path / "validationSet.csv").write_text("a/1.mp4,3,311\n")
    make_video(tmp_path / "videos/a/1.mp4")
    (report,) = quiet(prepare, "mmit", tmp_path)
    assert Path(report.list_files[0]).read_text() == "a/1.mp4 3 311\n"
    assert load_dataset("mmit", tmp_path)[0].label == (3, 311)


def test_activitynet_frames_give_a_video_and_a_clip_list(tmp_path):
    annotations = [{"segment": [1.0, 2.5], "label": "BMX"}, {"segment": [3, 9], "label": "Archery"}]
    facts = {"subset": "validation", "duration": 4.0, "annotations": annotations}
    (tmp_path / "activity_net.v1-3.min.json").write_text(json.dumps({"database": {"abc": facts}}))
    make_frames(tmp_path / "rawframes/v_abc", 20, "image_{:05d}.jpg")
    quiet(prepare, "anet", tmp_path, splits=["val"])
    archery = catalog.labels("anet").index("Archery")
    assert (tmp_path / "anet_val_clip.txt").read_text() == f"v_abc 5 7 3\nv_abc 15 5 {archery}\n"
    assert (tmp_path / "anet_val_video.txt").read_text() == "v_abc 20 3\n"
    dataset = load_dataset("anet", tmp_path, kind="rawframes")
    with dataset.open(1) as clip:
        assert len(clip) == 5


def test_proposals_are_brought_to_frames(tmp_path):
    make_frames(tmp_path / "rawframes/val/video_validation_1", 10, "img_{:05d}.jpg")
    block = "# {}\n{}\n1\n1\n1\n3 0.2000 0.4000\n1\n3 1.0000 1.0000 0.2000 0.5000\n"
    text = block.format(0, "video_validation_1") + block.format(1, "video_validation_2")
    (tmp_path / "thumos14_tag_val_normalized_proposal_list.txt").write_text(text)
    (report,) = quiet(prepare, "thumos14", tmp_path)
    assert report.missing == ["video_validation_2"]
    (sample,) = load_dataset("thumos14", tmp_path)
    assert sample.extra["proposals"].proposals == ((3, 1.0, 1.0, 2, 5),) and sample.num_frames == 10


@pytest.mark.parametrize(
    "name, options, error, message",
    [
        ("ava21", {}, ValueError, "needs no preparation"),
        ("hvu_scene", {}, ValueError, "prepare that one"),
        ("k400", {}, FileNotFoundError, "no official annotations of k400 were found: looked for kinetics_train.csv"),
        ("k400", {"splits": ["val"]}, FileNotFoundError, "k400 val: none of kinetics_val.csv"),
        ("k400", {"splits": ["dev"]}, ValueError, "no split 'dev'"),
        ("k400", {"frames": True, "dense": True}, ValueError, "exclude each other"),
    ],
)
def test_what_cannot_be_prepared_is_told(name, options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        quiet(prepare, name, tmp_path, **options)


def test_annotations_without_any_video(ucf):
    shutil.rmtree(ucf / "videos")
    with pytest.raises(FileNotFoundError, match=r"none of the 1 videos or rawframes of ucf101, split 'train'"):
        quiet(prepare, "ucf101", ucf)
    assert tree(ucf) == [".videozoo-prepare.lock", "annotations/testlist01.txt", "annotations/trainlist01.txt"]


def test_two_runs_in_one_folder_do_not_mix(ucf):
    with FileLock(ucf / ".videozoo-prepare.lock"), pytest.raises(TimeoutError, match="another process"):
        quiet(prepare, "ucf101", ucf)


# Encoding and frames -------------------------------------------------------------------------------------------------


def test_videos_are_encoded_and_the_broken_one_is_reported(ucf):
    train, val = quiet(prepare, "ucf101", ucf, short_side=32, dense=True)
    assert (val.made, val.kept, train.made) == (2, 0, 1)
    ((path, reason),) = val.failed
    assert path == "YoYo/v_YoYo_g03_c01.avi" and "v_YoYo_g03_c01.avi" in reason
    assert tree(ucf / "videos_32p_dense") == [
        "Archery/v_Archery_g01_c01.mp4",
        "YoYo/v_YoYo_g01_c01.mp4",
        "YoYo/v_YoYo_g02_c01.mp4",
    ]
    source = ucf / "ucf101_val_split_1_videos_32p_dense.txt"
    assert val.list_files == [str(source)]
    dataset = load_dataset("ucf101", ucf, annotations=source)
    assert dataset.root == ucf / "videos_32p_dense"
    with dataset.open(1) as video, open_video(ucf / "videos/YoYo/v_YoYo_g01_c01.avi") as original:
        assert (len(video), video.width, video.height) == (7, 42, 32)
        difference = video.get([3]).mean() - original.get([3]).mean()
        assert abs(difference) < 0.9 and video.fps == 10
    with open_video(ucf / "videos_32p_dense/YoYo/v_YoYo_g02_c01.mp4") as upright:
        assert (upright.width, upright.height) == (32, 64)


def key_frames(path):
    with av.open(path) as container:
        return [number for number, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]


def test_dense_videos_have_a_key_frame_every_16_frames(tmp_path):
    make_video(tmp_path / "a.avi", frames=40)
    assert encode.encode_video(encode.Job(str(tmp_path / "a.avi"), str(tmp_path / "b.mp4"), 0, True))
    keys = key_frames(tmp_path / "b.mp4")
    assert len(keys) >= 3 and max(np.diff(keys)) <= 16
    with open_video(tmp_path / "b.mp4") as video:
        assert (len(video), video.width, video.height) == (40, 64, 48)


def test_small_videos_are_not_enlarged():
    assert encode.scaled_size(340, 256, 256) == (340, 256)
    assert encode.scaled_size(1280, 720, 256) == (456, 256)
    assert encode.scaled_size(720, 1280, 256) == (256, 456)
    assert encode.scaled_size(101, 51, 256) == (100, 52)


def test_frames_are_extracted_and_listed(ucf):
    train, val = quiet(prepare, "ucf101", ucf, frames=True, short_side=32)
    folder = ucf / "rawframes_32p/YoYo/v_YoYo_g01_c01"
    assert tree(folder) == [f"img_{number:05d}.jpg" for number in range(1, 8)]
    listed = read_list(ucf / "ucf101_val_split_1_rawframes_32p.txt")
    assert listed == [Sample("Archery/v_Archery_g01_c01", 2, 5), Sample("YoYo/v_YoYo_g01_c01", 100, 7)]
    with open_video(folder) as frames, open_video(ucf / "videos/YoYo/v_YoYo_g01_c01.avi") as video:
        assert frames.height == 32 and abs(frames.get([6]).mean() - video.get([6]).mean()) < 3


@pytest.mark.parametrize("frames", [False, True])
def test_a_second_run_keeps_what_is_complete_and_redoes_what_is_not(ucf, frames):
    options = {"frames": frames, "short_side": 32, "splits": ["val"]}
    (first,) = quiet(prepare, "ucf101", ucf, **options)
    assert (first.made, first.kept) == (2, 0)
    folder = ucf / ("rawframes_32p" if frames else "videos_32p")
    before = {path: (folder / path).stat().st_mtime_ns for path in tree(folder)}
    if frames:  # as if stopped by another tool in the middle
        (folder / "YoYo/v_YoYo_g01_c01/img_00003.jpg").unlink()
    else:
        whole = (folder / "YoYo/v_YoYo_g01_c01.mp4").read_bytes()
        (folder / "YoYo/v_YoYo_g01_c01.mp4").write_bytes(whole[: len(whole) // 3])
    (second,) = quiet(prepare, "ucf101", ucf, **options)
    assert (second.made, second.kept) == (1, 1)
    after = {path: (folder / path).stat().st_mtime_ns for path in tree(folder)}
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] == before[path]} == {p for p in before if p.startswith("Archery")}
    assert second.failed == first.failed and second.list_files == first.list_files


@pytest.mark.parametrize("frames", [False, True])
def test_a_killed_run_leaves_no_partial_output_and_goes_on(tmp_path, frames):
    make_video(tmp_path / "videos/Archery/long.avi", frames=200, size=(320, 240))
    (tmp_path / "testlist01.txt").write_text("Archery/long.avi\n")
    flag = ", frames=True" if frames else ", dense=True"
    code = f"from videozoo.data.prepare import prepare; prepare('ucf101', {str(tmp_path)!r}, workers=1{flag})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    target = tmp_path / ("rawframes" if frames else "videos_dense") / "Archery"
    deadline = time.monotonic() + 60
    while not list(target.glob(".*.part")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert [path.name for path in target.iterdir()] == [".long.part" if frames else ".long.mp4.part"]
    (report,) = quiet(prepare, "ucf101", tmp_path, splits=["val"], frames=frames, dense=not frames)
    assert report.made == 1 and not list(target.glob(".*"))
    with open_video(target / ("long" if frames else "long.mp4")) as video:
        assert len(video) == 200


def test_a_script_without_main_guard_is_told_so(ucf):
    script = ucf / "script.py"
    script.write_text(
        f"from videozoo.data.audit import audit\naudit('ucf101', {str(ucf)!r}, workers=2, progress=False)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.rstrip().endswith("or use workers=1.")


def test_no_list_is_written_without_a_readable_video(ucf):
    (ucf / "annotations/testlist01.txt").write_text("YoYo/v_YoYo_g03_c01.avi\n")
    (report,) = quiet(prepare, "ucf101", ucf, splits=["val"], short_side=32)
    assert len(report.failed) == 1 and report.list_files == [] and "0 videos listed in no file" in str(report)
    assert not list(ucf.glob("*.txt"))


def test_a_video_that_kills_its_process_is_reported_and_the_rest_go_on(tmp_path):
    jobs = [encode.Job(str(tmp_path / f"{n}.avi"), "") for n in range(6)]
    results = dict(encode.run_jobs(dies_on_three, jobs, workers=2))
    assert {n: r for n, r in results.items() if n != 3} == {n: True for n in range(6) if n != 3}
    assert "died" in str(results[3]) and "3.avi" in str(results[3])


def dies_on_three(job):
    if job.source.endswith("3.avi"):
        os._exit(11)
    return True


# Audit ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kinetics(tmp_path):
    """One sound video of each split, and one of every kind of trouble."""
    make_video(tmp_path / "videos_val/abseiling/aaaaaaaaaaa_000000_000010.mp4", seed=1)
    make_video(tmp_path / "videos_val/abseiling/ccccccccccc_000000_000010.mp4", seed=2)
    shutil.copy(
        tmp_path / "videos_val/abseiling/ccccccccccc_000000_000010.mp4",
        tmp_path / "videos_val/abseiling/ddddddddddd_000000_000010.mp4",
    )
    (tmp_path / "videos_val/abseiling/eeeeeeeeeee_000000_000010.mp4").write_bytes(b"<html>404</html>")
    make_video(tmp_path / "videos_val/air_drumming/fffffffffff_000000_000010.mp4", seed=3)
    make_video(tmp_path / "videos_val/air_drumming/ggggggggggg_000000_000010.mp4", seed=4)
    make_video(tmp_path / "videos_train/abseiling/ggggggggggg_000020_000030.mp4", seed=5)
    shutil.copytree(tmp_path / "videos_val/air_drumming", tmp_path / "videos_train/air_drumming")
    names = ["aaaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc", "ddddddddddd", "eeeeeeeeeee"]
    rows = [Sample(f"abseiling/{name}_000000_000010.mp4", 0) for name in names]
    rows.append(Sample("air_drumming/fffffffffff_000000_000010.mp4", 400))
    rows.append(Sample("air_drumming/ggggggggggg_000000_000010.mp4", 0))
    write_list(tmp_path / "kinetics400_val_list_videos.txt", [*rows, rows[0]], "videos")
    train = [Sample("abseiling/ggggggggggg_000020_000030.mp4", 0)]
    train.append(Sample("air_drumming/fffffffffff_000000_000010.mp4", 1))
    write_list(tmp_path / "kinetics400_train_list_videos.txt", train, "videos")
    return tmp_path


def test_audit_finds_every_kind_of_trouble(kinetics):
    report = quiet(audit, "k400", kinetics)
    assert not report.ok and (report.listed, report.official) == (7, 19796)
    assert report.missing == ["abseiling/bbbbbbbbbbb_000000_000010.mp4"]
    ((path, reason),) = report.unreadable
    assert path == "abseiling/eeeeeeeeeee_000000_000010.mp4" and reason
    assert report.duplicates == [
        ["abseiling/aaaaaaaaaaa_000000_000010.mp4", "listed 2 times"],
        ["abseiling/ccccccccccc_000000_000010.mp4", "abseiling/ddddddddddd_000000_000010.mp4"],
    ]
    assert report.shared == [
        ("air_drumming/fffffffffff_000000_000010.mp4", "train", "content"),
        ("air_drumming/fffffffffff_000000_000010.mp4", "train", "source video"),
        ("air_drumming/ggggggggggg_000000_000010.mp4", "train", "source video"),
    ]
    assert report.mislabelled == [
        ("air_drumming/fffffffffff_000000_000010.mp4", "label 400 is outside 0..399"),
        ("air_drumming/ggggggggggg_000000_000010.mp4", "is in the folder of class 1, but has label 0"),
    ]
    text = str(report)
    for words in ("7 videos", "19796 are published", "missing: 1", "unreadable: 1", "wrongly labelled: 2"):
        assert words in text
    assert json.loads(report.to_json())["missing"] == report.missing


def test_audit_of_a_sound_split_is_ok(ucf):
    (ucf / "annotations/testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\nYoYo/v_YoYo_g01_c01.avi\n")
    report = quiet(audit, "ucf101", ucf)
    assert not any([report.missing, report.unreadable, report.duplicates, report.shared, report.mislabelled])
    assert report.official == 3783 and not report.ok  # two videos are not the published split
    report.official = 2
    assert report.ok and "as published" in str(report)


def test_audit_of_raw_frames_counts_them(tmp_path):
    for shade, name in enumerate(("a", "b", "c")):
        make_frames(tmp_path / "rawframes" / name, 4, "img_{:05d}.jpg", shade=60 * shade)
    shutil.copytree(tmp_path / "rawframes/a", tmp_path / "rawframes/d")
    (tmp_path / "jester_val_list_rawframes.txt").write_text("a 4 0\nb 5 1\nc 3 2\nd 4 0\n")
    report = quiet(audit, "jester", tmp_path)
    assert report.unreadable == [("b", "the list names frames up to 5, but it has 4.")]
    assert report.duplicates == [["a", "d"]]


# Command line --------------------------------------------------------------------------------------------------------


def run(*words):
    parser = argparse.ArgumentParser()
    add_data_commands(parser.add_subparsers(required=True))
    args = parser.parse_args(["data", *map(str, words)])
    return args.run(args)


def test_commands(ucf, capsys):
    assert run("prepare", "ucf101", "--root", ucf, "--split", "val", "--short-side", 32, "--workers", 1) == 1
    assert "cannot be read" in capsys.readouterr().out
    assert run("prepare", "ucf101", "--root", ucf, "--json") == 0
    reports = json.loads(capsys.readouterr().out)
    assert [report["listed"] for report in reports] == [1, 3]
    assert run("audit", "ucf101", "--root", ucf, "--workers", 2, "--out", ucf / "audit.json") == 1
    assert "unreadable: 1" in capsys.readouterr().out
    assert json.loads((ucf / "audit.json").read_text())["unreadable"][0][0] == "YoYo/v_YoYo_g03_c01.avi"
