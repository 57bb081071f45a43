"""Temporal localisers: the published networks, their files, their training and the chain from features to segments."""

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from localization_data import generated_videos
from parity import clip, read_case, relative_error, write_checkpoint

import videozoo
from videozoo import localization
from videozoo.checkpoint import CheckpointError
from videozoo.data import localization as files
from videozoo.data import regions
from videozoo.data.annotations import AnnotationError
from videozoo.evaluation.metrics import temporal
from videozoo.localization.losses import balanced_logistic
from videozoo.localization.ssn import denormalized
from videozoo.models.bmn import BMN, SegmentSampling, sampling_points
from videozoo.models.bsn import BoundaryScores, ProposalEvaluation, TemporalEvaluation
from videozoo.models.ssn import ProposalPredictions

GOLDEN = json.loads(gzip.decompress((Path(__file__).parent / "data" / "localization_lists.json.gz").read_bytes()))
KEYS = {
    "bmn": "6f2120578ee96116",
    "bsn_tem": "47a23b5dfb2210da",
    "bsn_pem": "b7895dcdbc314f1f",
    "ssn_r50": "4fe33340a5da4e36",
}
BMN_CASE = "mma012_bmn_400x100_2x8_9e_activitynet_feature"


# The published networks ----------------------------------------------------------------------------------------------


def published(case_id, name, tmp_path):
    case, expected = read_case(case_id)
    model = videozoo.create_model(name, checkpoint_path=write_checkpoint(case, tmp_path / "published.pth")).eval()
    return model, case, expected


@torch.inference_mode()
def test_bmn_equals_the_published_one(tmp_path):
    model, case, expected = published(BMN_CASE, "bmn_400x100_2x8_9e_activitynet_feature", tmp_path)
    hidden = model.forward_features(clip(case))
    output = model.forward_head(hidden)
    assert relative_error(output.confidence, expected["confidence_map"]) < case["tol"]
    assert relative_error(output.start, expected["start"].reshape(1, -1)) < case["tol"]
    assert relative_error(output.end, expected["end"].reshape(1, -1)) < case["tol"]
    assert relative_error(model.segment(hidden), expected["features"]) < case["tol"]


def test_bmn_takes_files_with_the_sampling_matrix(tmp_path):
    case, _ = read_case(BMN_CASE)
    path = write_checkpoint(case, tmp_path / "published.pth")
    content = torch.load(path)
    content["state_dict"]["sample_mask"] = torch.zeros(100, 4)  # published files hold it, some 128 MB
    torch.save(content, path)
    model = videozoo.create_model("bmn_anet", checkpoint_path=path)
    assert torch.equal(model.start[0].weight, content["state_dict"]["x_1d_s.0.weight"])
    del content["state_dict"]["x_1d_e.2.bias"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"end\.2\.bias"):
        videozoo.create_model("bmn_anet", checkpoint_path=path)


@torch.inference_mode()
def test_bsn_equals_the_published_one(tmp_path):
    model, case, expected = published("mma012_bsn_tem_400x100_1x16_20e_activitynet_feature", "bsn_tem_anet", tmp_path)
    assert relative_error(torch.stack(model(clip(case)), 1), expected["scores"]) < case["tol"]
    hidden = model.forward_features(clip(case))
    assert relative_error(hidden, expected["features"]) < case["tol"]
    assert relative_error(model.conv3(hidden), expected["logits"]) < case["tol"]

    model, case, expected = published("mma012_bsn_pem_400x100_1x16_20e_activitynet_feature", "bsn_pem_anet", tmp_path)
    descriptions = clip(case).mT
    assert relative_error(model(descriptions).confidence.flatten(), expected["scores"].ravel()) < case["tol"]
    hidden = model.forward_features(descriptions)
    assert relative_error(hidden.mT.flatten(0, 1), expected["features"]) < case["tol"]
    assert relative_error(model.fc2(hidden.mT).flatten(0, 1), expected["logits"]) < case["tol"]


