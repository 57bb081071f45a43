"""The way of training data: folders and lists of one's own, augmented clips, batches, leaks, and their evaluation."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import videozoo
from videozoo import catalog
from videozoo.cli import main
from videozoo.data import create_transform, load_dataset
from videozoo.data.annotations import AnnotationError, Sample
from videozoo.data.datasets import Dataset
from videozoo.data.folders import has_split, hold_out, load_folder, mirrored_classes
from videozoo.data.leaks import find_leaks, source_name
from videozoo.training.clips import ClipBatches, TrainingClips, collate, training_loader

SMALL = {"size": 32, "resize": 40, "num_frames": 4, "stride": 2}


def moving_picture(seed: int, count: int = 12) -> np.ndarray:
    random = np.random.RandomState(seed)
    cells = random.randint(0, 256, (1, 6, 8, 3)) + random.randint(-60, 61, (count, 6, 8, 3))
    return np.kron(np.clip(cells, 0, 255), np.ones((1, 6, 6, 1))).astype(np.uint8)


def write_video(path: Path, seed: int, sound: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 36, "yuv420p"
        track = container.add_stream("pcm_s16le", rate=16000, layout="mono") if sound else None
        for picture in moving_picture(seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
        if track is not None:
            noise = np.random.RandomState(seed).randint(-9999, 9999, (1, 19200)).astype(np.int16)
            samples = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
            samples.sample_rate = 16000
            container.mux(track.encode(samples))
            container.mux(track.encode())
    return path


def write_frames(folder: Path, seed: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for number, picture in enumerate(moving_picture(seed, 6), 1):
        Image.fromarray(picture).save(folder / f"img_{number:05d}.png")


def write_list(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Twelve training videos in three classes and two validation videos in each of two."""
    root = tmp_path_factory.mktemp("data") / "gestures"
    for number in range(12):
        write_video(root / "train" / ("wave", "bow", "pan left")[number % 3] / f"v{number:02}.mp4", number)
    for number in range(4):
        write_video(root / "validation" / ("wave", "bow")[number % 2] / f"w{number}.mp4", 100 + number)
    return root


@pytest.fixture
def root(made, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "gestures"))


@pytest.fixture(scope="module")
def train(made):
    return load_folder(made)


@pytest.fixture
def transform():
    return create_transform(
        is_training=True, **SMALL, rand_augment=(2, 9), erasing=0.5, color_jitter=(0.3, 0.3, 0.3, 0)
    )


def same(one, other) -> bool:
    return torch.equal(one.frames, other.frames) and torch.equal(one.target, other.target)


# Folders and lists of one's own --------------------------------------------------------------------------------------


def test_classes_are_the_folders_of_the_training_split_in_order(made, train):
    assert (train.name, train.split, train.class_names) == ("gestures", "train", ["bow", "pan left", "wave"])
    assert (len(train), train.num_classes, train.metrics[0]) == (12, 3, "top_k_accuracy")
    assert Counter(train.labels.tolist()) == {0: 4, 1: 4, 2: 4}
    val = load_folder(made, "val")
    assert val.class_names == train.class_names and val.split == "val" and val.root == made / "validation"
    assert {(sample.path, sample.label) for sample in val} >= {("bow/w1.mp4", 0), ("wave/w0.mp4", 2)}
    assert load_folder(made, "valid").samples == val.samples
    with val.open(0) as video:
        assert len(video) == 12


def test_names_given_decide_the_order_and_folders_beyond_them_are_an_error(root):
    names = ["wave", "pan left", "bow"]
    assert {sample.label for sample in load_folder(root, "val", class_names=names)} == {0, 2}
    (root / "validation" / "jump").mkdir()
    with pytest.raises(AnnotationError, match="'jump' is no class of the training data, which are wave, pan left, bow"):
        load_folder(root, "val", class_names=names)


