"""What the snippets of the documentation find: the files that they name, and published weights of random numbers.

Only this differs from what a user has: published weights are drawn at random where the Hub would be asked,
torchvision's detector of persons finds one person in every frame, 2-D ResNets have a quarter of their width, tests see
one view of 64 pixels, and training takes one epoch. Any use of the network is an error.
"""

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
from videozoo import catalog, hub
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
    for name in ("tests", "examples", "docs", "videozoo", "MODEL_CARDS.md"):
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
    """A video or two of each data set, with the authors' annotations."""
    kinetics, ucf = root / "kinetics400", root / "ucf101"
    for seed, name in enumerate(("abseiling", "air_drumming")):
        path = kinetics / "videos_val" / name / f"{name[:3]:x<11}_000001_000011.mp4"
        write_video(path, moving_block(True, seed, 40))
    lines = [f"{name.replace('_', ' ')},{name[:3]:x<11},1,11,val" for name in ("abseiling", "air_drumming")]
    (kinetics / "kinetics_val.csv").write_text("\n".join(["label,youtube_id,time_start,time_end,split", *lines]))
    for seed, name in enumerate(("Archery", "YoYo")):
        write_video(ucf / "UCF-101" / name / f"v_{name}_g01_c01.avi", moving_block(True, seed, 20))
    for name in ("testlist01.txt", "trainlist01.txt"):
        numbers = (" 3", " 101") if name.startswith("train") else ("", "")
        rows = [f"{label}/v_{label}_g01_c01.avi{n}\n" for label, n in zip(("Archery", "YoYo"), numbers, strict=True)]
        (ucf / name).write_text("".join(rows))
    write_ava(root / "ava", films=2)
    _write_activitynet(root / "ActivityNet")


def _write_activitynet(root: Path) -> None:
    """Two videos of 50 seconds as features that the published localisers take."""
    features, segments = generated_videos(2, width=400, positions=100)
    (root / "features").mkdir(parents=True)
    table = {}
    for number, (rows, found) in enumerate(zip(features, segments, strict=True)):
        np.save(root / "features" / f"v_{number}.npy", rows.numpy().T)
        annotations = [{"segment": [50 * a, 50 * b], "label": "Archery"} for a, b in found]
        facts = {"duration_second": 50.0, "duration_frame": 1600, "feature_frame": 1600, "annotations": annotations}
        table[f"v_{number}"] = facts
    (root / "anet_anno_val.json").write_text(json.dumps(table))


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

    facts, settle = catalog.Entry.to_dict, TrainConfig.__post_init__

    def one_epoch(config):
        object.__setattr__(config, "epochs", 1)
        object.__setattr__(config, "probe_epochs", 0)
        settle(config)

    monkeypatch.setitem(ResNet2d.__init__.__kwdefaults__, "base_width", narrow(64))
    monkeypatch.setattr(hub, "pretrained_state", random_weights)
    monkeypatch.setattr(detection, "fasterrcnn_resnet50_fpn_v2", OnePerson)
    monkeypatch.setattr(catalog.Entry, "to_dict", lambda entry: one_view(facts(entry)))
    monkeypatch.setattr(TrainConfig, "__post_init__", one_epoch)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setenv("VIDEOZOO_CACHE", str(tmp_path / "cache"))