@torch.inference_mode()
def test_ssn_equals_the_published_one(tmp_path):
    model, case, expected = published("mma012_ssn_r50_450e_thumos14_rgb", "ssn_r50_thumos14", tmp_path)
    ticks, scales = (torch.from_numpy(expected[key]) for key in ("proposal_tick_list", "scale_factor_list"))
    assert relative_error(model.frame_features(clip(case))[0], expected["features"]) < case["tol"]
    output = model(clip(case), ticks, scales)
    assert relative_error(output.activity, expected["activity_scores"]) < case["tol"]
    assert relative_error(output.completeness, expected["completeness_scores"]) < case["tol"]
    moved = denormalized(output.regression, expected["reg_norm_consts"])
    assert np.abs(moved - expected["bbox_preds"]).max() < case["tol"] * np.abs(expected["bbox_preds"]).max()


def test_every_localiser_is_listed_and_finds_its_published_names():
    listed = videozoo.list_models(task="localization", pretrained=True)
    assert len(listed) == 11
    assert videozoo.list_models("bmn*", modality="feature", pretrained=True) == [n for n in listed if "bmn" in n]
    assert videozoo.get_pretrained_cfg("bsn_tem_400x100_1x16_20e_activitynet_feature").full_name == "bsn_tem_anet.mma0"
    assert videozoo.get_pretrained_cfg("ssn_r50_450e_thumos14_rgb_test").full_name == "ssn_r50_thumos14.mma0"
    assert videozoo.model_info("bmn_anet")["params"] == 4978564


# Boundary matching ---------------------------------------------------------------------------------------------------


def dense_matrix(positions, points, mean_of, margin):
    """The sampling matrix by its definition: one number at a time, (positions, points, rows, columns)."""
    matrix = np.zeros((positions, points, positions, positions))
    for row in range(positions):
        for column in range(positions - row):
            reach = margin * (row + 1)
            places = np.linspace(column - reach, column + row + reach, points * mean_of)
            for number, place in enumerate(places):
                whole = int(place)  # towards zero
                for index, share in ((whole, 1 - (place - whole)), (int(np.ceil(place)), place - whole)):
                    if 0 <= index < positions:
                        matrix[index, number // mean_of, row, column] += share / mean_of
    return torch.from_numpy(matrix).float()


def test_sparse_sampling_equals_the_dense_form_forward_and_backward():
    torch.manual_seed(0)
    positions, points = 12, 8
    sampling = SegmentSampling(6, 5, positions, points, 3, 0.5)
    sampling.init_weights()
    x = torch.randn(3, 6, positions, requires_grad=True)
    matrix = dense_matrix(positions, points, 3, 0.5)
    samples = torch.einsum("nct,tpde->ncpde", x, matrix)
    dense = torch.nn.functional.conv3d(samples, sampling.weight, sampling.bias).squeeze(2)
    sparse = sampling(x)
    assert torch.allclose(sparse, dense, atol=1e-5)
    gradients = []
    for result in (sparse, dense):
        gradients.append(torch.autograd.grad(result.square().sum(), (x, sampling.weight, sampling.bias)))
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-3)


def test_the_sampling_table_is_small_and_is_not_saved(tmp_path):
    assert len(sampling_points(100, 32, 3, 0.5)[0]) < 0.016 * 100 * 32 * 100 * 100
    model = BMN()
    assert sum(t.numel() for t in model.state_dict().values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", KEYS)
def test_state_dict_keys_are_a_public_contract(name):
    keys = sorted((k, tuple(v.shape)) for k, v in videozoo.create_model(name).state_dict().items())
    digest = hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]
    assert digest == KEYS[name], f'if this change is meant, state "{name}": "{digest}"'


@pytest.mark.parametrize("name", ["bmn", "bsn_tem", "bsn_pem"])
def test_surface(name):
    torch.manual_seed(0)
    model = videozoo.create_model(name).eval()
    x = torch.randn(2, model.in_chans, 100)
    with torch.inference_mode():
        output, again = model(x), model.forward_head(model.forward_features(x))
        alone = model(x[1:])
    assert all(torch.equal(a, b) for a, b in zip(output, again, strict=True))
    assert all(torch.allclose(a[1:], b, atol=1e-6) for a, b in zip(output, alone, strict=True))
    assert all(((t > 0) & (t < 1)).all() for t in output)
    levels = videozoo.create_model(name, features_only=True)(x)
    assert [t.shape for t in levels] == [(2, chs, 100) for chs in model.feature_info.channels()]
    groups = videozoo.group_parameters(model)
    assert sorted(n for group in groups.values() for n in group) == sorted(n for n, _ in model.named_parameters())
    with torch.inference_mode():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
    torch._dynamo.reset()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(output, compiled, strict=True))