def test_what_a_missing_split_needs_is_said(root):
    with pytest.raises(FileNotFoundError, match=r"no split 'test': make a folder .*/test \(or testing\) with a folder"):
        load_folder(root, "test")
    assert has_split(root, "val") and not has_split(root, "test")
    shutil.rmtree(root / "train")
    with pytest.raises(FileNotFoundError, match="in what order the classes are: give class_names"):
        load_folder(root, "val")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load_folder(root / "nothing")


def test_empty_classes_count_and_hidden_folders_do_not(root):
    for name in ("anything", ".ipynb_checkpoints", "__MACOSX"):
        (root / "train" / name).mkdir()
    assert load_folder(root).class_names == ["anything", "bow", "pan left", "wave"]


def test_folders_of_frames_are_videos_too(tmp_path):
    write_frames(tmp_path / "train" / "a" / "one", 1)
    write_frames(tmp_path / "train" / "b" / "two", 2)
    dataset = load_folder(tmp_path)
    assert dataset.kind == "rawframes" and [s.path for s in dataset] == ["a/one", "b/two"]
    with dataset.open(1) as video:
        assert np.array_equal(video.get([3])[0], moving_picture(2, 6)[3])


def test_lists_with_and_without_names(root):
    lines = ["wave/v00.mp4 2", "bow/v01.mp4 0"]
    listed = root / "lists"
    write_list(listed / "train.txt", *lines)
    write_list(listed / "val_list.txt", "wave/w0.mp4 0")
    train, val = (load_folder(root, split, annotations=listed) for split in ("train", "val"))
    assert train.class_names == val.class_names == ["0", "1", "2"] and val.root == root / "validation"
    assert [sample.label for sample in train] == [2, 0]
    pattern = load_folder(root, annotations=listed / "{split}.txt")
    assert pattern.samples == train.samples and pattern.source == listed / "train.txt"
    write_list(listed / "classes.txt", "bow", "pan left", "wave")
    assert load_folder(root, "val", annotations=listed).class_names == ["bow", "pan left", "wave"]
    with pytest.raises(AnnotationError, match=r"classes.txt has other classes, or in another order, than wave"):
        load_folder(root, "val", annotations=listed, class_names=["wave", "bow", "pan left"])
    write_list(listed / "train.txt", *lines, "wave/v03.mp4 7")
    with pytest.raises(AnnotationError, match="1 of 3 labels are none of gestures.*outside 0..2"):
        load_folder(root, annotations=listed)


def test_lists_of_several_labels_and_of_frames(tmp_path):
    write_video(tmp_path / "videos" / "a.mp4", 1)
    write_list(tmp_path / "train.txt", "a.mp4 0 2", "b.mp4 1")
    dataset = load_folder(tmp_path, multi_label=True)
    assert dataset.labels.tolist() == [[1, 0, 1], [0, 1, 0]] and dataset.metrics == ("mean_average_precision",)
    write_frames(tmp_path / "rawframes" / "folder", 2)
    write_list(tmp_path / "annotations" / "frames_val_list_rawframes.txt", "folder 5 1")
    val = load_folder(tmp_path, "val", class_names=["x", "y", "z"])
    assert (val.kind, val[0].num_frames, val.root) == ("rawframes", 5, tmp_path / "rawframes")
    with val.open(0) as video:
        assert len(video) == 5


def test_a_list_for_validation_alone_asks_for_the_classes(tmp_path):
    write_list(tmp_path / "val.txt", "a.mp4 1")
    write_video(tmp_path / "a.mp4", 1)
    with pytest.raises(
        FileNotFoundError, match="how many classes .* is not known: write their names into .*classes.txt"
    ):
        load_folder(tmp_path, "val")


def test_mirrored_classes_by_name_are_those_of_the_catalog():
    """The pairs of the published training (2 4, 30 41, 52 66 of Something-Something V1), and no others anywhere."""
    rows = catalog.datasets()
    for name in catalog.label_lists():
        found = {frozenset(pair) for pair in mirrored_classes(catalog.labels(name))}
        assert found == {frozenset(pair) for pair in rows.get(name, {}).get("mirrored", ())}, name
    labels = catalog.labels("ssv1")
    pairs = {frozenset(map(labels.index, pair)) for pair in rows["ssv1"]["mirrored"]}
    assert pairs == {frozenset(pair) for pair in ((2, 4), (30, 41), (52, 66))}
    turns = mirrored_classes(["roll clockwise", "roll counter-clockwise", "Left arm", "Right arm", "right", "bright"])
    assert turns == (("roll clockwise", "roll counter-clockwise"), ("Left arm", "Right arm"))


