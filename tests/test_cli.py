import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import parity
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import videozoo
from videozoo import catalog, cli, create_model, load_checkpoint
from videozoo.data import open_video

VIDEO = Path(__file__).parent / "data" / "video" / "demo_24f_bt709.mp4"
CASE = "mma012_tsm_mobilenetv2_dense_1x1x8_100e_kinetics400_rgb"
MODEL = "tsm_mobilenetv2_f8_k400"
QUICK = ["--model", MODEL, "--views", "fast", "--device", "cpu"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file as MMAction2 publishes it, for MODEL."""
    return parity.write_checkpoint(parity.read_case(CASE)[0], tmp_path_factory.mktemp("weights") / "published.pth")


# Usage ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["predict", "--help"], ["list", "--pretrained", "tsm"]])
def test_light_commands_do_not_import_torch(argv):
    code = f"""
import sys
from videozoo.cli import main
try:
    main({argv!r})
except SystemExit:
    pass
heavy = {{"torch", "torchvision", "av", "PIL", "huggingface_hub", "numpy"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_module_runs_and_knows_its_version():
    done = subprocess.run([sys.executable, "-m", "videozoo", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"videozoo {videozoo.__version__}\n")


@pytest.mark.parametrize(
    "argv, reason",
    [
        ([], "COMMAND"),
        (["predict", VIDEO, "-m", MODEL, "--topk", "0"], "'0' is not a number from 1 on"),
        (["predict", VIDEO, "-m", MODEL, "--views", "some"], "invalid choice: 'some'"),
        (["predict", VIDEO, "-m", MODEL, "--pretrained", "--checkpoint", "x.pth"], "give one of them"),
        (["predict", VIDEO, "-m", MODEL, "--out", "."], "is a folder"),
        (["convert", "x.pth", "folder"], "needs --model"),
        (["convert", VIDEO, VIDEO, "-m", MODEL], "the same file"),
    ],
)
def test_wrong_usage_exits_with_2(run, argv, reason):
    code, out, err = run(*argv)
    assert code == 2 and not out
    assert reason in err and "usage: videozoo" in err


# predict -------------------------------------------------------------------------------------------------------------


def test_predict_prints_what_predict_returns(run, checkpoint):
    code, out, err = run("predict", VIDEO, *QUICK, "--checkpoint", checkpoint, "--topk", 3)
    assert code == 0 and err == ""
    wanted = videozoo.predict(create_model(MODEL, checkpoint_path=checkpoint), VIDEO, topk=3, views="fast")
    rows = re.findall(r"^  (\S.*?) +(\d+\.\d) %  ?\S*$", out, re.MULTILINE)
    assert rows == [(label, f"{100 * p:.1f}") for label, p in wanted]
    assert f"{VIDEO}  (340x256, 24 frames, 0.9 s)" in out
    assert "tsm_mobilenetv2_f8_k400.mma0_dense: 8 frames, centre crop of 256" in out
    assert "random" not in out


@pytest.mark.parametrize(
    ("options", "dtype", "bound"), [(["--optimize"], None, 1e-5), (["--dtype", "bf16"], torch.bfloat16, 0.05)]
)
def test_predict_with_an_optimized_model(run, checkpoint, monkeypatch, options, dtype, bound):
    """The same answers but for rounding, by a model that has gone through optimize."""
    optimize, asked = videozoo.optimize, []
    monkeypatch.setattr(
        videozoo, "optimize", lambda model, dtype, **more: asked.append(dtype) or optimize(model, dtype, **more)
    )
    shared = ["predict", VIDEO, *QUICK, "--checkpoint", checkpoint, "--json"]
    (plain, fast) = (json.loads(run(*shared, *more)[1]) for more in ([], options))
    assert asked == [dtype]
    wanted, found = ({row["label"]: row["probability"] for row in one["predictions"]} for one in (plain, fast))
    assert found.keys() & wanted.keys() and next(iter(found)) == next(iter(wanted))
    assert [found[label] for label in found.keys() & wanted.keys()] == pytest.approx(
        [wanted[label] for label in found.keys() & wanted.keys()], rel=bound
    )
    assert fast["weights"] == plain["weights"] and fast["trained"]


def test_predict_json_of_one_and_of_several_videos(run, checkpoint):
    options = [*QUICK, "--checkpoint", checkpoint, "--json", "--topk", 2]
    code, out, err = run("predict", VIDEO, *options)
    one = json.loads(out)
    assert code == 0 and err == ""
    assert one["model"] == "tsm_mobilenetv2_f8_k400.mma0_dense" and one["trained"]
    assert one["weights"] == str(checkpoint) and one["protocol"] == "8 frames, centre crop of 256"
    assert one["video"] == {"path": str(VIDEO), "width": 340, "height": 256, "fps": 28.0, "frames": 24}
    assert [len(clip) for clip in one["frames"]] == [8] and one["views"] == one["crops"] == 1
    labels = catalog.labels("k400")
    assert len(one["predictions"]) == 2
    for row in one["predictions"]:
        assert row["label"] == labels[row["index"]] and 0 < row["probability"] < 1
    code, out, _ = run("predict", VIDEO, VIDEO, *options)
    two = json.loads(out)
    assert code == 0 and [row["predictions"] for row in two] == [one["predictions"]] * 2


def test_a_bad_video_is_reported_and_the_rest_go_on(run, checkpoint, tmp_path):
    folder, empty, text = tmp_path / "frames <b>&", tmp_path / "empty.mp4", tmp_path / "text.mp4"
    folder.mkdir()
    with open_video(VIDEO) as video:
        for i, frame in enumerate(video.get(range(12)), 1):
            Image.fromarray(frame).save(folder / f"img_{i:05d}.jpg")
    empty.touch()
    text.write_text("this is no video\n" * 100)
    page = tmp_path / "page.html"
    videos = [empty, folder, text, tmp_path / "gone.mp4", VIDEO]
    code, out, err = run("predict", *videos, *QUICK, "--checkpoint", checkpoint, "--json", "--out", page)
    assert code == 1
    assert [row["video"]["path"] for row in json.loads(out)] == [str(folder), str(VIDEO)]
    lines = err.strip().splitlines()
    assert [line.split(": ")[:2] for line in lines[:3]] == [["videozoo", str(p)] for p in (empty, text, videos[3])]
    assert "is empty" in lines[0] and "no such file" in lines[2] and lines[3:] == [f"videozoo: wrote {page}"]
    html = page.read_text(encoding="utf-8")
    assert "frames &lt;b&gt;&amp;" in html and VIDEO.name in html and "<b>&" not in html
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


def test_nothing_to_report_writes_nothing(run, checkpoint, tmp_path):
    page = tmp_path / "page.html"
    code, out, err = run("predict", tmp_path / "a.mp4", *QUICK, "--checkpoint", checkpoint, "--json", "--out", page)
    assert (code, out) == (1, "") and "no such file" in err and not page.exists()


def test_random_weights_are_called_so(run, tmp_path):
    page = tmp_path / "page.html"
    code, out, err = run("predict", VIDEO, *QUICK, "--no-pretrained", "--out", page)
    assert code == 0
    assert "MEANINGLESS: The weights are random numbers" in out and "warning: The weights are random numbers" in err
    assert "Do not trust these labels." in page.read_text(encoding="utf-8")
    code, out, err = run("predict", VIDEO, *QUICK, "--no-pretrained", "--json")
    found = json.loads(out)
    assert code == 0 and not found["trained"] and found["weights"] == "random"


def test_weights_are_needed_unless_told_otherwise(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run("predict", VIDEO, *QUICK, "--cache-dir", tmp_path)
    assert (code, out) == (1, "")
    assert "are not in the cache" in err and str(tmp_path) in err and "Traceback" not in err


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--model", "slowfast_r50_8x8_k40", "--no-pretrained"], "did you mean slowfast_r50_8x8_k400"),
        (["--model", MODEL, "--checkpoint", "gone.pth"], "gone.pth does not exist"),
        (["--model", MODEL, "--no-pretrained", "--device", "cuda:99"], "such devices: use cpu"),
        (["--model", MODEL, "--no-pretrained", "--device", "tpv"], "is no device"),
    ],
)
def test_errors_are_one_sentence_and_debug_shows_more(run, options, reason):
    code, out, err = run("predict", VIDEO, *options)
    assert (code, out) == (1, "") and reason in err and "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("videozoo: ")
    for argv in (["predict", VIDEO, *options, "--debug"], ["--debug", "predict", VIDEO, *options]):
        code, _, err = run(*argv)
        assert code == 1 and "Traceback" in err and reason in err


@pytest.mark.parametrize("as_json", [False, True])
def test_output_for_terminals_without_unicode(checkpoint, tmp_path, monkeypatch, as_json):
    folder = tmp_path / "vidéo"
    folder.mkdir()
    Image.new("RGB", (340, 256), "gray").save(folder / "1.png")
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    code = cli.main(["predict", str(folder), *QUICK, "--checkpoint", str(checkpoint), *["--json"] * as_json])
    output.flush()
    text = output.buffer.getvalue().decode("ascii")
    assert code == 0
    if as_json:
        assert json.loads(text)["video"]["path"] == str(folder)
    else:
        assert "vid\\xe9o  (340x256, 1 frame)" in text and "too short" in text


# list and info -------------------------------------------------------------------------------------------------------


def test_list_prints_a_table(run):
    code, out, err = run("list", "--pretrained", "--dataset", "hmdb51", "--family", "tsn")
    header, *rows = out.splitlines()
    assert code == 0 and header.split() == ["name", "data", "set", "frames", "top-1", "top-5", "other"]
    assert rows[0].split() == ["tsn_r50_f8_hmdb51.mma0_in1k", "hmdb51", "8", "48.95", "80.19"]
    assert len({row.index("hmdb51", 20) for row in rows}) == 1, "columns are aligned"
    assert f"{len(rows)} models" in err
    _, out, _ = run("list", "tsn_r18_hvu_action", "tsn_r18_f8_hvu_action", "--pretrained")
    assert out.splitlines()[1].split()[-2:] == ["mAP", "57.50"]


@pytest.mark.parametrize(
    "options, test",
    [
        (["slowfast"], lambda row: "slowfast" in row["name"]),
        (["tsm_r50*", "i3d_*"], lambda row: row["name"].startswith(("tsm_r50", "i3d_"))),
        (["--dataset", "ssv2"], lambda row: row["dataset"] == "ssv2"),
        (["--modality", "flow"], lambda row: row["modality"] == "flow"),
        (["--task", "recognition", "--min-top1", "76.5"], lambda row: row["metrics"]["top1"] >= 76.5),
        (["--family", "slowonly", "--pretrained"], lambda row: row["family"] == "slowonly" and "." in row["name"]),
    ],
)
def test_list_filters(run, options, test):
    code, out, _ = run("list", *options, "--json")
    rows = json.loads(out)
    assert code == 0 and rows and all(test(row) for row in rows)
    tags = ["--pretrained"] if "." in rows[0]["name"] else []
    everything = json.loads(run("list", "--json", *tags)[1])
    names = {row["name"] for row in rows}
    left_out = [row for row in everything if row["name"] not in names and "dataset" in row and row["metrics"]]
    assert left_out and not any("top1" in row["metrics"] and test(row) for row in left_out)


def test_list_names_what_it_does_not_find(run):
    code, out, err = run("list", "no_such_model")
    assert (code, out) == (1, "") and "no model is like this" in err
    code, out, err = run("list", "--dataset", "k40")
    assert (code, out) == (1, "") and "no data set 'k40': did you mean k400" in err


def test_info_of_an_entry(run):
    code, out, _ = run("info", "tsn_r50_1x1x3_100e_kinetics400_rgb")
    assert code == 0 and out.splitlines()[0] == "tsn_r50_f3_k400.mma0"
    for fact in ("24.33 million", "Kinetics-400, 400 classes", "25 frames x 10 crops of 224, scores averaged",
                 "top-1 70.60 %, top-5 89.26 %", "apache-2.0", "https://arxiv.org/abs/1608.00859", "e508be42",
                 "mma0 (this), ", "mma0_256p"):  # fmt: skip
        assert fact in out
    code, out, _ = run("info", "tsn_r50_f3_k400", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["full_name"] == "tsn_r50_f3_k400.mma0" and facts["tags"][0] == "mma0"
    assert facts["params"] == sum(p.numel() for p in create_model("tsn_r50_f3_k400").parameters())


def test_info_of_other_names(run):
    code, out, _ = run("info", "slowfast_r50_8x8")
    assert code == 0 and "bare architecture" in out
    code, out, err = run("info", "slowfast_r50_8x8_k400.mma7")
    assert (code, out) == (1, "") and "has no tag 'mma7': choose one of mma0" in err


# convert and download ------------------------------------------------------------------------------------------------


def test_convert_to_a_file(run, checkpoint, tmp_path):
    wanted = create_model(MODEL, checkpoint_path=checkpoint).state_dict()
    for options in ([], ["--model", MODEL]):
        out_file = tmp_path / "new" / f"weights{len(options)}.safetensors"
        code, _, err = run("convert", checkpoint, out_file, *options)
        assert code == 0 and err == ""
        found = load_file(out_file)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in found)
        with safe_open(out_file, "pt") as file:
            assert file.metadata()["source"] == "published.pth"
        load_checkpoint(create_model(MODEL), out_file)


def test_convert_to_a_folder(run, checkpoint, tmp_path):
    code, out, _ = run("convert", checkpoint, tmp_path / "model", "--model", MODEL)
    assert code == 0 and f"fit {MODEL}" in out
    assert {p.name for p in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}
    options = ["--views", "fast", "--json", "--device", "cpu"]
    found = json.loads(run("predict", VIDEO, "-m", f"local-dir:{tmp_path / 'model'}", *options)[1])
    wanted = json.loads(run("predict", VIDEO, "-m", MODEL, "--checkpoint", checkpoint, *options)[1])
    assert found["predictions"] == wanted["predictions"] and found["protocol"] == wanted["protocol"]


def test_convert_refuses_what_does_not_fit(run, checkpoint, tmp_path):
    out_file = tmp_path / "weights.safetensors"
    code, _, err = run("convert", checkpoint, out_file, "--model", "tsm_r50_f8_k400")
    assert code == 1 and "do not fit" in err and not out_file.exists()
    torch.save({"state_dict": {"strange.weight": torch.zeros(2)}}, tmp_path / "odd.pth")
    code, _, err = run("convert", tmp_path / "odd.pth", out_file)
    assert code == 0 and "no known source" in err
    (tmp_path / "odd.pth").write_bytes(b"")
    code, _, err = run("convert", tmp_path / "odd.pth", out_file)
    assert code == 1 and "odd.pth is empty" in err and load_file(out_file).keys() == {"strange.weight"}


def test_download_fills_the_cache_and_goes_on_after_a_failure(run, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = "tsm_mobilenetv2_f8_k400.mma0_dense"
    entry = replace(catalog.entries()[name], url=checkpoint.as_uri(), hash_prefix="")
    monkeypatch.setitem(catalog.entries(), name, entry)
    code, out, err = run("download", "tsn_r50_f8_ssv1", "tsm_mobilenetv2*", "nonsense", "--cache-dir", tmp_path)
    assert code == 1
    assert re.fullmatch(rf"{re.escape(name)}: \d+\.\d MiB, \d+\.\d s\n", out)
    assert "videozoo: The weights of tsn_r50_f8_ssv1.mma0 are not in the cache" in err
    assert "unknown model 'nonsense'" in err
    found = load_file(tmp_path / name / "model.safetensors")
    wanted = create_model(MODEL, checkpoint_path=checkpoint).state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in found)
    code, out, err = run("predict", VIDEO, *QUICK, "--cache-dir", tmp_path, "--json")
    assert code == 0 and json.loads(out)["weights"] == checkpoint.as_uri()
    code, _, err = run("download", "nothing_like_*", "--cache-dir", tmp_path)
    assert code == 1 and "no published weights are called 'nothing_like_*'" in err