def test_wrong_input_is_told():
    model = videozoo.create_model("bmn", in_chans=8)
    with pytest.raises(ValueError, match=r"bmn expects features \(N, 8, T\), got \(1, 100, 8\): .*x.mT"):
        model(torch.zeros(1, 100, 8))
    with pytest.raises(ValueError, match=r"bmn takes 100 positions, got 60: resample"):
        model(torch.zeros(1, 8, 60))
    with pytest.raises(ValueError, match="floating-point"):
        model(torch.zeros(1, 8, 100, dtype=torch.int64))
    with pytest.raises(ValueError, match="bmn finds segments and does not label whole videos"):
        videozoo.predict(model, "video.mp4")
    with pytest.raises(ValueError, match="knows no classes"):
        videozoo.create_model("bmn", num_classes=5)
    assert videozoo.create_model("bmn", in_chans=8, num_frames=20).num_frames == 20
    ssn = videozoo.create_model("ssn_r50")
    with pytest.raises(ValueError, match="one video at a time"):
        ssn(torch.zeros(2, 3, 4, 32, 32), torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"ticks must be \(K, 4\)"):
        ssn.score(torch.zeros(5, 2048), torch.zeros(3, 3, dtype=torch.int64), torch.ones(3, 2))
    with pytest.raises(ValueError, match="trained on 9 frames"):
        ssn.forward_proposals(torch.zeros(2, 3, 4, 32, 32), torch.ones(2, 2))


# Files ---------------------------------------------------------------------------------------------------------------


def golden_file(name, folder):
    path = folder / Path(name).name
    path.write_text(GOLDEN["files"][name])
    return path


def test_feature_files(tmp_path):
    path = golden_file("anet_features/v_test1.csv", tmp_path)
    features = files.load_feature_file(files.feature_file(tmp_path, "v_test1"), 6)
    assert features.shape[0] == 6 and features.dtype == np.float32
    assert features[0, :3] == pytest.approx([-1.623731, -0.00229, 1.666429])
    np.save(tmp_path / "other.npy", features.T)
    assert np.array_equal(files.load_feature_file(files.feature_file(tmp_path, "other")), features)
    with pytest.raises(AnnotationError, match="width 6, the model takes 400"):
        files.load_feature_file(path, 400)
    with pytest.raises(FileNotFoundError, match="no features of v_x: expected v_x.csv or v_x.npy or v_x.safetensors"):
        files.feature_file(tmp_path, "v_x")
    for text, message in [("f0,f1\n", "table of numbers"), ("f0\nx\n", "rows of numbers"), ("f0\nnan\n", "not finite")]:
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(AnnotationError, match=message):
            files.load_feature_file(tmp_path / "bad.csv")
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    with pytest.raises(AnnotationError, match="read safely"):
        files.load_feature_file(tmp_path / "objects.npy")


def test_csv_files_may_have_no_line_of_names(tmp_path):
    rows = [[1.5, 2.0], [3.0, 4.0]]
    for name, head in (("names", "f0,f1\n"), ("numbers", "0,1\n"), ("none", "")):
        (tmp_path / f"{name}.csv").write_text(head + "\n".join(",".join(map(str, row)) for row in rows) + "\n")
        assert files.load_feature_file(tmp_path / f"{name}.csv").T.tolist() == rows


def test_features_are_resampled_linearly():
    ramp = np.arange(50, dtype=np.float64)[None]
    values = files.resample_features(ramp, 10)[0]
    step = (49 - 2e-4) / 10
    assert values == pytest.approx([1e-4 + step * (i + 1 / 3) for i in range(10)])
    assert (files.resample_features(np.full((2, 1), 3.0), 4) == 3).all()
    with pytest.raises(ValueError, match="at least one position"):
        files.resample_features(np.zeros((400, 0)))