def test_hold_out_takes_a_share_of_each_class_and_keeps_sources_together():
    samples = [Sample(f"a/{number}.mp4", 0) for number in range(10)] + [Sample("b/alone.mp4", 1)]
    samples += [Sample(f"c/v_Jump_g{group:02}_c0{clip}.avi", 2) for group in range(5) for clip in range(4)]
    dataset = Dataset("mine", "train", samples, Path("/data"), class_names=["a", "b", "c"], num_classes=3)
    train, val = hold_out(dataset, 0.2, seed=5)
    assert Counter(sample.label for sample in val) == {0: 2, 2: 4} and val.split == "val"
    assert sorted(s.path for s in (*train, *val)) == sorted(s.path for s in samples)
    assert len({source_name(sample.path) for sample in val if sample.label == 2}) == 1
    assert hold_out(dataset, 0.2, seed=5)[1].samples == val.samples != hold_out(dataset, 0.2, seed=6)[1].samples
    with pytest.raises(ValueError, match="between 0 and 1"):
        hold_out(dataset, 1)
    with pytest.raises(ValueError, match="no class .* has two videos"):
        hold_out(Dataset("mine", "train", samples[10:11], Path("/data")))


# Augmentation --------------------------------------------------------------------------------------------------------


def test_a_training_clip_is_what_normalising_makes_the_input(train, transform):
    frames, mirrored = transform.training_clip(train.path(0), np.random.default_rng(3))
    assert frames.dtype == torch.uint8 and frames.shape == (4, 32, 32, 3) and isinstance(mirrored, bool)
    assert torch.equal(transform.normalize(frames[None])[0], transform(train.path(0), np.random.default_rng(3)))
    with pytest.raises(ValueError, match="is_training=True"):
        create_transform(**SMALL).training_clip(train.path(0))


