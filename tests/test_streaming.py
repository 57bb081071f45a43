"""Scores while frames come in: the same as of a finished video, however the frames arrive."""

import gc
import itertools
import threading

import numpy as np
import pytest
import torch
from torch import nn

import videozoo
from videozoo import Stream, create_model
from videozoo.data import ArrayReader, resolve_data_config
from videozoo.prediction import classify
from videozoo.streaming import OnlineTSM
from videozoo.streaming.capture import newest

SMALL = {"resize": 36, "size": 32, "keep_ratio": True}


class Ramp(nn.Module):
    """A quick classifier whose scores depend on every frame and its place in the clip."""

    def __init__(self, **cfg):
        super().__init__()
        self.num_classes = 4
        self.fc = nn.Linear(6, 4)
        draws = torch.Generator().manual_seed(3)
        nn.init.normal_(self.fc.weight, std=5.0, generator=draws)
        self.pretrained_cfg = {"architecture": "ramp", "num_classes": 4, **cfg}

    def forward(self, x):
        ramp = torch.linspace(0, 2, x.shape[2])[:, None, None]
        return self.fc(torch.cat([(x * ramp).mean((2, 3, 4)), x[..., 5:20].mean((2, 3, 4))], dim=1))


def ramp(frames=4, stride=2, **test):
    sampling = {"kind": "uniform", "frames": frames, "stride": stride}
    return Ramp(sampling=sampling, test={"clips": 1, "crops": 1, **SMALL, **test})


