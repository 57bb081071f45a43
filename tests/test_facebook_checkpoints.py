"""Checkpoints of PySlowFast and PyTorchVideo: files of Caffe2, names, and heads that score windows of the features."""

import pickle
import re
import struct

import numpy as np
import pytest
import torch

import videozoo
from videozoo import registry
from videozoo.checkpoint import CheckpointError, load_state_dict, read_checkpoint
from videozoo.convert import convert, detect


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 wrote its strings, which Caffe2's files were made with."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, obj):
        data = obj.encode("latin1") if isinstance(obj, str) else bytes(obj)
        self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(obj)

    dispatch[str] = dispatch[bytes] = save_string


def write_caffe2(path, blobs):
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump({"blobs": blobs})
    return path


def caffe2_name(key):
    """The name that Caffe2 has for one of our keys."""
    prefix = "t_" if key.startswith("fast.") else ""
    key = re.sub(r"^(slow|fast)\.", "", key)
    key = re.sub(r"^fc\.", "pred.", key)
    key = re.sub(r"^lateral1\.", "t_pool1_subsample.", key)
    key = re.sub(r"^lateral_norm1\.0\.", "t_pool1_subsample_bn.", key)
    key = re.sub(r"^lateral(\d)\.", r"t_res\1_2_branch2c_bn_subsample.", key)
    key = re.sub(r"^lateral_norm(\d)\.0\.", r"t_res\1_2_branch2c_bn_subsample_bn.", key)
    key = re.sub(r"^bn1\.", "res_conv1_bn.", key)
    key = re.sub(r"^layer(\d)\.(\d+)\.non_local\.norm\.", lambda m: f"nonlocal_conv{int(m[1]) + 1}_{m[2]}_bn.", key)
    key = re.sub(r"^layer(\d)\.(\d+)\.non_local\.", lambda m: f"nonlocal_conv{int(m[1]) + 1}_{m[2]}_", key)
    key = re.sub(r"^layer(\d)\.(\d+)\.", lambda m: f"res{int(m[1]) + 1}_{m[2]}_", key)
    key = key.replace("downsample.0", "branch1").replace("downsample.1", "branch1_bn")
    key = re.sub(r"(?<=\d_)conv(\d)", lambda m: f"branch2{'abc'[int(m[1]) - 1]}", key)
    key = re.sub(r"(?<=\d_)bn(\d)", lambda m: f"branch2{'abc'[int(m[1]) - 1]}_bn", key)
    is_norm = key.rpartition(".")[0].endswith("bn")
    ends = {"weight": "s" if is_norm else "w", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    layer, _, part = key.rpartition(".")
    return f"{prefix}{layer}_{ends[part]}"


def blobs_of(model):
    """The model's weights as a Caffe2 file names and shapes them."""
    blobs = {}
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        value = value[:, :, None] if value.ndim == 4 else value  # Caffe2's networks are 3-D throughout
        if key == "fc.weight" and hasattr(model, "slow"):
            value = torch.cat((value[:, 256:], value[:, :256]), dim=1)  # slow first
        blobs[caffe2_name(key)] = value
    return blobs


def test_caffe2_files_load(tmp_path):
    name = "slowfast_r50_4x16_k400.fair"
    source = videozoo.create_model(name)
    torch.manual_seed(0)
    for module in source.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    blobs = {key: value.numpy().astype(np.float16) for key, value in blobs_of(source).items()}
    blobs |= {"lr": np.float32(0.1), "model_iter": 7, "conv1_w_momentum": np.zeros(3)}
    path = write_caffe2(tmp_path / "weights.pkl", blobs)
    loaded = videozoo.create_model(name, checkpoint_path=path)
    wanted = source.state_dict()
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, wanted[key].half().float() if value.is_floating_point() else wanted[key]), key


@pytest.mark.parametrize("architecture", ["slowonly_r50_8x8", "i3d_nlembgauss_r50_8x8", "c2d_nopool_r50_8x8"])
def test_caffe2_names_of_every_layer(architecture):
    with torch.device("meta"):
        model = registry.model_entrypoint(architecture)()
    state = convert(blobs_of(model))
    wanted = {k: v.shape for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert {key: value.shape for key, value in state.items()} == wanted


def test_one_by_one_convolutions_of_caffe2_may_have_fewer_dimensions():
    weight = torch.randn(4, 2)
    blobs = {"res2_0_branch2a_w": weight, "res4_5_branch2a_w": torch.randn(4, 2, 3)}
    state = convert({"res_conv1_bn_riv": torch.ones(4), **blobs})
    assert torch.equal(state["layer1.0.conv1.weight"], weight[:, :, None, None, None])
    assert state["layer3.5.conv1.weight"].shape == (4, 2, 3, 1, 1)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickled_arrays_become_tensors(protocol, tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = {"blobs": {"a": array, "big": array.astype(">f8"), "fortran": np.asfortranarray(array), "n": 3}}
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    blobs = load_state_dict(path)
    assert torch.equal(blobs["a"], torch.from_numpy(array)) and torch.equal(blobs["fortran"], blobs["a"])
    assert torch.equal(blobs["big"], blobs["a"].double()) and blobs["n"] == 3
    assert isinstance(read_checkpoint(path)["blobs"]["a"], torch.Tensor)


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_that_want_to_run_code_are_refused(protocol, tmp_path):
    path, trace = tmp_path / "weights.pkl", tmp_path / "trace"
    path.write_bytes(pickle.dumps({"blobs": {"a": Calls(open, str(trace), "w")}}, protocol=protocol))
    with pytest.raises(CheckpointError, match=r"weights\.pkl was not read because it refers to \w*\.open"):
        read_checkpoint(path)
    assert not trace.exists()


def test_pickled_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"a": np.array([object])}}, protocol=2))
    with pytest.raises(CheckpointError, match=r"weights\.pkl"):
        read_checkpoint(path)