@pytest.mark.parametrize("change", [{"rand_augment": (3, 15)}, {"erasing": 1.0}])
def test_augmentation_is_one_draw_for_all_frames(change):
    picture = np.repeat(moving_picture(1, 1), 4, axis=0)
    plain = {"train_crop": "center", "hflip": 0, **SMALL}
    before = create_transform(is_training=True, **plain).training_clip(picture, np.random.default_rng(0))[0]
    state = torch.get_rng_state()
    transform = create_transform(is_training=True, **plain, **change)
    clips = [transform.training_clip(picture, np.random.default_rng(seed))[0] for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(clips[0], clips[1]) and not torch.equal(clips[0], clips[2])
    changed = (clips[0] != before).any(-1)
    if "erasing" in change:  # noise in the box, the box in all frames
        rows, columns = changed.any(0).any(1).nonzero(), changed.any(0).any(0).nonzero()
        area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert 0.01 < area / 32**2 < 0.4 and changed.any(0).sum() > 0.97 * area
        assert all(frame.sum() > 0.9 * area for frame in changed)
    else:
        assert changed.any() and all(torch.equal(frame, clips[0][0]) for frame in clips[0])


def test_erasing_and_random_operations_are_off_unless_asked_for():
    config = create_transform(videozoo.get_pretrained_cfg("tsn_r50_k400"), is_training=True).config
    assert (config["rand_augment"], config["erasing"], config["flip_labels"]) == (None, 0.0, None)
    with pytest.raises(ValueError, match="rand_augment .* flow"):
        create_transform(videozoo.get_pretrained_cfg("tsn_r50_f3_k400_flow"), is_training=True, rand_augment=(2, 9))
    for wrong in (9, (2, 31), (0, 9), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"must be \(operations from 1 on, magnitude of 0..30\)"):
            create_transform(is_training=True, rand_augment=wrong)


# Training clips ------------------------------------------------------------------------------------------------------


def test_a_clip_is_a_function_of_its_key(train, transform):
    clips = TrainingClips(train, transform, seed=1)
    first = clips[0, 3, 0]
    torch.manual_seed(99)
    assert same(TrainingClips(train, transform, seed=1)[0, 3, 0], first) and first.number == 3 and first.target == 0
    for key in ((1, 3, 0), (0, 3, 1), (0, 6, 0)):
        assert not torch.equal(clips[key].frames, first.frames)
    assert not torch.equal(TrainingClips(train, transform, seed=2)[0, 3, 0].frames, first.frames)


def test_workers_see_what_the_process_itself_sees_and_live_on(train, transform):
    clips = TrainingClips(train, transform, seed=1)
    batches = ClipBatches(train, 4, seed=1)
    state = torch.get_rng_state()
    loaders = [training_loader(clips, batches, workers) for workers in (0, 2)]
    for epoch, start in ((0, 0), (1, 2)):
        batches.epoch, batches.start = epoch, start
        alone, shared = (list(loader) for loader in loaders)
        assert [batch.numbers for batch in alone] == [batch.numbers for batch in shared] and len(alone) == 3 - start
        assert all(torch.equal(a.frames, b.frames) for a, b in zip(alone, shared, strict=True))
        assert (
            alone[0].frames.shape == (4, 4, 32, 32, 3) and alone[0].targets.dtype == torch.int64 and len(alone[0]) == 4
        )
    assert torch.equal(torch.get_rng_state(), state)


def test_an_epoch_that_was_not_finished_leaves_nothing_behind(train, transform):
    clips, batches = TrainingClips(train, transform), ClipBatches(train, 2)
    loader = training_loader(clips, batches, 1)
    assert next(iter(loader)).numbers == [number for _, number, _ in next(iter(batches))]
    batches.epoch = 1
    expected = [[number for _, number, _ in keys] for keys in batches]
    assert [batch.numbers for batch in loader] == expected


STOPS = """
import sys
from videozoo.data import create_transform
from videozoo.data.folders import load_folder
from videozoo.training.clips import ClipBatches, TrainingClips, training_loader
dataset = load_folder(sys.argv[1])
clips = TrainingClips(dataset, create_transform(is_training=True, size=32, num_frames=4, stride=1))
loader = training_loader(clips, ClipBatches(dataset, 2), 1)
print(len(next(iter(loader))))
"""


def test_a_process_ends_with_its_workers(made):
    environment = os.environ | {"PYTHONPATH": str(Path(videozoo.__file__).parent.parent)}
    command = [sys.executable, "-c", STOPS, made]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "2\n", "")


def test_workers_decode_with_one_thread_each(train, transform, monkeypatch):
    original = Dataset.open
    for workers, threads in ((0, 0), (1, 1)):

        def opened(self, number, *, num_threads=0, expected=threads):
            if num_threads != expected:
                raise OSError(f"{num_threads} threads")
            return original(self, number, num_threads=num_threads)

        monkeypatch.setattr(Dataset, "open", opened)
        loader = training_loader(TrainingClips(train, transform), ClipBatches(train, 2), workers)
        assert [batch.unread for batch in loader] == [{}] * 6