def noise(count, height=40, width=52, seed=0):
    """Frames of which no two are alike."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def offline(model, frames, views="fast"):
    return classify(model, ArrayReader(np.stack(frames)), views=views, max_thumbnails=0)


def push_all(stream, frames):
    return [scores for frame in frames if (scores := stream.push(frame)) is not None]


def catalog_samplings():
    """One entry for each way of sampling that RGB recognisers of the catalog have."""
    found = {}
    for name in videozoo.list_models(pretrained=True, task="recognition", modality="rgb"):
        cfg = videozoo.get_pretrained_cfg(name).to_dict()
        config = resolve_data_config(pretrained_cfg=cfg)
        keys = ("sampling", "num_frames", "stride", "segments", "clips", "crops", "average")
        found.setdefault(tuple(config[key] for key in keys), name)
    return sorted(found.values())


# Windows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", ["fast", "full"])
@pytest.mark.parametrize("name", catalog_samplings())
def test_scores_are_those_of_the_window_as_a_video(name, views):
    cfg = videozoo.get_pretrained_cfg(name).to_dict()
    crops = {3: {"resize": 32}}.get(resolve_data_config(pretrained_cfg=cfg)["crops"], {})
    model = Ramp(**{key: cfg[key] for key in ("sampling", "mean", "std")}, test={**cfg["test"], **SMALL, **crops})
    stream = Stream(model, every=7, views=views)
    frames = noise(stream.window + 15)
    results = push_all(stream, frames)
    assert [scores.frame for scores in results] == [stream.window - 1 + 7 * i for i in range(3)]
    for scores in results:
        wanted = offline(model, frames[scores.frame - stream.window + 1 : scores.frame + 1], views)
        assert np.array_equal(scores.probabilities, wanted.probabilities)
        assert not wanted.repeats
        start = scores.frame - stream.window + 1
        assert scores.frames == tuple(start + np.unique(wanted.indices))


@pytest.mark.parametrize("name", ["slowfast_r50_4x16_k400", "tsm_mobilenetv2_f8_k400", "mc3_r18w16_8x4_camera_motion"])
def test_networks_agree_with_predict(name):
    torch.manual_seed(0)
    model = create_model(name)
    model.pretrained_cfg["test"] = {**model.pretrained_cfg["test"], "resize": 64, "size": 64}
    stream = Stream(model, every=20, topk=3)
    frames = noise(stream.window + 20, 72, 90)
    results = push_all(stream, torch.from_numpy(frames))
    assert len(results) == 2 and model.training, "the model keeps its mode"
    for scores in results:
        window = ArrayReader(frames[scores.frame - stream.window + 1 : scores.frame + 1])
        assert scores.top == videozoo.predict(model, window, topk=3, views="fast")


@pytest.mark.parametrize(
    "name, length",
    [
        ("slowfast_r50_8x8_k400", 63),
        ("slowonly_r50_8x8_k400", 57),
        ("slowonly_r50_4x16_k400", 49),
        ("slowonly_r50_4x16_k400.fair", 64),
        ("tsm_r50_f8_k400.mma0_dense", 57),
        ("tsn_r50_f8_ssv2", 64),
        ("tsm_r50_f16_ssv2", 64),
    ],
)
def test_the_window_is_as_long_as_a_clip(name, length):
    cfg = videozoo.get_pretrained_cfg(name).to_dict()
    model = Ramp(sampling=cfg["sampling"], test=cfg["test"])
    assert Stream(model).window == length
    assert Stream(model, window=100).window == 100
    if "_f" not in name:
        with pytest.raises(ValueError, match=f"window={length - 1} is shorter than one clip.* span {length}"):
            Stream(model, window=length - 1)


@pytest.mark.parametrize("every, kept", [(1, 25), (4, 7), (8, 4), (3, 25), (40, 4)])
def test_only_frames_that_will_be_shown_are_kept(every, kept):
    stream = Stream(ramp(4, 8), every=every)
    largest = 0
    for frame in noise(120):
        stream.push(frame)
        largest = max(largest, len(stream._kept))
        assert all(picture.shape == (36, 47, 3) for _, picture in stream._kept.values())
    assert stream.window == 25 and largest <= kept


def test_a_camera_may_use_its_memory_again():
    model, frames = ramp(resize=None), noise(7)
    stream, memory = Stream(model, every=1), np.empty_like(frames[0])
    for frame in frames:
        memory[:] = frame
        scores = stream.push(memory)
    assert np.array_equal(scores.probabilities, offline(model, frames).probabilities)


def test_mirrored_arrays_and_tensors_are_frames():
    frames, model = noise(7), ramp()
    wanted = offline(model, frames[..., ::-1]).probabilities
    assert np.array_equal(push_all(Stream(model), frames[..., ::-1])[0].probabilities, wanted)
    assert np.array_equal(push_all(Stream(model), torch.from_numpy(frames).flip(-1))[0].probabilities, wanted)


@pytest.mark.parametrize(
    "frame, error, reason",
    [
        (np.zeros((3, 40, 52), np.uint8), ValueError, r"uint8 \(H, W, 3\), got uint8 \(3, 40, 52\): put channels last"),
        (np.zeros((40, 52, 3), np.float32), ValueError, "got float32"),
        (torch.zeros(40, 52, 1, dtype=torch.uint8), ValueError, r"got uint8 \(40, 52, 1\)"),
        (np.zeros((1, 40, 52, 3), np.uint8), ValueError, r"got uint8 \(1, 40, 52, 3\)"),
        ("frame.jpg", TypeError, "got str"),
    ],
)
def test_what_is_no_frame_is_refused_and_forgotten(frame, error, reason):
    stream, frames = Stream(ramp()), noise(7)
    push_all(stream, frames[:3])
    with pytest.raises(error, match=reason):
        stream.push(frame)
    assert len(push_all(stream, frames[3:])) == 1


def test_another_size_needs_a_new_stream():
    model = ramp()
    stream = Stream(model)
    push_all(stream, noise(5))
    with pytest.raises(ValueError, match=r"frame 5 is 60x50, the frames before are 52x40: .* reset\(\)"):
        stream.push(noise(1, 50, 60)[0])
    stream.reset()
    frames = noise(7, 50, 60)
    assert np.array_equal(push_all(stream, frames)[0].probabilities, offline(model, frames).probabilities)
    assert stream.frames == 7 and stream.predictions == 1


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"every": 0}, "every=0"),
        ({"topk": 0}, "topk=0"),
        ({"fps": 0.0}, "fps=0.0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"views": "some"}, "views='some'"),
        ({"online": True, "window": 8}, "leave out window"),
        ({"online": True}, "ramp is no TSM"),
    ],
)
def test_wrong_options(options, reason):
    with pytest.raises(ValueError, match=reason):
        Stream(ramp(), **options)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("tsn_r50_f3_k400_flow", "works on flow, a stream gives RGB frames"),
        ("tsn_r18_64x1_k400_audio", "works on audio"),
        ("bmn_anet", "does not label whole videos"),
        ("slowonly_r50_4x16_ava21", "what each person does"),
    ],
)
def test_models_that_do_not_classify_rgb_video_are_refused(name, reason):
    with torch.device("meta"):
        model = create_model(name)
    with pytest.raises(ValueError, match=reason):
        Stream(model)


# Frame rates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "camera, numbers",
    [
        (10, range(7)),
        (20, range(0, 14, 2)),
        (5, (0, 1, 1, 2, 2, 3, 3)),
        (25, (0, 3, 5, 8, 10, 13, 15)),
    ],
)
def test_the_window_counts_frames_of_its_own_rate(camera, numbers):
    model = ramp()
    stream, frames = Stream(model, fps=10, every=1), noise(20)
    results = (stream.push(frame, 100 + i / camera) for i, frame in enumerate(frames))
    scores = next(filter(None, results))
    assert np.array_equal(scores.probabilities, offline(model, frames[list(numbers)]).probabilities)
    assert scores.frames == tuple(sorted({numbers[i] for i in (0, 2, 4, 6)})) and scores.frame == numbers[-1]
    assert scores.seconds == pytest.approx(100 + numbers[-1] / camera)


def test_times_that_tremble_lose_no_frame():
    stream, frames, rng = Stream(ramp(), fps=10, every=1), noise(40), np.random.default_rng(0)
    jitter = rng.uniform(0, 0.02, 40)
    results = [stream.push(frame, i / 10 + jitter[i] - jitter[0]) for i, frame in enumerate(frames)]
    assert [scores.frame for scores in results if scores] == list(range(6, 40))


def test_a_pause_of_the_camera_is_filled_with_the_frame_after_it():
    model, frames = ramp(), noise(8)
    stream = Stream(model, fps=10, every=1)
    for i in range(7):
        stream.push(frames[i], i / 10)
    scores = stream.push(frames[7], 3600.0)
    assert np.array_equal(scores.probabilities, offline(model, frames[[7] * 7]).probabilities)
    assert scores.frames == (7,) and scores.dropped == stream.dropped > 0


def test_times_are_needed_and_go_forward():
    stream, frame = Stream(ramp(), fps=10), noise(1)[0]
    with pytest.raises(ValueError, match=r"needs the time of each frame: push\(frame, seconds\)"):
        stream.push(frame)
    stream.push(frame, 1.0)
    with pytest.raises(ValueError, match="frame 1 is of 0.5 s, the frame before of 1.0 s"):
        stream.push(frame, 0.5)
    with pytest.raises(ValueError, match="frame 1 is of nan s"):
        stream.push(frame, float("nan"))


# Capture -------------------------------------------------------------------------------------------------------------


class Slow(Ramp):
    """Its first prediction takes until ``may_end`` is set."""

    def __init__(self):
        super().__init__(sampling={"frames": 4, "stride": 2}, test={"clips": 1, **SMALL})
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def forward(self, x):
        self.has_begun.set()
        assert self.may_end.wait(20)
        return super().forward(x)


def test_a_slow_model_sees_the_newest_window_and_the_rest_is_counted():
    model, frames = Slow(), noise(7 + 5 * 4)

    def camera():
        for i, frame in enumerate(frames):
            yield frame, i / 10
            if i == 6:
                assert model.has_begun.wait(20)
        model.may_end.set()

    stream = Stream(model, every=4)
    first, last = stream.run(camera())
    assert (first.frame, first.dropped, last.frame, last.dropped) == (6, 0, 26, 4)
    assert last.seconds == 2.6 and stream.dropped == 4 and stream.predictions == 2 and stream.frames == 27
    assert np.array_equal(last.probabilities, offline(model, frames[20:]).probabilities)


def test_a_recording_waits_for_the_model():
    model, frames = Slow(), noise(7 + 5 * 4)
    model.may_end.set()
    stream = Stream(model, every=4)
    results = [*stream.run(frames, drop=False)]
    assert [scores.frame for scores in results] == [6, 10, 14, 18, 22, 26] and stream.dropped == 0
    assert [*stream.run(frames, drop=False)][-1].top == results[-1].top, "a run begins afresh"


def capture_threads():
    return [thread for thread in threading.enumerate() if thread.name == "videozoo-capture"]


@pytest.mark.parametrize("drop", [True, False])
def test_closing_ends_the_thread(drop):
    closed = threading.Event()

    def endless():
        try:
            yield from itertools.cycle(noise(7))
        finally:
            closed.set()

    source = endless()
    results = Stream(ramp(), every=1).run(source, drop=drop)
    next(results)
    assert capture_threads()
    results.close()
    assert not capture_threads()
    del source
    gc.collect()
    assert closed.wait(20)


def test_errors_of_the_source_reach_the_caller_after_the_window_that_waits():
    def failing():
        yield from noise(7)
        raise OSError("the camera was pulled out")

    results = Stream(ramp()).run(failing())
    assert next(results).frame == 6
    with pytest.raises(OSError, match="pulled out"):
        next(results)
    with pytest.raises(ValueError, match="put channels last"):
        next(Stream(ramp()).run([noise(1)[0].transpose(2, 0, 1)]))
    assert not capture_threads()


def test_errors_of_the_model_end_the_thread():
    model = ramp()
    nn.init.constant_(model.fc.weight, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        next(Stream(model).run(itertools.cycle(noise(7))))
    gc.collect()
    assert not capture_threads()


def test_nothing_comes_of_nothing():
    assert [*Stream(ramp()).run([])] == [] and [*newest([], lambda item: [item])] == []


# TSM frame by frame --------------------------------------------------------------------------------------------------


def trained(model):
    """The model with running means of its norms that keep signals alive through all layers."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1)
    model.train()(torch.randn(2, 3, model.num_frames, 64, 64))
    return model.eval()


