"""`videozoo localize` and `videozoo eval` of localisers: from videos or features to segments and their numbers."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from localization_data import FPS, POSITIONS, WIDTH, save_small, small_bmn, small_bsn, write_split
from PIL import Image

import videozoo
from videozoo import localization
from videozoo.data import ArrayReader, open_video, regions
from videozoo.data import localization as files
from videozoo.data.activitynet import load_feature_set
from videozoo.evaluation import localization as evaluation
from videozoo.evaluation.localization import evaluate_detections, evaluate_proposals
from videozoo.evaluation.metrics import temporal
from videozoo.features import extract_features
from videozoo.localization.chain import create_localizers, network_names, proposal_chain
from videozoo.localization.report import localization_report
from videozoo.localization.video import (
    feature_models,
    fitted,
    localize_features,
    localize_proposals,
    localize_video,
    sliding_proposals,
)
from videozoo.models.resnet2d import ResNet2d, plain_block

VIDEO = Path(__file__).parent / "data" / "video" / "demo.mp4"  # 280 frames, 10 s


@videozoo.register_model
def scorer_f8(*, num_classes=WIDTH // 2, in_chans=3, drop_rate=0.0):
    """A classifier of frames, half as wide as the localisers' features."""
    return ResNet2d(
        18, plain_block(18), base_width=8, num_classes=num_classes, in_chans=in_chans, drop_rate=drop_rate, init_std=0.1
    )


@pytest.fixture
def bmn(tmp_path):
    return small_bmn(tmp_path / "bmn")


def rows_of(result):
    return np.array([row[:3] for row in result.segments])


# Names ---------------------------------------------------------------------------------------------------------------


def test_one_name_stands_for_both_networks_of_bsn():
    assert network_names("bsn_anet") == ("bsn_tem_anet", "bsn_pem_anet")
    assert network_names("bsn_anet.mma0") == ("bsn_tem_anet.mma0", "bsn_pem_anet.mma0")
    assert network_names("bsn_pem_anet.mma0_clip") == ("bsn_tem_anet.mma0_clip", "bsn_pem_anet.mma0_clip")
    assert network_names("bmn_anet") == ("bmn_anet",) and network_names("local-dir:bsn_x") == ("local-dir:bsn_x",)
    assert [type(n).__name__ for n in create_localizers("bsn_anet")] == ["TemporalEvaluation", "ProposalEvaluation"]
    with pytest.raises(ValueError, match="first network of BSN"):
        proposal_chain([videozoo.create_model("bsn_tem_anet")])
    with pytest.raises(ValueError, match="tsn_r18_f8 .* finds no segments"):
        create_localizers("tsn_r18_f8")


def test_features_come_from_the_networks_that_the_entry_was_trained_with():
    for name in ("bmn_anet", "bsn_tem_anet.mma0_video", "bsn_pem_anet"):
        entry = videozoo.get_pretrained_cfg(name)
        rgb, flow = map(videozoo.get_pretrained_cfg, feature_models(entry.to_dict()))
        assert rgb.name in entry.notes and flow.name in entry.notes and rgb.tag in entry.notes
        assert rgb.num_classes + flow.num_classes == 400 and (rgb.tag, flow.modality) == (flow.tag, "flow")
    with pytest.raises(ValueError, match="bmn_anet.mma0 cannot be made from videos here"):
        feature_models(videozoo.get_pretrained_cfg("bmn_anet.mma0").to_dict())
    assert feature_models({"tag": "", "pretrain": "bmn_anet.mma0_clip"}) == feature_models({"tag": "mma0_clip"})


# From features -------------------------------------------------------------------------------------------------------


def test_a_file_of_features_gives_what_the_pieces_give(bmn, tmp_path):
    table = np.random.default_rng(0).standard_normal((37, WIDTH)).astype(np.float32)
    np.save(tmp_path / "x.npy", table)
    result = localize_features(proposal_chain([bmn[0]]), [tmp_path / "x.npy"], seconds=50.0)
    with torch.inference_mode():
        output = bmn[0](torch.from_numpy(files.resample_features(table.T, POSITIONS))[None])
    rows = localization.bmn_proposals(*(part[0].numpy() for part in output))
    expected = localization.finish_proposals(rows, 50.0, **localization.BMN_NMS)
    assert np.allclose(rows_of(result), expected) and len(expected) > 5
    assert result.unit == "seconds" and result.length == 50.0 and not result.remark
    unknown = localize_features(proposal_chain([bmn[0]]), [tmp_path / "x.npy"])
    assert unknown.unit == "share" and np.allclose(rows_of(unknown) * [50, 50, 1], expected)


