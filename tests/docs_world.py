"""What the snippets of the documentation find: the files that they name, and published weights of random numbers.

Only this differs from what a user has: published weights are drawn at random where the Hub would be asked (those of
ImageNet, too), torchvision's detector of persons finds one person in every frame, 2-D ResNets have a quarter of their
width, tests see one view of 64 pixels, training takes one epoch, and camera motion gets one clip a class. Any use of
the network is an error.
"""

import csv
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import parity
import pytest
import torch
from detection_data import write_ava
from localization_data import generated_videos
from moving_blocks import INPUT, MOVES, moving_block, write_video, write_videos

import videozoo
from videozoo import catalog, hub, inflation
from videozoo.data import camera_motion, regions
from videozoo.data.datasets import HVU_CATEGORIES
from videozoo.models.resnet2d import ResNet2d
from videozoo.training import TrainConfig

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "tests" / "data" / "video" / "demo_24f_bt709.mp4"
MMACTION2_RUN = "mma012_tsm_r50_1x1x8_50e_kinetics400_rgb"
SIDE = 64  # pixels of a view
CONNECT = socket.socket.connect


def write_world(root: Path) -> Path:
    """All files that snippets name, some megabytes."""
    root.mkdir()
    for name in ("clip", "street", "match"):
        shutil.copy(CLIP, root / f"{name}.mp4")
    for name in ("tests", "benchmarks", "examples", "docs", "videozoo", "MODEL_CARDS.md"):
        (root / name).symlink_to(ROOT / name)
    (root / "persons.json").write_text(json.dumps({"frames": {"0": [[10, 10, 100, 200, 0.98]], "14": []}}))
    write_videos(root / "my-videos")
    torch.manual_seed(0)
    model = videozoo.create_model("mc3_r18w16_8x4", num_classes=2)
    model.pretrained_cfg["test"] |= INPUT
    videozoo.save_pretrained(model, root / "my-model", labels=[name for _, name in MOVES])
    run = root / "work_dirs" / "tsm" / "epoch_50.pth"
    run.parent.mkdir(parents=True)
    case = parity.read_case(MMACTION2_RUN)[0]
    case["keys"] = [[key, [narrow(n) for n in shape], kind] for key, shape, kind in case["keys"]]
    parity.write_checkpoint(case, run)
    _write_data(root / "data")
    return root


def narrow(channels: int) -> int:
    """Of a ResNet a quarter as wide; other sizes (classes, kernels) stay."""
    return channels if channels < 64 or channels == 400 else channels // 4


def _write_data(root: Path) -> None:
    """A video or two of each data set that is named, with the authors' annotations."""
    _write_kinetics(root / "kinetics400")
    _write_ucf(root / "ucf101")
    _write_something(root / "ssv2")
    _write_hvu(root / "hvu")
    write_ava(root / "ava", films=2)
    for split in ("train", "val"):
        _write_activitynet(root / "ActivityNet", split)
    _write_thumos(root / "THUMOS14")


def _write_kinetics(root: Path) -> None:
    """Two videos, and their flow as folders of images."""
    lines = ["label,youtube_id,time_start,time_end,split"]
    for seed, label in enumerate(("abseiling", "air drumming")):
        folder, video = label.replace(" ", "_"), f"{label[:3]:x<11}"
        write_video(root / "videos_val" / folder / f"{video}_000001_000011.mp4", moving_block(True, seed, 40))
        _write_flow(root / "rawframes_val" / folder / f"{video}_000001_000011", 40)
        lines.append(f"{label},{video},1,11,val")
    (root / "kinetics_val.csv").write_text("\n".join(lines))