def test_videos_that_cannot_be_read_are_replaced_and_reported(root, transform):
    (root / "train" / "wave" / "v00.mp4").write_bytes(b"no video")
    (root / "train" / "wave" / "v03.mp4").unlink()
    dataset = load_folder(root)
    dataset.samples.append(Sample("wave/v03.mp4", 2))
    broken = [n for n, sample in enumerate(dataset) if sample.path in ("wave/v00.mp4", "wave/v03.mp4")]
    clips = TrainingClips(dataset, transform, seed=4)
    shown = set()
    for epoch in range(6):
        batch = collate([clips[epoch, number, 0] for number in broken])
        assert batch.targets.tolist() == [2, 2] and not set(batch.numbers) & set(broken)
        assert {Path(path).name for path in batch.unread} == {"v00.mp4", "v03.mp4"}
        assert "no such file" in next(v for path, v in batch.unread.items() if "v03" in path)
        shown |= set(batch.numbers)
    assert len(shown) == 2  # all that are left of the class take part
    assert same(clips[0, broken[0], 0], clips[0, broken[0], 0])
    batch = next(iter(training_loader(clips, ClipBatches(dataset, len(dataset)), 1)))
    assert {Path(path).name for path in batch.unread} == {"v00.mp4", "v03.mp4"}


def test_a_class_or_a_data_set_without_readable_videos(root, transform):
    for path in (root / "train" / "wave").iterdir():
        path.write_bytes(b"no video")
    clips = TrainingClips(load_folder(root), transform)
    clip = clips[0, 11, 0]
    assert clips.dataset[11].label == 2 and clip.target in (0, 1) and len(clip.unread) >= 4
    for path in (root / "train").glob("*/*"):
        path.write_bytes(b"no video")
    with pytest.raises(ValueError, match="none of 12 videos of .*train can be read: check the data set"):
        TrainingClips(load_folder(root), transform)[0, 0, 0]


def test_mirrored_clips_get_the_label_of_their_mirror_image(root):
    shutil.copytree(root / "train" / "bow", root / "train" / "pan right")
    dataset = load_folder(root)
    left, right = map(dataset.class_names.index, ("pan left", "pan right"))
    mirror = create_transform(is_training=True, **SMALL, hflip=1.0)
    groups = dataset.by_class()

    def targets(**changes):
        clips = TrainingClips(dataset, create_transform(is_training=True, **(mirror.config | changes)))
        return [clips[0, groups[label][0], 0].target.item() for label in (left, right, 0)]

    assert targets() == [right, left, 0] and targets(hflip=0.0) == [left, right, 0]
    assert targets(flip_labels=()) == [left, right, 0]
    assert targets(flip_labels=[["bow", "Pan_Left"]]) == [0, right, left]
    assert targets(flip_labels=[[0, left]]) == [0, right, left]
    for wrong, message in (
        ([["bow", "cow"]], "'cow', which is no class of gestures"),
        ([[0, 9]], "9, which is no class"),
        ([[0, left], [0, right]], "each class in one pair only"),
    ):
        with pytest.raises(ValueError, match=message):
            targets(flip_labels=wrong)


def test_published_data_sets_bring_their_mirrored_classes(tmp_path):
    write_video(tmp_path / "videos" / "1.mp4", 1)
    write_list(tmp_path / "sthv1_train_list_videos.txt", "1.mp4 30")
    dataset = load_dataset("ssv1", tmp_path, split="train")

    def target(name, **changes):
        facts = videozoo.get_pretrained_cfg(name)
        transform = create_transform(facts, is_training=True, **SMALL, segments=1, **changes)
        return TrainingClips(dataset, transform)[0, 0, 0].target.item()

    assert target("tsm_r50_f8_ssv1.mma0_flip", hflip=1.0) == 41
    assert target("tsn_r50_f16_ssv1", hflip=1.0) == 30  # its published training left the labels as they were
    assert videozoo.get_pretrained_cfg("tsm_r50_f8_ssv1").train["hflip"] == 0


def test_several_labels_become_rows(root, transform):
    write_list(root / "train.txt", "train/wave/v00.mp4 0 2", "train/bow/v01.mp4 1")
    dataset = load_folder(root, annotations=root / "train.txt", multi_label=True)
    dataset.mirrored = (("0", "1"),)
    mirror = create_transform(is_training=True, **SMALL, hflip=1.0)
    batch = collate([TrainingClips(dataset, mirror)[0, number, 0] for number in (0, 1)])
    assert batch.targets.dtype == torch.float32 and batch.targets.tolist() == [[0, 1, 1], [1, 0, 0]]