def test_both_networks_of_bsn_make_a_chain(tmp_path):
    (first, second), _ = small_bsn(tmp_path)
    table = np.random.default_rng(0).standard_normal((1, WIDTH, POSITIONS)).astype(np.float32)
    found = proposal_chain([first, second]).proposals(table, [10.0])[0]
    with torch.inference_mode():
        action, start, end = (part[0].numpy() for part in first(torch.from_numpy(table)))
        rows = localization.candidates(start, end)
        described = torch.from_numpy(localization.describe_candidates(rows, action)).float().T[None]
        rows = localization.bsn_proposals(rows, second(described).confidence[0].numpy())
    assert np.allclose(found, localization.finish_proposals(rows, 10.0, **localization.BSN_NMS), atol=1e-6)


def test_labels_come_from_scores_of_the_whole_video(run, bmn, tmp_path):
    np.save(tmp_path / "v_x.npy", np.random.default_rng(0).standard_normal((POSITIONS, WIDTH)).astype(np.float32))
    (tmp_path / "scores.json").write_text(json.dumps({"class": ["a", "b", "c"], "results": {"x": [0.1, 0.7, 0.2]}}))
    options = ["--model", bmn[1], "--device", "cpu", "--json"]
    plain = json.loads(run("localize", tmp_path / "v_x.npy", *options)[1])
    code, out, _ = run("localize", tmp_path / "v_x.npy", *options, "--class-scores", tmp_path / "scores.json")
    labelled = json.loads(out)
    assert code == 0 and {row["label"] for row in labelled["segments"]} == {"b", "c"}
    best, same = labelled["segments"][0], plain["segments"][0]
    assert best["label"] == "b" and best["score"] == pytest.approx(0.7 * same["score"])
    assert (best["start"], best["end"]) == (same["start"], same["end"])
    scores = [row["score"] for row in labelled["segments"]]
    assert scores == sorted(scores, reverse=True) and len(scores) <= 100
    np.save(tmp_path / "y.npy", np.zeros((5, WIDTH)))
    code, _, err = run("localize", tmp_path / "y.npy", *options, "--class-scores", tmp_path / "scores.json")
    assert code == 1 and "has no scores of y" in err


def test_bad_features_are_reported_and_the_rest_go_on(run, bmn, tmp_path):
    np.save(tmp_path / "good.npy", np.random.default_rng(0).standard_normal((30, WIDTH)).astype(np.float32))
    np.save(tmp_path / "wide.npy", np.zeros((30, WIDTH + 1)))
    (tmp_path / "empty.csv").write_text("f0,f1\n")
    names = [tmp_path / name for name in ("empty.csv", "wide.npy", "gone.npy", "good.npy")]
    code, out, err = run("localize", *names, "-m", bmn[1], "--device", "cpu", "--json", "--out", tmp_path / "p.html")
    lines = err.splitlines()
    assert code == 1 and len(json.loads(out)) == 1
    assert "empty.csv: expected a table of numbers" in lines[0]
    assert f"wide.npy has features of width {WIDTH + 1}, the model takes {WIDTH}" in lines[1]
    assert "gone.npy" in lines[2] and lines[3] == f"videozoo: wrote {tmp_path / 'p.html'}"
    assert "good.npy" in (tmp_path / "p.html").read_text() and "gone.npy" not in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    "name, write, reason",
    [
        ("a.npy", lambda path: np.savez(path.open("wb"), a=np.zeros(3)), "is no array of numbers that can be read"),
        ("a.npy", lambda path: path.write_bytes(b""), "that can be read safely, or it is cut off"),
        ("a.npy", lambda path: np.save(path, np.full((30, WIDTH), np.nan)), "numbers that are not finite"),
        ("a.npy", lambda path: np.save(path, np.zeros((0, WIDTH))), "expected a table of numbers"),
        ("a.csv", lambda path: path.write_text("a,b\n1,2\n1\n"), "line 3 has another number of them than the 2"),
        ("a.csv", lambda path: path.write_text("a,b\n1,x\n"), "could not convert string 'x'"),
        ("a.csv", lambda path: None, "there is no such file of features"),
    ],
)
def test_files_that_hold_no_features_are_told(run, bmn, tmp_path, name, write, reason):
    write(tmp_path / name)
    code, out, err = run("localize", tmp_path / name, "-m", bmn[1], "--device", "cpu")
    assert code == 1 and not out and reason in err and len(err.splitlines()) == 1 and name in err


