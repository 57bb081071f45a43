"""Every example runs as its docstring says and does what a user would copy it for."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import parity
import pytest
import torch
from localization_data import POSITIONS, WIDTH, small_bmn
from moving_blocks import MOVES, moving_block, write_video

import videozoo
from videozoo.checkpoint import load_state_dict

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
VIDEO = str(ROOT / "tests" / "data" / "video" / "demo_24f_bt709.mp4")
CASE = "mma012_tsm_mobilenetv2_dense_1x1x8_100e_kinetics400_rgb"
MODEL = "tsm_mobilenetv2_f8_k400"
RUN_CASE = "mma012_tsm_r50_1x1x8_50e_kinetics400_rgb"
CLASSES = ["bow", "clap", "jump", "kick", "nod", "sit", "wave"]


def run(folder, name, *args):
    """Runs an example in ``folder``, with no network; stdout and stderr of one that fails are in the error."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, args)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def succeed(folder, name, *args):
    done = run(folder, name, *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Weights for MODEL in the form of MMAction2."""
    return parity.write_checkpoint(parity.read_case(CASE)[0], tmp_path_factory.mktemp("weights") / "published.pth")


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """A folder with what training with MMAction2 on seven classes leaves, and the names of the classes."""
    folder = tmp_path_factory.mktemp("run")
    case = parity.read_case(RUN_CASE)[0]
    case["keys"] = [[k, [7, *shape[1:]] if k.startswith("cls_head.") else shape, t] for k, shape, t in case["keys"]]
    content = {
        "meta": {"epoch": 50, "iter": 1000, "mmaction_version": "0.12.0", "config": "model = dict()", "hook_msgs": {}},
        "state_dict": parity.state_dict(case),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01, "params": [0]}]},
    }
    torch.save(content, folder / "epoch_50.pth")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short_and_say_how_to_call_them(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert f"python examples/{path.name} " in ast.get_docstring(ast.parse(text))


def test_predict(tmp_path, published):
    options = ["--model", MODEL, "--checkpoint", published, "--views", "fast", "--topk", 3]
    out = succeed(tmp_path, "predict", VIDEO, VIDEO, *options).splitlines()
    model = videozoo.create_model(MODEL, checkpoint_path=published)
    expected = [f"  {100 * p:5.1f} %  {label}" for label, p in videozoo.predict(model, VIDEO, 3, views="fast")]
    assert out == [VIDEO, *expected] * 2


def test_predict_needs_weights(tmp_path):
    done = run(tmp_path, "predict", VIDEO, "--model", "no_such_model")
    assert done.returncode and "unknown model 'no_such_model'" in done.stderr


@torch.inference_mode()
def test_features(tmp_path):
    torch.manual_seed(0)
    model = videozoo.create_model("x3d_s_13x6_k400.ptv_efficient")
    weights = tmp_path / "weights" / "model.safetensors"
    videozoo.save_pretrained(model, weights.parent)
    options = ["--model", "x3d_s_13x6_k400.ptv_efficient", "--checkpoint", weights, "--out", "features.npz"]
    out = succeed(tmp_path, "features", VIDEO, *options)
    assert "  layer4: 192 x 13 x 5 x 5\n" in out and "10 views of 2048 features" in out
    with np.load(tmp_path / "features.npz") as found:
        assert found["views"].shape == (10, 2048) and np.allclose(found["video"], found["views"].mean(0), atol=1e-5)
        model.eval().reset_classifier(0)
        first = model(videozoo.create_transform(model)(VIDEO)[:2])
        assert np.allclose(found["views"][:2], first, atol=1e-4)


def test_features_names_the_shapes_of_both_pathways(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    stage = (torch.empty(1, 256, 4, 56, 56), torch.empty(1, 32, 32, 56, 56))
    assert importlib.import_module("features").shapes(stage) == "256 x 4 x 56 x 56, 32 x 32 x 56 x 56"


def test_custom_architecture(tmp_path):
    out = succeed(tmp_path, "custom_architecture", VIDEO, "--out", "my-model")
    assert "clip (1, 3, 8, 112, 112) logits (1, 2)" in out
    assert "stages (1, 16, 8, 28, 28) (1, 32, 4, 14, 14) (1, 64, 2, 7, 7)" in out
    labels = ast.literal_eval(out.splitlines()[-1].split(": ")[1])
    assert {label for label, _ in labels} == {"still", "moving"} and abs(sum(p for _, p in labels) - 1) < 1e-6
    config = json.loads((tmp_path / "my-model" / "config.json").read_text())
    assert config["architecture"] == "tiny_w16" and config["pretrained_cfg"]["sampling"] == {"frames": 8, "stride": 2}


def test_finetune(tmp_path):
    torch.manual_seed(0)
    architecture = "mc3_r18w16_8x4"
    videozoo.save_pretrained(videozoo.create_model(architecture), tmp_path / "weights")
    for split, numbers in (("train", (0, 1)), ("val", (4,))):
        for right, name in MOVES:
            for number in numbers:
                write_video(tmp_path / "moves" / split / name / f"{number}.mp4", moving_block(right, number))
    weights = tmp_path / "weights" / "model.safetensors"
    options = ["--model", architecture, "--checkpoint", weights, "--epochs", 3, "--out", "mine"]
    out = succeed(tmp_path, "finetune", "moves", *options).splitlines()
    assert [line.split(":")[0] for line in out] == ["epoch 1", "epoch 2", "epoch 3"] and "validation top-1" in out[2]
    model = videozoo.create_model(f"local-dir:{tmp_path / 'mine'}", pretrained=True).eval()
    assert model.pretrained_cfg["label_names"] == ["left", "right"]
    before, after = load_state_dict(weights), model.state_dict()
    assert before["fc.weight"].shape == (400, 128) and after["fc.weight"].shape == (2, 128)
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"]), "all layers learn after the probe"


def test_load_mmaction2_run(tmp_path, own_run):
    args = [own_run / "epoch_50.pth", VIDEO, "--model", "tsm_r50_1x1x8_50e_kinetics400_rgb"]
    out = succeed(tmp_path, "load_mmaction2_run", *args, "--labels", own_run / "classes.txt", "--out", "my-model")
    model = videozoo.create_model(f"local-dir:{tmp_path / 'my-model'}", pretrained=True)
    assert out.splitlines() == [f"{100 * p:5.1f} %  {label}" for label, p in videozoo.predict(model, VIDEO)]
    assert model.num_classes == 7 and model.pretrained_cfg["label_names"] == CLASSES
    weight = torch.load(own_run / "epoch_50.pth")["state_dict"]["cls_head.fc_cls.weight"]
    assert torch.equal(model.get_classifier().weight, weight), "the run's own classifier, not a new one"


def test_load_mmaction2_run_refuses_a_wrong_number_of_classes(tmp_path, own_run):
    (tmp_path / "six.txt").write_text("\n".join(CLASSES[:6]))
    args = [own_run / "epoch_50.pth", VIDEO, "--model", "tsm_r50_f8_k400", "--labels", "six.txt"]
    done = run(tmp_path, "load_mmaction2_run", *args)
    assert done.returncode and "fc.weight: (7, 2048) in the checkpoint, (6, 2048) in the model" in done.stderr


# Detection and localisation ------------------------------------------------------------------------------------------


def test_detect(tmp_path):
    torch.manual_seed(0)
    net = videozoo.create_model("slowonly_roi_r50_4x16", num_classes=3, init_std=0.01).eval()
    net.pretrained_cfg |= {"label_names": CLASSES[:3], "size": 64, "test": {"resize": 64, "crops": 0, "size": 64}}
    net.fc.bias.data = torch.tensor([-9.0, 2.0, 0.0])
    videozoo.save_pretrained(net, tmp_path / "net")
    (tmp_path / "persons.json").write_text(json.dumps({"frames": {"0": [[10, 10, 100, 200]], "14": []}}))
    options = ["--boxes", "persons.json", "--every", 0.5, "--out", "drawn.mp4"]
    out = succeed(tmp_path, "detect", VIDEO, "--model", f"local-dir:{tmp_path / 'net'}", *options).splitlines()
    assert out[0] == "   0.00 s, persons: 1" and out[1].startswith("  person 0 at [10, 10, 100, 200]: clap 0.8")
    assert [line.endswith("s, persons: 0") for line in out[2:]] == [True]
    with videozoo.open_video(tmp_path / "drawn.mp4") as drawn, videozoo.open_video(VIDEO) as video:
        assert len(drawn) == len(video)


def test_localize(tmp_path):
    _, name = small_bmn(tmp_path / "bmn")
    np.save(tmp_path / "match.npy", np.random.default_rng(0).standard_normal((POSITIONS, WIDTH)).astype(np.float32))
    out = succeed(tmp_path, "localize", "match.npy", "--model", name, "--topk", 3).splitlines()
    assert len(out) == 3 and all(" share  score " in line for line in out), "no length is known of bare features"
    out = succeed(tmp_path, "localize", VIDEO, "--random", "--labels", "--topk", 2).splitlines()
    assert " seconds  score " in out[0] and out[0].split("score ")[1][6:].strip() in videozoo.labels("anet")
    assert out[-1].startswith("Without flow")


def test_custom_dataset(tmp_path):
    torch.manual_seed(0)
    videozoo.save_pretrained(videozoo.create_model("mc3_r18w16_8x4"), tmp_path / "weights")
    for right, name in MOVES:  # a film of each class holds all its scenes, twelve frames each
        scenes = [moving_block(right, number) for number in range(3)]
        write_video(tmp_path / "films" / f"{name}.mp4", np.concatenate(scenes))
    rows = [f"{name}.mp4,{12 * i},12,{name},{'val' if i == 2 else 'train'}" for _, name in MOVES for i in range(3)]
    (tmp_path / "scenes.csv").write_text("\n".join(["video,first_frame,frames,label,split", *rows]) + "\n")
    weights = tmp_path / "weights" / "model.safetensors"
    options = ["--model", "mc3_r18w16_8x4", "--checkpoint", weights, "--epochs", 1, "--out", "mine"]
    out = succeed(tmp_path, "custom_dataset", "scenes.csv", "--media", "films", *options)
    metrics = ast.literal_eval(out.splitlines()[-1])
    assert metrics["top1"] in (0.0, 50.0, 100.0), "two scenes to measure on"
    model = videozoo.create_model(f"local-dir:{tmp_path / 'mine'}", pretrained=True)
    assert model.pretrained_cfg["label_names"] == ["left", "right"]


def test_stream(tmp_path):
    video = ROOT / "tests" / "data" / "video" / "demo.mp4"
    out = succeed(tmp_path, "stream", video, "--every", 20, "--idle", 0.05).splitlines()
    model = videozoo.create_model("mc3_r18w16_8x4_camera_motion", pretrained=True)
    stream = videozoo.Stream(model, every=20, topk=1)
    with videozoo.open_video(video) as reader:
        total = len(reader)
        found = [scores.top[0] for frame in reader.get(range(total)) if (scores := stream.push(frame)) is not None]
    assert [line.split(" s  ")[1] for line in out[:-1]] == [f"{100 * p:5.1f} %  {label}" for label, p in found]
    assert len(found) > 3 and out[-1] == f"{len(found)} predictions from {total} frames, 0 windows dropped"


def test_export(tmp_path):
    out = succeed(tmp_path, "export", VIDEO, "--topk", 3).splitlines()
    model = videozoo.create_model("mc3_r18w16_8x4_camera_motion", pretrained=True)
    expected = [f"  {100 * p:5.1f} %  {label}" for label, p in videozoo.predict(model, VIDEO, 3)]
    assert out[0].startswith("model.onnx: differs from the model by ") and out[1:] == expected