def test_flow_and_sound_are_trained_on_too(made, tmp_path):
    fields = np.random.RandomState(0).randint(0, 256, (12, 36, 48, 2)).astype(np.uint8)
    write_flow_images(tmp_path / "train" / "a" / "one", fields)
    dataset = load_folder(tmp_path, modality="flow")
    facts = videozoo.get_pretrained_cfg("tsn_r50_f3_k400_flow")
    transform = create_transform(facts, is_training=True, size=32, resize=40)
    clip = TrainingClips(dataset, transform)[0, 0, 0]
    assert clip.frames.dtype == torch.uint8 and clip.frames.shape[1:] == (32, 32, 10)
    assert transform.normalize(collate([clip]).frames).shape[:2] == (1, 10)
    with pytest.raises(ValueError, match="opened as rgb"):
        TrainingClips(load_folder(made), transform)

    write_video(tmp_path / "sound" / "train" / "a" / "loud.mov", 1, sound=True)
    write_video(tmp_path / "sound" / "train" / "a" / "mute.mp4", 2)
    transform = create_transform(videozoo.get_pretrained_cfg("tsn_r18_k400_audio"), is_training=True)
    batch = collate([TrainingClips(load_folder(tmp_path / "sound"), transform)[0, number, 0] for number in (0, 1)])
    assert batch.frames.shape == (2, 1, 128, 80) and not batch.unread
    assert batch.frames[0].any() and not batch.frames[1].any()
    assert torch.equal(transform.normalize(batch.frames, "cpu"), batch.frames)


def write_flow_images(folder: Path, fields: np.ndarray) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for number, field in enumerate(fields, 1):
        for channel, name in enumerate("xy"):
            Image.fromarray(field[..., channel]).save(folder / f"{name}_{number:05d}.png")


def test_training_needs_videos_with_labels_and_a_training_transform(train, transform):
    with pytest.raises(ValueError, match="has no videos"):
        TrainingClips(Dataset("mine", "train", [], Path("/data")), transform)
    unlabelled = Dataset("mine", "train", [Sample("a.mp4", 0), Sample("b.mp4", -1)], Path("/data"), num_classes=1)
    with pytest.raises(ValueError, match="1 videos have no label, the first is b.mp4"):
        TrainingClips(unlabelled, transform)
    with pytest.raises(ValueError, match="is_training=True"):
        TrainingClips(train, create_transform(**SMALL))


# Batches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"repeats": 2}, {"class_balanced": True}])
def test_processes_see_together_what_one_sees(options):
    labels = [0] * 40 + [1] * 7
    alone = list(ClipBatches(labels, 8, seed=3, epoch=2, **options))
    parts = [list(ClipBatches(labels, 4, seed=3, epoch=2, rank=rank, world=2, **options)) for rank in (0, 1)]
    assert (
        len(alone)
        == len(parts[0])
        == len(parts[1])
        == len(ClipBatches(labels, 8, **options))
        == 47 // 8 + ("repeats" in options)
    )
    for whole, *shares in zip(alone, *parts, strict=True):
        assert [len(share) for share in shares] == [4, 4] and sorted(whole) == sorted(sum(shares, []))
    assert alone != list(ClipBatches(labels, 8, seed=3, epoch=3, **options))
    assert alone != list(ClipBatches(labels, 8, seed=4, epoch=2, **options))


def test_an_epoch_shows_each_video_once_and_drops_the_incomplete_batch():
    keys = [key for batch in ClipBatches([0] * 30, 4) for key in batch]
    assert len(keys) == len({number for _, number, _ in keys}) == 28


@pytest.mark.parametrize("options", [{}, {"repeats": 2}, {"class_balanced": True}])
def test_start_goes_on_where_a_run_stopped(options):
    whole = list(ClipBatches([0, 1] * 15, 4, epoch=1, **options))
    rest = ClipBatches([0, 1] * 15, 4, epoch=1, start=3, **options)
    assert list(rest) == whole[3:] and len(rest) == len(whole) - 3
    rest.start = 100
    assert list(rest) == [] and len(rest) == 0