@pytest.mark.parametrize("text", ["{", "[]", '{"video": 3}', '{"video": {"frames": 480, "fps": 25}}'])
def test_a_json_file_of_something_else_beside_features_is_told(run, bmn, tmp_path, text):
    np.save(tmp_path / "x.npy", np.zeros((30, WIDTH), np.float32))
    (tmp_path / "x.json").write_text(text)
    code, out, err = run("localize", tmp_path / "x.npy", "-m", bmn[1], "--device", "cpu")
    assert code == 1 and not out and "x.json" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "scores, reason",
    [
        ('{"class": ["a"], "results": {"x": [NaN]}}', "video x: 1 classes need as many scores, finite numbers"),
        ('{"class": ["a"], "results": {"x": ["b"]}}', "scores.json: expected"),
        ('{"class": [], "results": {"x": []}}', "names no class"),
        ('{"class": ["a"], "results": {"x": [1], "x": [2]}}', "has 'x' twice"),
    ],
)
def test_wrong_class_scores_are_told(run, bmn, tmp_path, scores, reason):
    np.save(tmp_path / "x.npy", np.zeros((30, WIDTH), np.float32))
    (tmp_path / "scores.json").write_text(scores)
    options = ["--device", "cpu", "--class-scores", tmp_path / "scores.json"]
    code, out, err = run("localize", tmp_path / "x.npy", "-m", bmn[1], *options)
    assert code == 1 and not out and reason in err and "scores.json" in err


def test_the_number_of_segments_holds_for_json_too(run, bmn, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((30, WIDTH)).astype(np.float32))
    command = ["localize", tmp_path / "x.npy", "-m", bmn[1], "--device", "cpu"]
    (tmp_path / "scores.json").write_text(json.dumps({"class": ["a", "b"], "results": {"x": [0.6, 0.4]}}))
    command += ["--class-scores", tmp_path / "scores.json"]  # each proposal is there for both classes
    whole, some, most = (json.loads(run(*command, "--json", *more)[1])["segments"]
                         for more in ([], ["--topk", 3], ["--topk", 120]))  # fmt: skip
    assert some == whole[:3] and len(whole) <= 100 < len(most)
    text = run(*command)[1]
    assert text.count(" - ") == 10 and text.startswith(f"{tmp_path / 'x.npy'}  (length not known)")


def test_wrong_networks_are_told_before_weights_are_fetched(run, tmp_path):
    _, (tem, pem) = small_bsn(tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((30, WIDTH), np.float32))
    for model, reason in {
        ("slowfast_r50_k400",): "slowfast_r50_k400 finds no segments: take one of",
        (pem,): "is the second network of BSN",
        (tem,): "is the first network of BSN",
        (pem, "--pem", tem): "bsn_pem and bsn_tem are not the first and the second network of BSN",
    }.items():
        code, out, err = run("localize", tmp_path / "x.npy", "-m", *model)
        assert code == 1 and not out and reason in err


def test_features_of_a_video_are_resampled_whatever_their_number(run, bmn, scorers, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (POSITIONS * 2, 32, 32, 3), np.uint8)
    for number, picture in enumerate(frames):
        (tmp_path / "v").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "v" / f"{number:03d}.png")
    options = ["--model", f"local-dir:{tmp_path / 'rgb'}", "--device", "cpu", "--every", "2", "--size", "32"]
    run("features", tmp_path / "v", *options, "--logits", "--out", tmp_path / "f")
    rows = np.load(tmp_path / "f" / "v.npy")
    assert len(rows) == POSITIONS, "as many as the network takes"
    found = localize_features(proposal_chain([bmn[0]]), [tmp_path / "f" / "v.npy"])
    features = files.resample_features(np.tile(rows.T, (2, 1)), POSITIONS)
    expected = proposal_chain([bmn[0]]).proposals(features[None], [POSITIONS * 2.0])[0]
    assert np.allclose(rows_of(found), expected, atol=1e-6)
    folder = tmp_path / "f"
    assert np.array_equal(files.load_features([folder], "v"), files.resample_features(rows.T).astype(np.float32))
    (folder / "v.json").unlink()
    assert np.array_equal(files.load_features([folder], "v", positions=POSITIONS), rows.T), "published files are done"


