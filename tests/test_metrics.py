"""Metrics of recognition equal the published implementation's, case by case, and a plain definition on large tables."""

import numpy as np
import pytest
from golden import cases

from videozoo.evaluation import metrics


def average_clip(cls_score, num_segs, average_clips):
    views = cls_score.reshape(-1, num_segs, cls_score.shape[-1])
    return metrics.average_clips(views, average_clips).reshape(-1, cls_score.shape[-1])


def evaluate_hvu(annotations, results, tag_categories, tag_category_nums):
    categories = dict(zip(tag_categories, tag_category_nums, strict=True))
    labels = [video["label"] for video in annotations]
    return metrics.evaluate(results, labels, "hvu_mean_average_precision", categories=categories)


CALLS = {
    "top_k_accuracy": metrics.top_k_accuracy,
    "mean_class_accuracy": metrics.mean_class_accuracy,
    "confusion_matrix": lambda y_pred, y_real, normalize: metrics.confusion_matrix(y_pred, y_real, normalize),
    "get_weighted_score": lambda score_list, coeff_list: metrics.fuse_scores(score_list, coeff_list),
    "softmax": lambda x, dim: metrics.softmax(x, axis=dim),
    "average_clip": average_clip,
    "BaseDataset.evaluate": lambda **inputs: metrics.evaluate(**{"scores": inputs.pop("results"), **inputs}),
    "mean_average_precision": metrics.mean_average_precision,
    "mmit_mean_average_precision": metrics.mmit_mean_average_precision,
    "binary_precision_recall_curve": lambda y_score, y_true: dict(
        zip(("precision", "recall", "thresholds"), metrics.precision_recall_curve(y_score, y_true), strict=True)
    ),
    "HVUDataset.evaluate": evaluate_hvu,
}


def assert_equal(actual, expected):
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_equal(actual[key], expected[key])
    else:
        actual, expected = np.asarray(actual), np.asarray(expected)
        assert actual.shape == expected.shape
        rtol = 1e-6 if expected.dtype == np.float32 else 1e-9
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=0)


def is_call(case):
    return "note" not in case["inputs"]  # three cases only describe how the published function is called


@pytest.mark.parametrize("case", list(cases("classification", "multilabel", "hvu", wanted=is_call)))
def test_equals_the_published_implementation(case):
    call = CALLS[case["function"]]
    if "raises" in case:
        with pytest.raises(ValueError, match=r".{20}"):
            call(**case["inputs"])
    else:
        assert_equal(call(**case["inputs"]), case.get("ok_stable", case["ok"]))


def test_average_precision_is_the_area_below_the_published_curve():
    scores, labels = np.array([0.9, 0.8, 0.8, 0.1]), np.array([1, 0, 1, 0])
    assert metrics.average_precision(scores, labels) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


@pytest.mark.parametrize("nan", [False, True])
def test_large_tables_are_measured_block_by_block_as_row_by_row(monkeypatch, nan):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 12, (70, 37)).astype(np.float32)  # many ties
    if nan:
        scores[rng.random(scores.shape) < 0.05] = np.nan
    table = (rng.random(scores.shape) < 0.2).astype(np.uint8)
    table[:, 0] = 1
    labels = rng.integers(0, 37, 70)
    monkeypatch.setattr("videozoo.evaluation.metrics.classification._BLOCK", 5 * 37)
    monkeypatch.setattr("videozoo.evaluation.metrics.multilabel._PAIRS", 3 * 37)

    order = np.argsort(scores, axis=1, kind="stable")[:, ::-1]
    expected = [np.mean([label in row[:k] for row, label in zip(order, labels, strict=True)]) for k in (1, 5, 36)]
    assert metrics.top_k_accuracy(scores, labels, (1, 5, 36)) == pytest.approx(expected, abs=0)

    by_class = [metrics.average_precision(scores[:, c], table[:, c]) for c in range(37)]
    assert metrics.mean_average_precision(scores, table) == pytest.approx(np.nanmean(by_class), rel=1e-12)
    by_video = [metrics.average_precision(scores[n], table[n]) for n in range(70)]
    assert metrics.mmit_mean_average_precision(scores, table) == pytest.approx(np.mean(by_video), rel=1e-12)


def test_average_clips_takes_any_number_of_views_and_videos():
    scores = np.random.default_rng(1).normal(size=(4, 3, 5)).astype(np.float32)
    assert metrics.average_clips(scores).shape == (4, 5)
    np.testing.assert_allclose(metrics.average_clips(scores[2]), metrics.average_clips(scores)[2], rtol=1e-6)
    np.testing.assert_allclose(metrics.average_clips(scores).sum(axis=-1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="'prob', 'score' or None"):
        metrics.average_clips(scores, "mean")
    with pytest.raises(ValueError, match="at least one view"):
        metrics.average_clips(scores[:, :0])


def test_confusion_matrix_of_all_classes():
    matrix = metrics.confusion_matrix([0, 2, 2], [0, 0, 2], num_classes=4)
    assert matrix.tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    with pytest.raises(ValueError, match=r"outside 0\.\.3"):
        metrics.confusion_matrix([0, 4], [0, 0], num_classes=4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.evaluate(np.zeros((2, 3)), [0, 1], "accuracy"), "choose from top_k_accuracy"),
        (lambda: metrics.evaluate(np.zeros((2, 3)), [0]), "scores of 2 videos and labels of 1"),
        (lambda: metrics.evaluate(np.zeros((2, 3)), [{}, {}], "hvu_mean_average_precision"), "needs categories"),
        (lambda: metrics.fuse_scores([np.zeros((2, 3)), np.zeros((3, 3))], [1, 1]), "different shapes"),
        (lambda: metrics.fuse_scores([np.zeros((2, 3))], [1, 1]), "one each"),
        (lambda: metrics.many_hot([[0], [3]], 3), r"video 1 has label 3, but the classes are 0\.\.2"),
        (lambda: metrics.mean_average_precision(np.zeros((2, 3)), np.zeros((2, 4))), "do not fit"),
        (lambda: metrics.top_k_accuracy(np.zeros((2, 3)), [0, 1], -1), "negative"),
        (lambda: metrics.hvu_mean_average_precision(np.zeros((1, 3)), [{}], {"a": 2}), "do not fit the 2 tags"),
    ],
)
def test_wrong_use_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()