TSMS = ["tsm_mobilenetv2_f8", "tsm_r18w16_8x4", "tsm_r50_f8", "tsm_r101_f8"]


@pytest.mark.parametrize("name", TSMS)
@torch.inference_mode()
def test_frame_by_frame_equals_the_clip(name):
    count = 3 if name in TSMS[2:] else 8
    torch.manual_seed(0)
    model = trained(create_model(name, causal=True, num_frames=count, num_classes=9)).double()
    clips = torch.randn(2, 3, count, 64, 48, dtype=torch.float64)
    wanted = model.fc(model.forward_features(clips).mean((3, 4)).transpose(1, 2))  # (N, T, classes)
    assert (wanted[:, 1:] - wanted[:, :-1]).abs().min(dim=-1).values.max() > 1e-4, "frames differ"
    online = OnlineTSM(model)
    for _ in range(2):
        logits = torch.stack([online.push(frame) for frame in clips.unbind(2)], 1)
        torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-9)
        torch.testing.assert_close(logits.mean(1), model(clips), rtol=0, atol=1e-9)
        online.reset()


@torch.inference_mode()
def test_the_causal_shift_comes_from_the_past_alone():
    torch.manual_seed(0)
    model = trained(create_model("tsm_r18w16_8x4", causal=True, num_classes=5))
    both = trained(create_model("tsm_r18w16_8x4", num_classes=5))
    assert list(model.state_dict()) == list(both.state_dict())
    both.load_state_dict(model.state_dict())
    clip = torch.randn(1, 3, 8, 32, 32)
    other = clip.clone()
    other[:, :, 5:] = torch.randn(1, 3, 3, 32, 32)
    for net, sees_ahead in ((model, False), (both, True)):
        a, b = (net.forward_features(x)[:, :, :5] for x in (clip, other))
        assert torch.equal(a, b) != sees_ahead
    first = clip.clone()
    first[:, :, 0] = 0
    a, b = (model.forward_features(x)[:, :, 1] for x in (clip, first))
    assert not torch.equal(a, b)