# From videos ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def scorers(tmp_path):
    """Recognisers of rgb and of flow whose class scores are the features."""
    torch.manual_seed(1)
    flow = {"frames": 5, "stride": 1, "segments": 8, "kind": "uniform", "stack": True}
    rgb = videozoo.create_model("scorer_f8").eval()
    rgb.pretrained_cfg |= {"sampling": flow | {"frames": 1, "stack": False}, "label_names": list("abcd")}
    other = videozoo.create_model("scorer_f8", in_chans=10).eval()
    norm = {"mean": [128.0] * 2, "std": [128.0] * 2, "value_range": [0.0, 255.0]}
    other.pretrained_cfg |= {"sampling": flow, "modality": "flow", **norm}
    for name, model in (("rgb", rgb), ("flow", other)):
        videozoo.save_pretrained(model, tmp_path / name)
    return rgb, other


def test_a_video_is_localised_by_rgb_alone_with_a_remark(run, bmn, scorers, tmp_path):
    options = ["-m", bmn[1], "--feature-models", f"local-dir:{tmp_path / 'rgb'}", "--device", "cpu"]
    page = tmp_path / "page.html"
    code, out, err = run("localize", tmp_path / "no.mp4", VIDEO, *options, "--json", "--out", page)
    result = json.loads(out)[0]
    assert code == 1 and "no such file" in err.splitlines()[0]
    scores = extract_features(scorers[0], VIDEO, every=16, logits=True, size=256).values
    both = np.concatenate([scores, scores], axis=1)
    features = files.resample_features(both.T, POSITIONS)[None]
    covered = 280 // 16 * 16 / 28
    expected = proposal_chain([bmn[0]]).proposals(features, [covered])[0]
    found = [[row["start"], row["end"], row["score"]] for row in result["segments"]]
    assert np.allclose(found, expected, atol=1e-5)
    assert result["length"] == pytest.approx(10) and max(row[1] for row in found) <= covered
    assert result["remark"].startswith("Without flow") and "every 16 frames" in result["features"]
    html = page.read_text()
    assert html.count("<img ") == 24 and "demo.mp4" in html and "Without flow" in html
    assert not re.search(r"<script|src=\"http|href=\"http", html)


def test_flow_is_taken_where_it_is_given(bmn, scorers, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "xy").mkdir()
    for number in range(1, 30):
        for axis in "xy":
            Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)).save(tmp_path / "xy" / f"{axis}_{number}.png")
    result = localize_video(proposal_chain([bmn[0]]), scorers, VIDEO, tmp_path / "xy", size=32, classes="self")
    parts = [extract_features(net, path, logits=True, size=32).values.T
             for net, path in zip(scorers, (VIDEO, tmp_path / "xy"), strict=True)]  # fmt: skip
    rows = proposal_chain([bmn[0]]).proposals(files.join_features(parts, POSITIONS)[None], [9.714286])[0]
    assert not result.remark and {row[3] for row in result.segments} <= set("abcd")
    segments = {tuple(np.round(row[:2], 4)) for row in result.segments}
    assert segments <= {tuple(np.round(row[:2], 4)) for row in rows}
    assert files.join_features(parts, POSITIONS).shape == (WIDTH, POSITIONS), "cut to the shorter of both"


def test_features_written_before_know_their_times(run, bmn, scorers, tmp_path):
    options = ["--model", f"local-dir:{tmp_path / 'rgb'}", "--device", "cpu"]
    run("features", VIDEO, *options, "--logits", "--size", "256", "--out", tmp_path / "f")
    shared = ["-m", bmn[1], "--device", "cpu", "--json"]
    stored = json.loads(run("localize", tmp_path / "f" / "demo.npy", *shared)[1])
    direct = json.loads(run("localize", VIDEO, *shared, "--feature-models", options[1])[1])
    assert stored["unit"] == "seconds" and stored["length"] == pytest.approx(10)
    for a, b in zip(stored["segments"], direct["segments"], strict=True):
        assert (a["start"], a["end"]) == pytest.approx((b["start"], b["end"]))


def test_random_weights_are_called_so(run, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((30, 400)).astype(np.float32))
    code, out, err = run("localize", tmp_path / "x.npy", "-m", "bsn_anet", "--no-pretrained", "--topk", "2")
    assert code == 0 and "MEANINGLESS: The weights are random" in out and "warning: The weights are random" in err
    assert "bsn_tem_anet.mma0_clip + bsn_pem_anet.mma0_clip" in out and out.count(" %  ") >= 2