def test_candidate_files(tmp_path):
    rows = files.read_candidates(golden_file("anet_proposals/v_test1.csv", tmp_path))
    assert rows.shape == (9, 7) and rows[0] == pytest.approx([0.1, 0.2, 0.95, 0.96, 0.97, 0.85, 0.84])
    files.write_candidates(tmp_path / "again.csv", rows[:, :5])
    assert np.array_equal(files.read_candidates(tmp_path / "again.csv"), rows[:, :5])


def test_class_scores_label_the_proposals_of_a_video(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"class": ["a", "b", "c"], "results": {"x": [0.1, 0.6, 0.3]}}))
    labels, scores = files.read_class_scores(path)
    rows = localization.label_segments([(0, 4, 0.5), (2, 3, 0.25)], scores["x"], labels)
    assert rows == [(0, 4, 0.3, "b"), (2, 3, 0.15, "b"), (0, 4, 0.15, "c"), (2, 3, 0.075, "c")]
    files.write_results(tmp_path / "results.json", {"x": rows, "empty": []})
    assert files.read_results(tmp_path / "results.json") == {"x": rows, "empty": []}
    path.write_text(json.dumps({"class": ["a"], "results": {"x": [0.1, 0.6]}}))
    with pytest.raises(AnnotationError, match="video x: 1 classes need as many scores"):
        files.read_class_scores(path)


def test_proposal_pools_and_statistics_of_ssn_equal_the_published_ones(tmp_path):
    videos = regions.read_proposals(golden_file("ssn_proposals.txt", tmp_path))
    expected = GOLDEN["ssn_train"]
    pools = files.proposal_pools(videos)
    names = {"positive_pool": pools.complete, "incomplete_pool": pools.incomplete, "background_pool": pools.background}
    for name, pool in names.items():
        published_pool = expected["pools"][name]
        assert len(pool) == len(published_pool)
        for row, (video, facts) in zip(pool, published_pool, strict=True):
            assert (row.video, row.label, row.start, row.end) == (
                video, facts["label"], facts["start_frame"], facts["end_frame"])  # fmt: skip
            assert row.regression == pytest.approx(facts["regression_targets"])
            assert row.coverage == pytest.approx(facts["coverage"])
    statistics = np.reshape(expected["reg_norm_consts"]["data"], (2, 2))
    assert files.regression_statistics(videos) == pytest.approx(statistics)
    totals = {video.video: video.num_frames for video in videos}
    for video, start, end, first, last, _ in expected["stages"]:
        assert files.stage_scales(start, end, totals[video]) == pytest.approx((first, last))


def test_test_inputs_of_ssn_equal_the_published_ones(tmp_path):
    videos = {v.video: v for v in regions.read_proposals(golden_file("ssn_proposals.txt", tmp_path))}
    for item in GOLDEN["ssn_test"]["test_items"]:
        video = videos[item["video_id"]]
        proposals, ticks, scales = files.proposal_ticks(video, len(range(0, video.num_frames - 1, 6)))
        assert proposals.ravel() == pytest.approx(item["relative_proposal_list"]["data"])
        assert ticks.ravel().tolist() == item["proposal_tick_list"]["data"]
        assert scales.ravel() == pytest.approx(item["scale_factor_list"]["data"])


def test_training_draws_proposals_by_kind(tmp_path):
    videos = regions.read_proposals(golden_file("ssn_proposals.txt", tmp_path))
    pools = files.proposal_pools(videos)
    drawn = files.draw_proposals(pools, "video_b", np.random.default_rng(0))
    assert len(drawn) == 8
    assert drawn[0] in pools.complete and drawn[-1] in pools.background
    assert all(row in pools.incomplete and row.video == "video_b" for row in drawn[1:7])
    with pytest.raises(ValueError, match="pool of proposals is empty"):
        files.draw_proposals(files.proposal_pools([]), "video_b", np.random.default_rng(0))


# Training ------------------------------------------------------------------------------------------------------------