@torch.inference_mode()
def test_what_is_kept_does_not_grow():
    torch.manual_seed(0)
    model = create_model("tsm_r18w16_8x4", causal=True).eval()
    online, frame = OnlineTSM(model), torch.randn(1, 3, 32, 32)

    def tensors():
        gc.collect()
        return sum(x.untyped_storage().nbytes() for x in gc.get_objects() if type(x) is torch.Tensor)

    for _ in range(3):
        online.push(frame)
    before = tensors()
    kept = sum(past.untyped_storage().nbytes() for past in online._past)
    assert kept == sum(past.numel() * 4 for past in online._past) < 40_000, "no views that hold whole features"
    for _ in range(30):
        online.push(frame)
    assert tensors() == before


@torch.inference_mode()
def test_streams_share_a_model_and_leave_it_as_it_is():
    torch.manual_seed(0)
    model = trained(create_model("tsm_r18w16_8x4", causal=True, num_classes=5)).train()
    clips = torch.randn(2, 3, 8, 32, 32)
    one, two = OnlineTSM(model), OnlineTSM(model)
    logits = [
        (one.push(a[None]), two.push(b[None])) for a, b in zip(clips[0].unbind(1), clips[1].unbind(1), strict=True)
    ]
    assert model.training
    wanted = model.eval()(clips)
    torch.testing.assert_close(torch.cat([x for x, _ in logits]).mean(0), wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([x for _, x in logits]).mean(0), wanted[1], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"follow on frames \(1, 3, 32, 32\): .* reset\(\)"):
        one.push(clips[:1, :, 0, :16])
    with pytest.raises(ValueError, match=r"\(N, C, H, W\), got \(3, 32, 32\): use x\[None\]"):
        one.push(clips[0, :, 0])
    one.reset()
    one.push(clips[:1, :, 0, :16])