@pytest.mark.parametrize(
    "argv, reason",
    [
        (["localize", VIDEO, "-m", "bmn_anet", "--out", "."], "is a folder"),
        (["localize", VIDEO, "-m", "bmn_anet", "--seconds", "-1"], "'-1' is not a number of seconds above 0"),
        (["localize", VIDEO, "-m", "bmn_anet", "--feature-models", "a", "b", "c"], "network of rgb, and that of"),
        (["localize", VIDEO, "-m", "bmn_anet", "--pretrained", "--checkpoint", "x"], "both name weights"),
        (["localize", "a.npy", "b.npy", "-m", "bmn_anet", "--seconds", "9"], "--seconds is the length of one video"),
        (["localize", VIDEO], "--model"),
    ],
)
def test_wrong_usage_exits_with_2(run, argv, reason):
    code, out, err = run(*argv)
    assert code == 2 and not out and reason in err


def test_a_page_escapes_names_and_shows_nothing_found(bmn, tmp_path):
    np.save(tmp_path / "a <b>.npy", np.random.default_rng(0).standard_normal((30, WIDTH)).astype(np.float32))
    result = localize_features(proposal_chain([bmn[0]]), [tmp_path / "a <b>.npy"], classes=(["<i>"], np.ones(1)))
    html = localization_report([result, result])
    assert "a &lt;b&gt;.npy" in html and "<b>" not in html and "&lt;i&gt;" in html and "<i>" not in html
    assert "No segment found" in localization_report(replace(result, segments=[]))


# SSN -----------------------------------------------------------------------------------------------------------------


def ssn_model(num_classes=2):
    torch.manual_seed(0)
    model = videozoo.create_model("small_ssn", num_classes=num_classes).eval()
    model.pretrained_cfg |= {"test": {"resize": 32, "size": 32, "crops": 1}, "label_names": ["jump", "run"]}
    for layer in (model.activity, model.completeness, model.regression):
        torch.nn.init.normal_(layer.weight, std=0.05)
    return model


def test_ssn_scores_given_proposals_of_a_video():
    model = ssn_model()
    listed = regions.ProposalVideo("demo", 560, (), ((0, 0.0, 0.0, 100.0, 300.0), (0, 0.0, 0.0, 400.0, 700.0)))
    result = localize_proposals(model, VIDEO, listed)
    with open_video(VIDEO) as reader:
        frames = extract_features(model, reader, every=6, first=0).values[: len(range(0, 279, 6))]
    exact = regions.ProposalVideo("demo", 280, (), ((0, 0.0, 0.0, 50.0, 150.0), (0, 0.0, 0.0, 200.0, 280.0)))
    places, ticks, scales = files.proposal_ticks(exact, len(frames))
    with torch.inference_mode():
        output = model.score(torch.from_numpy(frames), torch.from_numpy(ticks), torch.from_numpy(scales))
    tables = localization.ssn_detections(places, output.activity.numpy(), output.completeness.numpy())
    expected = sorted((-row[2], row[0] * 10, row[1] * 10) for table in tables for row in table)
    assert [(-s, a, b) for a, b, s, _ in result.segments] == [pytest.approx(row) for row in expected]
    assert {row[3] for row in result.segments} == {"jump", "run"} and "Borders stay" in result.remark
    with pytest.raises(ValueError, match="none of the 1 proposals of x lies inside"):
        fitted(regions.ProposalVideo("x", 100, (), ((0, 0.0, 0.0, 100.0, 300.0),)), 50)


def test_ssn_without_proposals_slides_over_the_whole_video():
    video = sliding_proposals("x", 100)
    spans = {(row[3], row[4]) for row in video.proposals}
    assert (0.0, 100.0) in spans and (0.0, 50.0) in spans and (50.0, 100.0) in spans
    assert all(0 <= a < b <= 100 for a, b in spans) and min(b - a for a, b in spans) == 50
    assert sliding_proposals("x", 3).proposals == ((0, 0.0, 0.0, 0.0, 3.0),)
    result = localize_proposals(ssn_model(), ArrayReader(np.zeros((70, 32, 32, 3), np.uint8), path="black"))
    assert result.unit == "frames" and result.length == 70 and "windows" in result.remark


LISTED = ((1, 0.9, 1.0, 4.0, 20.0), (0, 0.0, 0.0, 25.0, 38.0), (2, 0.8, 0.9, 21.0, 30.0))


