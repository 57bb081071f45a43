"""Checkpoint files of every age and state: what is read, what is refused, and how weights get into a model."""

import argparse
import builtins
import collections
import datetime
import os
import random
import re
import stat
import time
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from videozoo.checkpoint import (
    CheckpointError,
    adapt_first_conv,
    load_state_dict,
    load_strict,
    read_checkpoint,
    save_state_dict,
    sha256_file,
    state_dict_of,
    verify_hash,
)

META = {
    "mmaction_version": "0.6.0+2d1a5c5",
    "time": "Sat Jul  4 12:00:00 2020",
    "saved": datetime.datetime(2020, 7, 4, 12, 0, 0, 123, tzinfo=datetime.UTC),
    "day": datetime.date(2020, 7, 4),
    "took": datetime.timedelta(hours=3),
    "clock": time.struct_time((2020, 7, 4, 12, 0, 0, 5, 186, 0)),
    "best": np.float64(0.7502),
    "rate": np.float32(0.1),
    "iter": np.int64(12345),
    "flag": np.bool_(True),
    "name": np.str_("top1_acc"),
    "epoch": 256,
    "many": 2**70,
    "steps": [90, (130, 1.5), None, {"a": b"bytes"}],
    "args": argparse.Namespace(model="vit", layers=[1, 2]),
}
AGES = {"zip": True, "legacy": False}
age = pytest.mark.parametrize("zipped", AGES.values(), ids=AGES)


def weights(**extra):
    generator = torch.Generator().manual_seed(0)
    state = {
        "conv.weight": torch.randn(4, 3, 1, 3, 3, generator=generator),
        "conv.bias": torch.randn(4, generator=generator),
        "bn.num_batches_tracked": torch.tensor(7),
    }
    return collections.OrderedDict({**state, **extra})


def same(left, right):
    return list(left) == list(right) and all(torch.equal(left[key], right[key]) for key in left)


# Reading


@age
@pytest.mark.parametrize("numpy_module", ["numpy._core", "numpy.core"])
def test_published_files_of_every_age(tmp_path, zipped, numpy_module):
    """State dict beside metadata with strings, times and numpy values, as numpy 1 and numpy 2 pickle them."""
    path = tmp_path / "model_20200704-deadbeef.pth"
    table = np.arange(6, dtype=np.float32).reshape(2, 3).T
    checkpoint = {"state_dict": weights(), "meta": {**META, "table": table}}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    replace_in_pickle(path, re.compile(rb"cnumpy\._?core\.multiarray\n"), f"c{numpy_module}.multiarray\n".encode())
    checkpoint = read_checkpoint(path)
    assert same(checkpoint["state_dict"], weights())
    meta = checkpoint["meta"]
    assert np.array_equal(meta.pop("table"), table)
    assert meta == META
    assert same(load_state_dict(path), weights())


def replace_in_pickle(path, old, new):
    """Replaces bytes in the pickle of a torch file, and nothing else."""
    if not zipfile.is_zipfile(path):
        changed, count = old.subn(new, path.read_bytes())
        path.write_bytes(changed)
    else:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = next(name for name in members if name.endswith("data.pkl"))
        members[name], count = old.subn(new, members[name])
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in members.items():
                archive.writestr(member, data)
    assert count


@age
def test_half_precision_and_parameters(tmp_path, zipped):
    path = tmp_path / "a.pth"
    torch.save({"w": nn.Parameter(torch.ones(2).half())}, path, _use_new_zipfile_serialization=zipped)
    state = load_state_dict(path)
    assert state["w"].dtype == torch.float16
    assert not state["w"].requires_grad


def test_safetensors_whatever_the_name(tmp_path):
    save_state_dict(weights(), tmp_path / "a.safetensors")
    os.rename(tmp_path / "a.safetensors", tmp_path / "a.pth")
    state = load_state_dict(tmp_path / "a.pth", container="state_dict")  # a flat file needs no container
    assert same(dict(sorted(state.items())), dict(sorted(weights().items())))


class Harmful:
    def __reduce__(self):
        return builtins.exec, ("raise SystemExit('code was run')",)


@age
def test_code_is_not_run(tmp_path, zipped):
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": weights(), "meta": Harmful()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"evil\.pth.*exec.*does not run code"):
        read_checkpoint(path)