def test_repeats_are_in_the_same_batch_with_keys_of_their_own():
    batches = list(ClipBatches(list(range(24)), 4, world=2, repeats=4))
    assert len(batches) == 3
    both = [list(ClipBatches(list(range(24)), 4, rank=rank, world=2, repeats=4)) for rank in (0, 1)]
    for first, second in zip(*both, strict=True):
        count = Counter(number for _, number, _ in first + second)
        assert list(count.values()) == [4, 4] and len(set(first + second)) == 8
    with pytest.raises(ValueError, match="a batch of 8 clips cannot hold 3 of each video"):
        ClipBatches(list(range(24)), 8, repeats=3)


def test_balanced_classes_are_equally_frequent():
    labels = [0] * 900 + [1] * 90 + [2] * 10
    keys = [
        key
        for epoch in range(3)
        for batch in ClipBatches(labels, 10, epoch=epoch, class_balanced=True)
        for key in batch
    ]
    count = Counter(labels[number] for _, number, _ in keys)
    assert len(keys) == 3000 and all(900 < count[label] < 1100 for label in range(3))
    assert len(set(keys)) == len(keys)  # a video drawn again is augmented anew
    several = [(0, 1), (0,), (0,), (0,), ()]
    drawn = Counter(
        n for e in range(200) for batch in ClipBatches(several, 5, epoch=e, class_balanced=True) for _, n, _ in batch
    )
    assert drawn[4] == 0 and 2 < drawn[0] / drawn[1] < 3  # (1/4 + 1) / 2 to 1/4


def test_too_few_videos_fill_one_batch_for_all_processes():
    parts = [list(ClipBatches([0] * 3, 4, rank=rank, world=2)) for rank in (0, 1)]
    assert [len(part) for part in parts] == [1, 1] and len(parts[0][0]) == len(parts[1][0]) == 4
    keys = parts[0][0] + parts[1][0]
    assert len(set(keys)) == 8 and set(Counter(number for _, number, _ in keys).values()) == {2, 3}


def test_batches_that_cannot_be_made():
    for options in ({"rank": 2, "world": 2}, {"rank": -1}):
        with pytest.raises(ValueError, match="which count from 0"):
            ClipBatches([0], 1, **options)
    with pytest.raises(ValueError, match="batches of 4 clips of 0 videos"):
        ClipBatches([], 4)


# Leaks ---------------------------------------------------------------------------------------------------------------


def dataset_of(root: Path, *paths: str) -> Dataset:
    return Dataset("mine", "train", [Sample(path, 0) for path in paths], root, class_names=["x"], num_classes=1)


def test_leaks_are_found_by_file_content_and_source(tmp_path):
    for name, content in {
        "t/one.mp4": b"1" * 300_000,
        "v/copy.mp4": b"1" * 300_000,
        "v/middle.mp4": b"1" * 150_000 + b"2" + b"1" * 149_999,
        "v/size.mp4": b"1" * 300_001,
        "t/two.mp4": b"22",
        "t/abcdefgh-_1_000010_000020.mp4": b"3",
        "v/abcdefgh-_1_000070_000080.mp4": b"44",
        "v/abcdefgh-_2_000010_000020.mp4": b"555",
        "t/v_Run_g01_c01.avi": b"6666",
        "v/v_Run_g01_c02.avi": b"77777",
        "v/v_Jump_g01_c02.avi": b"888888",
        "v/v_Run_g02_c01.avi": b"9999999",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    os.symlink(tmp_path / "t" / "two.mp4", tmp_path / "v" / "link.mp4")
    files = {side: sorted(f"{side}/{path.name}" for path in (tmp_path / side).iterdir()) for side in "tv"}
    train, val = dataset_of(tmp_path, *files["t"], "t/gone.mp4"), dataset_of(tmp_path, *files["v"], "v/gone.mp4")
    found = {tuple(Path(path).name for path in leak[:2]): leak[2] for leak in find_leaks(train, val)}
    assert found == {
        ("two.mp4", "link.mp4"): "same file",
        ("one.mp4", "copy.mp4"): "same content",
        ("abcdefgh-_1_000010_000020.mp4", "abcdefgh-_1_000070_000080.mp4"): "same source video",
        ("v_Run_g01_c01.avi", "v_Run_g01_c02.avi"): "same source video",
    }
    assert find_leaks(train, dataset_of(tmp_path)) == []


def test_leaks_of_folders_of_frames(tmp_path):
    write_frames(tmp_path / "a" / "one", 1)
    shutil.copytree(tmp_path / "a" / "one", tmp_path / "b" / "other")
    write_frames(tmp_path / "b" / "new", 2)
    leaks = find_leaks(dataset_of(tmp_path / "a", "one"), dataset_of(tmp_path / "b", "new", "other"))
    assert leaks == [(str(tmp_path / "a" / "one"), str(tmp_path / "b" / "other"), "same content")]


def test_files_of_different_size_are_not_read(tmp_path, monkeypatch):
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(b"x" * (number + 1))
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: pytest.fail(f"{args[0]} was opened"))
    assert find_leaks(dataset_of(tmp_path, "0.mp4", "1.mp4"), dataset_of(tmp_path, "2.mp4")) == []