def ssn_data(root, *proposals):
    """THUMOS14's form: two videos of 40 frames, the list, and more listed videos that are not there."""
    proposals = proposals or (LISTED, LISTED)
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 32, 32, 3), np.uint8)
    for number, video in enumerate(frames):
        folder = root / "rawframes_test" / f"v{number}"
        folder.mkdir(parents=True)
        for place, picture in enumerate(video, 1):
            Image.fromarray(picture).save(folder / f"img_{place:05d}.png")
    truth = ((1, 4.0, 19.0), (2, 20.0, 30.0))
    videos = [regions.ProposalVideo(f"v{number}", 40, truth, rows) for number, rows in enumerate(proposals)]
    (root / "thumos14_tag_test_proposal_list.txt").write_text(regions.write_proposals(videos))
    return videozoo.load_dataset("thumos14", root, split="test")


def test_ssn_is_measured_on_a_list_of_proposals(tmp_path):
    model = ssn_model()
    data = ssn_data(tmp_path, LISTED, LISTED, LISTED)
    videos = [sample.extra["proposals"] for sample in data]
    result = evaluate_detections(model, data)
    assert result.videos == ["v0", "v1"] and [f.video for f in result.failures] == ["v2"]
    stats = files.regression_statistics(videos)
    found = {}
    for number in range(2):
        moved = localize_proposals(model, tmp_path / "rawframes_test" / f"v{number}", videos[number], stats=stats)
        of = [[row[:3] for row in moved.segments if row[3] == name] for name in ("jump", "run")]
        found[number] = [np.array(rows).reshape(-1, 3) / [40, 40, 1] for rows in of]
    truth = {number: {0: [(4 / 40, 19 / 40)], 1: [(20 / 40, 30 / 40)]} for number in found}
    expected = {key: 100 * value for key, value in temporal.thumos14_map(truth, found).items()}
    assert result.metrics == pytest.approx(expected) and max(expected.values()) > 0


def test_an_interrupted_measurement_of_ssn_goes_on(tmp_path, monkeypatch):
    model, data = ssn_model(), ssn_data(tmp_path)
    whole = evaluate_detections(model, data)
    opened, scored = [], evaluation.score_proposals

    def once(*args):
        if opened:
            raise KeyboardInterrupt
        opened.append(1)
        return scored(*args)

    monkeypatch.setattr(evaluation, "score_proposals", once)
    with pytest.raises(KeyboardInterrupt):
        evaluate_detections(model, data, save_logits=tmp_path / "scores")
    opened.clear()
    rest = evaluate_detections(model, data, save_logits=tmp_path / "scores")
    assert rest.resumed == 1 and rest.metrics == whole.metrics and rest.per_class == whole.per_class
    torch.nn.init.ones_(model.activity.weight)
    with pytest.raises(ValueError, match="scores of another run"):
        evaluate_detections(model, data, save_logits=tmp_path / "scores")


def test_classes_that_do_not_occur_are_left_out_and_named(tmp_path):
    torch.manual_seed(0)
    model = ssn_model(num_classes=3)
    result = evaluate_detections(model, ssn_data(tmp_path))
    assert result.metrics and not any(np.isnan(value) for value in result.metrics.values())
    assert [(row.name, row.positives) for row in result.per_class] == [("class 0", 2), ("class 1", 2)]
    assert "1 of 3 classes have no segment here and are left out" in result.remark
    with pytest.raises(ValueError, match="has the label 2, the model has 1 classes"):
        evaluate_detections(ssn_model(num_classes=1), ssn_data(tmp_path / "again"))


def test_proposals_of_no_use_do_not_stop_a_set(tmp_path):
    good = (1, 0.9, 1.0, 4.0, 20.0)
    odd = ((1, 0.9, 1.0, 20.0, 20.0), (1, 0.9, 1.0, 30.0, 20.0), (1, 0.9, 1.0, 50.0, 90.0))
    result = evaluate_detections(ssn_model(), ssn_data(tmp_path, (*odd, good), odd))
    assert result.videos == ["v0"] and "none of the 3 proposals of v1 lies inside" in result.failures[0].reason
    assert not any(np.isnan(value) for value in result.metrics.values())
    plain = evaluate_detections(ssn_model(), ssn_data(tmp_path / "plain", (good,), (good,)), limit=1)
    assert plain.metrics.keys() == result.metrics.keys()


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda text: text * 2, "has v0 twice"),
        (lambda text: text.replace("0.9000", "nan"), "finite numbers expected"),
        (lambda text: text.replace("40\n1\n", "0\n1\n"), "v0 has 0 frames"),
        (lambda text: text[:-30], "broken block of video 1"),
        (lambda text: text.replace("0.9000", "0.1").replace("0.8000", "0.1"), "check the IoUs of the list"),
    ],
)
def test_a_broken_list_of_proposals_is_told(tmp_path, change, reason):
    ssn_data(tmp_path)
    path = tmp_path / "thumos14_tag_test_proposal_list.txt"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=reason):
        evaluate_detections(ssn_model(), videozoo.load_dataset("thumos14", tmp_path, split="test"))