def test_every_refused_name_is_listed(tmp_path):
    path = tmp_path / "whole_model.pth"
    torch.save({"model": nn.Linear(2, 2), "meta": collections.ChainMap()}, path)
    with pytest.raises(CheckpointError, match=r"collections\.ChainMap, torch\.nn\.modules\.linear\.Linear:"):
        read_checkpoint(path)


@age
def test_crafted_numpy_types_are_refused(tmp_path, zipped):
    """Arrays of Python objects would be rebuilt from raw bytes: addresses of the file's choice."""
    path = tmp_path / "objects.pth"
    for value in (np.array([1, "a"], dtype=object), np.zeros(2, dtype=[("a", "i4"), ("b", "f8")])):
        torch.save({"meta": value}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"objects\.pth"):
            read_checkpoint(path)


def test_allow_list_is_not_left_behind(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save({"meta": META}, tmp_path / "a.pth")
    read_checkpoint(tmp_path / "a.pth")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"  <!DOCTYPE html><html>404</html>", "web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x00" * 5000, "no readable torch checkpoint"),
        (b"just some text", "no readable torch checkpoint"),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_is_no_checkpoint(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    if name == "a.safetensors" and "torch" in reason:
        reason = "not a complete safetensors file"
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.pth does not exist"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("kind", [*AGES, "safetensors"])
def test_truncated_at_any_place(tmp_path, kind):
    whole, path = tmp_path / f"whole.{kind}", tmp_path / f"cut.{kind}"
    if kind == "safetensors":
        save_state_dict(weights(), whole)
    else:
        torch.save({"state_dict": weights(), "meta": META}, whole, _use_new_zipfile_serialization=AGES[kind])
    data = whole.read_bytes()
    for length in sorted({1, 7, 9, 100, len(data) - 1, *random.Random(0).sample(range(len(data)), 40)}):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="cut"):
            read_checkpoint(path)


def test_damaged_weights_are_found_by_the_checksum(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.arange(1000.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(900.0, 910.0).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.pth is damaged: the checksum"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@age
def test_random_damage_raises_nothing_else(tmp_path, zipped):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": weights(), "meta": META}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    rng = random.Random(1)
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 4, 50])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except CheckpointError:
            pass


# State dicts


def test_averaged_weights_are_preferred():
    raw, averaged = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    for name in ("state_dict_ema", "model_ema"):
        assert state_dict_of({"state_dict": raw, "model": raw, name: averaged, "epoch": 3})["w"] == 1
    assert state_dict_of({"state_dict": averaged, "ema_state_dict": raw})["w"] == 1
    assert state_dict_of({"state_dict": raw, "state_dict_ema": averaged}, "state_dict")["w"] == 0
    assert state_dict_of({"state_dict": averaged, "state_dict_ema": None})["w"] == 1


@pytest.mark.parametrize("name", ["state_dict", "model_state", "model", "module"])
def test_usual_containers_are_found(name):
    assert same(state_dict_of({"epoch": 1, name: weights(), "optimizer": {"lr": 0.1}}), weights())
    assert same(state_dict_of({name: weights()}, name), weights())


def test_nested_container():
    assert same(state_dict_of({"a": {"b": weights()}}, "a.b"), weights())
    with pytest.raises(CheckpointError, match=r"'a\.c'.*no 'c' among b"):
        state_dict_of({"a": {"b": weights()}}, "a.c")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrapper_prefixes_are_removed(prefix):
    assert same(state_dict_of({prefix + key: value for key, value in weights().items()}), weights())


def test_prefix_that_not_all_keys_have_stays():
    state = {"module.w": torch.zeros(1), "head.w": torch.zeros(1)}
    assert list(state_dict_of(state)) == list(state)