def test_targets_of_bmn():
    targets = localization.bmn_targets([(0.2, 0.6), (0.7, 0.7)], 10)
    assert targets.iou[3, 2] == pytest.approx(1)  # four positions from the third on
    assert targets.iou[1, 2] == pytest.approx(0.5)
    assert not targets.iou[np.add.outer(np.arange(10), np.arange(10)) >= 10].any(), "beyond the end"
    assert targets.start == pytest.approx([0.5, 1, 1, 0.5, 0, 0, 0, 0, 0, 0])
    assert targets.start[6:].max() == 0 and targets.end[:3].max() == 0
    nothing = localization.bmn_targets([], 10)
    assert not nothing.iou.any() and not nothing.start.any()
    with pytest.raises(ValueError, match="finite fractions"):
        localization.bmn_targets([(0, float("nan"))])


def test_targets_of_bsn():
    targets = localization.tem_targets([(0.2, 0.6)], 10)
    assert targets.action == pytest.approx([0, 0, 1, 1, 1, 1, 0, 0, 0, 0])
    assert targets.start == pytest.approx([0, 0.5, 0.5, 0, 0, 0, 0, 0, 0, 0])
    assert targets.end == pytest.approx([0, 0, 0, 0, 0, 0.5, 0.5, 0, 0, 0][:10])


def test_balanced_logistic_weighs_both_sides_alike():
    target = torch.tensor([1.0, 0, 0, 0])
    half = torch.full((4,), 0.5)
    loss = balanced_logistic(half, target)
    assert loss.item() == pytest.approx(np.log(2), rel=1e-3), "as much from the one positive as from three negatives"
    better = balanced_logistic(torch.tensor([0.9, 0.1, 0.1, 0.1]), target)
    assert better < loss
    none = balanced_logistic(half, torch.zeros(4))
    assert torch.isfinite(none)


def test_loss_of_ssn_looks_at_the_hardest_incomplete_proposals():
    kinds = torch.tensor([0, 1, 1, 1, 1, 1, 1, 2])
    labels = torch.tensor([2, 1, 1, 1, 1, 1, 1, 0])
    completeness = torch.zeros(8, 3)
    completeness[0, 1] = 0.25
    completeness[3, 0] = 0.5
    activity = torch.zeros(8, 4)
    regression = torch.zeros(8, 3, 2)
    targets = torch.zeros(8, 2)
    targets[0] = 2.0
    loss = localization.ssn_loss(ProposalPredictions(activity, completeness, regression), kinds, labels, targets)
    assert loss["activity"].item() == pytest.approx(np.log(4))
    assert loss["completeness"].item() == pytest.approx((0.75 + 1.5) / 2)
    assert loss["regression"].item() == pytest.approx(2 * 1.5)
    assert loss["loss"].item() == pytest.approx(np.log(4) + 0.1 * 2.25 / 2 + 0.1 * 3)


def auc(proposals, segments):
    truth = dict(enumerate(segments))
    return temporal.average_recall(truth, dict(enumerate(proposals)), max_avg_proposals=10).auc


def chance(segments, count=10):
    rng = np.random.default_rng(1)
    random = [np.column_stack([np.sort(rng.uniform(0, 1, (count, 2)), 1), rng.uniform(size=count)]) for _ in segments]
    return auc(random, segments)


def stacked(targets):
    return [torch.from_numpy(np.stack(parts)) for parts in zip(*(vars(t).values() for t in targets), strict=True)]


def test_bmn_learns_to_propose():
    torch.manual_seed(0)
    model = BMN(in_chans=8, num_frames=20, hidden=16, points=8)
    features, segments = generated_videos(48)
    targets = stacked([localization.bmn_targets(rows, 20) for rows in segments])
    optimizer = torch.optim.Adam(model.parameters(), 0.005)
    for step in range(90):
        batch = torch.arange(16) + 16 * (step % 3)
        loss = localization.bmn_loss(model(features[batch]), *(t[batch] for t in targets))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, segments = generated_videos(24, seed=5)
    with torch.inference_mode():
        output = model.eval()(features)
    rows = [localization.bmn_proposals(*parts) for parts in zip(*(t.numpy() for t in output), strict=True)]
    found = [localization.finish_proposals(r, 1.0, **localization.BMN_NMS, top_k=10) for r in rows]
    assert auc(found, segments) > chance(segments) + 30