def test_names_of_thumos14_are_those_of_its_classes():
    assert len(videozoo.labels("thumos14")) == videozoo.get_pretrained_cfg("ssn_r50_thumos14").num_classes == 20
    assert videozoo.labels("thumos14") == sorted(videozoo.labels("thumos14"))
    assert set(videozoo.labels("thumos14")) <= set(videozoo.labels("ucf101"))


# eval ----------------------------------------------------------------------------------------------------------------


def test_eval_measures_what_the_pieces_measure(run, bmn, tmp_path):
    features, segments = write_split(tmp_path / "data", "val", 8, seed=3)
    scores = {f"val{i}": [0.9, 0.1] if i % 2 == 0 else [0.2, 0.8] for i in range(8)}
    (tmp_path / "scores.json").write_text(json.dumps({"class": ["Archery", "Kayaking"], "results": scores}))
    options = ["--device", "cpu", "--batch-size", "3", "--class-scores", tmp_path / "scores.json"]
    pages = ["--out", tmp_path / "page.html", "--results-file", tmp_path / "numbers.json"]
    code, out, _ = run("eval", bmn[1], "--data", tmp_path / "data", *options, *pages)
    facts = json.loads((tmp_path / "numbers.json").read_text())
    seconds = POSITIONS * 16 / FPS
    rows = proposal_chain([bmn[0]]).proposals(features.numpy(), [seconds] * 8)
    truth = {i: [(a * seconds, b * seconds) for a, b in found] for i, found in enumerate(segments)}
    recall = temporal.average_recall(truth, dict(enumerate(rows)))
    assert facts["metrics"]["AUC"] == pytest.approx(recall.auc)
    assert facts["metrics"]["AR@100"] == pytest.approx(100 * recall.at(100)["AR@100"])
    names = ["Archery", "Kayaking"]
    labelled = {i: localization.label_segments(rows[i], scores[f"val{i}"], names) for i in range(8)}
    truth = {i: [(*row, names[i % 2]) for row in found] for i, found in truth.items()}
    expected = temporal.detection_map(truth, labelled)
    assert facts["metrics"]["average_mAP"] == pytest.approx(100 * expected["average_mAP"])
    assert facts["metrics"]["mAP@0.50"] == pytest.approx(100 * expected["mAP"][0]) and expected["mAP"][0] > 0
    values = dict(zip(expected["labels"], 100 * expected["ap"].mean(0), strict=True))
    assert {row["name"]: row["average_precision"] for row in facts["classes"]} == pytest.approx(values)
    assert [row["positives"] for row in facts["classes"]] == [4, 4] and "average precision" in out
    assert code == 0 and "8 videos measured, 0 could not be read" in out and len(facts["curve"]) == 100
    assert "Recall against the number" in (tmp_path / "page.html").read_text()


def test_published_numbers_stand_beside_the_measured_ones(tmp_path):
    write_split(tmp_path, "val", 2, seed=0)
    for name in tmp_path.glob("features/*.npy"):
        np.save(name, np.zeros((100, 400), np.float32))
    chain = proposal_chain(create_localizers("bmn_anet"))
    chain.networks[0].pretrained_cfg["metrics"] = videozoo.get_pretrained_cfg("bmn_anet").metrics
    data = load_feature_set(tmp_path)
    result = evaluate_proposals(chain, data)
    assert result.published["AUC"] == 67.38 and "average_mAP" not in result.published
    assert set(result.differences) == {"AR@100", "AUC"} and not result.remark
    scores = (["Archery", "Kayaking"], {"val0": np.array([1, 0]), "v_val1": np.array([0, 1])})
    assert evaluate_proposals(chain, data, class_scores=scores).published["average_mAP"] == 31.15
    assert "1 of 2 videos" in evaluate_proposals(chain, data, limit=1).remark
    with pytest.raises(ValueError, match="belong to another data set"):
        evaluate_proposals(chain, data, class_scores=(["x", "y"], scores[1]))