def test_flattened_averages_are_dropped():
    """The averaging hook of MMAction2 0.x leaves such buffers; `ema_head.weight` is a parameter like any other."""
    own = {"backbone.conv1.weight": torch.ones(1), "ema_head.weight": torch.ones(1)}
    extra = {"ema_backbone_conv1_weight": torch.zeros(1), "ema_ema_head_weight": torch.zeros(1)}
    assert list(state_dict_of({"state_dict": {**own, **extra}})) == list(own)
    assert list(state_dict_of({f"module.{key}": value for key, value in {**own, **extra}.items()})) == list(own)


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        ([1, 2], "holds a list"),
        ({"epoch": 1, "optimizer": {}}, "among the checkpoint's keys epoch, optimizer; name"),
        ({"state_dict": {"w": torch.zeros(1), "epoch": 3}}, r"epoch \(int\)"),
        ({"state_dict": {}}, "empty"),
        ({}, "none"),
    ],
)
def test_no_state_dict(obj, reason):
    with pytest.raises(CheckpointError, match=reason):
        state_dict_of(obj)


def test_file_is_named_when_its_content_is_wrong(tmp_path):
    torch.save({"epoch": 1}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: No state dict"):
        load_state_dict(tmp_path / "a.pth")


# Writing and hashes


def test_save_and_load(tmp_path):
    from safetensors import safe_open

    state = weights(transposed=torch.arange(6.0).reshape(2, 3).T, part=torch.arange(9.0)[2:5])
    path = save_state_dict(state, tmp_path / "new" / "a.safetensors", metadata={"source": "here"})
    loaded = load_state_dict(path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "source": "here"}
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)  # not private to the user


def test_views_of_one_tensor_that_do_not_overlap_are_saved(tmp_path):
    """As a fused projection that a conversion has split."""
    query, key = torch.arange(8.0).chunk(2)
    assert torch.equal(load_state_dict(save_state_dict({"q": query, "k": key}, tmp_path / "a"))["k"], key)


