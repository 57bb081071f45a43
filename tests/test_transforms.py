"""Resize, crops, normalisation and whole pipelines against published behaviour; the data config; training."""

import gzip
import json
import math
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from videozoo.data import ArrayReader, create_transform, open_video, resolve_data_config, resolve_model_data_config
from videozoo.data import resize as resize_module
from videozoo.data import transforms as t
from videozoo.data.resize import rescale_size, resize_bilinear_cv2, resize_frames

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads(gzip.decompress((DATA / "data_spatial.json.gz").read_bytes()))
ARRAYS = np.load(DATA / "data_spatial.npz")


def video(seed, T, H, W, **_):
    """The recipe of the published inputs."""
    rs = np.random.RandomState(seed)
    cells = rs.randint(0, 256, (T, math.ceil(H / 8), math.ceil(W / 8), 3)).repeat(8, 1).repeat(8, 2)[:, :H, :W]
    return torch.from_numpy((cells + rs.randint(-16, 17, (T, H, W, 3))).clip(0, 255).astype(np.uint8))


def flow(array):
    """Fields x0, y0, x1, y1 as (T, H, W, 2)."""
    fields = np.array(array, np.uint8)
    return torch.from_numpy(fields.reshape(-1, 2, *fields.shape[1:]).transpose(0, 2, 3, 1).copy())


def cases(transform):
    found = [c for c in GOLDEN["cases"] if c["transform"] == transform]
    assert found
    return found


def pair(size):
    return tuple(size) if isinstance(size, list) else size


def crc(frames):
    return zlib.crc32(frames.contiguous().numpy().tobytes())


# Resize


def test_resize_is_byte_for_byte_the_published_one():
    for case in cases("Resize"):
        args = {key: value for key, value in case["args"].items() if key != "scale"}
        assert crc(t.resize(video(**case["input"]), case["args"]["scale"], **args)) == case["crc32"], case["id"]


def test_resize_size_rule():
    for width, height, scale, new_width, new_height in GOLDEN["sizes"]:
        assert rescale_size(width, height, scale) == (new_width, new_height)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_resize_treats_channels_and_frames_alike(channels):
    plane = np.random.default_rng(0).integers(0, 256, (2, 37, 53, 1), dtype=np.uint8)
    expected = resize_bilinear_cv2(plane, (70, 31))
    assert expected.shape == (2, 70, 31, 1)
    np.testing.assert_array_equal(
        resize_bilinear_cv2(plane.repeat(channels, 3), (70, 31)), expected.repeat(channels, 3)
    )
    np.testing.assert_array_equal(resize_bilinear_cv2(plane[1:], (70, 31)), expected[1:])


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(70, 31), (256, 341), (1, 1)])
def test_opencv_resizes_to_the_bytes_of_our_own_arithmetic(channels, size):
    cv2 = pytest.importorskip("cv2")
    frames = np.random.default_rng(0).integers(0, 256, (2, 140, 200, channels), dtype=np.uint8)
    frames.flags.writeable = False
    for part in (frames, frames[:, 3:90, 7:], frames[:, ::2, ::-1]):
        expected = resize_module._resize(part, size)
        np.testing.assert_array_equal(resize_module._resize_by_opencv(cv2, part, size), expected)


