"""The camera-motion data set: labels are true, splits share nothing, and the same seed makes the same clips."""

import csv
import json
import tomllib
from collections import Counter
from importlib import metadata
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from videozoo import cli
from videozoo.data import camera_motion, open_video, pictures, virtual_camera
from videozoo.data.camera_clips import Clip, film, write_clip
from videozoo.data.camera_motion import make_camera_motion, plan_clips
from videozoo.data.folders import load_folder
from videozoo.data.pictures import Picture, package_pictures, user_pictures
from videozoo.data.virtual_camera import MOTIONS, CameraPath, render, sample_views

OPPOSITE = dict(zip(MOTIONS[1::2] + MOTIONS[2::2], MOTIONS[2::2] + MOTIONS[1::2], strict=True))


def scenery(seed, size=(320, 240)):
    """A picture with detail of all sizes in all directions, uint8 `(H, W, 3)`."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size[1], size[0], 3))
    for cells in (4, 8, 16, 32, 64):
        layer = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        total += np.asarray(layer.resize(size, Image.Resampling.BICUBIC), float)
    total -= total.mean()
    return (128 + total / total.std() * 50).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A folder of pictures, some for each split."""
    folder = tmp_path_factory.mktemp("album")
    for number in range(12):
        Image.fromarray(scenery(number)).save(folder / f"picture{number}.png")
    assert Counter(p.split for p in user_pictures(folder)).keys() == {"train", "val", "test"}
    return folder


def made(folder, album, **options):
    options = {"clips": {"train": 2, "val": 1, "test": 1}, "pictures": album, "workers": 1, **options}
    return make_camera_motion(folder, **options)


def clips_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.mp4")}


def measured(frames):
    """Pan (frame widths a frame, right), tilt (frame heights, down), zoom (out) and roll (clockwise) of the camera.

    Mean over neighbouring frames of the least-squares solution of brightness constancy for a similarity.
    """
    grey = torch.from_numpy(frames).float().mean(-1)[:, None]
    grey = torch.nn.functional.interpolate(grey, size=(48, 64), mode="bilinear", antialias=True)
    blur = torch.ones(1, 1, 5, 5) / 25
    grey = torch.nn.functional.conv2d(grey, blur)[:, 0].double().numpy()
    y, x = np.mgrid[: grey.shape[1], : grey.shape[2]].astype(float)
    x, y = x - x.mean(), y - y.mean()
    total = np.zeros(4)
    for before, after in zip(grey[:-1], grey[1:], strict=True):
        dy, dx = np.gradient((before + after) / 2)
        columns = np.stack([dx, dy, dx * x + dy * y, dy * x - dx * y], -1).reshape(-1, 4)
        total += np.linalg.lstsq(columns, -(after - before).ravel(), rcond=None)[0]
    return -total / (len(grey) - 1) / (64, 48, 1, 1)


def named(motion):
    """The class of what `measured` found, with a camera of 25 frames a second."""
    kinds = [("pan left", "pan right"), ("tilt up", "tilt down"), ("zoom in", "zoom out")]
    kinds.append(("roll counterclockwise", "roll clockwise"))
    strength = np.abs(motion) * 25 / (0.05, 0.05, 0.1, 0.1)
    kind = int(strength.argmax())
    return "static" if strength[kind] < 0.7 else kinds[kind][int(motion[kind] > 0)]


def clip_of(motion, seed, **changes):
    speed = 0.0 if motion == "static" else 0.2 if motion.split()[0] in ("pan", "tilt") else 0.35
    facts = {"file": "", "split": "test", "motion": motion, "picture": "", "speed": speed, "fps": 25.0, "frames": 26}
    facts |= {"width": 128, "height": 96, "plays": False, "objects": 0, "seed": (seed,)}
    return Clip(**facts | changes)


# Labels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("motion", MOTIONS)
def test_clips_show_the_motion_that_their_class_names(motion, album, tmp_path):
    picture, *others = user_pictures(album)
    for seed in range(4):
        frames = film(clip_of(motion, seed), picture, others)
        assert frames.shape == (26, 96, 128, 3)
        assert named(measured(frames)) == motion, seed
    write_clip(frames, tmp_path / "clip.mp4", 25.0, crf=30)
    with open_video(tmp_path / "clip.mp4") as video:
        assert (len(video), video.width, video.height, video.fps) == (26, 128, 96, 25.0)
        assert named(measured(video.get(range(26)))) == motion