def test_bsn_learns_to_propose():
    torch.manual_seed(0)
    first, second = TemporalEvaluation(in_chans=8, hidden=32), ProposalEvaluation()
    features, segments = generated_videos(48, shift=0.5)
    targets = stacked([localization.tem_targets(rows, 20) for rows in segments])
    optimizer = torch.optim.Adam(first.parameters(), 0.01)
    for _ in range(150):
        loss = localization.tem_loss(first(features), *targets)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def described(features):
        with torch.inference_mode():
            output = BoundaryScores(*(t.numpy() for t in first.eval()(features)))
        rows = [localization.candidates(s, e) for s, e in zip(output.start, output.end, strict=True)]
        return rows, [localization.describe_candidates(r, a) for r, a in zip(rows, output.action, strict=True)]

    rows, descriptions = described(features)
    iou = [localization.match_candidates(r, s)[0] for r, s in zip(rows, segments, strict=True)]
    flat = torch.from_numpy(np.concatenate(descriptions)).float().T[None]
    wanted = torch.from_numpy(np.concatenate(iou)).float()[None]
    optimizer = torch.optim.Adam(second.parameters(), 0.02)
    for _ in range(150):
        loss = localization.pem_loss(second(flat).confidence, wanted)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, segments = generated_videos(24, seed=5, shift=0.5)
    found = []
    for r, description in zip(*described(features), strict=True):
        with torch.inference_mode():
            confidence = second.eval()(torch.from_numpy(description).float().T[None]).confidence[0].numpy()
        r = localization.bsn_proposals(r, confidence)
        found.append(localization.finish_proposals(r, 1.0, **localization.BSN_NMS, top_k=10))
    assert auc(found, segments) > chance(segments) + 30


def test_ssn_trains_on_drawn_frames():
    torch.manual_seed(0)
    model = videozoo.create_model("ssn_r50", num_classes=3, drop_rate=0.0)
    output = model.forward_proposals(torch.randn(8, 3, 9, 32, 32), torch.ones(8, 2))
    kinds = torch.tensor([0, 1, 1, 1, 1, 1, 1, 2])
    labels = torch.tensor([2, 1, 1, 3, 1, 1, 1, 0])
    localization.ssn_loss(output, kinds, labels, torch.zeros(8, 2))["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())
    model.reset_classifier(5)
    assert model.forward_proposals(torch.randn(1, 3, 9, 32, 32), torch.ones(1, 2)).regression.shape == (1, 5, 2)


# Bad input -----------------------------------------------------------------------------------------------------------


def test_a_video_without_proposals_or_annotation_does_not_stop_a_set():
    empty = localization.finish_proposals(np.zeros((0, 3)), 10.0, **localization.BMN_NMS)
    assert empty.shape == (0, 3)
    result = temporal.average_recall({"a": [(0, 1)], "b": [(0, 1)]}, {"a": [(0, 1, 0.5)], "b": empty, "c": [(0, 9, 1)]})
    assert 0 < result.auc < 100
    with pytest.raises(ValueError, match="'b' has no proposals"):
        temporal.average_recall({"a": [(0, 1)], "b": [(0, 1)]}, {"a": [(0, 1, 0.5)]})
    with pytest.raises(ValueError, match="needs segments"):
        temporal.average_recall({}, {"a": [(0, 1, 0.5)]})
    assert len(localization.ssn_detections(np.zeros((0, 2)), np.zeros((0, 4)), np.zeros((0, 3)))) == 3
    with pytest.raises(ValueError, match="do not fit together"):
        localization.bmn_proposals(np.zeros((2, 5, 5)), np.zeros(4), np.zeros(5))
    with pytest.raises(ValueError, match="no segment of the ground truth has the label 'z'"):
        temporal.detection_map({"a": [(0, 1, "x")]}, {"a": [(0, 1, 0.5, "z")]})


def test_proposals_outside_the_video_are_clipped_to_it():
    rows = localization.finish_proposals([(-0.5, 0.5, 1.0), (0.5, 1.5, 0.5)], 10.0, **localization.BMN_NMS)
    assert rows.tolist() == [[0, 5, 1], [5, 10, 0.5]]