def test_opencv_resizes_if_it_is_loaded_or_worth_it_and_agrees(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    frames = np.random.default_rng(0).integers(0, 256, (3, 140, 200, 3), dtype=np.uint8)
    expected, theirs, calls = resize_module._resize(frames, (70, 31)), cv2.resize, []
    monkeypatch.setattr(cv2, "resize", lambda *args, **kwargs: calls.append(args) or theirs(*args, **kwargs))

    def resized_by_opencv():
        resize_module._opencv.cache_clear()
        calls.clear()
        np.testing.assert_array_equal(resize_bilinear_cv2(frames, (70, 31)), expected)
        return any(len(image) == 140 for image, *_ in calls)  # others are those of the comparison

    assert resized_by_opencv()
    monkeypatch.setattr(resize_module, "sys", SimpleNamespace(modules={}))
    monkeypatch.setattr(resize_module, "_resized_bytes", 0)
    monkeypatch.setattr(resize_module, "_WORTH_LOADING_OPENCV", 2.5 * frames.nbytes)
    assert [resized_by_opencv() for _ in range(3)] == [False, False, True]
    monkeypatch.setattr(cv2, "resize", lambda *args, **kwargs: theirs(*args, **kwargs) // 2)
    assert not resized_by_opencv()
    resize_module._opencv.cache_clear()


def test_resize_to_the_same_size_is_the_input_itself():
    frames = video(1, 2, 20, 30)
    assert t.resize(frames, (-1, 20)) is frames


def test_backends_differ_as_documented():
    frames = video(3, 1, 120, 160)
    exact, plain, smooth = (
        resize_frames(frames, (40, 50), backend=b).int() for b in ("cv2", "torch", "torch_antialias")
    )
    assert (exact - plain).abs().max() <= 1
    assert (exact - smooth).abs().max() > 10
    with pytest.raises(ValueError, match="pillow"):
        resize_frames(frames, (40, 50), backend="pillow")


# Crops and flips


@pytest.mark.parametrize("name", ["CenterCrop", "ThreeCrop", "TenCrop"])
def test_crops_are_the_published_ones(name):
    for case in cases(name):
        frames, size = video(**case["input"]), pair(case["args"]["crop_size"])
        if "crc32" not in case:  # the reference fails, or wraps around silently: an error here
            with pytest.raises(ValueError, match=f"{size}x{size}"):
                t.center_crop(frames, size) if name == "CenterCrop" else t.three_crop(frames, size)
            continue
        crops = {
            "CenterCrop": lambda f, s: [t.center_crop(f, s)],
            "ThreeCrop": t.three_crop,
            "TenCrop": t.ten_crop,
        }[name](frames, size)
        assert crc(torch.cat(crops)) == case["crc32"], case["id"]


def test_flips_are_the_published_ones():
    for case in cases("Flip"):
        if "array" in case["input"]:
            frames = t.flip(flow(case["input"]["array"]), is_flow=True).permute(0, 3, 1, 2)
        else:
            frames = t.flip(video(**case["input"]), vertical=case["args"]["direction"] == "vertical")
        assert crc(frames) == case["crc32"], case["id"]


class Scripted:
    """A Generator that gives prepared values and records the ranges asked for."""

    def __init__(self, *values):
        self.values, self.ranges = list(values), []

    def uniform(self, low, high, size=None):
        return np.asarray(self.values.pop(0))

    def integers(self, high):
        self.ranges.append(high)
        return self.values.pop(0)


def test_random_resized_crop_takes_the_first_fitting_draw():
    for case in GOLDEN["random_resized_crop"]:
        rng = Scripted(np.log(case["aspect_ratio_draws"]), case["area_draws"], 0, 0)
        x1, y1, x2, y2 = case["box_with_lowest_offsets"]
        assert t.random_resized_crop(case["H"], case["W"], rng) == (x1, y1, x2 - x1, y2 - y1)
        if not case["fallback"]:
            ranges = [case[f"offset_{axis}_range_inclusive"][1] + 1 for axis in "xy"]
            assert rng.ranges == ranges


def test_multi_scale_crop_boxes():
    for case in GOLDEN["multi_scale_crop"]:
        args, candidates = case["args"], case["candidates"]
        for number, candidate in enumerate(candidates):
            for place, offset in enumerate(candidate["offsets_xy"]):
                rng = Scripted(number, place)
                box = t.multi_scale_crop(
                    case["H"],
                    case["W"],
                    pair(args["input_size"]),
                    rng,
                    scales=args["scales"],
                    gap=args["max_wh_scale_gap"],
                    positions=args.get("num_fixed_crops", 5),
                )
                assert box == (*offset, *candidate["used_wh"])
                assert rng.ranges == [len(candidates), len(candidate["offsets_xy"])]


# Normalisation


def test_normalize_is_the_published_one_in_either_unit():
    for case in cases("Normalize"):
        given, args = case["input"], case["args"]
        frames = flow(given["array"]) if "array" in given else video(**given)
        order = "bgr" if args.get("to_bgr") else "rgb"
        for unit, value_range in ((1, (0, 255)), (255, (0, 1))):
            mean, std = ([v / unit for v in args[key]] for key in ("mean", "std"))
            out = t.normalize(frames[None], mean, std, value_range=value_range, channel_order=order)
            assert out.dtype == torch.float32 and out.is_contiguous()
            np.testing.assert_allclose(out[0].permute(1, 2, 3, 0).numpy(), ARRAYS[case["id"]], rtol=0, atol=1e-5)


def test_normalize_leaves_the_bytes_alone():
    frames = video(1, 2, 8, 8)[None]
    before = frames.clone()
    t.normalize(frames, (0.5,) * 3, (0.5,) * 3)
    assert torch.equal(frames, before)
    with pytest.raises(ValueError, match="2 and 2 values"):
        t.normalize(frames, (0.5, 0.5), (1, 1))


# Whole test pipelines on real files


@pytest.mark.parametrize("case", GOLDEN["end_to_end"], ids=lambda c: f"{c['file']}-{c['pipeline']}")
def test_pipeline_from_file_to_network_input(case):
    steps = {step["type"]: step for step in case["steps"] if isinstance(step, dict)}
    scales = [step["scale"] for step in case["steps"] if isinstance(step, dict) and step["type"] == "Resize"]
    sample, norm, folded = steps["SampleFrames"], steps["Normalize"], steps["FormatShape"]["input_format"] == "NCHW"
    crop = next(name for name in steps if name.endswith("Crop"))
    transform = create_transform(
        num_frames=sample["clip_len"],
        stride=sample["frame_interval"],
        clips=sample["num_clips"],
        segments=sample["num_clips"] if folded else 1,
        resize=256 if scales[0] == [-1, 256] else scales[0],
        crops={"CenterCrop": 1, "ThreeCrop": 3, "TenCrop": 10}[crop],
        size=steps[crop]["crop_size"],
        mean=norm["mean"],
        std=norm["std"],
        value_range=(0, 255),
    )
    with open_video(DATA / "video" / case["file"], num_threads=1) as reader:
        assert transform.sample(reader).reshape(-1).tolist() == case["frame_inds"]
        views = transform.views(reader)
    clips = (t.resize(v, scales[1], keep_ratio=False) if len(scales) > 1 else v for v in views)
    step, flat, done = case["sample_step"], [], 0  # every step-th value of the whole result, in C order
    for clip in clips:  # view by view: the float result of 30 views would be large
        x = transform.normalize(clip[None])[0]
        x = (x.transpose(0, 1) if folded else x).reshape(-1)
        flat.append(x[-done % step :: step])
        done += x.numel()
    assert done == math.prod(case["shape"])
    np.testing.assert_allclose(torch.cat(flat).numpy(), ARRAYS[f"{case['file']}/{case['pipeline']}"], rtol=0, atol=1e-5)


# The transform object


def small_transform(**overrides):
    return create_transform(**({"num_frames": 2, "stride": 2, "clips": 3, "resize": 16, "size": 16} | overrides))


def counting_frames(total, height=16, width=24):
    """Frame i is filled with the value i."""
    return np.broadcast_to(np.arange(total, dtype=np.uint8)[:, None, None, None], (total, height, width, 3)).copy()


def test_views_are_crop_major():
    frames = counting_frames(30)
    frames[:, :, 12:] += 100  # the right half is brighter
    transform = small_transform(crops=3, mean=(0,) * 3, std=(1,) * 3, value_range=(0, 255))
    reader = ArrayReader(frames)
    out = transform(reader)
    assert out.shape == (9, 3, 2, 16, 16)
    times = transform.sample(reader)
    for view in range(9):
        assert out[view, 0, :, 0, 0].tolist() == times[view % 3].tolist()
    right_half = (out[::3, 0, 0, 0] > 99).sum(-1)  # left crop, right crop, middle crop
    assert right_half.tolist() == [4, 12, 8]


def test_call_equals_views_and_normalize():
    reader = ArrayReader(video(2, 20, 30, 44))
    transform = small_transform(crops=10, size=14)
    views = transform.views(reader)
    assert len(views) == 30 and views[0].dtype == torch.uint8 and views[4:9].shape == (5, 2, 14, 14, 3)
    assert views[30:].shape == (0, 2, 14, 14, 3)
    assert torch.equal(views[-1], views[29]) and len(list(views)) == 30
    with pytest.raises(IndexError):
        views[30]
    whole = transform(reader)
    parts = torch.cat([transform.normalize(views[i : i + 7]) for i in range(0, 30, 7)])
    assert torch.equal(whole, parts)


def test_each_frame_is_read_once_in_chunks():
    class Recording(ArrayReader):
        asked = []

        def get(self, indices):
            self.asked.append(list(indices))
            return super().get(indices)

    reader = Recording(counting_frames(100))
    small_transform(num_frames=32, stride=2, clips=10, crops=3).views(reader)
    asked = [index for chunk in reader.asked for index in chunk]
    assert len(asked) == len(set(asked)) and max(map(len, reader.asked)) <= 32


def test_sampled_frames_are_one_clip():
    frames = video(5, 4, 16, 24)
    transform = small_transform(crops=3)
    expected = transform(frames)
    assert expected.shape == (3, 3, 4, 16, 16)
    from PIL import Image

    reversed_twice = frames.numpy()[..., ::-1].copy()[..., ::-1]
    for same in (frames.numpy(), [Image.fromarray(f) for f in frames.numpy()], reversed_twice):
        assert torch.equal(transform(same), expected)


def test_path_and_reader_agree():
    path = DATA / "video" / "demo_24f_bt709.mp4"
    transform = create_transform(num_frames=4, stride=4, clips=1, resize=32, size=32)
    with open_video(path) as reader:
        expected = transform(reader)
    assert torch.equal(transform(path), expected) and torch.equal(transform(str(path)), expected)


def test_bgr_swaps_before_mean_and_std():
    frames = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    frames[..., 0] = 200
    transform = small_transform(channel_order="bgr", mean=(10, 20, 30), std=(1, 1, 1), value_range=(0, 255))
    assert transform(frames)[0, :, 0, 0, 0].tolist() == [-10, -20, 170]


def test_stacked_flow_interleaves_x_and_y():
    frames = np.empty((40, 16, 16, 2), np.uint8)
    frames[..., 0], frames[..., 1] = np.arange(40)[:, None, None], 100 + np.arange(40)[:, None, None]
    config = {
        "modality": "flow",
        "num_frames": 5,
        "stride": 1,
        "clips": 4,
        "segments": 4,
        "mean": (0, 0),
        "std": (1, 1),
    }
    transform = small_transform(**config, stack=True, value_range=(0, 255))
    out = transform(ArrayReader(frames))
    assert out.shape == (1, 10, 4, 16, 16)
    first = transform.sample(ArrayReader(frames))[0, 1, 0]
    expected = [value for i in range(first, first + 5) for value in (i, 100 + i)]
    assert out[0, :, 1, 0, 0].tolist() == expected
    plain = small_transform(**config, value_range=(0, 255))
    assert plain(ArrayReader(frames)).shape == (1, 2, 20, 16, 16)
    assert transform(frames[:10]).shape == (1, 10, 2, 16, 16)
    with pytest.raises(ValueError, match="multiple of 5"):
        transform(frames[:7])


def test_mirrored_flow_crops_invert_x():
    frames = np.full((2, 16, 16, 2), 200, np.uint8)
    transform = small_transform(
        modality="flow", clips=1, crops=10, size=8, mean=(0, 0), std=(1, 1), value_range=(0, 255)
    )
    out = transform(ArrayReader(frames))
    assert out[0, :, 0, 0, 0].tolist() == [200, 200] and out[1, :, 0, 0, 0].tolist() == [55, 200]


@pytest.mark.parametrize(
    ("overrides", "frames", "message"),
    [
        ({"size": 32}, (4, 16, 24, 3), "does not fit"),
        ({}, (4, 16, 24, 1), "T, H, W, 3"),
        ({"modality": "flow"}, (4, 16, 24, 3), "T, H, W, 2"),
        ({"crops": 5}, (4, 16, 24, 3), "crops=5"),
        ({"resize": (-1, -1)}, (4, 16, 24, 3), "-1"),
        ({}, (0, 16, 24, 3), "empty"),
    ],
)
def test_inputs_that_do_not_fit_are_errors(overrides, frames, message):
    with pytest.raises(ValueError, match=message):
        small_transform(**overrides)(np.zeros(frames, np.uint8))


def test_other_wrong_inputs():
    with pytest.raises(TypeError, match="NoneType"):
        small_transform()(None)
    with pytest.raises(ValueError, match="uint8"):
        small_transform()(torch.zeros(4, 16, 24, 3))
    with pytest.raises(ValueError, match="depth"):
        create_transform({"modality": "depth"})
    with pytest.raises(TypeError, match="int"):
        create_transform(3)


def test_repr_says_what_happens():
    text = repr(small_transform(crops=3, channel_order="bgr"))
    for part in ("2x2, 3 clips", "short side 16", "3 x 16", "bgr"):
        assert part in text
    assert "multi_scale_crop to 16" in repr(small_transform(is_training=True, train_crop="multi_scale_crop"))


# Training


def test_training_clip_shape_and_seeds():
    reader = ArrayReader(video(7, 40, 30, 44))
    transform = small_transform(is_training=True, clips=10, crops=3, twice_sample=True)
    out = transform(reader, np.random.default_rng(3))
    assert out.shape == (3, 2, 16, 16) and out.dtype == torch.float32
    assert torch.equal(out, transform(reader, np.random.default_rng(3)))
    assert not torch.equal(out, transform(reader, np.random.default_rng(4)))
    torch.manual_seed(0)
    first, second = transform(reader), transform(reader)
    torch.manual_seed(0)
    assert torch.equal(first, transform(reader)) and not torch.equal(first, second)
    with pytest.raises(ValueError, match="rng"):
        transform.sample(reader)
    with pytest.raises(ValueError, match="is_training"):
        transform.views(reader)


@pytest.mark.parametrize("kind", ["random_resized_crop", "multi_scale_crop", "center"])
def test_one_draw_for_all_frames(kind):
    still = ArrayReader(video(8, 1, 30, 44).repeat(9, 1, 1, 1))
    transform = small_transform(
        is_training=True, train_crop=kind, num_frames=4, stride=1, color_jitter=(0.4, 0.4, 0.4, 0.1)
    )
    out = transform(still, np.random.default_rng(0))
    assert torch.equal(out[:, 0], out[:, 3])


def test_training_flip_probability_and_flow():
    frames = np.zeros((4, 16, 16, 2), np.uint8)
    frames[..., 8:, :] = 200
    args = {"modality": "flow", "is_training": True, "train_crop": "center", "mean": (0, 0), "std": (1, 1)}
    flipped, plain = (
        small_transform(**args, hflip=p, value_range=(0, 255))(frames, np.random.default_rng(0)) for p in (1.0, 0.0)
    )
    assert torch.equal(flipped[1], plain[1].flip(-1)) and torch.equal(flipped[0], 255 - plain[0].flip(-1))


def test_color_jitter_changes_colours_only_when_asked():
    frames = video(9, 2, 16, 16)
    args = {"is_training": True, "train_crop": "center", "hflip": 0.0}
    plain = small_transform(**args)(frames, np.random.default_rng(0))
    assert torch.equal(plain, small_transform()(frames)[0])
    jittered = small_transform(**args, color_jitter=(0.4, 0.4, 0.4, 0.1))(frames, np.random.default_rng(0))
    assert jittered.shape == plain.shape and not torch.allclose(jittered, plain)
    with pytest.raises(ValueError, match="squash"):
        small_transform(is_training=True, train_crop="squash")(frames)


# The data config

CFG = {
    "url": "https://example.org/x.pth",
    "num_classes": 400,
    "size": 224,
    "mean": (0.4, 0.4, 0.4),
    "value_range": (0, 1),
    "sampling": {"kind": "uniform", "frames": 1, "stride": 1, "segments": 3, "stack": False},
    "test": {"kind": "dense", "clips": 25, "segments": 25, "twice": True, "resize": 256, "crops": 10, "size": 256},
    "train": {"crop": "multi_scale_crop", "scales": [1, 0.8], "max_scale_gap": 0, "hflip": 0.0},
}


class Model:
    pretrained_cfg = CFG


class Entry:
    def to_dict(self):
        return CFG


def test_config_of_a_model_is_its_test_protocol():
    config = resolve_model_data_config(Model())
    expected = {"sampling": "dense", "num_frames": 1, "clips": 25, "segments": 25, "twice_sample": True, "crops": 10}
    assert config.items() >= (expected | {"size": 256, "mean": (0.4, 0.4, 0.4), "std": (0.229, 0.224, 0.225)}).items()
    assert "url" not in config and "hflip" not in config


def test_config_for_training():
    config = resolve_data_config(model=Model(), use_test_size=False)
    expected = {"sampling": "uniform", "clips": 3, "segments": 3, "crops": 1, "size": 224, "twice_sample": False}
    assert resolve_data_config({"twice_sample": True}, use_test_size=False)["twice_sample"] is False
    assert config.items() >= (expected | {"train_crop": "multi_scale_crop", "hflip": 0.0, "max_scale_gap": 0}).items()


def test_config_priority():
    assert resolve_data_config()["size"] == 224
    assert resolve_data_config({"size": 96, "clips": None}, model=Model())["size"] == 96
    assert resolve_data_config({"size": 96, "clips": None}, model=Model())["clips"] == 25
    assert resolve_data_config(model=Model(), pretrained_cfg={"size": 64})["size"] == 64


def test_every_way_to_name_the_config_agrees():
    transforms = [
        create_transform(Model(), clips=5, segments=5),
        create_transform(Entry(), clips=5, segments=5),
        create_transform(CFG, clips=5, segments=5),
        create_transform(**resolve_data_config(pretrained_cfg=CFG) | {"clips": 5, "segments": 5}),
        create_transform(resolve_data_config(pretrained_cfg=CFG), clips=5, segments=5),
    ]
    assert all(x.config == transforms[0].config for x in transforms)


def test_unknown_config_keys_are_errors():
    with pytest.raises(TypeError, match="num_frames"):
        create_transform(CFG, numframes=8)
    with pytest.raises(TypeError, match="croops"):
        resolve_data_config(pretrained_cfg={"test": {"croops": 3}})