def test_failed_save_leaves_the_old_file_alone(tmp_path):
    path = save_state_dict({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    tied = torch.zeros(3)
    for bad, reason in (
        ({"a": tied, "b": tied}, "a and b share memory"),
        ({"a": tied, "b": tied[1:]}, "a and b share memory"),
        ({"a": torch.empty(1, device="meta")}, "meta device"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            save_state_dict(bad, path)
    with pytest.raises(TypeError):
        save_state_dict({"w": torch.zeros(2)}, path, metadata={"number": 1})
    assert torch.equal(load_state_dict(path)["w"], torch.ones(2))
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_module_is_saved_with_its_buffers(tmp_path):
    model = nn.BatchNorm3d(3)
    assert load_state_dict(save_state_dict(model, tmp_path / "a")).keys() == model.state_dict().keys()


def test_hashes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(path) == digest
    assert verify_hash(path, "BA7816BF") == digest
    with pytest.raises(CheckpointError, match=f"12345678 but is {digest}; delete the file"):
        verify_hash(path, "12345678")


# Into a model


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 4, 1)
        self.bn1 = nn.BatchNorm3d(4)
        self.fc = nn.Linear(4, 5)
        self.register_buffer("index", torch.arange(4))
        self.conv1.weight.requires_grad_(False)


class NetWithTable(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.empty(3), persistent=False)
        self.init_non_persistent_buffers()

    def init_non_persistent_buffers(self):
        self.table = torch.tensor([1.0, 2.0, 3.0], device=self.fc.weight.device)


@pytest.fixture
def trained():
    torch.manual_seed(0)
    model = Net()
    model.bn1.num_batches_tracked.fill_(9)
    return model.state_dict()


def build(cls, device):
    with torch.device(device):
        return cls()


device = pytest.mark.parametrize("device", ["cpu", "meta"])


@device
def test_load_fills_everything(trained, device):
    model = build(NetWithTable, device)
    load_strict(model, trained)
    assert same(model.state_dict(), trained)
    assert model.table.tolist() == [1.0, 2.0, 3.0]
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == {"conv1.weight"}
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))


@device
def test_half_file_fills_a_float_model(trained, device):
    model = build(Net, device)
    load_strict(
        model, {key: value.half() for key, value in trained.items() if key != "index"} | {"index": trained["index"]}
    )
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.bn1.num_batches_tracked.dtype == torch.int64
    torch.testing.assert_close(model.fc.weight, trained["fc.weight"], atol=1e-3, rtol=1e-3)


@device
def test_model_does_not_share_memory_with_the_state(trained, device):
    """Two models from one state dict, or one tensor under two keys, must stay independent in training."""
    state = {key: value.clone() for key, value in trained.items()}
    state["bn1.weight"] = state["bn1.bias"] = torch.ones(1).expand(4)
    first, second = build(Net, device), build(Net, device)
    load_strict(first, state)
    load_strict(second, state)
    with torch.no_grad():
        first.bn1.weight[0] = 5
        first.fc.bias.fill_(0)
    assert first.bn1.bias.tolist() == [1, 1, 1, 1]
    assert first.bn1.weight.tolist() == [5, 1, 1, 1]
    assert torch.equal(second.fc.bias, trained["fc.bias"])


@device
def test_absent_counters_become_zero(trained, device):
    model = build(Net, device)
    load_strict(model, {key: value for key, value in trained.items() if "num_batches" not in key})
    assert model.bn1.num_batches_tracked == 0
    assert torch.equal(model.fc.weight, trained["fc.weight"])


@device
def test_every_mismatch_is_reported_and_nothing_loaded(trained, device):
    model = build(Net, device)
    before = {key: value if value.is_meta else value.clone() for key, value in model.state_dict().items()}
    del trained["conv1.bias"], trained["bn1.running_mean"], trained["bn1.num_batches_tracked"]
    trained["cls.weight"] = torch.zeros(2, 2)
    trained["fc.weight"] = torch.zeros(7, 4)
    trained["index"] = torch.zeros(4)
    with pytest.raises(CheckpointError) as caught:
        load_strict(model, trained, source="slow_k400.pth")
    summary, *lines = str(caught.value).splitlines()
    assert "slow_k400.pth do not fit Net: 2 missing, 1 unexpected, 1 of another shape, 1 of another type" in summary
    assert [line.strip() for line in lines if line.startswith(" ")] == [
        "conv1.bias (4,)",
        "bn1.running_mean (4,)",
        "cls.weight (2, 2)",
        "fc.weight: (7, 4) in the checkpoint, (5, 4) in the model",
        "index: torch.float32 in the checkpoint, torch.int64 in the model",
    ]
    assert all(value.is_meta or torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert any(value.is_meta for value in model.state_dict().values()) == (device == "meta")


def test_meta_buffers_that_nothing_can_fill_are_an_error(trained):
    model = build(Net, "meta")
    model.bn1.register_buffer("helper", torch.empty(2, device="meta"), persistent=False)
    with pytest.raises(CheckpointError, match="bn1 has the buffers helper"):
        load_strict(model, trained)
    assert model.fc.weight.is_meta


# Input channels


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 3, 2, 3, 3)])
def test_grey_clip_gives_what_its_three_copies_gave(shape):
    weight = torch.randn(shape)
    adapted = adapt_first_conv(weight, 1)
    conv = nn.functional.conv2d if len(shape) == 4 else nn.functional.conv3d
    grey = torch.randn(1, 1, 5, 5) if len(shape) == 4 else torch.randn(1, 1, 4, 5, 5)
    rgb = grey.expand(-1, 3, *grey.shape[2:])
    torch.testing.assert_close(conv(grey, adapted), conv(rgb, weight), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("in_chans", [2, 4, 10])
def test_channels_are_repeated_and_scaled(in_chans):
    weight = torch.randn(4, 3, 1, 3, 3)
    adapted = adapt_first_conv(weight, in_chans)
    assert adapted.shape == (4, in_chans, 1, 3, 3)
    for channel in range(in_chans):
        torch.testing.assert_close(adapted[:, channel], weight[:, channel % 3] * 3 / in_chans)


def test_flow_to_rgb_and_dtype():
    weight = torch.randn(4, 10, 3, 3, dtype=torch.float16)
    adapted = adapt_first_conv(weight, 3)
    assert adapted.dtype == torch.float16
    torch.testing.assert_close(adapted.float(), weight[:, :3].float() * 10 / 3, rtol=1e-3, atol=1e-3)
    assert adapt_first_conv(weight, 10) is weight


def test_wrong_weights_and_channels():
    with pytest.raises(ValueError, match=r"not the shape \(4, 3\)"):
        adapt_first_conv(torch.zeros(4, 3), 1)
    with pytest.raises(ValueError, match="at least 1"):
        adapt_first_conv(torch.zeros(4, 3, 1, 1), 0)