def test_a_stream_online_agrees_with_predict():
    torch.manual_seed(0)
    model = trained(create_model("tsm_mobilenetv2_f8_k400", causal=True)).double()
    model.pretrained_cfg["test"] = {**model.pretrained_cfg["test"], "resize": 64, "size": 64}
    stream, frames = Stream(model, online=True, topk=3), noise(66, 72, 90)
    results = push_all(stream, frames)
    assert [scores.frame for scores in results] == [*range(0, 66, 8)]
    wanted = offline(model, frames[:57])
    assert wanted.indices.tolist() == [[*range(0, 57, 8)]]
    np.testing.assert_allclose(results[7].probabilities, wanted.probabilities, rtol=0, atol=1e-9)
    assert [label for label, _ in results[7].top] == [label for _, label, _ in wanted.top(3)]
    stream.reset()
    assert np.array_equal(push_all(stream, frames)[7].probabilities, results[7].probabilities)


def test_only_causal_tsms_run_online():
    for name in ("tsm_r18w16_8x4", "tpn_tsm_r50_f8"):
        with torch.device("meta"):
            model = create_model(name)
        with pytest.raises(ValueError, match="causal=True" if name.startswith("tsm") else "is no TSM"):
            OnlineTSM(model)
    with pytest.raises(ValueError, match="non-local blocks cannot be causal"):
        create_model("tsm_nldot_r50_f8", causal=True)


def test_weights_of_both_directions_are_warned_of(recwarn):
    model = create_model("tsm_mobilenetv2_f8_k400", causal=True)
    OnlineTSM(model)
    assert not recwarn
    model.has_published_weights = True
    with pytest.warns(UserWarning, match="tsm_mobilenetv2_f8_k400.mma0_dense were trained with shifts in both"):
        OnlineTSM(model)


def test_a_causal_model_is_saved_as_one(tmp_path, recwarn):
    model = create_model("tsm_r18w16_8x4", causal=True, num_classes=5)
    videozoo.save_pretrained(model, tmp_path / "mine")
    again = create_model(f"local-dir:{tmp_path / 'mine'}", pretrained=True).eval()
    clip = torch.randn(1, 3, 8, 32, 32)
    assert torch.equal(again(clip), model.eval()(clip))
    OnlineTSM(again)
    assert not recwarn
