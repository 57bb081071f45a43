"""Frame sampling against published behaviour: every test-mode index, every bound of a random draw."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from videozoo.data.config import resolve_data_config
from videozoo.data.sampling import (
    ava_clip,
    dense_clips,
    proposal_clips,
    sample_views,
    uniform_clips,
    untrimmed_clips,
)

CASES = json.loads(gzip.decompress((Path(__file__).parent / "data" / "data_sampling.json.gz").read_bytes()))
NAMES = {
    "clip_len": "frames",
    "frame_interval": "stride",
    "num_clips": "clips",
    "twice_sample": "twice",
    "out_of_bound_opt": "out_of_bound",
    "num_sample_positions": "positions",
    "sample_range": "sample_range",
}
TOTALS = (1, 2, 7, 24, 63, 64, 65, 100, 280, 301)


class Extreme:
    """Stands in for a Generator whose every draw is the lowest or the highest possible."""

    def __init__(self, highest):
        self.highest = highest

    def integers(self, low, high=None, size=None):
        low, high = (0, low) if high is None else (low, high)
        assert low < high
        value = high - 1 if self.highest else low
        return value if size is None else np.full(size, value)


def cases(transform, *modes):
    found = [c for c in CASES if c["transform"] == transform and c["mode"] in modes]
    assert found
    return found


def sampled(case, rng=None):
    total, args = case.get("total_frames"), case["args"]
    if case["transform"] == "SampleProposalFrames":
        return proposal_clips(
            total,
            None if case["mode"] == "test" else case["proposals"],
            frames=args["clip_len"],
            stride=args.get("frame_interval", 1),
            body=args["body_segments"],
            context=args["aug_segments"],
            context_ratio=args["aug_ratio"],
            test_interval=args.get("test_interval", 6),
            rng=rng,
        )
    args = {NAMES[key]: value for key, value in args.items()}
    if case["transform"] == "UntrimmedSampleFrames":
        return untrimmed_clips(total, **args)
    sampler = uniform_clips if case["transform"] == "SampleFrames" else dense_clips
    return sampler(total, **args, rng=rng)


@pytest.mark.parametrize(
    "transform", ["SampleFrames", "DenseSampleFrames", "UntrimmedSampleFrames", "SampleProposalFrames"]
)
def test_fixed_rule_matches_every_published_case(transform):
    for case in cases(transform, "test", "val"):
        if "raises" in case:
            with pytest.raises(ValueError, match=str(case["total_frames"])):
                sampled(case)
            continue
        got = sampled(case)
        assert got.dtype.kind == "i" and got.shape[1] == case["args"]["clip_len"]
        assert (got.reshape(-1) + case["start_index"]).tolist() == case["ok"]["frame_inds"], case


@pytest.mark.parametrize("transform", ["SampleFrames", "DenseSampleFrames", "SampleProposalFrames"])
def test_random_rule_reaches_exactly_the_published_bounds(transform):
    for case in cases(transform, "train"):
        for rng, bound in ((Extreme(False), "clip_offsets_low"), (Extreme(True), "clip_offsets_high")):
            starts = sampled(case, rng)[:, 0]
            assert starts.tolist() == [offset % case["total_frames"] for offset in case["ok"][bound]], case


def test_random_draws_stay_within_bounds_and_vary():
    rng = np.random.default_rng(0)
    draws = np.stack([uniform_clips(100, frames=4, stride=2, clips=3, rng=rng)[:, 0] for _ in range(300)])
    assert draws.min(0).tolist() == [0, 31, 62] and draws.max(0).tolist() == [30, 61, 92]


def test_ava_clip_matches_every_published_case():
    for case in cases("SampleAVAFrames", "test and train (same)"):
        given, args = case["inputs"], case["args"]
        for rng, key in ((None, "skip0"), (Extreme(False), "low"), (Extreme(True), "high")):
            got = ava_clip(
                given["timestamp"],
                frames=args["clip_len"],
                stride=args.get("frame_interval", 2),
                fps=given["fps"],
                timestamp_start=given["timestamp_start"],
                shot=given["shot_info"],
                rng=rng,
            )
            assert got[0].tolist() == case["ok"][f"frame_inds_{key}"]


@pytest.mark.parametrize("total", TOTALS)
@pytest.mark.parametrize("out_of_bound", ["loop", "repeat_last"])
def test_no_index_ever_leaves_the_video(total, out_of_bound):
    rng = np.random.default_rng(1)
    for draw in (None, rng):
        for args in ({"frames": 32, "stride": 2, "clips": 10}, {"frames": 1, "clips": 25}, {"frames": 5, "clips": 3}):
            for sampler in (uniform_clips, dense_clips):
                got = sampler(total, **args, out_of_bound=out_of_bound, rng=draw)
                assert got.min() >= 0 and got.max() < total


def test_jitter_moves_frames_within_their_stride():
    rng = np.random.default_rng(0)
    clips = np.concatenate([uniform_clips(8, frames=2, stride=4, jitter=True, rng=rng) for _ in range(100)])
    assert set(clips[:, 0]) == {0, 1, 2, 3} and set(clips[:, 1]) == {4, 5, 6, 7}
    with pytest.raises(ValueError, match="rng"):
        uniform_clips(8, frames=2, jitter=True)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"num_frames": 32, "stride": 2, "clips": 10}, (10, 32)),
        ({"num_frames": 1, "stride": 1, "clips": 25, "segments": 25}, (1, 25)),
        ({"num_frames": 1, "stride": 1, "clips": 8, "segments": 8, "sampling": "dense"}, (10, 8)),
        ({"num_frames": 1, "stride": 1, "clips": 8, "segments": 8, "twice_sample": True}, (2, 8)),
        ({"num_frames": 5, "stride": 1, "clips": 25, "segments": 25, "stack": True}, (1, 25, 5)),
    ],
)
def test_views_of_the_published_protocols(config, shape):
    assert sample_views(300, resolve_data_config(config)).shape == shape


def test_a_view_of_segments_runs_through_the_video():
    config = resolve_data_config({"num_frames": 1, "stride": 1, "clips": 8, "segments": 8, "twice_sample": True})
    views = sample_views(80, config)
    assert views.tolist() == [[5, 15, 25, 35, 45, 55, 65, 75], [0, 10, 20, 30, 40, 50, 60, 70]]


def test_short_video_loops():
    config = resolve_data_config({"num_frames": 8, "stride": 1, "clips": 1})
    assert sample_views(3, config).tolist() == [[0, 1, 2, 0, 1, 2, 0, 1]]


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: uniform_clips(0, frames=1), "0 frames"),
        (lambda: uniform_clips(9, frames=0), "frames=0"),
        (lambda: dense_clips(9, frames=1, clips=-1), "clips=-1"),
        (lambda: uniform_clips(9, frames=16, out_of_bound="mirror"), "mirror"),
        (lambda: sample_views(9, resolve_data_config({"clips": 5, "segments": 2})), "segments=2"),
        (lambda: sample_views(9, resolve_data_config({"sampling": "random"})), "random"),
        (lambda: proposal_clips(9, [(4, 4)], frames=1, body=1, context=(1, 1), context_ratio=0.5), "4, 4"),
        (lambda: proposal_clips(9, [], frames=1, body=1, context=(1, 1), context_ratio=0.5), "empty"),
    ],
)
def test_bad_requests_name_what_is_wrong(call, word):
    with pytest.raises(ValueError, match=word):
        call()