def test_missing_and_broken_features_do_not_stop_a_set(run, tmp_path):
    _, names = small_bsn(tmp_path)
    write_split(tmp_path / "data", "val", 6, seed=3)
    folder = tmp_path / "data" / "features"
    (folder / "v_val0.npy").unlink()
    (folder / "v_val1.npy").write_bytes(b"no array")
    np.save(folder / "v_val2.npy", np.zeros((POSITIONS, WIDTH - 1)))
    np.save(folder / "v_without_annotation.npy", np.zeros((POSITIONS, WIDTH)))
    command = ["eval", names[0], "--pem", names[1], "--data", tmp_path / "data", "--device", "cpu"]
    code, out, err = run(*command, "--results-file", tmp_path / "n.csv")
    assert code == 0 and "3 videos measured, 3 could not be read" in out and "3 of 6 videos are left out" in out
    assert f"v_val2.npy has features of width {WIDTH - 1}, the model takes {WIDTH}" in out
    with (tmp_path / "n.csv").open() as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    assert float(rows["AUC"]["measured"]) > 0 and rows["AUC"]["failed"] == "3"
    for path in folder.glob("v_val*.npy"):
        path.write_bytes(b"")
    code, out, _ = run(*command)
    assert code == 1 and "0 videos measured, 6 could not be read" in out


def test_features_of_rgb_and_flow_may_lie_apart(run, bmn, tmp_path):
    write_split(tmp_path / "data", "val", 4, seed=3)
    run("eval", bmn[1], "--data", tmp_path / "data", "--device", "cpu", "--results-file", tmp_path / "one.json")
    for path in (tmp_path / "data" / "features").glob("*.npy"):
        table = np.load(path)
        for name, part in (("rgb", table[:, : WIDTH // 2]), ("flow", table[:, WIDTH // 2 :])):
            (tmp_path / name).mkdir(exist_ok=True)
            np.save(tmp_path / name / path.name, part)
    options = ["--features", tmp_path / "rgb", tmp_path / "flow", "--results-file", tmp_path / "two.json"]
    run("eval", bmn[1], "--data", tmp_path / "data", "--device", "cpu", *options)
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert one["metrics"] == two["metrics"] and two["videos"] == 4


def edit_segment(root, segment):
    table = json.loads((root / "anet_anno_val.json").read_text())
    table["v_val0"]["annotations"] = [{"segment": segment, "label": "Archery"}] if segment else []
    (root / "anet_anno_val.json").write_text(json.dumps(table))


def test_segments_that_nothing_can_find_are_counted(run, bmn, tmp_path):
    write_split(tmp_path, "val", 2, seed=0)
    command = ["eval", bmn[1], "--data", tmp_path, "--device", "cpu"]
    assert "lie outside their video" not in run(*command)[1]
    for segment in ([50.0, 60.0], [3.0, 3.0], [5.0, 3.0]):
        edit_segment(tmp_path, segment)
        code, out, _ = run(*command)
        assert code == 0 and "1 of 2 annotated segments have no length or lie outside their video" in out
    edit_segment(tmp_path, None)
    assert "2 videos measured" in run(*command)[1], "one without annotation counts in the average number of proposals"


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda root: (root / "anet_anno_val.json").unlink(), "no anet_anno_val.json in"),
        (lambda root: [p.unlink() for p in root.glob("features/*")], "no features of any of the 2 videos"),
        (lambda root: (root / "anet_anno_val.json").write_text("[]"), "expected a table of videos"),
        (lambda root: (root / "anet_anno_val.json").write_text("{}"), "names no video"),
        (lambda root: (root / "anet_anno_val.json").write_text('{"v": {"duration_second": 1}}'), "wrong or missing"),
        (lambda root: (root / "anet_anno_val.json").write_text('{"v": {}, "v": {}}'), "has 'v' twice"),
        (lambda root: edit_segment(root, [float("nan"), 1.0]), "video v_val0: wrong or missing"),
    ],
)
def test_a_broken_data_set_is_told_in_one_line(run, bmn, tmp_path, change, reason):
    write_split(tmp_path / "data", "val", 2, seed=0)
    change(tmp_path / "data")
    code, out, err = run("eval", bmn[1], "--data", tmp_path / "data", "--device", "cpu")
    assert code == 1 and not out and reason in err and len(err.splitlines()) == 1


def test_options_of_other_tasks_are_refused(run, bmn, tmp_path):
    _, ssn = save_small("small_ssn", tmp_path / "ssn", num_classes=2)
    for model, option in ((ssn, "--class-scores"), (ssn, "--features"), (bmn[1], "--proposals")):
        code, _, err = run("eval", model, "--data", tmp_path, option, "x")
        assert code == 2 and option in err
    code, _, err = run("eval", bmn[1], "--data", tmp_path, "--save-logits", tmp_path / "x")
    assert code == 2 and "--save-logits is of no use to" in err