def test_a_pickle_cannot_change_what_later_files_are_read_with(tmp_path):
    """BUILD on a name instead of an object would set attributes of what the name stands for."""
    good = pickle.dumps({"blobs": {"a": np.ones(2, np.float32)}}, protocol=2)
    attributes = b"X\x07\x00\x00\x00resolveK\x01X\x0c\x00\x00\x00__setstate__K\x01"
    path = tmp_path / "weights.pkl"
    for name in (b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy._core.multiarray\n_reconstruct\n"):
        path.write_bytes(b"\x80\x02" + name + b"N}(" + attributes + b"u\x86b.")
        try:
            read_checkpoint(path)
        except CheckpointError:
            pass
        path.write_bytes(good)
        assert torch.equal(load_state_dict(path)["a"], torch.ones(2))


def test_cut_off_pickle(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"blobs": {"a": np.zeros(100)}}, protocol=2)[:-200])
    with pytest.raises(CheckpointError, match=r"weights\.pkl is a damaged or incomplete pickle"):
        read_checkpoint(path)


def test_prefixed_copies_of_pytorchvideo_convert_alike():
    keys = {
        "blocks.0.multipathway_blocks.0.conv.weight": "slow.conv1.weight",
        "blocks.0.multipathway_fusion.norm.weight": "lateral_norm1.0.weight",
        "blocks.3.multipathway_blocks.1.res_blocks.2.branch2.norm_c.weight": "fast.layer3.2.bn3.weight",
    }
    plain = {key: torch.zeros(1) for key in keys}
    prefixed = {f"model.{key}": value for key, value in plain.items()}
    assert detect(plain) == detect(prefixed) == "pytorchvideo"
    assert set(convert(plain)) == set(convert(prefixed)) == set(keys.values())


def test_slow_pathway_reaches_the_last_frame():
    model = videozoo.create_model("slowfast_r50_8x8_k400.ptv", num_classes=2)
    for frames in range(4, 129, 4):
        clip = torch.arange(frames, dtype=torch.float32).reshape(1, 1, frames, 1, 1)
        expected = torch.linspace(0, frames - 1, frames // 4).long()
        assert torch.equal(model.slow_frames(clip).flatten().long(), expected)


@pytest.mark.parametrize("name", ["x3d_xs_4x12", "slowonly_r50_4x16", "c2d_r50_8x8", "slowfast_r50_8x8"])
def test_windows_of_the_features_are_scored_apart(name):
    torch.manual_seed(0)
    model = videozoo.create_model(name, num_classes=5, pool_window=2).eval()
    channels = model.feature_info.channels()[-1]
    parts = [torch.randn(2, n, 4, 3, 3) for n in (channels if isinstance(channels, tuple) else (channels,))]
    with torch.inference_mode():

        def head(rows, columns):
            cut = tuple(part[..., rows, columns] for part in parts)
            return model.forward_head(cut if len(cut) > 1 else cut[0])

        whole = slice(None)
        corners = [head(rows, columns) for rows in (slice(2), slice(1, 3)) for columns in (slice(2), slice(1, 3))]
        mean = torch.stack(corners).mean(0)
        assert torch.allclose(head(whole, whole), mean, atol=1e-6) and mean.abs().max() > 1e-4
        features = tuple(parts) if len(parts) > 1 else parts[0]
        windows = model.fc(model.pool_windows(features))  # (N, windows, classes), rows first
        assert torch.allclose(windows, torch.stack(corners, dim=1), atol=1e-6)
        assert head(slice(1), slice(1)).shape == (2, 5)  # smaller than the window


def test_forward_windows_gives_the_windows_of_a_large_crop():
    torch.manual_seed(0)
    model = videozoo.create_model("c2d_nopool_r50_8x8", num_classes=5, pool_window=2).eval()
    clip = torch.randn(1, 3, 2, 96, 96)  # 3 x 3 cells
    with torch.inference_mode():
        windows = model.forward_windows(clip)
        assert windows.shape == (1, 4, 5) and model.forward_windows(clip[..., :64, :64]).shape == (1, 1, 5)
        assert torch.allclose(windows.mean(1), model(clip), atol=1e-5)
        assert torch.equal(windows, model.fc(model.pool_windows(model.forward_features(clip))))


def test_models_without_windows_score_the_clip_as_one():
    model = videozoo.create_model("c2d_nopool_r50_8x8", num_classes=5).eval()
    clip = torch.randn(1, 3, 2, 96, 96)
    with torch.inference_mode():
        assert torch.equal(model.forward_windows(clip)[:, 0], model(clip))


def test_only_the_first_blocks_of_layer3_have_a_temporal_kernel():
    model = videozoo.create_model("slowfast_r101_16x8", num_classes=2)
    for pathway in (model.slow, model.fast):
        assert [block.conv1.kernel_size[0] for block in pathway.layer3] == [3] * 6 + [1] * 17