def _write_flow(folder: Path, count: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        for axis in "xy":
            Image.new("L", (48, 32), 100 + number).save(folder / f"{axis}_{number:05d}.jpg")


def _write_ucf(root: Path) -> None:
    for seed, name in enumerate(("Archery", "YoYo")):
        write_video(root / "UCF-101" / name / f"v_{name}_g01_c01.avi", moving_block(True, seed, 20))
    for name in ("testlist01.txt", "trainlist01.txt"):
        numbers = (" 3", " 101") if name.startswith("train") else ("", "")
        rows = [f"{label}/v_{label}_g01_c01.avi{n}\n" for label, n in zip(("Archery", "YoYo"), numbers, strict=True)]
        (root / name).write_text("".join(rows))


def _write_something(root: Path) -> None:
    """Two videos for either split, their things named in the labels as the authors do."""
    for first, split in ((1, "train"), (3, "validation")):
        rows = []
        for seed, template in enumerate(("Holding [something]", "Pushing [something] from left to right")):
            label = template.replace("[something]", "a cup")
            rows.append({"id": str(first + seed), "label": label, "template": template, "placeholders": ["a cup"]})
            path = root / "20bn-something-something-v2" / f"{first + seed}.mkv"
            write_video(path, moving_block(True, seed, 12))
            path.rename(path.with_suffix(".webm"))  # which is a kind of mkv
        (root / f"something-something-v2-{split}.json").write_text(json.dumps(rows))


def _write_hvu(root: Path) -> None:
    """The table of all tags, and two videos with tags of several kinds."""
    tags = {category: videozoo.labels(f"hvu_{category}") for category in HVU_CATEGORIES}
    root.mkdir()
    with (root / "hvu_categories.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("Tag", "Category"), *((tag, c) for c, names in tags.items() for tag in names)])
    with (root / "hvu_val.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("Tags", "youtube_id", "time_start", "time_end"))
        for seed in range(2):
            writer.writerow(("|".join(tags[c][seed] for c in ("action", "object", "scene")), f"{seed:x>11}", 1, 11))
            write_video(root / "videos_val" / f"{seed:x>11}_000010_000110.mp4", moving_block(True, seed, 20))


def _write_activitynet(root: Path, split: str) -> None:
    """Two videos of 50 seconds as features that the published localisers take."""
    features, segments = generated_videos(2, width=400, positions=100)
    (root / "features").mkdir(parents=True, exist_ok=True)
    table = {}
    for number, (rows, found) in enumerate(zip(features, segments, strict=True)):
        np.save(root / "features" / f"v_{split}{number}.npy", rows.numpy().T)
        annotations = [{"segment": [50 * a, 50 * b], "label": "Archery"} for a, b in found]
        facts = {"duration_second": 50.0, "duration_frame": 1600, "feature_frame": 1600, "annotations": annotations}
        table[f"v_{split}{number}"] = facts
    (root / f"anet_anno_{split}.json").write_text(json.dumps(table))


def _write_thumos(root: Path) -> None:
    """Two videos of the test, with a true segment and two proposals each."""
    videos = []
    for seed, name in enumerate(("video_test_0000004", "video_test_0000006")):
        write_video(root / "videos_test" / f"{name}.mp4", moving_block(True, seed, 40))
        rows = ((1 + seed, 0.9, 1.0, 10.0, 30.0), (0, 0.0, 0.0, 0.0, 9.0))
        videos.append(regions.ProposalVideo(name, 40, ((1 + seed, 10.0, 32.0),), rows))
    (root / "thumos14_tag_test_proposal_list.txt").write_text(regions.write_proposals(videos))


class OnePerson(torch.nn.Module):
    """In place of torchvision's detector: the same person in every frame."""

    def __init__(self, **_):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pictures):
        box = torch.tensor([[10.0, 10.0, 100.0, 200.0]])
        return [{"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([0.95])} for _ in pictures]


def random_weights(entry, *_, **__):
    """In place of :func:`videozoo.hub.pretrained_state`: weights of the entry's shapes."""
    torch.manual_seed(0)
    return videozoo.create_model(entry.full_name).state_dict()


def one_view(facts):
    """An entry's facts with a test of one small view."""
    if facts["modality"] in ("rgb", "flow") and facts["dataset"] != "anet":  # whose features are of 256 pixels
        test = facts["test"]
        facts["test"] = test | {"clips": test["segments"], "crops": min(test["crops"], 1), "twice": False}
        if facts["size"] > 112:  # there are networks that fit that size alone
            facts["test"] |= {"resize": SIDE, "size": SIDE}
            facts["size"] = SIDE
    return facts


def no_network(used, address):
    """In place of ``socket.connect``; processes talk to each other through files."""
    assert used.family == socket.AF_UNIX, f"a snippet wants the network: {address}"
    return CONNECT(used, address)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The folder that :func:`write_world` makes."""
    return write_world(tmp_path_factory.mktemp("docs") / "world")


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Every entry has weights, without a network; see the top of this file."""
    from torchvision.models import detection

    facts, settle, film = catalog.Entry.to_dict, TrainConfig.__post_init__, camera_motion.make_camera_motion

    def one_epoch(config):
        object.__setattr__(config, "epochs", 1)
        object.__setattr__(config, "probe_epochs", 0)
        settle(config)

    def one_clip(folder, *, clips, **options):
        return film(folder, clips=dict.fromkeys(clips, 1), **options)

    monkeypatch.setitem(ResNet2d.__init__.__kwdefaults__, "base_width", narrow(64))
    monkeypatch.setattr(hub, "pretrained_state", random_weights)
    monkeypatch.setattr(inflation, "load_imagenet", lambda *_: None)
    monkeypatch.setattr(detection, "fasterrcnn_resnet50_fpn_v2", OnePerson)
    monkeypatch.setattr(catalog.Entry, "to_dict", lambda entry: one_view(facts(entry)))
    monkeypatch.setattr(camera_motion, "make_camera_motion", one_clip)
    monkeypatch.setattr(TrainConfig, "__post_init__", one_epoch)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setenv("VIDEOZOO_CACHE", str(tmp_path / "cache"))