def test_the_measure_of_these_tests_has_the_signs_that_are_documented():
    picture = scenery(3)
    right = np.stack([picture[60:156, 60 + step : 188 + step] for step in range(4)])  # the window goes right
    down = np.stack([picture[60 + step : 156 + step, 60:188] for step in range(4)])
    assert measured(right)[0] == pytest.approx(1 / 128, rel=0.1)
    assert measured(down)[1] == pytest.approx(1 / 96, rel=0.1)
    turned = [Image.fromarray(picture).rotate(angle, Image.Resampling.BICUBIC) for angle in range(4)]  # content, ccw
    assert measured(np.stack(turned)[:, 40:-40, 40:-40])[3] == pytest.approx(np.pi / 180, rel=0.15)
    grown = [Image.fromarray(picture).resize((320 + 16 * step, 240 + 12 * step)) for step in range(3)]
    centre = np.stack([np.asarray(g)[g.height // 2 - 48 :, g.width // 2 - 64 :][:96, :128] for g in grown])
    assert measured(centre)[2] == pytest.approx(-0.05, rel=0.15)


def test_render_agrees_with_the_geometry():
    y, x = np.mgrid[:200, :300] + 0.5

    def scene(x, y):
        return 128 + 60 * np.sin(x / 9 + y / 17) + 50 * np.cos(y / 8 - x / 21)

    picture = np.repeat(scene(x, y)[..., None], 3, -1).round().astype(np.uint8)
    path = CameraPath(np.array([0, 12.5]), np.array([0, -6.0]), np.array([1, 0.8]), np.array([0, 0.3]))
    frames = render(picture, path, (80, 60), scale=1.25, angle=-0.1)
    v, u = np.mgrid[:60, :80] + 0.5 - np.array([30, 40])[:, None, None]
    for frame, shift, size, angle in zip(frames, [(0, 0), (12.5, -6)], (1, 0.8), (0, 0.3), strict=True):
        cos, sin = np.cos(angle), np.sin(angle)
        across, down = shift[0] + size * (cos * u - sin * v), shift[1] + size * (sin * u + cos * v)
        cos, sin = np.cos(-0.1), np.sin(-0.1)
        expected = scene(150 + 1.25 * (cos * across - sin * down), 100 + 1.25 * (sin * across + cos * down))
        assert np.abs(frame[..., 0] - expected).max() < 6
        assert np.abs(frame[..., 0] - expected).mean() < 1.5


def test_what_is_far_away_does_not_alias():
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 1), np.uint8).repeat(3, -1)
    sizes = np.array([1.0, 2.0, 5.0, 8.0])
    path = CameraPath(np.zeros(4), np.zeros(4), sizes, np.zeros(4))
    seen = sample_views(torch.from_numpy(noise), path.views(1.0, (300.0, 300.0)), (60, 60))[:, 0]
    for frame, size in zip(seen, sizes, strict=True):
        assert frame.std() <= noise.std() / size * 1.3
        assert frame.mean() == pytest.approx(127.5, abs=8)


def test_shake_stays_below_the_slowest_motion():
    times = np.arange(64) / 30
    for seed in range(20):
        rng = np.random.default_rng(seed)
        path = virtual_camera.camera_path("static", times, 0.0, (160, 120), rng, shake=0.003)
        assert np.abs([path.x, path.y]).max() <= 0.003 * 120
        assert np.abs([np.log(path.size), path.angle]).max() <= 0.003


def test_things_in_front_cover_a_part_and_move_by_themselves(album, monkeypatch):
    monkeypatch.setattr("videozoo.data.camera_clips._develop", lambda frames, fps, rng: frames)
    picture, *others = user_pictures(album)
    moved = 0
    for seed in range(6):
        clear = film(clip_of("static", seed), picture, others).astype(int)
        covered = (np.abs(film(clip_of("static", seed, objects=1), picture, others) - clear) > 20).any(-1)
        assert covered.mean((1, 2)).max() < 0.25
        moved += (covered[0] != covered[-1]).mean() > 0.02
    assert moved >= 2


def test_a_video_goes_on_while_the_camera_stands_still(album, monkeypatch):
    playing = np.stack([scenery(1) // 2 + 20 * (number % 5) for number in range(10)]).astype(np.uint8)
    still = Picture("still", "test", "", str(next(album.glob("*.png"))), "")
    video = Picture("video", "test", "", "nowhere", "", "", (0, 10))
    read = pictures.read_picture
    monkeypatch.setattr("videozoo.data.camera_clips.read_picture", lambda p: playing if p is video else read(p))
    brightness = film(clip_of("static", 5, plays=True), video, [still]).mean((1, 2, 3))
    frozen = film(clip_of("static", 5), video, [still]).mean((1, 2, 3))
    assert np.ptp(brightness) > 20 > np.ptp(frozen)


# Splits --------------------------------------------------------------------------------------------------------------


def test_splits_share_no_picture():
    table = package_pictures()
    assert len({picture.name for picture in table}) == len(table)
    used = {}
    for picture in table:
        for number in range(*picture.frames) if picture.frames[1] else (0,):
            assert used.setdefault((picture.file, number), picture) is picture
    assert not any("motorcycle_right" in picture.file for picture in table)
    count = Counter(picture.split for picture in table)
    assert count["train"] >= 25
    assert count["val"] >= 5
    assert count["test"] >= 8
    assert all(picture.licence for picture in table)


def test_every_package_of_the_table_is_in_the_extra():
    wanted = {picture.package.lower() for picture in package_pictures()}
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert wanted == {line.partition(">")[0].lower() for line in project["optional-dependencies"]["pictures"]}


def test_own_pictures_are_split_by_their_names(album, tmp_path):
    before = {picture.name: picture.split for picture in user_pictures(album)}
    for name in list(before)[:5]:
        (tmp_path / "deeper").mkdir(exist_ok=True)
        (tmp_path / "deeper" / name).write_bytes((album / name).read_bytes())
    after = {picture.name: picture.split for picture in user_pictures(tmp_path)}
    assert after == {f"deeper/{name}": before[name] for name in list(before)[:5]}


def test_pictures_say_nothing_about_the_class(album):
    sizes = {picture: (320, 240) for picture in user_pictures(album)}
    count = sum(picture.split == "train" for picture in sizes)
    clips = plan_clips("train", 2 * count, sizes, 7)
    for motion in MOTIONS:
        assert set(Counter(clip.picture for clip in clips if clip.motion == motion).values()) == {2}
    assert {clip.split for clip in clips} == {"train"}
    assert all(clip.width % 2 == clip.height % 2 == 0 for clip in clips)


# Files ---------------------------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_clips_whatever_is_made_beside_them(album, tmp_path):
    made(tmp_path / "a", album)
    made(tmp_path / "b", album, clips={"test": 1}, workers=2)
    made(tmp_path / "c", album, clips={"test": 1}, seed=1)
    a, b, c = (clips_below(tmp_path / name) for name in "abc")
    assert len(a) == 9 * 4
    assert b == {name: content for name, content in a.items() if name.startswith("test/")}
    assert all(content != b[name] for name, content in c.items())


def test_going_on_makes_what_is_missing_and_keeps_the_rest(album, tmp_path):
    made(tmp_path, album, clips={"train": 1})
    first = clips_below(tmp_path)
    gone, kept = sorted(first)[:2]
    (tmp_path / gone).unlink()
    (tmp_path / kept).write_bytes(b"finished")
    made(tmp_path, album, clips={"train": 1, "val": 1})
    assert (tmp_path / gone).read_bytes() == first[gone]
    assert (tmp_path / kept).read_bytes() == b"finished"
    with open(tmp_path / "camera_motion.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == sorted(clips_below(tmp_path))
    assert {row["class"] for row in rows} == set(MOTIONS)
    with pytest.raises(ValueError, match="another seed or other pictures"):
        made(tmp_path, album, clips={"train": 1}, seed=3)


def test_a_clip_that_fails_leaves_no_file(album, tmp_path, monkeypatch):
    convert, left = av.VideoFrame.from_ndarray, iter(range(70))

    def fails(image, **options):
        if next(left, None) is None:
            assert list(tmp_path.iterdir())
            raise OSError("no space left")
        return convert(image, **options)

    monkeypatch.setattr(av.VideoFrame, "from_ndarray", fails)
    with pytest.raises(OSError, match="no space left"):
        write_clip(np.zeros((80, 32, 32, 3), np.uint8), tmp_path / "clip.mp4", 25.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_coarser_clips_are_smaller(codec, tmp_path):
    frames = np.stack([scenery(step, (128, 96)) for step in range(4)])
    write_clip(frames, tmp_path / "fine.mp4", 29.97, crf=18, codec=codec)
    write_clip(frames, tmp_path / "coarse.mp4", 29.97, crf=38, codec=codec)
    assert (tmp_path / "coarse.mp4").stat().st_size < 0.7 * (tmp_path / "fine.mp4").stat().st_size
    with open_video(tmp_path / "fine.mp4") as video:
        assert video.fps == pytest.approx(29.97, abs=1e-3)
        assert np.abs(video.get(range(4)).mean(-1) - frames.mean(-1)).mean() < 8


# Command line --------------------------------------------------------------------------------------------------------


def test_command_makes_what_training_reads(album, tmp_path, capsys):
    options = ["--clips", "2", "--val", "1", "--test", "1", "--pictures", str(album), "--workers", "1", "--json"]
    assert cli.main(["data", "camera-motion", str(tmp_path), *options]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == {"train": 18, "val": 9, "test": 9}
    dataset = load_folder(tmp_path, "train")
    assert len(dataset) == 18
    assert [name.replace("_", " ") for name in dataset.class_names] == sorted(MOTIONS)
    with open_video(dataset.path(0)) as video:
        assert video.get([0]).shape[-1] == 3
    readme = (tmp_path / "README.txt").read_text()
    assert all(picture.name in readme for picture in user_pictures(album))


def test_command_makes_one_split_alone(album, tmp_path, capsys):
    options = ["--test", "1", "--pictures", str(album), "--workers", "1", "--splits", "test"]
    assert cli.main(["data", "camera-motion", str(tmp_path), *options]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 9 test clips\n"
    assert not (tmp_path / "train").exists()


def fails(capsys, *argv):
    assert cli.main(["data", "camera-motion", *map(str, argv), "--workers", "1"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1, message
    return message


def test_missing_packages_are_told_with_the_extra_that_has_them(tmp_path, capsys, monkeypatch):
    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", nothing)
    pictures._find.cache_clear()
    message = fails(capsys, tmp_path / "out")
    assert "scikit-image" in message
    assert "videozoo[pictures]" in message
    assert not (tmp_path / "out").exists()


def test_a_package_that_has_lost_a_picture_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(metadata, "files", lambda name: [])
    monkeypatch.setattr(metadata, "version", lambda name: "9.9")
    pictures._find.cache_clear()
    message = fails(capsys, tmp_path / "out")
    assert "scikit-image 9.9 has no skimage/data/" in message


def test_pictures_that_do_not_do_are_told(album, tmp_path, capsys):
    assert "is no folder with pictures" in fails(capsys, tmp_path / "out", "--pictures", tmp_path / "none")
    own = tmp_path / "own"
    own.mkdir()
    (own / "broken.jpg").write_bytes(b"not a picture")
    assert "broken.jpg cannot be read as a picture" in fails(capsys, tmp_path / "out", "--pictures", own)
    Image.fromarray(scenery(0, (90, 60))).save(own / "broken.jpg")
    assert "90x60" in fails(capsys, tmp_path / "out", "--pictures", own)
    Image.fromarray(scenery(0)).save(own / "broken.jpg")
    assert "none of which falls to" in fails(capsys, tmp_path / "out", "--pictures", own)
    whole = (album / "picture1.png").read_bytes()
    split = user_pictures(own)[0].split
    (own / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    counts = ("--clips", 1, "--val", 1, "--test", 1)
    message = fails(capsys, tmp_path / "out", "--pictures", own, "--splits", split, *counts)
    assert "broken.jpg cannot be read as a picture" in message
    assert not list((tmp_path / "out").rglob("*.mp4"))


def test_planning_reads_no_model():
    assert camera_motion.CLIPS.keys() == set(pictures.SPLITS)
    assert {motion for pair in camera_motion.MIRRORED for motion in pair} < set(MOTIONS)
    assert all(OPPOSITE[left] == right for left, right in camera_motion.MIRRORED)