# Evaluation ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A saved network for the three classes of `made`, in another order than that of their names."""
    torch.manual_seed(0)
    test = {"kind": "uniform", "clips": 2, "segments": 2, "resize": 40, "crops": 1, "size": 32, "average": "score"}
    model = videozoo.create_model("tsn_r18_f8", num_classes=3)
    model.pretrained_cfg = {**model.pretrained_cfg, "test": test}
    return videozoo.save_pretrained(model, tmp_path_factory.mktemp("tuned"), labels=["wave", "bow", "pan left"])


def run_eval(capsys, *arguments) -> tuple[int, str, str]:
    code = main(["eval", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_a_tuned_model_is_measured_on_a_folder(made, tuned, tmp_path, capsys):
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.html"
    code, out, _ = run_eval(capsys, f"local-dir:{tuned}", "--data", made, "--results-file", numbers, "--out", page)
    assert code == 0 and "gestures, val" in out and "4 videos measured" in out
    model = videozoo.create_model(f"local-dir:{tuned}", pretrained=True).eval()
    paths = sorted((made / "validation").glob("*/*.mp4"))
    right = [videozoo.predict(model, path, topk=1)[0][0] == path.parent.name for path in paths]
    facts = json.loads(numbers.read_text())
    assert facts["metrics"]["top1"] == pytest.approx(100 * sum(right) / 4) and facts["dataset"]["split"] == "val"
    html = page.read_text()
    assert "gestures" in html and "bow" in html and "wave" in html  # accuracy of each class that occurs


def test_the_test_split_goes_first_and_split_decides(root, tuned, capsys):
    write_video(root / "test" / "wave" / "x.mp4", 9)
    assert "gestures, test" in run_eval(capsys, f"local-dir:{tuned}", "--data", root)[1]
    out = run_eval(capsys, f"local-dir:{tuned}", "--data", root, "--split", "train")[1]
    assert "gestures, train" in out and "12 videos measured" in out


def test_folders_and_models_that_do_not_fit_are_told(root, tuned, tmp_path, capsys):
    (root / "validation" / "bow").rename(root / "validation" / "nod")
    code, _, err = run_eval(capsys, f"local-dir:{tuned}", "--data", root)
    assert code != 0 and "'nod' is no class" in err
    code, _, err = run_eval(capsys, f"local-dir:{tuned}", "--data", tmp_path)
    assert code != 0 and "has no split 'val': make a folder" in err
    model = videozoo.create_model("tsn_r18_f8", num_classes=3)
    bare = videozoo.save_pretrained(model, tmp_path / "bare")
    with pytest.raises(SystemExit):
        main(["eval", f"local-dir:{bare}", "--data", str(root)])
    assert "names neither a data set nor its classes" in capsys.readouterr().err
